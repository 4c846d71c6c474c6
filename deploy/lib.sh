# shellcheck shell=bash
# Shared by the scripts in this folder: finds Python, sets up hatch and uv inside the checkout.
# Everything lands in .venv/ of the checkout; nothing is installed elsewhere.

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

HATCH_VERSION=1.18.2
UV_VERSION=0.13.9
tools="$root/.venv/tools"
export HATCH_DATA_DIR="$root/.venv/hatch" # environments live in the checkout
export HATCH_CACHE_DIR="$root/.venv/hatch-cache"
export UV_CONSTRAINT="$root/deploy/constraints.txt"
export UV_LINK_MODE="${UV_LINK_MODE:-copy}"
export PIP_DISABLE_PIP_VERSION_CHECK=1

die() {
  echo "${0##*/}: error: $*" >&2
  exit 1
}

# Prints the first Python of 3.11 or newer; CMD_PYTHON chooses one.
find_python() {
  local candidate
  for candidate in ${CMD_PYTHON:-} python3 python3.13 python3.12 python3.11 python; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      command -v "$candidate"
      return
    fi
  done
  die "no Python 3.11 or newer found; install one or set CMD_PYTHON to its path"
}

# Creates .venv/tools with pinned hatch and uv, once.
setup_tools() {
  local python stamp="$tools/.ready-$HATCH_VERSION-$UV_VERSION"
  [ -f "$stamp" ] && [ -x "$tools/bin/hatch" ] && "$tools/bin/hatch" --version >/dev/null 2>&1 && return
  python=$(find_python)
  echo "setting up hatch $HATCH_VERSION and uv $UV_VERSION with $("$python" --version) in .venv/" >&2
  rm -rf "$tools"
  "$python" -m venv "$tools" >&2 ||
    die "$python cannot make virtual environments; install its venv module (Debian: apt install python3-venv)"
  "$tools/bin/pip" install --quiet "hatch==$HATCH_VERSION" "uv==$UV_VERSION" >&2 ||
    die "could not install hatch and uv; check the network or the package index"
  touch "$stamp"
}

# Runs a command in a hatch environment: in_env ENV COMMAND [ARG...]
in_env() {
  local env=$1
  shift
  HATCH_UV="$tools/bin/uv" HATCH_QUIET=1 "$tools/bin/hatch" -e "$env" run "$@"
}

# Whether a Rust toolchain is there, for the distributions that have a part in Rust.
has_rust() { command -v cargo >/dev/null 2>&1; }

# Whether a nightly toolchain is there, for fuzzing and for what checks unsafe code.
has_nightly() { cargo +nightly --version >/dev/null 2>&1; }

# Prints the names of the distributions that have a part in Rust.
native_names() {
  local manifest
  for manifest in packages/*/Cargo.toml; do basename "$(dirname "$manifest")"; done
}

# Prints the wheel of a distribution with a part in Rust; builds it where its sources have changed since: native_wheel NAME
# Its name says where it runs, which a look at what it links with finds out: with this machine's C library and newer ones
# (manylinux_2_34 and the like), or on this machine (linux). In the hatch environment wheels, which CMD_WHEEL_ENV can
# name, zig links for the C library of manylinux2014 (2.17).
native_wheel() {
  local name=$1 env=${CMD_WHEEL_ENV:-rust} python state folder arguments
  arguments="--auditwheel=check --compatibility pypi"
  ! grep -q "^skip-auditwheel" "packages/$name/pyproject.toml" || arguments="--compatibility linux"
  [ "$env" = rust ] || arguments="--auditwheel=check --compatibility manylinux2014 --zig"
  has_rust || die "$name needs a Rust toolchain: install one (rustup), then run this again"
  python=$(find_python)
  state=$("$python" - "packages/$name" <<'PY'
import hashlib, pathlib, sys

digest = hashlib.sha256()
for path in sorted(pathlib.Path(sys.argv[1]).rglob("*")):
    if path.is_file() and not {"__pycache__", "target"} & set(path.parts) and path.name != "Cargo.lock":
        digest.update(str(path).encode() + b"\0" + path.read_bytes())
print(digest.hexdigest()[:16])
PY
  )
  folder="$root/.venv/wheels/$name-$state"
  [ "$env" = rust ] || folder+="-$env"
  if ! ls "$folder"/*.whl >/dev/null 2>&1; then
    echo "building $name (a few minutes the first time)" >&2
    mkdir -p "$folder"
    # In an environment that stays: Cargo builds anew what saw another path of a tool.
    MATURIN_PEP517_ARGS="$arguments" in_env "$env" uv build --wheel --no-build-isolation \
      --python "$(in_env "$env" python -c 'import sys; print(sys.executable)')" --out-dir "$folder" "packages/$name" >"$folder/build.log" 2>&1 || {
      tail -n 40 "$folder/build.log" >&2
      die "$name could not be built"
    }
  fi
  ls "$folder"/*.whl
}

# Installs the distributions with a part in Rust, or the named ones, into a hatch environment: install_native ENV [NAME...]
install_native() {
  local env=$1 name python wheel
  python=$(in_env "$env" python -c 'import sys; print(sys.executable)')
  shift
  [ $# -gt 0 ] || mapfile -t -- names < <(native_names)
  for name in "${@:-${names[@]}}"; do
    wheel=$(native_wheel "$name")
    if [ "$(cat "$python.native-$(basename "${wheel%%-*}")" 2>/dev/null)" != "$wheel" ]; then
      "$tools/bin/uv" pip install --quiet --reinstall --no-deps --python "$python" "$wheel"
      echo "$wheel" >"$python.native-$(basename "${wheel%%-*}")"
    fi
  done
}

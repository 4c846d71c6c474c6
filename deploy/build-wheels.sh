#!/usr/bin/env bash
# Builds the wheels of all distributions, or of the named ones, into dist/ and proves that they install and import.
#   deploy/build-wheels.sh [--out DIR] [--manylinux2014] [--no-verify] [NAME...]
# Pure Python becomes one wheel for every system (py3-none-any). A part in Rust becomes one wheel for every CPython from
# 3.11 on (abi3) and, on Linux, for the C library that it was linked with and newer ones; with --manylinux2014 zig links
# it for glibc 2.17 (2012), which nearly every Linux has. Without a Rust toolchain those are left out, with a line that
# says so; all others need none of them. CMD_REQUIRE=all makes that a failure.
# Every wheel is then installed into a clean environment of each Python from 3.11 to 3.13 that is found, and imported;
# so is cmd-common[native], with cmd-native taken from DIR.
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
out=dist verify=1
while [ $# -gt 0 ]; do
  case "$1" in
  --out) [ $# -gt 1 ] || die "--out needs a folder"; out=$2; shift ;;
  --manylinux2014) export CMD_WHEEL_ENV=wheels ;;
  --no-verify) verify= ;;
  -*) die "unknown option $1; usage: deploy/build-wheels.sh [--out DIR] [--manylinux2014] [--no-verify] [NAME...]" ;;
  *) break ;;
  esac
  shift
done
if [ $# -eq 0 ]; then
  for package in packages/*; do set -- "$@" "$(basename "$package")"; done
fi
pure=() rust=() wheels=()
for name in "$@"; do
  [ -f "packages/$name/pyproject.toml" ] || die "no distribution $name in packages/"
  if [ -f "packages/$name/Cargo.toml" ]; then rust+=("$name"); else pure+=("$name"); fi
done
if [ ${#rust[@]} -gt 0 ] && ! has_rust; then
  [ "${CMD_REQUIRE:-}" != all ] || die "no Rust toolchain (cargo) for ${rust[*]}, and CMD_REQUIRE=all asks for them: install one (rustup)"
  echo "build-wheels.sh: no Rust toolchain (cargo): ${rust[*]} left out; install one (rustup) to build them" >&2
  rust=()
fi
setup_tools
uv="$tools/bin/uv"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
out=$(cd "$out" && pwd)
for name in "$@"; do rm -f "$out/${name//-/_}"-*.whl; done # an older build is no wheel of this tree
for name in "${pure[@]}"; do
  (cd "packages/$name" && "$tools/bin/hatch" build --target wheel "$out") >"$work/build.log" 2>&1 || {
    cat "$work/build.log" >&2
    die "$name could not be built"
  }
done
for name in "${rust[@]}"; do
  wheel=$(native_wheel "$name")
  cp "$wheel" "$out/"
done
for name in "${pure[@]}" "${rust[@]}"; do
  module=${name//-/_}
  wheels+=("$(ls "$out/$module"-*.whl)")
  [ -f "packages/$name/Cargo.toml" ] || [[ "${wheels[-1]}" == *-py3-none-any.whl ]] || die "${wheels[-1]} is pure Python but does not say so"
  echo "${wheels[-1]##*/}"
done
[ -n "$verify" ] || exit 0

# The version stays the same while the code changes: never take a sibling from uv's cache.
fresh=()
for package in packages/*; do fresh+=(--refresh-package "$(basename "$package")"); done
import_all() { # PYTHON NAME...: imports every module of the distributions, as whoever installed them would
  (cd "$work" && "$1" - "${@:2}" <<'PY'
import importlib, pkgutil, sys

count = 0
for name in sys.argv[1:]:
    top = importlib.import_module(name.replace("-", "_"))
    for info in pkgutil.walk_packages(top.__path__, top.__name__ + "."):
        # cmd_feed.fastws needs the extra "fast"; testing needs pytest and what else tests need
        if info.name != "cmd_feed.fastws" and ".testing" not in info.name and not info.name.endswith("__main__"):
            importlib.import_module(info.name)
            count += 1
print(f"Python {sys.version.split()[0]}: {len(sys.argv) - 1} distributions, {count} modules import")
PY
  )
}
if command -v pyenv >/dev/null 2>&1; then # also the versions that are installed but not chosen
  for folder in "$(pyenv root)"/versions/3.*/bin; do PATH="$PATH:$folder"; done
fi
found=0
for version in 3.11 3.12 3.13; do
  # Only what is installed: nothing is downloaded to prove something.
  python=$("$uv" python find --no-python-downloads --no-project "$version" 2>/dev/null) || {
    echo "Python $version: not found here, not tried"
    continue
  }
  found=$((found + 1))
  environment="$work/$version"
  for name in "${rust[@]}"; do # they depend on nothing, so each shows alone that it loads
    "$uv" venv --quiet --clear --python "$python" "$environment"
    "$uv" pip install --quiet --no-index --python "$environment/bin/python" "$(ls "$out/${name//-/_}"-*.whl)"
    import_all "$environment/bin/python" "$name"
  done
  "$uv" venv --quiet --clear --python "$python" "$environment"
  "$uv" pip install --quiet "${fresh[@]}" --find-links "$out" --python "$environment/bin/python" "${wheels[@]}"
  "$uv" pip check --quiet --python "$environment/bin/python"
  import_all "$environment/bin/python" "${pure[@]}" "${rust[@]}"
done
[ "$found" -gt 0 ] || die "no Python from 3.11 to 3.13 found to try the wheels with"

# What the manuals say to type, by pip itself.
if [[ " ${pure[*]} " == *" cmd-common "* && " ${rust[*]} " == *" cmd-native "* ]]; then
  "$(find_python)" -m venv "$work/extra"
  "$work/extra/bin/pip" install --quiet --no-cache-dir --constraint deploy/constraints.txt --find-links "$out" 'cmd-common[native]'
  for pure in 0 1; do
    shown=$(cd "$work" && CMD_PURE=$pure "$work/extra/bin/python" -c 'from cmd_common import native, log; print(native, log.logger.native)')
    [ "$shown" = "$([ $pure = 0 ] && echo True True || echo False False)" ] || die "cmd-common[native] with CMD_PURE=$pure: native is $shown"
  done
  echo "pip install 'cmd-common[native]' brings cmd-native; CMD_PURE=1 leaves it aside"
fi

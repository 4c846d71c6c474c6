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

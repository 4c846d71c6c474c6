#!/usr/bin/env bash
# Fuzzes every decoder and parser for so many seconds each: deploy/fuzz-all.sh [SECONDS [TARGET of Python...]]
# Those in Python by Atheris (tests/fuzz; its wheels are for Linux), those in Rust by mutated seeds on the stable toolchain
# (deploy/fuzz.sh runs them by cargo-fuzz). What reached new code is kept in .venv/fuzz-python and used again; what fails in
# .venv/fuzz-python/found. CMD_RELIABILITY_DIR gets the counts. CMD_FUZZ_START=N goes the same way as another run with it, as far as
# the seconds allow, where nothing was kept before.
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
seconds=${1:-60}
[[ "$seconds" =~ ^[1-9][0-9]*$ ]] || die "usage: deploy/fuzz-all.sh [SECONDS [TARGET...]]"
[ $# -eq 0 ] || shift
setup_tools
folder="$root/.venv/fuzz-python"
mkdir -p "$folder/found" "$folder/rust"
rm -f "$folder"/*.inputs "$folder"/rust/*.inputs
if has_rust; then (install_native fuzz) || die "cmd-native could not be built"; fi
rust=1
if [ $# -eq 0 ]; then
  read -ra targets < <(in_env fuzz python tests/fuzz/fuzz_run.py --list)
else
  targets=("$@")
  rust=
fi
python=$(in_env fuzz python -c 'import sys; print(sys.executable)')
workers=${CMD_TEST_WORKERS:-$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)}
started=$SECONDS
# A fuzzer ends without a chance to remove its files.
TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
# Two processes a core would steal each other's seconds, so that many run at once as there are cores.
status=0
# shellcheck disable=SC2016 # the inner shell is the one that expands
printf '%s\n' "${targets[@]}" | xargs -P "$workers" -I{} sh -c \
  '"$1" tests/fuzz/fuzz_run.py "$2" "$3" "$4" >"$4/$2.log" 2>&1 || { echo "fuzz-all.sh: $2 FAILS:"; tail -n 25 "$4/$2.log"; exit 1; }' \
  sh "$python" {} "$seconds" "$folder" || status=1
if [ -n "$rust" ] && has_rust; then
  CMD_FUZZ_SECONDS=$seconds CMD_FUZZ_COUNTS="$folder/rust" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$root/.venv/cargo}" \
    cargo test --quiet --release --no-default-features --manifest-path packages/cmd-native/Cargo.toml --test fuzz_targets \
    >"$folder/rust.log" 2>&1 || {
    tail -n 25 "$folder/rust.log"
    status=1
  }
fi
for file in "$folder"/*.inputs "$folder"/rust/*.inputs; do
  [ -f "$file" ] || continue
  name=$(basename "${file%.inputs}")
  case $file in */rust/*) name="rust-$name" ;; esac
  printf '%-28s %12d inputs\n' "$name" "$(cat "$file")"
  if [ -n "${CMD_RELIABILITY_DIR:-}" ] && [ "$status" = 0 ]; then
    mkdir -p "$CMD_RELIABILITY_DIR"
    {
      echo "{\"what\": \"inputs\", \"of\": \"$name\", \"count\": $(cat "$file")}"
      echo "{\"what\": \"fuzz_seconds\", \"of\": \"$name\", \"count\": $seconds}"
    } >>"$CMD_RELIABILITY_DIR/fuzz.jsonl"
  fi
done
echo "fuzz-all.sh: ${#targets[@]} targets in Python${rust:+, and those in Rust,} in $((SECONDS - started)) s"
exit $status

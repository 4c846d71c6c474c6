#!/usr/bin/env bash
# Fuzzes the parts in Rust with cargo-fuzz and a nightly toolchain: deploy/fuzz.sh [SECONDS [TARGET...]]
# Every target runs SECONDS (60) on one job, from its seeds and from what earlier runs found (.venv/fuzz/TARGET). What
# fails, takes more than some seconds or more than 256 MB in one allocation is kept in .venv/fuzz/found, and its name printed.
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
seconds=${1:-60}
[[ "$seconds" =~ ^[1-9][0-9]*$ ]] || die "usage: deploy/fuzz.sh [SECONDS [TARGET...]]"
[ $# -eq 0 ] || shift
CARGO_FUZZ_VERSION=0.13.2
has_rust || die "no Rust toolchain: install one (rustup), then run this again"
has_nightly || die "no nightly toolchain, which cargo-fuzz needs: rustup toolchain install nightly"
crate="$root/packages/cmd-native/fuzz"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$root/.venv/cargo}/fuzz"
if ! command -v cargo-fuzz >/dev/null 2>&1; then
  PATH="$root/.venv/cargo-tools/bin:$PATH"
  if ! command -v cargo-fuzz >/dev/null 2>&1; then
    echo "fuzz.sh: installing cargo-fuzz $CARGO_FUZZ_VERSION in .venv/" >&2
    cargo install --quiet --locked --root "$root/.venv/cargo-tools" --version "$CARGO_FUZZ_VERSION" cargo-fuzz ||
      die "could not install cargo-fuzz; check the network or the package index"
  fi
fi
if [ $# -eq 0 ]; then
  for seeds in "$crate"/seeds/*/; do set -- "$@" "$(basename "$seeds")"; done
fi
found="$root/.venv/fuzz/found"
mkdir -p "$found"
echo "fuzz.sh: building" >&2
cargo +nightly fuzz build --fuzz-dir "$crate" targets
status=0
for target in "$@"; do
  [ -d "$crate/seeds/$target" ] || die "no target $target: $(cd "$crate/seeds" && echo *)"
  corpus="$root/.venv/fuzz/$target"
  mkdir -p "$corpus"
  echo "fuzz.sh: $target for $seconds s" >&2
  # Messages repeat whole words: found by themselves they would take long.
  CMD_FUZZ_TARGET=$target cargo +nightly fuzz run --fuzz-dir "$crate" targets "$corpus" "$crate/seeds/$target" -- \
    -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=256 -max_len=65536 -dict="$crate/words.dict" \
    -artifact_prefix="$found/$target-" -print_final_stats=1 -verbosity=0 >"$found/$target.log" 2>&1 || {
    status=1
    grep -a -A 3 "panicked at" "$found/$target.log" >&2 || true
    tail -n 30 "$found/$target.log" >&2
  }
  grep -aE "stat::(number_of_executed_units|average_exec_per_sec|peak_rss_mb)" "$found/$target.log" | sed "s/^stat::/  /" || true
done
[ "$status" -eq 0 ] || die "inputs that fail are in .venv/fuzz/found"

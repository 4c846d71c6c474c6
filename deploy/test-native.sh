#!/usr/bin/env bash
# Tests what has a twin in Rust: deploy/test-native.sh [--pure | --rust] [ARGUMENT of pytest...], or `hatch run native:test`.
# Builds and installs cmd-native, runs the tests written in Rust (without Python), then every Python test of a part that
# has a twin, first with cmd-native, then with CMD_PURE=1. --rust runs the first of these three alone, --pure the last.
# CMD_RECORDINGS=DIR adds the tests on real recordings; CMD_REQUIRE=all makes a missing part a failure.
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
steps=(rust native pure)
case "${1:-}" in
--pure | --rust)
  steps=("${1#--}")
  shift
  ;;
esac
has_rust || die "no Rust toolchain (cargo): install one (rustup), then run this again; without it deploy/test.sh tests the pure part"
setup_tools
# Where the same code runs either way: books, builders, feeds and decoders of every exchange, the log, files, codecs.
twins=(tests/cmd_native tests/cmd_common)
for feed in packages/cmd-*/src/*/feed.py; do
  module=$(basename "$(dirname "$feed")")
  [ "$module" = cmd_common ] || twins+=("tests/$module")
done
twins+=(tests/cmd_feed/test_{aggregates,gaps,pipeline,raw,resume}.py tests/cmd_archiver/test_{bulk,parse,parts}.py)
twins+=(tests/cmd_server/test_{codec,columns,evolution,json_form,schema}.py)
workers=${CMD_TEST_WORKERS:-$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)}
for step in "${steps[@]}"; do
  echo "test-native.sh: $step"
  case "$step" in
  rust)
    CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$root/.venv/cargo}" cargo test --quiet --no-default-features \
      --manifest-path packages/cmd-native/Cargo.toml
    continue
    ;;
  native) pure=0 ;;
  pure) pure=1 ;;
  esac
  install_native default cmd-native
  chosen=()
  if [ "$pure" = 1 ]; then # tests/cmd_native compares the two by itself, and tests of books name which one they are about
    twins=("${twins[@]:1}")
    chosen=(-k "not native")
  fi
  CMD_PURE=$pure in_env default pytest -m "not slow" "${chosen[@]}" -n "$workers" --dist worksteal "${@:-${twins[@]}}"
done

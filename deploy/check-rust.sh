#!/usr/bin/env bash
# Checks the Rust parts of the distributions: format, and every warning of clippy is an error. Run it in the environment rust.
#   --miri       runs cmd-native's Rust tests in Miri instead (a nightly toolchain with the component miri): every access to
#                memory is checked, which is slow, so that tests do less there
#   --sanitizer  runs them with the address sanitizer instead (a nightly toolchain), SIMD, mapped memory and all
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
has_rust || die "no Rust toolchain: install one (rustup), then run this again"
case "${1:-}" in
"") ;;
--miri)
  cargo +nightly miri --version >/dev/null 2>&1 || die "no Miri: rustup toolchain install nightly --component miri --component rust-src"
  export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$root/.venv/cargo}/miri" MIRIFLAGS="${MIRIFLAGS:--Zmiri-disable-isolation}"
  exec cargo +nightly miri test --no-default-features --manifest-path packages/cmd-native/Cargo.toml "${@:2}"
  ;;
--sanitizer)
  has_nightly || die "no nightly toolchain, which the sanitizer needs: rustup toolchain install nightly"
  export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$root/.venv/cargo}/sanitizer" RUSTFLAGS="-Zsanitizer=address"
  # The target is named so that what runs while it is built, as procedural macros, is built without.
  exec cargo +nightly test --no-default-features --lib --tests --target "$(rustc -vV | sed -n 's/^host: //p')" \
    --manifest-path packages/cmd-native/Cargo.toml "${@:2}"
  ;;
*) die "usage: deploy/check-rust.sh [--miri | --sanitizer [ARGUMENT of cargo test...]]" ;;
esac
# What bindgen needs, as the builds of the wheels set it: the same words, or Cargo builds Aeron's C code twice.
LIBCLANG_PATH=$(python -c 'import clang, pathlib; print(pathlib.Path(clang.__path__[0], "native"))')
BINDGEN_EXTRA_CLANG_ARGS=-I$("${CC:-cc}" -print-file-name=include)
CMAKE_BUILD_PARALLEL_LEVEL=$(python -c 'import os; print(os.cpu_count() or 2)')
export LIBCLANG_PATH BINDGEN_EXTRA_CLANG_ARGS CMAKE_BUILD_PARALLEL_LEVEL
for manifest in packages/*/Cargo.toml benchmarks/rust/Cargo.toml; do
  echo "rustfmt and clippy $(dirname "$manifest")"
  cargo fmt --check --manifest-path "$manifest"
  cargo clippy --quiet --release --all-targets --manifest-path "$manifest" -- -D warnings
  if grep -q '^python = ' "$manifest"; then
    cargo clippy --quiet --release --all-targets --no-default-features --manifest-path "$manifest" -- -D warnings
  fi
done

#!/usr/bin/env bash
# Checks the Rust parts of the distributions: format, and every warning of clippy is an error. Run it in the environment rust.
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
has_rust || die "no Rust toolchain: install one (rustup), then run this again"
# What bindgen needs, as the builds of the wheels set it: the same words, or Cargo builds Aeron's C code twice.
LIBCLANG_PATH=$(python -c 'import clang, pathlib; print(pathlib.Path(clang.__path__[0], "native"))')
BINDGEN_EXTRA_CLANG_ARGS=-I$("${CC:-cc}" -print-file-name=include)
CMAKE_BUILD_PARALLEL_LEVEL=$(python -c 'import os; print(os.cpu_count() or 2)')
export LIBCLANG_PATH BINDGEN_EXTRA_CLANG_ARGS CMAKE_BUILD_PARALLEL_LEVEL
for manifest in packages/*/Cargo.toml; do
  echo "rustfmt and clippy $(dirname "$manifest")"
  cargo fmt --check --manifest-path "$manifest"
  cargo clippy --quiet --release --all-targets --manifest-path "$manifest" -- -D warnings
done

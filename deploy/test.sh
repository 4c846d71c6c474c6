#!/usr/bin/env bash
# Sets everything up and runs all tests; arguments go to pytest. No prior step is needed.
# Where a JDK 17 and Maven are installed, QuestDB's jar is fetched once and its tests run, and those of the Java client;
# elsewhere they are skipped. Where a Rust toolchain is, the distributions with a part in Rust are built and tested.
# CMD_RECORDINGS=DIR adds the tests on real recordings; CMD_REQUIRE=all makes a missing part a failure.
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
setup_tools
if command -v java >/dev/null 2>&1 || [ "${CMD_REQUIRE:-}" = all ]; then
  fetched=$(deploy/questdb/local.sh --fetch-only 2>&1) || {
    echo "$fetched" >&2
    [ "${CMD_REQUIRE:-}" != all ] || die "QuestDB is missing and CMD_REQUIRE=all asks for it"
    echo "test.sh: QuestDB's tests will be skipped" >&2
  }
fi
if has_rust || [ "${CMD_REQUIRE:-}" = all ]; then
  # In a process of its own: a machine whose toolchain cannot build them still runs all other tests.
  (install_native default) || {
    [ "${CMD_REQUIRE:-}" != all ] || die "a distribution with a part in Rust is missing and CMD_REQUIRE=all asks for it"
    echo "test.sh: tests of distributions with a part in Rust will be skipped" >&2
  }
else
  echo "test.sh: no Rust toolchain: tests of distributions with a part in Rust will be skipped" >&2
fi
if [ $# -eq 0 ]; then set -- tests; fi
workers=${CMD_TEST_WORKERS:-$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)}
in_env default pytest -n "$workers" --dist worksteal "$@"

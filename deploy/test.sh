#!/usr/bin/env bash
# Sets everything up and runs all tests; arguments go to pytest. No prior step is needed.
# CMD_RECORDINGS=DIR adds the tests on real recordings; CMD_REQUIRE=all makes a missing part a failure.
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
setup_tools
if [ $# -eq 0 ]; then set -- tests; fi
workers=${CMD_TEST_WORKERS:-$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)}
in_env default pytest -n "$workers" --dist worksteal "$@"

#!/usr/bin/env bash
# Sets everything up and runs the main job with the embedded store, or with --store questdb: records live data, archives two days,
# queries both. By default against a simulated Binance on loopback; --live uses the real one.
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
setup_tools
in_env demo python deploy/demo.py "$@"

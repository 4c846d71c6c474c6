#!/usr/bin/env bash
# Runs the release column of the reliability goals for as long as one lets it: deploy/reliability.sh [--hours H] [--ledger FILE]
# Rounds of new simulation seeds, fuzzing, model tests, kills and damages, until the goals are met or H hours (1) are over. The
# ledger (reliability-ledger.jsonl) keeps which seeds were searched, at which commit and with what result, so that the next run
# goes on behind them; its counts are kept beside it and added up. Ctrl-C ends it; the counts of the round that ran are kept.
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
usage="usage: deploy/reliability.sh [--hours H] [--ledger FILE] [--seeds SEEDS of a round] [--fuzz SECONDS of a target and round]"
hours=1 ledger=reliability-ledger.jsonl seeds=5000 fuzz=120
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || die "$usage"
  case "$1" in
  --hours) hours=$2 ;;
  --ledger) ledger=$2 ;;
  --seeds) seeds=$2 ;;
  --fuzz) fuzz=$2 ;;
  *) die "$usage" ;;
  esac
  shift 2
done
[[ "$hours" =~ ^[0-9]+([.][0-9]+)?$ && "$seeds" =~ ^[1-9][0-9]*$ && "$fuzz" =~ ^[0-9]+$ ]] || die "$usage"
setup_tools
python=$(find_python)
if has_rust; then (install_native default) || die "cmd-native could not be built"; fi
CMD_RELIABILITY_DIR=$("$python" -c 'import os, sys; print(os.path.abspath(sys.argv[1]) + ".counts")' "$ledger")
export CMD_RELIABILITY_DIR
mkdir -p "$CMD_RELIABILITY_DIR"
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
workers=${CMD_TEST_WORKERS:-$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)}
end=$("$python" -c 'import sys, time; print(int(time.time() + 3600 * float(sys.argv[1])))' "$hours")
# Where the next seeds begin: behind all that were searched.
next=$("$python" - "$ledger" <<'PY'
import json, pathlib, sys

path = pathlib.Path(sys.argv[1])
lines = path.read_text().splitlines() if path.exists() else []
print(max((json.loads(line)["to"] for line in lines), default=0))
PY
)
models=(tests/cmd_common/test_{orderbook,builder,following,aggregate}.py tests/cmd_server/test_{sendbuffer,hub_properties}.py)
kills=(tests/cmd_parquet/test_{kill,checking}.py tests/cmd_common/log/test_killed.py)
if command -v java >/dev/null 2>&1; then kills+=(tests/cmd_questdb/test_kill_writer.py); fi
others=(tests/cmd_server/test_websocket_conformance.py tests/e2e/test_serve_load.py)
status=0 round=0
while :; do
  round=$((round + 1))
  result=holds
  echo "reliability.sh: round $round, seeds $next to $((next + seeds - 1))"
  CMD_SIM_FROM=$next CMD_SIM_SEEDS=$seeds in_env default pytest -q -n "$workers" --dist worksteal tests/simulation/test_{seeds,serving}.py || result=FAILS
  CMD_RELIABILITY_TIMES=10 in_env default pytest -q -n "$workers" --dist worksteal --timeout 3600 --hypothesis-seed="$next" \
    "${models[@]}" "${kills[@]}" tests/fuzz || result=FAILS
  if [ "$round" = 1 ]; then in_env default pytest -q "${others[@]}" || result=FAILS; fi
  if [ "$fuzz" -gt 0 ]; then deploy/fuzz-all.sh "$fuzz" || result=FAILS; fi
  printf '{"at": "%s", "commit": "%s", "from": %d, "to": %d, "result": "%s"}\n' \
    "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$commit" "$next" "$((next + seeds))" "$result" >>"$ledger"
  [ "$result" = holds ] || status=1
  next=$((next + seeds))
  if "$python" deploy/reliability.py "$CMD_RELIABILITY_DIR" --check release --write "$ledger.json"; then
    echo "reliability.sh: every goal of a release is met"
    break
  fi
  [ "$(date +%s)" -lt "$end" ] || break
done
exit $status

#!/bin/sh
# Archives what is missing up to yesterday; made for cron:
#
#   40 0 * * * archive-daily.sh CONFIG LOG COMMAND...      such as: archive-daily.sh /etc/cryptomarketdata/cmd.toml archive.log cmd-cli
#
# The command's output goes to LOG, which is begun anew above 5 MB (five old ones are kept). A run that finds another one at
# work leaves at once, and what is missing or failed is tried again by the next run. On failure it tells: by what the
# configuration's section [deploy] names (mail, webhook), and by a line on stderr, which cron mails to MAILTO.
# Exit codes: those of "cmd-cli archive --since-last" (0 done, 1 failed, 2 wrong usage, 3 gaps, 4 another run, 5 unreachable).
set -u
if [ $# -lt 3 ]; then
  echo "usage: archive-daily.sh CONFIG LOG COMMAND..." >&2
  exit 2
fi
config=$1 log=$2
shift 2

# Where cmd-cli status looks for the jobs of the machine; the units of systemd make it.
if [ -z "${CMD_RUN_DIR:-}" ] && [ -w /run/cryptomarketdata ]; then
  CMD_RUN_DIR=/run/cryptomarketdata
  export CMD_RUN_DIR
fi

folder=$(dirname "$log")
mkdir -p "$folder" || exit 1
if [ -f "$log" ] && [ "$(wc -c <"$log")" -gt 5000000 ]; then
  for n in 4 3 2 1; do
    if [ -f "$log.$n" ]; then mv -f "$log.$n" "$log.$((n + 1))"; fi
  done
  mv -f "$log" "$log.1"
fi

echo "$(date -u +%Y-%m-%dT%H:%M:%SZ) begins" >>"$log" || exit 1
"$@" archive --since-last --config "$config" --json </dev/null >>"$log" 2>&1
code=$?
echo "$(date -u +%Y-%m-%dT%H:%M:%SZ) ends with $code" >>"$log"

case $code in
0 | 4) ;;
3) ;; # gaps are in the ledger, and the next run tries again
*)
  echo "archive-daily.sh: the archive of $(date -u +%Y-%m-%d) failed with exit code $code; see $log" >&2
  "$@" deploy notify --config "$config" --unit archive --code "$code" </dev/null >>"$log" 2>&1 ||
    echo "archive-daily.sh: and nobody could be told; see $log" >&2
  ;;
esac
exit $code

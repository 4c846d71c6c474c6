#!/usr/bin/env bash
# Makes a backup of the store and the configuration while the jobs run; it is verified before it has its name.
#   backup.sh [--to DIR] [--keep N] [--dry-run] [--prefix ROOT]        /var/backups/cryptomarketdata, 7
# Files of the store that did not change take no room twice, where DIR is on the same disk. A store of QuestDB is backed up by
# deploy/questdb/backup.sh, or cmd-cli store backup.
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=host/common.sh
. "$root/deploy/host/common.sh"

to='' keep=7
while [ $# -gt 0 ]; do
  case $1 in
  --to) to=$(value_of "$@"); shift ;;
  --keep) keep=$(value_of "$@"); shift ;;
  --prefix) prefix=$(value_of "$@"); shift ;;
  --dry-run) dry=1 ;;
  -h | --help) usage; exit 0 ;;
  *) die "unknown option $1; see --help" ;;
  esac
  shift
done
set_paths
[ -x "$CLI" ] || die "nothing is installed at $OPT; run install.sh"
: "${to:=$BACKUPS}"
case $to in /*) ;; *) die "--to needs an absolute path, not $to" ;; esac
act install -d -m 0750 "$to"
act install -m 0640 "$CONFIG" "$to/cmd.toml"
act "$CLI" store backup --config "$CONFIG" --to "$to" --keep-last "$keep"

#!/usr/bin/env bash
# Puts the newest backup of the store (or --from) in its place: stops the jobs, moves aside what is there, copies, verifies, starts.
#   restore.sh [--from DIR] [--with-config] [--dry-run] [--prefix ROOT]        /var/backups/cryptomarketdata
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=host/common.sh
. "$root/deploy/host/common.sh"

from='' with_config=0
while [ $# -gt 0 ]; do
  case $1 in
  --from) from=$(value_of "$@"); shift ;;
  --prefix) prefix=$(value_of "$@"); shift ;;
  --with-config) with_config=1 ;;
  --dry-run) dry=1 ;;
  -h | --help) usage; exit 0 ;;
  *) die "unknown option $1; see --help" ;;
  esac
  shift
done
set_paths
[ -x "$CLI" ] || die "nothing is installed at $OPT; run install.sh"
: "${from:=$BACKUPS}"
[ -d "$from" ] || die "there is no backup at $from"
mapfile -t running < <(services)
if [ ${#running[@]} -gt 0 ]; then act systemctl stop "${running[@]}"; fi
again() { if [ ${#running[@]} -gt 0 ]; then act systemctl start "${running[@]}"; fi; }
trap again EXIT
if [ "$with_config" = 1 ]; then act install -m 0640 "$from/cmd.toml" "$CONFIG"; fi
act "$CLI" store restore --config "$CONFIG" --from "$from" --force
own -R "$NAME:$NAME" "$DATA"

#!/usr/bin/env bash
# Removes what install.sh put in place. Data, backups, passwords and the user stay; --purge removes those too.
#   uninstall.sh [--purge] [--dry-run] [--prefix ROOT]
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=system.sh
. "$(dirname "${BASH_SOURCE[0]}")/system.sh"

purge=0
while [ $# -gt 0 ]; do
  case $1 in
    --purge) purge=1 ;;
    --prefix) prefix=$(value_of "$@"); shift ;;
    --dry-run) dry=1 ;;
    -h | --help) usage; exit 0 ;;
    *) die "unknown option $1; see --help" ;;
  esac
  shift
done
set_paths
load_settings
: "${DATA:=$prefix/var/lib/questdb}" "${BACKUPS:=$prefix/var/backups/questdb}"
remove() {
  local path
  for path in "$@"; do
    if [ -e "$path" ] || [ -L "$path" ]; then act rm -rf -- "$path"; fi
  done
}

if [ -f "$UNITS/questdb.service" ]; then
  service disable --now --quiet questdb-backup.timer questdb.service || say "warning: the services could not be disabled"
  if service_runs; then die "questdb.service still runs; stop it, then try again"; fi
fi
if [ -n "$prefix" ] && [ -r "$DATA/conf/server.conf" ]; then
  load_server "$DATA"
  if answers; then die "the server at $server_host:$server_port runs; stop it first (with --prefix no service is touched)"; fi
fi
had=0
if [ -d "$OPT" ]; then had=1; fi
remove "$UNITS/questdb.service" "$UNITS/questdb-backup.service" "$UNITS/questdb-backup.timer" "$SYSCTL" "$LIMITS" "$OPT" \
  "$ETC/proxy" "$ETC/grafana" "$ETC/prometheus.yml" "$ETC/prometheus-rules.yml"
if [ "$had" = 1 ]; then service daemon-reload; fi
if [ "$purge" = 1 ]; then
  # Only a folder that holds a server is removed, and only copies made by backup.sh: DATA and BACKUPS may be anywhere.
  if [ -f "$DATA/conf/server.conf" ]; then remove "$DATA"; fi
  if [ -d "$BACKUPS" ]; then
    while IFS= read -r copy; do remove "$copy"; done < <(find "$BACKUPS" -mindepth 1 -maxdepth 1 -name 'questdb-*T*Z' -o -maxdepth 1 -name '.part-*' -o -maxdepth 1 -name .lock)
    act rmdir --ignore-fail-on-non-empty "$BACKUPS"
  fi
  remove "$ETC"
  if [ -z "$prefix" ] && id questdb >/dev/null 2>&1; then act userdel questdb; fi
  if [ "$dry" = 0 ]; then say "QuestDB, its data, backups and passwords are removed"; fi
elif [ "$dry" = 0 ]; then
  if [ -d "$DATA" ] || [ -d "$BACKUPS" ]; then
    say "QuestDB is removed; data stays in $DATA, backups in $BACKUPS, passwords in $ETC: install.sh takes them again, --purge removes them"
  else
    say "QuestDB is not installed${prefix:+ below $prefix}"
  fi
fi
if [ "$dry" = 1 ]; then say "dry run: nothing was changed"; fi

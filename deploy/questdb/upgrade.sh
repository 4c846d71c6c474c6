#!/usr/bin/env bash
# Brings an installed QuestDB to the version of this checkout: fetches and checks the jar, makes a backup, stops the server,
# switches, starts, checks it; goes back to the old version if the new one does not become healthy. Data and passwords stay.
#   upgrade.sh [--jar PATH] [--major] [--no-backup] [--dry-run] [--prefix ROOT]
# --major allows another major version: read its release notes first, its files cannot be read by the old one.
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=system.sh
. "$(dirname "${BASH_SOURCE[0]}")/system.sh"

jar='' major=0 backup=1
while [ $# -gt 0 ]; do
  case $1 in
    --jar) jar=$(value_of "$@"); shift ;;
    --prefix) prefix=$(value_of "$@"); shift ;;
    --major) major=1 ;;
    --no-backup) backup=0 ;;
    --dry-run) dry=1 ;;
    -h | --help) usage; exit 0 ;;
    *) die "unknown option $1; see --help" ;;
  esac
  shift
done
set_paths
load_settings
before=$(installed_version)
if [ -z "$before" ] || [ ! -f "$ETC/install.conf" ]; then die "no QuestDB is installed${prefix:+ below $prefix}; use install.sh"; fi
installer=("$(dirname "${BASH_SOURCE[0]}")/install.sh" --no-packages)
if [ -n "$prefix" ]; then installer+=(--prefix "$prefix"); fi
if [ -n "$jar" ]; then installer+=(--jar "$jar"); fi
if [ "$dry" = 1 ]; then installer+=(--dry-run); fi
if [ "$before" = "$QUESTDB_VERSION" ]; then
  say "QuestDB $before is the version of this checkout; bringing its files up to date"
  exec "${installer[@]}"
fi
newest=$(printf '%s\n%s\n' "$before" "$QUESTDB_VERSION" | sort -V | tail -n 1)
[ "$newest" = "$QUESTDB_VERSION" ] ||
  die "QuestDB $before is installed, newer than $QUESTDB_VERSION of this checkout; there is no way back but a backup made before"
if [ "${before%%.*}" != "${QUESTDB_VERSION%%.*}" ] && [ "$major" = 0 ]; then
  die "from $before to $QUESTDB_VERSION is another major version; read its release notes, then give --major"
fi

# The new jar first: nothing stops before it is here and checked.
if [ "$dry" = 1 ]; then
  say "would fetch and check questdb-$QUESTDB_VERSION.jar"
else
  source_jar=$(find_jar "$jar")
  install -m 644 "$source_jar" "$OPT/questdb-$QUESTDB_VERSION.jar"
fi
[ "$dry" = 1 ] && [ ! -r "$DATA/conf/server.conf" ] || load_server "$DATA"
running=0
if service_runs; then running=1; fi
if [ -n "$prefix" ] && answers; then die "the server at $server_host:$server_port runs; stop it first (with --prefix no service is touched)"; fi
tables=''
if [ "$running" = 1 ] && [ "$dry" = 0 ]; then tables=$(value "$(sql 'SELECT count() FROM tables()')"); fi
if [ "$backup" = 1 ]; then
  maker=()
  if [ -z "$prefix" ]; then maker=(runuser -u questdb --); fi
  act install -m 755 "$files/../backup.sh" "$OPT/backup.sh"
  act install -m 644 "$files/../lib.sh" "$OPT/lib.sh"
  act ${maker[@]+"${maker[@]}"} "$OPT/backup.sh" --data "$DATA" --dest "$BACKUPS" --keep "$KEEP" ||
    die "no backup, no upgrade: nothing was changed (--no-backup goes on without)"
fi
if [ "$running" = 1 ]; then act systemctl stop questdb.service; fi
act ln -sfn "questdb-$QUESTDB_VERSION.jar" "$OPT/questdb.jar"

# Back to the old jar, which the folder still has.
go_back() {
  say "error: $1; going back to QuestDB $before"
  systemctl stop questdb.service || true
  ln -sfn "questdb-$before.jar" "$OPT/questdb.jar"
  systemctl start questdb.service
  wait_installed || die "QuestDB $before is not healthy either; restore the backup in $BACKUPS (docs/questdb.md)"
  die "QuestDB $QUESTDB_VERSION could not be used; $before runs again with the data it had; see $DATA/log"
}

if [ "$running" = 1 ]; then
  "${installer[@]}" --no-start
  act systemctl daemon-reload
  act systemctl start questdb.service || go_back "the service did not start"
  if [ "$dry" = 0 ]; then
    wait_installed || go_back "QuestDB $QUESTDB_VERSION is not healthy"
    now=$(value "$(sql 'SELECT count() FROM tables()')")
    [ "$now" = "$tables" ] || go_back "it has ${now:-no} tables, there were $tables"
    suspended=$(value "$(sql 'SELECT count() FROM wal_tables() WHERE suspended')")
    [ "$suspended" = 0 ] || say "warning: $suspended tables are suspended; see cmd-cli store check"
  fi
else
  "${installer[@]}" --no-start
  say "the server did not run and was not started"
fi
if [ "$dry" = 1 ]; then
  say "dry run: nothing was changed"
else
  find "$OPT" -maxdepth 1 -name 'questdb-*.jar' ! -name "questdb-$QUESTDB_VERSION.jar" ! -name "questdb-$before.jar" -delete
  say "QuestDB $before -> $QUESTDB_VERSION; the old jar stays in $OPT until the next upgrade"
fi

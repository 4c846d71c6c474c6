#!/usr/bin/env bash
# Starts a QuestDB of your own on this machine, on loopback, for trials and tests; nothing is installed.
#   local.sh [--root DIR] [--port N] [--pg-port N] [--min-port N] [--jar PATH]   start, print the connection string
#   local.sh --stop [--root DIR]     end it; the data stays
#   local.sh --status [--root DIR]   say whether it runs, print the connection string
#   local.sh --fetch-only            only fetch the jar into the cache and print its path
# Ports: the given ones; otherwise 9000, 8812 and 9003, or free ones where those are taken. Port 0 asks for a free one.
# The root is by default ~/.local/share/crypto-market-data/questdb (XDG_DATA_HOME). ROOT/conf/server.conf is written
# once and then yours. The jar comes from --jar, CMD_QUESTDB_JAR, the cache, or Maven Central through mvn, and is
# checked against its SHA-256. Java: 17 or newer; CMD_QUESTDB_JAVA chooses one. A server for others: install.sh.
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

root="${XDG_DATA_HOME:-${HOME:-/root}/.local/share}/crypto-market-data/questdb"
port='' pg_port='' min_port='' jar='' action=start
while [ $# -gt 0 ]; do
  case $1 in
    --root) root=$(value_of "$@"); shift ;;
    --port) port=$(value_of "$@"); shift ;;
    --pg-port) pg_port=$(value_of "$@"); shift ;;
    --min-port) min_port=$(value_of "$@"); shift ;;
    --jar) jar=$(value_of "$@"); shift ;;
    --stop) action=stop ;;
    --status) action=status ;;
    --fetch-only) action=fetch ;;
    -h | --help) usage; exit 0 ;;
    *) die "unknown option $1; see --help" ;;
  esac
  shift
done
for number in "$port" "$pg_port" "$min_port"; do
  case $number in
    '') ;;
    *[!0-9]* | ??????*) die "a port is a number up to 65535, not $number" ;;
    *) [ "$number" -le 65535 ] || die "a port is a number up to 65535, not $number" ;;
  esac
done
case $root in
  *[[:space:]\;]*) die "the root may hold neither spaces nor semicolons: $root" ;;
  /*) ;;
  *) root="$PWD/$root" ;;
esac
pid_file="$root/questdb.pid"
running_pid() {
  local pid=''
  if [ -f "$pid_file" ]; then read -r pid <"$pid_file" || true; fi
  if serves_root "$pid" "$root"; then printf '%s\n' "$pid"; fi
}

case $action in
  fetch)
    find_jar "$jar"
    exit ;;
  stop)
    pid=$(running_pid)
    [ -n "$pid" ] || { say "no server runs in $root"; exit 0; }
    kill -TERM "$pid"
    until=$((SECONDS + 60))
    while kill -0 "$pid" 2>/dev/null; do
      [ $SECONDS -lt $until ] || die "process $pid did not end within 60 s; its log is $root/server.log"
      sleep 0.1
    done
    rm -f "$pid_file"
    say "stopped; the data is in $root"
    exit ;;
  status)
    [ -n "$(running_pid)" ] || { say "no server runs in $root"; exit 3; }
    cat "$root/connection"
    exit ;;
esac

if [ -n "$(running_pid)" ]; then
  say "already running in $root"
  cat "$root/connection"
  exit
fi
java=$(find_java)
jar=$(find_jar "$jar")
mkdir -p "$root/conf" "$root/db" "$root/import" "$root/export" || die "cannot create $root; choose another --root"
chmod 700 "$root"
# The server inherits the lock and keeps it as long as it lives: two servers in one root would damage it.
exec 9>"$root/local.lock"
if command -v flock >/dev/null 2>&1; then flock -n 9 || die "another server runs in $root, or is being started; end it first"; fi
# chosen NAME DEFAULT GIVEN: the given port if it is free, the default, or a free one
chosen() {
  if [ -n "$3" ] && [ "$3" != 0 ]; then
    port_taken "$3" && die "$1 port $3 is in use; choose another or give 0 for a free one"
    printf '%s\n' "$3"
  elif [ -z "$3" ] && ! port_taken "$2"; then
    printf '%s\n' "$2"
  else
    free_port
  fi
}
port=$(chosen HTTP 9000 "$port")
pg_port=$(chosen PG 8812 "$pg_port")
min_port=$(chosen health 9003 "$min_port")
if [ ! -f "$root/conf/server.conf" ]; then
  (umask 077 && cat >"$root/conf/server.conf" <<'CONF'
# Settings of this server; written once by local.sh, then yours. Ports and the bind address are given at start.
config.validation.strict=true
telemetry.enabled=false
line.tcp.enabled=false
line.auto.create.new.tables=false
line.auto.create.new.columns=false
metrics.enabled=true
# Small files: by default every open column of every table takes 16 MiB of disk.
cairo.writer.data.append.page.size=128K
cairo.system.writer.data.append.page.size=128K
cairo.wal.writer.data.append.page.size=128K
cairo.system.wal.writer.data.append.page.size=128K
cairo.writer.data.index.value.append.page.size=128K
cairo.writer.data.index.key.append.page.size=128K
cairo.o3.column.memory.size=128K
CONF
  )
fi
rm -rf "$root/tmp" # native libraries that a killed server left unpacked
mkdir -p "$root/tmp"
flags=()
while IFS= read -r flag; do flags+=("$flag"); done < <(java_flags "$java")
command=("$java" -Xms64m -Xmx512m -XX:+UseParallelGC ${flags[@]+"${flags[@]}"} "-Djava.io.tmpdir=$root/tmp"
  -p "$jar" -m io.questdb/io.questdb.ServerMain -d "$root")
# A session of its own, so that Ctrl-C in this terminal does not end it.
detach=()
if command -v setsid >/dev/null 2>&1; then detach=(setsid); fi
QDB_HTTP_NET_BIND_TO="127.0.0.1:$port" QDB_HTTP_MIN_NET_BIND_TO="127.0.0.1:$min_port" \
  QDB_PG_NET_BIND_TO="127.0.0.1:$pg_port" QDB_CAIRO_SQL_COPY_ROOT="$root/import" \
  nohup ${detach[@]+"${detach[@]}"} "${command[@]}" </dev/null >>"$root/server.log" 2>&1 &
pid=$!
echo "$pid" >"$pid_file"
printf 'http::addr=127.0.0.1:%s;import_dir=%s;root=%s;\n' "$port" "$root/import" "$root" >"$root/connection"
wait_healthy "$pid" "$min_port" "$root/server.log"
say "QuestDB $QUESTDB_VERSION runs (process $pid): console http://127.0.0.1:$port, PG port $pg_port, health and metrics http://127.0.0.1:$min_port, root $root"
say "use it with --store questdb:CONNECTION (the line below); end it with ${BASH_SOURCE[0]} --stop --root $root"
cat "$root/connection"

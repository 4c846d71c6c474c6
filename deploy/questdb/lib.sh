# shellcheck shell=bash
# Shared by the scripts in this folder: the pinned server, its checksum, Java, ports and the wait for readiness.

set -euo pipefail
QUESTDB_VERSION=9.3.4
QUESTDB_SHA256=939bc53ab22f93dbaa6545143a6e7c536d4904c07b7f2d381e8eef10436be062
JAVA_WANTED=17
COPY_PLUGIN=org.apache.maven.plugins:maven-dependency-plugin:3.6.1
jar_cache="${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/crypto-market-data/questdb"

die() {
  echo "${0##*/}: error: $*" >&2
  exit 1
}

say() { echo "${0##*/}: $*" >&2; }

# The value of an option that needs one: value_of "$@"
value_of() {
  { [ $# -ge 2 ] && [ -n "$2" ]; } || die "$1 needs a value; see --help"
  printf '%s\n' "$2"
}

# Prints the comment at the top of the calling script.
usage() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p;}' "$0"; }

sha256_of() {
  if command -v sha256sum >/dev/null 2>&1; then sha256sum -- "$1"; else shasum -a 256 -- "$1"; fi | cut -d' ' -f1
}

# Prints the major version of a Java.
java_major() {
  "$1" -version 2>&1 | sed -n 's/.*version "\([0-9][0-9]*\).*/\1/p' | head -n 1
}

# Prints the path of a Java of 17 or newer; CMD_QUESTDB_JAVA or JAVA_HOME choose one.
find_java() {
  local candidate major
  for candidate in "${CMD_QUESTDB_JAVA:-}" "${JAVA_HOME:+$JAVA_HOME/bin/java}" java; do
    if [ -z "$candidate" ] || ! command -v "$candidate" >/dev/null 2>&1; then continue; fi
    major=$(java_major "$candidate")
    if [ "${major:-0}" -ge "$JAVA_WANTED" ]; then
      command -v "$candidate"
      return
    fi
    [ -z "${CMD_QUESTDB_JAVA:-}" ] || die "CMD_QUESTDB_JAVA=$candidate is Java ${major:-unknown}; QuestDB $QUESTDB_VERSION needs $JAVA_WANTED or newer"
  done
  die "no Java $JAVA_WANTED or newer; install one (Debian, Ubuntu: apt install openjdk-17-jre-headless; Fedora: dnf install java-17-openjdk-headless; macOS: brew install openjdk@17) or set CMD_QUESTDB_JAVA to its path"
}

# Flags that newer Javas want and older ones refuse, one a line.
java_flags() {
  if [ "$(java_major "$1")" -ge 24 ]; then
    printf '%s\n' --sun-misc-unsafe-memory-access=allow --enable-native-access=io.questdb
  fi
}

check_jar() {
  [ -f "$1" ] || die "no such jar: $1"
  local found
  found=$(sha256_of "$1")
  [ "$found" = "$QUESTDB_SHA256" ] ||
    die "$1 is not questdb-$QUESTDB_VERSION.jar: its SHA-256 is $found, not $QUESTDB_SHA256; remove it and fetch it again"
}

# Prints the path of a checked jar: the given one, CMD_QUESTDB_JAR, the cached one, or one fetched through mvn.
find_jar() {
  local given=${1:-${CMD_QUESTDB_JAR:-}} cached="$jar_cache/questdb-$QUESTDB_VERSION.jar" part
  if [ -n "$given" ]; then
    check_jar "$given"
    (cd "$(dirname "$given")" && printf '%s/%s\n' "$PWD" "$(basename "$given")")
    return
  fi
  if [ ! -f "$cached" ]; then
    command -v mvn >/dev/null 2>&1 ||
      die "no QuestDB jar; install Maven (Debian, Ubuntu: apt install maven; macOS: brew install maven) so that it can be fetched, or download questdb-$QUESTDB_VERSION.jar (org.questdb:questdb on Maven Central) and give --jar PATH"
    say "fetching org.questdb:questdb:$QUESTDB_VERSION through mvn (30 MB) into $jar_cache"
    mkdir -p "$jar_cache"
    part=$(mktemp -d "$jar_cache/fetch.XXXXXX")
    # The lookup of the plugin writes nothing into the project: it runs in the folder of the download.
    if ! (cd "$part" && mvn -q -B "$COPY_PLUGIN:copy" "-Dartifact=org.questdb:questdb:$QUESTDB_VERSION" \
      -DoutputDirectory="$part" >"$part/mvn.log" 2>&1); then
      tail -n 5 "$part/mvn.log" >&2
      rm -rf "$part"
      die "mvn could not fetch org.questdb:questdb:$QUESTDB_VERSION; check the network or the Maven settings, or give --jar PATH"
    fi
    check_jar "$part/questdb-$QUESTDB_VERSION.jar"
    mv "$part/questdb-$QUESTDB_VERSION.jar" "$cached" # one rename: another fetch at the same time does no harm
    rm -rf "$part"
  fi
  check_jar "$cached"
  printf '%s\n' "$cached"
}

# True when somebody listens on a loopback port.
port_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Prints a port nobody listens on, below the range used for outgoing connections.
free_port() {
  local port tries=0
  while [ $((tries += 1)) -le 100 ]; do
    port=$((15000 + RANDOM % 17000))
    port_taken "$port" || { printf '%s\n' "$port"; return; }
  done
  die "found no free port"
}

# Prints the status code of GET PATH on a loopback port, or 000; needs no curl.
http_status() {
  local line=''
  # A server that accepts and does not answer must not hold us: the read has a limit.
  line=$( (exec 3<>"/dev/tcp/127.0.0.1/$1" && printf 'GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n' "$2" >&3 &&
    IFS= read -r -t 5 answer <&3 && printf '%s' "$answer") 2>/dev/null) || true
  line=${line#HTTP/* }
  printf '%s\n' "${line:0:3}" | grep -E '^[0-9]{3}$' || printf '000\n'
}

# Waits until the server with this pid is healthy: wait_healthy PID MIN_PORT LOG [SECONDS]
wait_healthy() {
  local until=$((SECONDS + ${4:-90}))
  while [ "$(http_status "$2" /status)" != 200 ]; do
    kill -0 "$1" 2>/dev/null || {
      tail -n 15 "$3" >&2
      die "QuestDB ended while it started; its log is $3"
    }
    [ $SECONDS -lt $until ] || die "QuestDB was not healthy after ${4:-90} s; its log is $3"
    sleep 0.1
  done
}

# True when the process is the server of this root.
serves_root() {
  [ -n "$1" ] && kill -0 "$1" 2>/dev/null && ps -ww -o args= -p "$1" 2>/dev/null | grep -F -- "io.questdb.ServerMain -d $2" >/dev/null
}

# load_server DATA: address, name and password of the server of this folder, from its server.conf, for the functions below.
load_server() {
  local conf="$1/conf/server.conf" address
  [ -r "$conf" ] || die "cannot read $conf"
  conf_value() { sed -n "s/^$1=//p" "$conf" | tail -n 1; }
  address=$(conf_value 'http\.net\.bind\.to')
  : "${address:=127.0.0.1:9000}"
  server_host=${address%:*} server_port=${address##*:}
  server_authorization=$(printf '%s:%s' "$(conf_value 'http\.user')" "$(conf_value 'http\.password')" | base64 | tr -d '\n')
}

# True when something listens at the server's address.
answers() { (exec 3<>"/dev/tcp/$server_host/$server_port") 2>/dev/null; }

# Runs a statement; prints the whole HTTP answer in one line. The password is in no command line.
sql() {
  (
    exec 3<>"/dev/tcp/$server_host/$server_port"
    printf 'GET /exec?query=%s HTTP/1.1\r\nHost: questdb\r\nAuthorization: Basic %s\r\n\r\n' \
      "${1// /%20}" "$server_authorization" >&3
    # It keeps the connection open: the answer ends with the empty chunk.
    timeout 300 sed -u '/^00*\r$/q' <&3 | tr -d '\r' | tr '\n' ' '
  ) 2>/dev/null
}

# The server did what the statement asked: ok ANSWER
ok() { [[ $1 == HTTP/1.?\ 200* && $1 != *'"error"'* ]]; }

# Why it did not.
reason() { printf '%s' "${1:-no answer}" | sed 's/.*"error":"\([^"]*\)".*/\1/' | cut -c 1-300; }

# The one value of an answer with one row and column.
value() { printf '%s' "$1" | sed -n 's/.*"dataset":\[\[\([^]]*\)\]\].*/\1/p'; }

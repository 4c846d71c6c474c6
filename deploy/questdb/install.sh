#!/usr/bin/env bash
# Installs QuestDB as a service: Java, the checked jar, a user, its folders, server.conf with passwords, kernel limits,
# a hardened systemd unit, a daily backup, and files for a TLS proxy, Prometheus and Grafana. Run it again at will:
# what is there stays, passwords and data included; options given once are remembered.
#   install.sh [--bind ADDRESS] [--port N] [--pg-port N] [--min-port N]   loopback or private address; 9000, 8812, 9003
#              [--data DIR] [--backups DIR] [--keep N]                   /var/lib/questdb, /var/backups/questdb, 7
#              [--heap SIZE]                                             Java heap such as 2g; a quarter of the memory, 4g at most
#              [--domain NAME] [--tls-port N]                            name in the TLS proxy's files; port 443
#              [--certificate FILE --certificate-key FILE]               for nginx, and for Caddy when it has no public name
#              [--jar PATH]                                              instead of fetching it through mvn
#              [--no-packages] [--no-start] [--dry-run] [--prefix ROOT]
# --prefix ROOT puts everything below ROOT, with paths to match: no user, no packages, no service; for trials and tests.
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=system.sh
. "$(dirname "${BASH_SOURCE[0]}")/system.sh"

jar='' packages=1 start=1
while [ $# -gt 0 ]; do
  case $1 in
    --bind) BIND=$(value_of "$@"); shift ;;
    --port) PORT=$(value_of "$@"); shift ;;
    --pg-port) PG_PORT=$(value_of "$@"); shift ;;
    --min-port) MIN_PORT=$(value_of "$@"); shift ;;
    --data) DATA=$(value_of "$@"); shift ;;
    --backups) BACKUPS=$(value_of "$@"); shift ;;
    --keep) KEEP=$(value_of "$@"); shift ;;
    --heap) HEAP=$(value_of "$@"); shift ;;
    --domain) DOMAIN=$(value_of "$@"); shift ;;
    --tls-port) TLS_PORT=$(value_of "$@"); shift ;;
    --certificate) CERTIFICATE=$(value_of "$@"); shift ;;
    --certificate-key) CERTIFICATE_KEY=$(value_of "$@"); shift ;;
    --jar) jar=$(value_of "$@"); shift ;;
    --prefix) prefix=$(value_of "$@"); shift ;;
    --no-packages) packages=0 ;;
    --no-start) start=0 ;;
    --dry-run) dry=1 ;;
    -h | --help) usage; exit 0 ;;
    *) die "unknown option $1; see --help" ;;
  esac
  shift
done
set_paths
load_settings
: "${BIND:=127.0.0.1}" "${PORT:=9000}" "${PG_PORT:=8812}" "${MIN_PORT:=9003}" "${TLS_PORT:=443}" "${KEEP:=7}"
: "${DATA:=$prefix/var/lib/questdb}" "${BACKUPS:=$prefix/var/backups/questdb}" "${DOMAIN:=questdb.example.org}"
# shellcheck disable=SC2034  # read by render
if [ -n "${CERTIFICATE:-}" ]; then
  [ -n "${CERTIFICATE_KEY:-}" ] || die "--certificate needs --certificate-key"
  CADDY_TLS="tls $CERTIFICATE $CERTIFICATE_KEY" NGINX_CERTIFICATE=$CERTIFICATE NGINX_KEY=$CERTIFICATE_KEY
else
  CERTIFICATE='' CERTIFICATE_KEY='' CADDY_TLS=''
  NGINX_CERTIFICATE=/etc/letsencrypt/live/$DOMAIN/fullchain.pem NGINX_KEY=/etc/letsencrypt/live/$DOMAIN/privkey.pem
fi

# --- what was asked for makes sense
private='^(127\.[0-9.]+|10\.[0-9.]+|192\.168\.[0-9.]+|172\.(1[6-9]|2[0-9]|3[01])\.[0-9.]+|100\.(6[4-9]|[7-9][0-9]|1[01][0-9]|12[0-7])\.[0-9.]+)$'
[[ $BIND =~ $private ]] && [[ $BIND =~ ^([0-9]{1,3}\.){3}[0-9]{1,3}$ ]] ||
  die "QuestDB has no TLS, so it binds to loopback or a private address only, not to $BIND; let others come through the TLS proxy (see docs/questdb.md)"
for number in "$PORT" "$PG_PORT" "$MIN_PORT" "$TLS_PORT"; do
  [[ $number =~ ^[0-9]{1,5}$ ]] && [ "$number" -ge 1 ] && [ "$number" -le 65535 ] || die "a port is a number from 1 to 65535, not $number"
done
[[ $KEEP =~ ^[1-9][0-9]{0,3}$ ]] || die "--keep is how many backups are kept, 1 to 9999, not $KEEP"
[[ $DOMAIN =~ ^[A-Za-z0-9.-]+$ ]] || die "--domain is a host name, not $DOMAIN"
for path in "$DATA" "$BACKUPS" "$NGINX_CERTIFICATE" "$NGINX_KEY"; do
  [[ $path =~ ^/[A-Za-z0-9/._+-]+$ ]] || die "a path is absolute and holds only letters, digits and /._+-, not $path"
done
if [ -z "${HEAP:-}" ]; then
  memory=$(awk '/^MemTotal:/ {print int($2 / 1024)}' /proc/meminfo 2>/dev/null || echo 4096)
  HEAP=$((memory / 4 > 4096 ? 4096 : memory / 4 < 512 ? 512 : memory / 4))m
fi
[[ $HEAP =~ ^[1-9][0-9]*[mg]$ ]] || die "--heap is a size such as 2g or 1500m, not $HEAP"
before=$(installed_version)
[ -z "$before" ] || [ "$before" = "$QUESTDB_VERSION" ] ||
  die "QuestDB $before is installed and this would install $QUESTDB_VERSION; use upgrade.sh, which makes a backup first"

# --- Java and the jar
need_packages() {
  [ "$packages" = 1 ] && [ -z "$prefix" ] || return 1
  if command -v apt-get >/dev/null 2>&1; then
    act apt-get update -qq
    act env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1"
  elif command -v dnf >/dev/null 2>&1; then
    act dnf install -y -q "$2"
  else
    return 1
  fi
}
if ! (find_java) >/dev/null 2>&1; then
  say "no Java $JAVA_WANTED or newer here; installing one"
  need_packages openjdk-17-jre-headless java-17-openjdk-headless || find_java >/dev/null
fi
if ! JAVA=$(find_java 2>/dev/null); then
  [ "$dry" = 1 ] || find_java >/dev/null
  JAVA=/usr/bin/java JAVA_FLAGS=''
else
  JAVA_FLAGS=$(java_flags "$JAVA" | tr '\n' ' ')
  JAVA_FLAGS=${JAVA_FLAGS% }
fi
installed_jar="$OPT/questdb-$QUESTDB_VERSION.jar"
if [ -f "$installed_jar" ] && [ "$(sha256_of "$installed_jar")" = "$QUESTDB_SHA256" ]; then
  : # the one that is wanted
else
  if [ "$dry" = 1 ]; then
    say "would fetch and check questdb-$QUESTDB_VERSION.jar and install it as $installed_jar"
  else
    source_jar=$(find_jar "$jar")
    mkdir -p "$OPT"
    install -m 644 "$source_jar" "$installed_jar.new"
    mv "$installed_jar.new" "$installed_jar"
    say "created $installed_jar"
  fi
  changed=1
fi
if [ "$before" != "$QUESTDB_VERSION" ]; then act ln -sfn "questdb-$QUESTDB_VERSION.jar" "$OPT/questdb.jar"; fi
put "$OPT/backup.sh" 755 <"$files/../backup.sh"
put "$OPT/lib.sh" 644 <"$files/../lib.sh"

# --- user and folders
owner=questdb:questdb
if [ -z "$prefix" ] && ! id questdb >/dev/null 2>&1; then
  act useradd --system --user-group --home-dir "$DATA" --no-create-home --shell /usr/sbin/nologin questdb
fi
folder "$ETC" 755
folder "$DATA" 750 "$owner"
for name in db conf export tmp log; do folder "$DATA/$name" 750 "$owner"; done
folder "$DATA/import" 2770 "$owner" # who loads archives from Parquet files is in the group questdb
folder "$BACKUPS" 750 "$owner"

# --- settings of the server; secrets are made once
secret() { head -c 64 /dev/urandom | base64 | tr -dc 'A-Za-z0-9' | cut -c 1-32; }
conf="$DATA/conf/server.conf"
# server.conf is readable only by root and the server: a dry run by somebody else takes it as it is.
if [ -f "$conf" ]; then
  if [ -r "$conf" ]; then
    sed -e "s|^http\.net\.bind\.to=.*|http.net.bind.to=$BIND:$PORT|" -e "s|^pg\.net\.bind\.to=.*|pg.net.bind.to=$BIND:$PG_PORT|" \
      -e "s|^http\.min\.net\.bind\.to=.*|http.min.net.bind.to=127.0.0.1:$MIN_PORT|" "$conf" | put "$conf" 600 "$owner"
  fi
else
  # shellcheck disable=SC2034  # read by render
  HTTP_PASSWORD=$(secret) PG_PASSWORD=$(secret) READER_PASSWORD=$(secret)
  render "$files/server.conf" | put "$conf" 600 "$owner"
fi
put "$DATA/conf/log.conf" 640 "$owner" <"$files/log.conf"
if [ -r "$conf" ]; then
  password=$(sed -n 's/^http\.password=//p' "$conf")
  printf 'http::addr=%s:%s;username=cmd_ingest;password=%s;\n' "$BIND" "$PORT" "${password//;/;;}" | put "$ETC/connection" 600
  sed -n 's/^pg\.readonly\.password=//p' "$conf" | put "$ETC/reader.password" 600
elif [ "$dry" = 1 ]; then
  say "would write $ETC/connection and $ETC/reader.password (mode 600)"
fi

# --- the system
for name in "${SETTINGS[@]}"; do printf '%s=%s\n' "$name" "${!name}"; done | put "$ETC/install.conf" 644
before_sysctl=$changed
changed=0
put "$SYSCTL" 644 <"$files/99-questdb.conf"
if [ "$changed" = 1 ] && [ -z "$prefix" ]; then
  act sysctl -q -p "$SYSCTL" || say "the kernel refused $SYSCTL (a container?); raise vm.max_map_count on its host"
fi
changed=$before_sysctl
put "$LIMITS" 644 <"$files/limits.conf"
for unit in questdb.service questdb-backup.service questdb-backup.timer; do render "$files/$unit" | put "$UNITS/$unit" 644; done
needs_restart=$changed
render "$files/nginx.conf" | put "$ETC/proxy/nginx.conf" 644
render "$files/Caddyfile" | put "$ETC/proxy/Caddyfile" 644
render "$files/prometheus.yml" | put "$ETC/prometheus.yml" 644
put "$ETC/prometheus-rules.yml" 644 <"$files/prometheus-rules.yml"
render "$files/grafana/datasources.yml" | put "$ETC/grafana/datasources.yml" 644
render "$files/grafana/dashboards.yml" | put "$ETC/grafana/dashboards.yml" 644
for name in store-health market-data; do put "$ETC/grafana/dashboards/$name.json" 644 <"$files/grafana/$name.json"; done

# --- the service
if [ "$start" = 1 ]; then
  service daemon-reload
  service enable --quiet questdb.service questdb-backup.timer
  if service_runs && [ "$needs_restart" = 1 ]; then
    service restart questdb.service
  else
    service start questdb.service
  fi
  service start questdb-backup.timer
  if [ -z "$prefix" ]; then
    wait_installed || die "QuestDB is not healthy; see journalctl -u questdb and $DATA/log"
  fi
fi
if [ "$dry" = 1 ]; then
  say "dry run: nothing was changed"
else
  say "QuestDB $QUESTDB_VERSION is installed, data in $DATA; connection string in $ETC/connection (root only): cmd-cli store migrate --store \"questdb:\$(cat $ETC/connection)\""
fi

# shellcheck shell=bash
# shellcheck disable=SC2034  # names for the scripts that read this file
# Shared by install.sh, upgrade.sh and uninstall.sh: where things are, settings, dry runs, files put in place, the service.
# Expects lib.sh to be read already.

dry=0 prefix=''
files="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/files"
# Settings that install.sh keeps in install.conf for itself and its siblings.
SETTINGS=(DATA BACKUPS BIND PORT PG_PORT MIN_PORT HEAP KEEP DOMAIN TLS_PORT CERTIFICATE CERTIFICATE_KEY JAVA)

# Sets the paths below the prefix. With a prefix nothing outside it is touched: no user, no packages, no services.
set_paths() {
  case $prefix in
    '' | /*) prefix=${prefix%/} ;;
    *) die "--prefix needs an absolute path, not $prefix" ;;
  esac
  case $prefix in *[!A-Za-z0-9/._+-]*) die "the prefix may hold only letters, digits and /._+-: $prefix" ;; esac
  OPT="$prefix/opt/questdb"
  ETC="$prefix/etc/questdb"
  UNITS="$prefix/etc/systemd/system"
  SYSCTL="$prefix/etc/sysctl.d/99-questdb.conf"
  LIMITS="$prefix/etc/security/limits.d/questdb.conf"
  if [ -z "$prefix" ]; then
    [ "$(uname -s)" = Linux ] || die "this installs a Linux service; on other systems use local.sh"
    [ "$dry" = 1 ] || [ "$(id -u)" = 0 ] || die "run it as root (sudo), or with --prefix DIR for a trial, or --dry-run to see what it would do"
  fi
}

# Reads install.conf: lines NAME=VALUE, nothing is executed. Values given on the command line are kept.
load_settings() {
  local name value
  [ -f "$ETC/install.conf" ] || return 0
  while IFS='=' read -r name value; do
    case " ${SETTINGS[*]} " in
      *" $name "*) [ -n "${!name:-}" ] || printf -v "$name" '%s' "$value" ;;
    esac
  done <"$ETC/install.conf"
}

# Does it, or says it with --dry-run.
act() {
  if [ "$dry" = 1 ]; then say "would run: $*"; else "$@"; fi
}

# put FILE MODE [OWNER]: writes standard input there if it differs; sets changed=1 when it does.
changed=0
put() {
  local file=$1 mode=$2 owner=${3:-} new verb=created
  new=$(mktemp)
  cat >"$new"
  if [ -f "$file" ]; then
    verb=updated
    if cmp -s "$new" "$file"; then
      rm -f "$new"
      return 0
    fi
  fi
  changed=1
  if [ "$dry" = 1 ]; then
    say "would write $file (mode $mode)"
  else
    mkdir -p "$(dirname "$file")"
    # The mode before the content: a secret is never readable in between.
    install -m "$mode" /dev/null "$file.new"
    cat "$new" >"$file.new"
    if [ -n "$owner" ] && [ -z "$prefix" ]; then chown "$owner" "$file.new"; fi
    mv "$file.new" "$file"
    say "$verb $file"
  fi
  rm -f "$new"
}

# render TEMPLATE: the file with @NAME@ replaced by the settings and paths.
render() {
  local text name
  text=$(cat "$1")
  for name in OPT ETC "${SETTINGS[@]}" JAVA_FLAGS CADDY_TLS NGINX_CERTIFICATE NGINX_KEY HTTP_PASSWORD PG_PASSWORD READER_PASSWORD; do
    text=${text//"@$name@"/"${!name:-}"}
  done
  printf '%s\n' "$text"
}

# folder DIR MODE [OWNER]
folder() {
  if [ -d "$1" ]; then return 0; fi
  act mkdir -p "$1"
  act chmod "$2" "$1"
  if [ -n "${3:-}" ] && [ -z "$prefix" ]; then act chown "$3" "$1"; fi
}

# service ARGUMENTS: systemctl, where there is a system to talk to.
service() {
  if [ -n "$prefix" ]; then
    say "--prefix: not running systemctl $*"
  else
    act systemctl "$@"
  fi
}

service_runs() { [ -z "$prefix" ] && systemctl is-active --quiet questdb.service 2>/dev/null; }

# Version in the name of the jar that is installed, or nothing.
installed_version() {
  local target
  target=$(readlink "$OPT/questdb.jar" 2>/dev/null) || return 0
  target=${target##*/}
  target=${target#questdb-}
  printf '%s\n' "${target%.jar}"
}

# Waits for the health port of the installed server.
wait_installed() {
  local until=$((SECONDS + 120))
  [ "$dry" = 0 ] || return 0
  while [ "$(http_status "$MIN_PORT" /status)" != 200 ]; do
    [ $SECONDS -lt $until ] || return 1
    sleep 0.2
  done
}

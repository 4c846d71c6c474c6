# shellcheck shell=bash
# shellcheck disable=SC2034  # names for the scripts that read this file
# Shared by install.sh, upgrade.sh, uninstall.sh, backup.sh and restore.sh: where things are, dry runs, the environment, the jobs.
# Expects lib.sh to be read already.

dry=0 prefix='' start=1
NAME=cryptomarketdata

say() { echo "${0##*/}: $*" >&2; }

usage() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" | grep -v '^shellcheck '; }

value_of() {
  [ $# -gt 1 ] || die "$1 needs a value"
  printf '%s' "$2"
}

# Sets the paths below the prefix. With a prefix nothing outside it is touched: no user, no services.
set_paths() {
  case $prefix in
  '' | /*) prefix=${prefix%/} ;;
  *) die "--prefix needs an absolute path, not $prefix" ;;
  esac
  case $prefix in *[!A-Za-z0-9/._+-]*) die "the prefix may hold only letters, digits and /._+-: $prefix" ;; esac
  OPT="$prefix/opt/$NAME"
  ETC="$prefix/etc/$NAME"
  DATA="$prefix/var/lib/$NAME"
  BACKUPS="$prefix/var/backups/$NAME"
  CONFIG="$ETC/cmd.toml"
  CLI="$OPT/current/bin/cmd-cli"
  if [ -z "$prefix" ]; then
    [ "$(uname -s)" = Linux ] || die "this installs services of Linux; elsewhere: cmd-cli deploy cron --user"
    [ "$dry" = 1 ] || [ "$(id -u)" = 0 ] || die "run it as root (sudo), or with --prefix DIR for a trial, or --dry-run to see what it would do"
  fi
}

# Does it, or says it with --dry-run.
act() {
  if [ "$dry" = 1 ]; then say "would run: $*"; else "$@"; fi
}

# Gives a path to the jobs' user, where there is one.
own() {
  if [ -z "$prefix" ]; then act chown "$@"; fi
}

# The services of ours that are enabled or run; none with a prefix, or where systemd does not run.
services() {
  if [ -n "$prefix" ] || [ ! -d /run/systemd/system ]; then return 0; fi
  systemctl list-units --all --plain --no-legend "$NAME-*.service" | awk '$3 == "active" || $3 == "activating" {print $1}'
}

# Installs the distributions of this checkout, or of a folder of wheels, into a new environment and prints its folder:
# new_environment WHEELS, empty for the checkout
new_environment() {
  local wheels=$1 env packages=() package name
  env="$OPT/envs/$(date -u +%Y%m%dT%H%M%SZ)-$$"
  if [ "$dry" = 1 ]; then
    say "would install the distributions of ${wheels:-$root} into $env"
    printf '%s' "$env"
    return 0
  fi
  mkdir -p "$OPT/envs"
  if [ -n "$wheels" ]; then
    for package in "$wheels"/cmd_*.whl; do packages+=("$package"); done
    [ -f "${packages[0]}" ] || die "no wheels in $wheels: deploy/build-wheels.sh --out $wheels makes them"
  else
    for package in packages/*/; do
      name=$(basename "$package")
      # Parts in Rust are optional: give --wheels to have them (deploy/build-wheels.sh builds them).
      if [ ! -f "${package}Cargo.toml" ]; then packages+=("./packages/$name"); fi
    done
  fi
  "$tools/bin/uv" venv --quiet --python "$(find_python)" "$env" >&2
  if ! "$tools/bin/uv" pip install --quiet --python "$env" "${packages[@]}" uvloop websockets prometheus-client >&2 ||
    ! "$env/bin/cmd-cli" version >/dev/null; then
    rm -rf "$env"
    die "the distributions could not be installed; check the network or the package index"
  fi
  printf '%s' "$env"
}

# Has `current` be an environment, at once.
switch_to() {
  act ln -sfn "$1" "$OPT/current.new"
  act mv -T "$OPT/current.new" "$OPT/current"
}

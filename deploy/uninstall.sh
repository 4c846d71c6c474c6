#!/usr/bin/env bash
# Stops and removes what install.sh put in place. Data, configuration and the user stay; --purge removes those too.
#   uninstall.sh [--purge] [--dry-run] [--prefix ROOT]
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=host/common.sh
. "$root/deploy/host/common.sh"

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
where=()
[ -z "$prefix" ] || where=(--root "$prefix")
if [ -x "$CLI" ]; then
  for kind in systemd cron; do act "$CLI" deploy "$kind" remove --system "${where[@]}"; done
elif compgen -G "$prefix/etc/systemd/system/$NAME-*" >/dev/null; then
  die "units are there, and no cmd-cli at $CLI to remove them: run install.sh first"
fi
act rm -rf -- "$OPT" "$prefix/run/$NAME"
if [ "$purge" = 1 ]; then
  act rm -rf -- "$ETC" "$DATA" "$BACKUPS"
  if [ -z "$prefix" ] && getent passwd "$NAME" >/dev/null; then act userdel "$NAME"; fi
  if [ -n "$prefix" ]; then
    # Folders that a host has anyway; in a trial they are ours where nothing else is in them.
    for folder in etc/systemd/system etc/systemd etc/cron.d etc usr/local/lib/"$NAME" usr/local/lib usr/local usr var/lib var/backups var opt; do
      if [ -d "$prefix/$folder" ]; then act rmdir --ignore-fail-on-non-empty "$prefix/$folder"; fi
    done
  fi
  say "done: nothing is left"
else
  say "done; these stay: $ETC $DATA (uninstall.sh --purge removes them)"
fi

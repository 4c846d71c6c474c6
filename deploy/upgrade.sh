#!/usr/bin/env bash
# Installs what this checkout (or --wheels) holds beside what runs, has the jobs use it, and starts again those that run.
# The environment before is kept: --rollback goes back to it. What does not run is never switched to.
#   upgrade.sh [--wheels DIR] [--rollback] [--dry-run] [--prefix ROOT]
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=host/common.sh
. "$root/deploy/host/common.sh"

wheels='' back=''
while [ $# -gt 0 ]; do
  case $1 in
  --wheels) wheels=$(realpath -m -- "$(value_of "$@")"); shift ;;
  --prefix) prefix=$(value_of "$@"); shift ;;
  --rollback) back=1 ;;
  --dry-run) dry=1 ;;
  -h | --help) usage; exit 0 ;;
  *) die "unknown option $1; see --help" ;;
  esac
  shift
done
set_paths
[ -x "$CLI" ] || die "nothing is installed at $OPT; run install.sh"
now=$(readlink "$OPT/current")
if [ -n "$back" ]; then
  next=$(find "$OPT/envs" -mindepth 1 -maxdepth 1 -type d ! -path "$now" | sort | tail -n 1)
  [ -n "$next" ] || die "there is no environment to go back to"
else
  setup_tools
  next=$(new_environment "$wheels")
fi
if [ "$dry" = 0 ]; then
  "$next/bin/cmd-cli" config show --config "$CONFIG" >/dev/null || {
    [ -n "$back" ] || rm -rf "$next"
    die "the new version does not take the configuration $CONFIG; nothing was changed"
  }
fi
switch_to "$next"
kind=systemd where=()
[ ! -f "$prefix/etc/cron.d/$NAME" ] || kind=cron
[ -z "$prefix" ] || where=(--root "$prefix")
if [ "$dry" = 0 ]; then
  "$CLI" deploy "$kind" install --system --config "$CONFIG" --command "$CLI" "${where[@]}"
  mapfile -t running < <(services)
  if [ ${#running[@]} -gt 0 ]; then systemctl restart "${running[@]}"; fi
  # The one that was left, and no older one.
  find "$OPT/envs" -mindepth 1 -maxdepth 1 -type d ! -path "$next" ! -path "$now" -exec rm -rf {} +
fi
say "done: $("$CLI" version | head -n 1), before: $now"

#!/usr/bin/env bash
# Makes a host from nothing to running: a user, folders, the environment, a configuration, and the jobs as services of systemd
# (or the archive of every day in cron). Run it again at will: what is there stays, configuration and data included.
#   install.sh [--exchange VENUE,...] [--symbols SYMBOL,...] [--types TYPE,...]   binance-spot, BTCUSDT, trades,candles
#              [--jobs record,serve,archive,repair]                              record,archive,repair; for a new configuration
#              [--store KIND:PLACE] [--listen ADDRESS] [--endpoint [VENUE=]URL]   parquet below /var/lib/cryptomarketdata
#              [--config FILE]                                                   a configuration to copy instead of all of these
#              [--cron]                                                          cron instead of systemd, for the archive alone
#              [--questdb]                                                       QuestDB on this host, as deploy/questdb/install.sh does
#              [--wheels DIR]                                                    of deploy/build-wheels.sh, instead of this checkout
#              [--no-start] [--dry-run] [--prefix ROOT]
# --prefix ROOT puts everything below ROOT, with paths to match: no user, no services; for trials and tests.
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=host/common.sh
. "$root/deploy/host/common.sh"

exchange=binance-spot symbols=BTCUSDT types=trades,candles jobs=record,archive,repair
store='' listen='' endpoint='' given='' cron='' questdb='' wheels=''
while [ $# -gt 0 ]; do
  case $1 in
  --exchange) exchange=$(value_of "$@"); shift ;;
  --symbols) symbols=$(value_of "$@"); shift ;;
  --types) types=$(value_of "$@"); shift ;;
  --jobs) jobs=$(value_of "$@"); shift ;;
  --store) store=$(value_of "$@"); shift ;;
  --listen) listen=$(value_of "$@"); shift ;;
  --endpoint) endpoint=$(value_of "$@"); shift ;;
  --config) given=$(realpath -m -- "$(value_of "$@")"); shift ;;
  --wheels) wheels=$(realpath -m -- "$(value_of "$@")"); shift ;;
  --prefix) prefix=$(value_of "$@"); shift ;;
  --cron) cron=1 ;;
  --questdb) questdb=1 ;;
  --no-start) start=0 ;;
  --dry-run) dry=1 ;;
  -h | --help) usage; exit 0 ;;
  *) die "unknown option $1; see --help" ;;
  esac
  shift
done
set_paths
[ -z "$given" ] || [ -f "$given" ] || die "there is no configuration at $given"
: "${store:=parquet:$DATA/data}" "${listen:=unix:$DATA/market.sock}"

# --- the user and the folders
if [ -z "$prefix" ] && ! getent passwd "$NAME" >/dev/null; then
  act useradd --system --user-group --home-dir "$DATA" --no-create-home --shell /usr/sbin/nologin "$NAME"
fi
for folder in "$OPT" "$ETC" "$DATA"; do act mkdir -p "$folder"; done
own "$NAME:$NAME" "$DATA"
act chmod 0750 "$DATA" "$ETC"
own "root:$NAME" "$ETC"

# --- the environment; one that is there stays (upgrade.sh makes a new one)
if [ -x "$CLI" ]; then
  say "the environment is there: $(readlink "$OPT/current")"
else
  setup_tools
  env=$(new_environment "$wheels")
  switch_to "$env"
fi

# --- the configuration
list() { # a,b becomes ["a", "b"]
  local word out=''
  IFS=, read -ra words <<<"$1"
  for word in "${words[@]}"; do out+="${out:+, }\"$word\""; done
  printf '[%s]' "$out"
}
configuration() {
  echo "# Every setting: cmd-cli config init, docs/config.md. Secrets belong into files or $ETC/secrets.env, not here."
  echo "exchange = $(list "$exchange")"
  echo "symbols = $(list "$symbols")"
  echo "store = \"$store\""
  if [ -n "$endpoint" ]; then echo "endpoint = \"$endpoint\""; fi
  local job
  IFS=, read -ra words <<<"$jobs"
  for job in "${words[@]}"; do
    echo
    echo "[$job]"
    case $job in
    record | archive) echo "types = $(list "$types")" ;;
    serve)
      echo "types = $(list "$types")"
      echo "listen = $(list "$listen")"
      ;;
    esac
  done
}
if [ -f "$CONFIG" ]; then
  say "the configuration is there: $CONFIG"
elif [ "$dry" = 1 ]; then
  say "would write $CONFIG"
else
  if [ -n "$given" ]; then cat "$given" >"$CONFIG.new"; else configuration >"$CONFIG.new"; fi
  "$CLI" config show --config "$CONFIG.new" >/dev/null || {
    rm -f "$CONFIG.new"
    die "the configuration is not right; nothing was started"
  }
  chmod 0640 "$CONFIG.new"
  mv "$CONFIG.new" "$CONFIG"
  own "root:$NAME" "$CONFIG"
  say "wrote $CONFIG"
fi
if [ ! -f "$ETC/secrets.env" ] && [ "$dry" = 0 ]; then
  install -m 0600 /dev/null "$ETC/secrets.env"
  echo "# NAME=VALUE, such as CMD_TOKEN=...: the environment of the jobs; only root reads this file." >"$ETC/secrets.env"
fi

# --- QuestDB
if [ -n "$questdb" ]; then
  act deploy/questdb/install.sh ${prefix:+--prefix "$prefix"}
fi

# --- the jobs
if [ "$dry" = 1 ]; then
  say "would install the jobs of $CONFIG as ${cron:+an entry of cron}${cron:-services of systemd}"
  exit 0
fi
kind=systemd
[ -z "$cron" ] || kind=cron
where=()
if [ -n "$prefix" ]; then where=(--root "$prefix"); elif [ "$start" = 0 ]; then where=(--root /.); fi
"$CLI" deploy "$kind" install --system --config "$CONFIG" --command "$CLI" "${where[@]}"
"$CLI" deploy "$kind" check --system --config "$CONFIG" --command "$CLI" "${where[@]}" ||
  die "the jobs are installed, and what checks them has something to say"
if "$CLI" doctor --help >/dev/null 2>&1; then
  "$CLI" doctor --config "$CONFIG" || die "everything is installed, and doctor has found what will not work"
fi
say "done: $CLI doctor, journalctl -u '$NAME-*', upgrade.sh, uninstall.sh"

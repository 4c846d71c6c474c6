#!/usr/bin/env bash
# Copies a QuestDB while it runs: CHECKPOINT CREATE, copy of db and conf, CHECKPOINT RELEASE; or puts such a copy back.
#   backup.sh --data DIR --dest DIR [--keep N]     a new folder questdb-TIME in DEST; the N newest stay, default 7
#   backup.sh --data DIR --restore COPY            with the server stopped; what was there is kept beside it
# Names and passwords come from DATA/conf/server.conf. A server that is stopped is copied as it lies.
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

data='' dest='' keep=7 restore=''
while [ $# -gt 0 ]; do
  case $1 in
    --data) data=$(value_of "$@"); shift ;;
    --dest) dest=$(value_of "$@"); shift ;;
    --keep) keep=$(value_of "$@"); shift ;;
    --restore) restore=$(value_of "$@"); shift ;;
    -h | --help) usage; exit 0 ;;
    *) die "unknown option $1; see --help" ;;
  esac
  shift
done
if [ -z "$data" ] || [ -z "$dest$restore" ]; then die "give --data and --dest, or --data and --restore; see --help"; fi
[ -f "$data/conf/server.conf" ] || die "$data is not the folder of a QuestDB server (no conf/server.conf)"
[[ $keep =~ ^[1-9][0-9]*$ ]] || die "--keep is a number from 1, not $keep"
umask 077
load_server "$data"

if [ -n "$restore" ]; then
  [ -d "$restore/db" ] && [ -f "$restore/complete" ] || die "$restore is not a finished copy made by backup.sh"
  answers && die "the server of $data runs; stop it first"
  wanted=$(cut -d' ' -f1 "$restore/complete") found=$(find "$restore/db" -type f | wc -l)
  [ "$wanted" = "$found" ] || die "$restore is damaged: $found files, $wanted were copied"
  time=$(date -u +%Y%m%dT%H%M%SZ)
  rm -rf "$data/db.new"
  cp -a --reflink=auto "$restore/db" "$data/db.new"
  if [ "$(id -u)" = 0 ]; then chown -R --reference="$data" "$data/db.new"; fi
  if [ -d "$data/db" ]; then mv "$data/db" "$data/db.before-$time"; fi
  mv "$data/db.new" "$data/db"
  # Tells the server to bring the tables to the checkpoint when it starts; a copy of a stopped server needs none.
  rm -rf "$data/.checkpoint"
  if [ -d "$restore/.checkpoint" ]; then
    cp -a "$restore/.checkpoint" "$data/.checkpoint"
    touch "$data/_restore"
    if [ "$(id -u)" = 0 ]; then chown -R --reference="$data" "$data/_restore" "$data/.checkpoint"; fi
  fi
  say "restored $restore; the data before is in $data/db.before-$time: start the server, check, then remove that"
  exit
fi

mkdir -p "$dest" || die "cannot write to $dest"
exec 9>"$dest/.lock"
# Not at once: what a killed backup had started may hold the lock for a moment longer.
flock -w 5 9 || die "another backup into $dest is running"
needed=$(du -s -B1 "$data/db" | cut -f1)
free=$(df --output=avail -B1 "$dest" | tail -n 1)
[ "$free" -gt $((needed + needed / 20)) ] ||
  die "$dest has $((free / 1048576)) MB free, the copy needs about $((needed / 1048576)) MB; remove old copies or lower --keep"
for left in "$dest"/.part-*; do # of a backup that was killed
  if [ -d "$left" ]; then rm -rf "$left"; fi
done
time=$(date -u +%Y%m%dT%H%M%SZ)
part="$dest/.part-$time"
note="$dest/.checkpoint" # ours is not released yet; stays when this is killed
checkpoint=0
finish() {
  local status=$? answer
  trap - EXIT INT TERM HUP
  if [ "$checkpoint" = 1 ]; then
    for _ in {1..100}; do # stopped while it was being made, it cannot be released before it stands
      answer=$(sql 'CHECKPOINT RELEASE') || true
      case $answer in *'in progress'*) sleep 0.2 ;; *) break ;; esac
    done
    if ok "$answer"; then rm -f "$note"; else say "error: the checkpoint was not released ($(reason "$answer")); run CHECKPOINT RELEASE, or old files are never removed"; status=1; fi
  fi
  if [ $status -ne 0 ]; then rm -rf "$part"; fi
  exit $status
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
if answers; then
  if [ -f "$note" ]; then
    say "releasing the checkpoint of a backup that was killed"
    answer=$(sql 'CHECKPOINT RELEASE') || true
    ok "$answer" || die "the checkpoint of a killed backup was not released: $(reason "$answer")"
    rm -f "$note"
  fi
  : >"$note"
  # Set before: an answer that is lost may stand for a checkpoint that was made.
  checkpoint=1
  answer=$(sql 'CHECKPOINT CREATE') || true
  if ! ok "$answer"; then
    case $answer in
      HTTP/1.?\ 4*) checkpoint=0 && rm -f "$note" ;; # refused, or there is somebody else's, who still needs it
    esac
    die "no checkpoint: $(reason "$answer")"
  fi
else
  say "nothing answers at $server_host:$server_port: copying the data of a stopped server"
fi
mkdir "$part"
copied=0
for _ in {1..5}; do
  if said=$(cp -a --reflink=auto "$data/db" "$part/db" 2>&1); then
    copied=1
    break
  fi
  # A partition's version that was replaced just before the checkpoint may be removed while it is copied: again, without it.
  case $said in *'No such file or directory'*) rm -rf "$part/db" ;; *) break ;; esac
done
[ "$copied" = 1 ] || die "the copy failed: $said"
cp -a "$data/conf" "$part/conf"
if [ "$checkpoint" = 1 ]; then
  [ -d "$data/.checkpoint" ] || die "the server made no $data/.checkpoint"
  cp -a "$data/.checkpoint" "$part/.checkpoint"
else
  answers && die "the server was started while its data was copied; run the backup again"
fi
printf '%s files, %s bytes, QuestDB %s\n' "$(find "$part/db" -type f | wc -l)" "$(du -s -B1 "$part/db" | cut -f1)" "$QUESTDB_VERSION" >"$part/complete"
sync -f "$part" 2>/dev/null || sync
mv "$part" "$dest/questdb-$time"
# Older ones, newest first: the names sort by time.
find "$dest" -mindepth 1 -maxdepth 1 -type d -name 'questdb-[0-9]*T[0-9]*Z' | sort -r | tail -n +$((keep + 1)) |
  while IFS= read -r old; do rm -rf "$old"; done
say "copied $data to $dest/questdb-$time ($(cat "$dest/questdb-$time/complete"))"

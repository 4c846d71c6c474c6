"""The whole life of an installation in a fresh root: user, packages' places, service, upgrade, failed upgrade, removal.

The root is this machine's, seen through an overlay in a mount namespace: the scripts run without --prefix and change
nothing outside of it. systemctl is a stand-in that starts the units' commands as the units' user.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from installed_questdb import DEPLOY
from questdb_server import VERSION, find_jar

from cmd_common.testing.ports import free_ports

OVERLAY = r"""
set -e
mount -t tmpfs -o size=2g tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/top"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/top"
mount -t proc proc "$1/top/proc"
mount --bind -o ro "$1/top/proc/sys" "$1/top/proc/sys" # sysctl would reach the machine's kernel
mount --rbind /dev "$1/top/dev"
mount -t tmpfs tmpfs "$1/top/run"
mkdir -p "$1/top/repo"
mount --bind "$2" "$1/top/repo"
install -m 755 "$3" "$1/top/usr/local/bin/systemctl"
cp "$4" "$1/top/jar"
exec chroot "$1/top" bash -c "$5"
"""

LIFE = r"""
set -eu
cd /repo
export PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
trap 'systemctl stop questdb.service || true' EXIT
sql() { ( . ./lib.sh; load_server /var/lib/questdb; value "$(sql "$1")" ); }
expect() { [ "$2" = "$3" ] || { echo "$1: $2, expected $3"; tail -n 20 /run/stand-in/*.journal; exit 1; }; }

./install.sh --jar /jar --port PORT --pg-port PG --min-port MIN --heap 512m --no-packages
expect user "$(ps -o user= -p "$(cat /run/stand-in/questdb.service)")" questdb
expect owner "$(stat -c %U:%a /var/lib/questdb/conf/server.conf /etc/questdb/connection | tr '\n' ' ')" "questdb:600 root:600 "
( . ./lib.sh; load_server /var/lib/questdb; ok "$(sql 'CREATE TABLE t (ts TIMESTAMP, n LONG) TIMESTAMP(ts) PARTITION BY DAY WAL')" )
( . ./lib.sh; load_server /var/lib/questdb; ok "$(sql "INSERT INTO t SELECT '2026-01-01'::timestamp, x FROM long_sequence(500)")" )
for _ in $(seq 100); do [ "$(sql 'SELECT count() FROM t')" = 500 ] && break; sleep 0.1; done
expect rows "$(sql 'SELECT count() FROM t')" 500

pid=$(cat /run/stand-in/questdb.service)
./install.sh --jar /jar --no-packages
expect "not restarted" "$(cat /run/stand-in/questdb.service)" "$pid"
systemctl start questdb-backup.service
for _ in $(seq 100); do ls /var/backups/questdb/questdb-*/complete >/dev/null 2>&1 && break; sleep 0.1; done
expect "backup's owner" "$(stat -c %U /var/backups/questdb/questdb-*/complete)" questdb

# As if an older one were installed and running.
systemctl stop questdb.service
mv /opt/questdb/questdb-VERSION.jar /opt/questdb/questdb-9.3.1.jar
ln -sfn questdb-9.3.1.jar /opt/questdb/questdb.jar
systemctl start questdb.service
( . ./lib.sh; wait_healthy "$(cat /run/stand-in/questdb.service)" MIN /run/stand-in/questdb.service.journal )
sleep 1.1
./upgrade.sh --jar /jar
expect upgraded "$(readlink /opt/questdb/questdb.jar)" questdb-VERSION.jar
expect "rows after the upgrade" "$(sql 'SELECT count() FROM t')" 500
expect backups "$(ls -d /var/backups/questdb/questdb-*/ | wc -l)" 2

# An upgrade whose new server does not start goes back to the old one.
ln -sfn questdb-9.3.1.jar /opt/questdb/questdb.jar
rm /opt/questdb/questdb-VERSION.jar
systemctl stop questdb.service; systemctl start questdb.service
( . ./lib.sh; wait_healthy "$(cat /run/stand-in/questdb.service)" MIN /run/stand-in/questdb.service.journal )
cat >/usr/local/bin/broken-start <<'SH'
#!/bin/sh
case $(readlink /opt/questdb/questdb.jar) in *VERSION*) [ "$1" = start ] && exit 1 ;; esac
exec /usr/local/bin/systemctl.real "$@"
SH
mv /usr/local/bin/systemctl /usr/local/bin/systemctl.real
install -m 755 /usr/local/bin/broken-start /usr/local/bin/systemctl
if ./upgrade.sh --jar /jar --no-backup 2>/tmp/words; then echo "a broken upgrade passed"; exit 1; fi
grep -q "going back to QuestDB 9.3.1" /tmp/words || { cat /tmp/words; exit 1; }
expect "back again" "$(readlink /opt/questdb/questdb.jar)" questdb-9.3.1.jar
expect "rows after going back" "$(sql 'SELECT count() FROM t')" 500
mv /usr/local/bin/systemctl.real /usr/local/bin/systemctl

./uninstall.sh
expect "units" "$(ls /etc/systemd/system | grep -c questdb)" 0
[ -d /var/lib/questdb/db ] || { echo "the data is gone"; exit 1; }
./install.sh --jar /jar --no-packages
expect "rows after a new installation" "$(sql 'SELECT count() FROM t')" 500
./uninstall.sh --purge
if id questdb 2>/dev/null; then echo "the user is still there"; exit 1; fi
[ ! -e /var/lib/questdb ] && [ ! -e /etc/questdb ] && [ ! -e /opt/questdb ] && [ ! -e /var/backups/questdb ]
echo "the whole life passed"
"""


@pytest.mark.slow
def test_the_life_of_an_installation(questdb_parts: None, tmp_path: Path) -> None:
    if os.geteuid() != 0 or not (shutil.which("unshare") and shutil.which("setpriv")):
        pytest.skip("a fresh root needs root (mount namespaces with an overlay), unshare and setpriv")
    jar = find_jar()
    assert jar is not None
    life = LIFE
    for word, port in zip(("PORT", "PG", "MIN"), free_ports(3), strict=True):
        life = life.replace(f"-port {word}", f"-port {port}").replace(f')" {word} /run', f')" {port} /run')
    stand_in = tmp_path / "systemctl"
    text = (Path(__file__).parent / "systemctl_stand_in.py").read_text()
    stand_in.write_text(f"#!{os.path.realpath(sys.executable)}\n{text}")
    (tmp_path / "over").mkdir()
    done = subprocess.run(
        ["unshare", "-m", "--pid", "--fork", "--kill-child", "--propagation", "private", "bash", "-c", OVERLAY, "bash", tmp_path / "over", DEPLOY, stand_in, jar,
         life.replace("VERSION", VERSION)],
        capture_output=True, text=True, timeout=170, cwd="/", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the whole life passed" in done.stdout
    assert not Path("/opt/questdb").exists() or "questdb" in Path("/etc/passwd").read_text()

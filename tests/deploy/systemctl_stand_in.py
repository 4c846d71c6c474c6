"""Does what install.sh, upgrade.sh and uninstall.sh ask of systemctl, where no systemd runs: starts the units' commands.

Used as /usr/local/bin/systemctl in the fresh root of test_questdb_system.py. Keeps pids and a journal in /run/stand-in.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

STATE = Path("/run/stand-in")
UNITS = Path("/etc/systemd/system")


def alive(unit: str) -> int:
    try:
        pid = int((STATE / unit).read_text())
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError):
        return 0
    return 0 if state == "Z" else pid


def start(unit: str) -> None:
    if unit.endswith(".timer") or alive(unit):
        return
    text = (UNITS / unit).read_text()
    user = re.search(r"^User=(.*)$", text, re.MULTILINE)
    assert user is not None
    become = ["setpriv", "--reuid", user[1], "--regid", user[1], "--init-groups", "--no-new-privs"]
    commands = re.findall(r"^ExecStart(Pre)?=(.*)$", text, re.MULTILINE)
    for before, command in commands:
        words = [*become, *shlex.split(command.replace("%%", "%"))]
        if before:
            subprocess.run(words, check=True)
        else:
            with (STATE / f"{unit}.journal").open("ab") as journal:
                process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=journal, stderr=journal,
                                           start_new_session=True)  # fmt: skip
            (STATE / unit).write_text(str(process.pid))


def stop(unit: str) -> None:
    pid = alive(unit)
    if pid:
        os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + 60
        while alive(unit) and time.monotonic() < end:
            time.sleep(0.05)


def main(arguments: list[str]) -> int:
    STATE.mkdir(parents=True, exist_ok=True)
    verb, *rest = arguments
    units = [a for a in rest if not a.startswith("-")]
    with (STATE / "calls").open("a") as calls:
        calls.write(" ".join(arguments) + "\n")
    missing = [u for u in units if not (UNITS / u).exists()]
    if missing and verb != "is-active":
        print(f"Unit {missing[0]} not found.", file=sys.stderr)
        return 5
    for unit in units:
        if verb == "is-active" and not alive(unit):
            return 3
        if verb in ("stop", "restart") or (verb == "disable" and "--now" in rest):
            stop(unit)
        if verb in ("start", "restart"):
            start(unit)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

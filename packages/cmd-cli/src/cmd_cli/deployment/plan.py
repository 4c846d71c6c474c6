"""What is deployed and where: pure, from settings to files."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from msgspec import Struct

__all__ = ["JOBS", "File", "Plan", "cron_files", "jobs_of", "quoted", "systemd_files"]

Scope = Literal["system", "user"]

JOBS: Final = {
    "record": "record live market data",
    "serve": "push live market data to other programs",
    "archive": "archive what is missing up to yesterday",
    "repair": "fetch what is missing",
}
"""Jobs and what they do; each is a section of the configuration."""

_ENDLESS: Final = ("record", "serve")
NAME: Final = "cryptomarketdata"


class File(Struct, frozen=True):
    """One file to write: its path below the root, its text and mode."""

    path: str
    text: str
    mode: int = 0o644


class Plan(Struct, frozen=True):
    """What to deploy: jobs, the command's words, configuration, data folders, and who runs it."""

    jobs: tuple[str, ...]
    command: tuple[str, ...]  # such as /opt/cryptomarketdata/bin/cmd-cli
    config: str  # absolute
    scope: Scope
    data: tuple[str, ...] = ()  # folders that are written to
    user: str = NAME
    home: str = "~"  # of the user, for scope user
    at: str = "00:40"  # of the daily jobs, UTC
    memory: str = "2G"
    stores: bool = True  # whether cron's log goes beside the data


def jobs_of(sections: Sequence[str]) -> tuple[str, ...]:
    """The jobs that a configuration has sections of, in the order of JOBS."""
    return tuple(job for job in JOBS if job in sections)


def quoted(words: Sequence[str]) -> str:
    """Words as one line of a unit: systemd's quoting, with its specifiers and variables taken literally."""
    out = []
    for word in words:
        escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
        out.append(f'"{escaped}"' if not word or any(c in word for c in " \t'\";") else escaped)
    return " ".join(out)


# -- systemd ---------------------------------------------------------------------------------------

_SANDBOX: Final = """\
NoNewPrivileges=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
UMask=0027
"""
_SYSTEM: Final = """\
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
RestrictNamespaces=yes
SystemCallFilter=@system-service
CapabilityBoundingSet=
AmbientCapabilities=
"""


def systemd_files(plan: Plan) -> list[File]:
    """The units of a plan: a service for each job, a timer for those of every day, one that tells of failures."""
    folder = "etc/systemd/system" if plan.scope == "system" else f"{_relative(plan.home)}/.config/systemd/user"
    files = []
    for job in plan.jobs:
        files.append(File(f"{folder}/{NAME}-{job}.service", _service(plan, job)))
        if job not in _ENDLESS:
            files.append(File(f"{folder}/{NAME}-{job}.timer", _timer(plan, job)))
    if plan.jobs:
        files.append(File(f"{folder}/{NAME}-failure@.service", _failure(plan)))
    return files


def _relative(path: str) -> str:
    return path.lstrip("/")


def _service(plan: Plan, job: str) -> str:
    daily = job not in _ENDLESS
    words = (*plan.command, job, *(("--since-last",) if job == "archive" else ()), "--config", plan.config)
    lines = [
        "[Unit]",
        f"Description=CryptoMarketData: {JOBS[job]}",
        f"OnFailure={NAME}-failure@%n.service",
    ]
    if plan.scope == "system":
        lines += ["Wants=network-online.target", "After=network-online.target"]
    if not daily:
        lines += ["StartLimitIntervalSec=0"]
    lines += ["", "[Service]", f"Type={'oneshot' if daily else 'notify'}", f"ExecStart={quoted(words)}"]
    if daily:
        # 3: done with gaps, 4: another run works on it; the next run tries what is missing again.
        lines += ["SuccessExitStatus=3 4", "TimeoutStartSec=20h", "Nice=10", "IOSchedulingClass=idle"]
    else:
        lines += [
            "NotifyAccess=main",
            "WatchdogSec=120",
            "TimeoutStartSec=10min",
            "TimeoutStopSec=2min",
            "Restart=on-failure",
            "RestartSec=5",
            "RestartPreventExitStatus=2",  # wrong usage does not become right by trying again
            "SuccessExitStatus=3",
        ]
    folder = os.path.dirname(plan.config)
    lines += [
        f"EnvironmentFile=-{folder}/secrets.env",
        f"MemoryMax={plan.memory}",
        "TasksMax=512",
        "LimitNOFILE=65536",
        "Environment=PYTHONUNBUFFERED=1",
    ]
    text = "\n".join(lines) + "\n" + _SANDBOX
    if plan.scope == "system":
        text += f"User={plan.user}\nGroup={plan.user}\nStateDirectory={NAME}\nWorkingDirectory=/var/lib/{NAME}\n"
        text += f"Environment=HOME=/var/lib/{NAME}\n" + _SYSTEM
        # where cmd-cli status looks; all units share it
        text += f"RuntimeDirectory={NAME}\nRuntimeDirectoryPreserve=yes\nRuntimeDirectoryMode=0755\n"
        if plan.data:
            text += f"ReadWritePaths={quoted([f'-{path}' for path in plan.data])}\n"
    if not daily:
        wanted = "multi-user.target" if plan.scope == "system" else "default.target"
        text += f"\n[Install]\nWantedBy={wanted}\n"
    return text


def _timer(plan: Plan, job: str) -> str:
    late = 50 if job == "repair" else 0  # minutes: behind the archive
    hour, minute = (int(part) for part in plan.at.split(":"))
    hour, minute = divmod(hour * 60 + minute + late, 60)
    return (
        f"[Unit]\nDescription=CryptoMarketData: {JOBS[job]}, every day\n\n"
        f"[Timer]\nOnCalendar=*-*-* {hour % 24:02d}:{minute:02d}:00 UTC\nRandomizedDelaySec=10min\nPersistent=true\n\n"
        "[Install]\nWantedBy=timers.target\n"
    )


def _failure(plan: Plan) -> str:
    words = quoted((*plan.command, "deploy", "notify", "--config", plan.config)) + " --unit %i"
    text = f"[Unit]\nDescription=CryptoMarketData: tell that %i failed\n\n[Service]\nType=oneshot\nExecStart={words}\n"
    folder = os.path.dirname(plan.config)
    text += f"EnvironmentFile=-{folder}/secrets.env\nTimeoutStartSec=2min\n"
    if plan.scope == "system":
        text += f"User={plan.user}\nGroup={plan.user}\nProtectSystem=strict\nProtectHome=yes\nPrivateTmp=yes\n"
    return text + "NoNewPrivileges=yes\n"


# -- cron ------------------------------------------------------------------------------------------


def cron_files(plan: Plan, script: str) -> list[File]:
    """The script of every day, and for scope system its entry below /etc/cron.d; ``script`` is its text."""
    if plan.scope == "system":
        path = f"usr/local/lib/{NAME}/archive-daily.sh"
        return [
            File(path, script, 0o755),
            File(f"etc/cron.d/{NAME}", f"SHELL=/bin/sh\nPATH=/usr/local/bin:/usr/bin:/bin\n{cron_line(plan)}\n"),
        ]
    return [File(f"{_relative(plan.home)}/.local/share/{NAME}/archive-daily.sh", script, 0o755)]


def cron_line(plan: Plan) -> str:
    """The crontab's line: the archive of every day, in the machine's own time zone."""
    hour, minute = plan.at.split(":")
    system = plan.scope == "system"
    path = f"/usr/local/lib/{NAME}/archive-daily.sh" if system else f"{plan.home}/.local/share/{NAME}/archive-daily.sh"
    log = f"/var/lib/{NAME}/archive.log" if system else f"{plan.home}/.local/state/{NAME}/archive.log"
    words = [path, plan.config, log, *plan.command]
    line = " ".join(shlex.quote(word).replace("%", r"\%") for word in words)
    who = f"{plan.user} " if system else ""
    return f"{int(minute)} {int(hour)} * * * {who}{line}"


def settings_of(found: Mapping[str, object]) -> tuple[str, ...]:
    """The folders that a store and the other settings of a configuration write to, where they are folders."""
    out = []
    for value in found.values():
        text = str(value or "")
        scheme, _, path = text.partition(":")
        if (scheme == "parquet" and path) or (scheme == "raw" and path):
            out.append(path)
    return tuple(dict.fromkeys(os.path.abspath(path) for path in out))

"""``cmd-cli status``: what runs on this machine, and how it is."""

from __future__ import annotations

from typing import Any

import click

from cmd_cli.command import Cmd

__all__ = ["command"]


def _status(**flags: Any) -> int:
    import time

    from cmd_cli.output import Output
    from cmd_cli.status import BAD, COLUMNS, as_json, row, shown
    from cmd_common.processes import folders, forget, processes

    shared = click.get_current_context().ensure_object(dict)
    now = time.time_ns()
    found = processes(now=now)
    with Output(json=bool(shared.get("json")), quiet=bool(shared.get("quiet"))) as output:
        if flags["forget"]:
            gone = sum(forget(one) for one in found)
            output.info(f"forgot {gone} processes that have ended")
            found = processes(now=now)
        lines = shown(found, everything=bool(flags["all"]))
        bad = sorted({one.process.command for one in lines if one.state in BAD})
        if output.json:
            output.ready({"ok": not bad, "processes": as_json(lines)})
        elif lines:
            output.rows(list(COLUMNS), [row(one, now) for one in lines], "table")
        else:
            output.info(f"nothing runs, as far as {' and '.join(folders())} know")
        if bad:
            output.info(f"look at: {', '.join(bad)}; what they said is in their logs, docs/monitoring.md")
    return 1 if bad else 0


command = Cmd(
    "status",
    _status,
    doc="Show what runs on this machine: recorders, servers, archive and repair jobs, and how the last ones ended.",
    examples=[
        ("what runs, and what was killed, failed or stands still", "cmd-cli status"),
        ("the same for programs", "cmd-cli status --json"),
    ],
    params=[
        click.Option(["--all"], is_flag=True, help="every process that is known, not only the newest of each kind"),
        click.Option(["--forget"], is_flag=True, help="forget those that have ended"),
    ],
    notes="States: starting, running, stopping, stuck (no sign of life for 20 s), killed (ended without a word), ended, failed.\n"
    "Exit codes: 0 all is well, 1 something is stuck, was killed or failed. CMD_RUN_DIR says where processes keep\n"
    "their state; what it may contain: docs/monitoring.md.",
)

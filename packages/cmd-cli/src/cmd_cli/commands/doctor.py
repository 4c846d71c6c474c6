"""``cmd-cli doctor``: whether this machine, its configuration, store and network are fit to run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from cmd_cli.command import Cmd, Run, flag

if TYPE_CHECKING:
    from cmd_cli.doctor import Line

__all__ = ["command"]


def _doctor(**flags: object) -> int:
    from cmd_cli.doctor import worst
    from cmd_cli.output import Output
    from cmd_common.errors import UsageError

    offline = bool(flags.pop("offline"))
    try:
        run: Run | None = Run("doctor", flags)
    except UsageError as error:
        run, problem = None, error
    shared = click.get_current_context().ensure_object(dict)
    with run.output() if run else Output(json=bool(shared.get("json")), quiet=bool(shared.get("quiet"))) as output:
        lines = list(_lines(run, offline) if run else _broken(problem))
        state = worst(lines)
        if output.json:
            checks = [{"check": x.check, "state": x.state, "found": x.found, "todo": x.todo} for x in lines]
            output.ready({"state": state, "checks": checks})
        else:
            rows = [(x.state, x.check, x.found, x.todo) for x in lines]
            output.rows(["state", "check", "found", "what to do"], rows, "table")
    return 1 if state == "fail" else 0


def _broken(error: object) -> Iterator[Line]:
    from cmd_cli.doctor import Line
    from cmd_cli.probes import machine

    words, _, todo = str(error).partition("; ")
    yield Line("config", "fail", words, todo or "see docs/config.md")
    yield from machine()


def _lines(run: Run, offline: bool) -> Iterator[Line]:
    from cmd_cli import probes, values
    from cmd_cli.doctor import Line

    files = run.settings.files
    yield Line("config", "ok", ", ".join(files) if files else "no file; defaults, flags and environment")
    yield from probes.machine()
    if run.get("store"):
        yield from probes.stored(values.check_store(run.get("store")))
    else:
        yield Line("store", "warn", "none is configured", "add --store parquet:DIR, or store = ... in cmd.toml")
    found, others = {}, {}
    for n, address in enumerate(run.get("listen", section="serve") or (), 1):
        scheme, _, rest = address.partition(":")
        if scheme in ("tcp", "ws"):
            found[f"serve.listen {n}"] = rest
        elif scheme in ("multicast", "aeron"):
            others[f"serve.listen {n}"] = address
    if run.get("metrics", section="serve"):
        found["serve.metrics"] = run.get("metrics", section="serve")
    if run.get("metrics", section="record"):
        found["record.metrics"] = run.get("metrics", section="record")
    yield from probes.listeners(found)
    yield from probes.datagrams(others)
    if offline:
        return
    if not run.get("exchange"):
        yield Line("exchanges", "warn", "none is configured", "add --exchange VENUE, or exchange = ... in cmd.toml")
        return
    venues = values.exchanges(run.get("exchange"))
    yield from probes.network(venues, values.endpoints(run.get("endpoint"), venues), run.get("proxy"))


command = Cmd(
    "doctor",
    _doctor,
    doc="Check this machine, its configuration, store and network, and say what to do.",
    examples=[
        ("what is configured, without the network", "cmd-cli doctor --offline"),
        ("a store, for programs", "cmd-cli doctor --store parquet:data --offline --json"),
    ],
    params=[
        flag("doctor", "exchange", metavar="VENUE"),
        flag("doctor", "store", metavar="KIND:PATH"),
        flag("doctor", "endpoint"),
        flag("doctor", "proxy", metavar="URL"),
        click.Option(["--offline"], is_flag=True, help="leave the network out"),
    ],
    notes="With the network: cmd-cli doctor --exchange binance-spot --store parquet:data\n"
    "Each line is ok, warn or fail. Exit code 1 if one fails; a warning alone is 0. The clock is ok below 250 ms and\n"
    "fails from 1 s on, beyond the uncertainty, which is half the round trip (and half a second where an exchange tells\n"
    "whole seconds); a server of this machine, such as a replay, is a warning at most. The disk is measured with a file of 8 MiB that has no name.",
)

"""``cmd-cli watch``: live books, trades and candles in the terminal."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cmd_cli.command import Cmd, Run, flag

if TYPE_CHECKING:
    from cmd_cli.output import Output
    from cmd_common.commands import ConnectOptions, LiveSource, RecordOptions

__all__ = ["Held", "command"]


def _watch(**flags: object) -> int:
    import os
    import sys

    from cmd_common.registry import load

    run = Run("watch", flags)
    options: ConnectOptions | RecordOptions
    name, options = ("server", _server(run)) if run.get("connect") else ("live", _live(run))
    screen = sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not run.json
    # textual draws on stderr
    plain = bool(run.get("plain")) or not screen or not sys.stderr.isatty()
    with run.output() as output:
        reporter = Held(output) if screen else output
        try:
            source: LiveSource = load("cmd.sources", name)(options, reporter)
            if plain:
                _plain(source, run.json, run.get("duration"))
            else:
                _app(source, run.get("duration"))
        finally:
            if isinstance(reporter, Held):
                reporter.release()
    return 0


def _live(run: Run) -> RecordOptions:
    """What to ask the exchanges for."""
    from cmd_cli import values
    from cmd_common.commands import AggregateOptions, RecordOptions
    from cmd_common.feed import AGGREGATE, FEED_TYPES

    merged: tuple[str, ...] = run.get("aggregate")
    venues = values.exchanges(run.get("exchange"), None if merged else run.get("symbols"))
    types = values.check_types(run.get("types"), FEED_TYPES)
    if merged:
        types = (AGGREGATE, *(t for t in types if t in ("trades", "agg_trades")))
    return RecordOptions(
        exchanges=venues,
        symbols=values.selectors(list(merged) if merged else run.get("symbols"), venues),
        types=types,
        store="",
        intervals=values.check_intervals(run.get("interval"), venues),
        endpoints=values.endpoints(run.get("endpoint"), venues),
        proxy=run.get("proxy"),
        aggregate=AggregateOptions(
            equivalents=values.equivalents(run.get("equivalent")),
            convert=run.get("convert") or (),
            fees=values.fees(run.get("fee"), venues),
            max_age=run.get("stale-after"),
        ),
    )


def _server(run: Run) -> ConnectOptions:
    """What to ask a server for; it has its own exchanges, so that names of instruments are matched there."""
    from cmd_cli import values
    from cmd_common.commands import ConnectOptions
    from cmd_common.errors import UsageError
    from cmd_common.feed import FEED_TYPES

    if run.get("aggregate"):
        raise UsageError(
            "merged books cannot be shown from a server", hint="leave out --connect, or --aggregate and watch its books"
        )
    types = values.check_types(run.get("types"), FEED_TYPES)
    venues = tuple(run.get("exchange") or ())
    return ConnectOptions(
        address=run.get("connect"),
        topics=values.topics(types, venues, run.get("symbols"), run.get("interval")),
        token=values.token(run.get("token", section=""), run.get("token-file")),
        name="cmd-cli watch",
    )


class Held:
    """A reporter for a full screen: words would tear it, so the last warnings are said when it is gone."""

    def __init__(self, output: Output, limit: int = 20) -> None:
        self._output = output
        self._warnings: deque[str] = deque(maxlen=limit)

    def info(self, message: str) -> None:
        """Say nothing: the screen shows the states."""

    def warn(self, message: str) -> None:
        """Keep a warning."""
        self._warnings.append(message)

    def ready(self, facts: Mapping[str, Any]) -> None:
        """Say nothing."""

    def progress(self, task: str, done: int, total: int | None, *, unit: str = "bytes") -> None:
        """Say nothing."""

    def release(self) -> None:
        """Say the warnings."""
        while self._warnings:
            self._output.warn(self._warnings.popleft())


def _plain(source: LiveSource, json: bool, duration: int | None) -> None:
    import asyncio
    import os

    from cmd_cli.watch.plain import watch
    from cmd_common.seams import SystemClock

    colour = not os.environ.get("NO_COLOR")
    asyncio.run(watch(source, SystemClock(), json=json, colour=colour, duration=duration))


def _app(source: LiveSource, duration: int | None) -> None:
    from cmd_cli.watch.app import WatchApp
    from cmd_common.seams import SystemClock

    app = WatchApp(source, SystemClock(), duration=duration)
    app.run()
    if app.error is not None:
        raise app.error


command = Cmd(
    "watch",
    _watch,
    doc="Show live order books, trades and candles in the terminal, with the state of every book.",
    examples=[
        ("two symbols, full screen", "cmd-cli watch --exchange binance-spot --symbols BTCUSDT,ETHUSDT"),
        (
            "a line a second and symbol, for a script",
            "cmd-cli watch --exchange binance-spot --symbols BTCUSDT --types book,trades --json --duration 3s",
        ),
        (
            "one book over two exchanges: who offers how much at each price",
            "cmd-cli watch --exchange binance-spot,binance-usdm --aggregate BTC-USDT",
        ),
    ],
    params=[
        flag("watch", "exchange", metavar="VENUE"),
        flag("watch", "symbols", metavar="SYMBOL", note="BTCUSDT, BTC-USDT, '*USDT', all, @file"),
        flag("watch", "types", metavar="TYPE", note="trades, agg_trades, quotes, candles, book"),
        flag("watch", "interval", metavar="INTERVAL"),
        flag("watch", "aggregate", metavar="SYMBOL", note="instead of --symbols; BTC-USDT, BTC-USDT-PERP"),
        flag("watch", "equivalent", metavar="A=B", note="with --aggregate"),
        flag("watch", "convert", metavar="ASSET", note="a pair that converts must be traded there"),
        flag("watch", "fee", metavar="VENUE=BPS,..."),
        flag("watch", "stale-after"),
        flag("watch", "connect", metavar="ADDRESS", note="instead of exchanges; names of symbols may have wildcards"),
        flag("watch", "token-file", metavar="FILE", note="with --connect"),
        flag("watch", "plain"),
        flag("watch", "duration"),
        flag("watch", "endpoint"),
        flag("watch", "proxy", metavar="URL"),
    ],
    notes="Keys: n and p (or arrows) change the symbol, 1 to 9 choose one, t light or dark, q quits. A book that is not\n"
    "LIVE is marked. With --aggregate a column a book shows its part of each level; books that are left out are listed with\n"
    "the reason, and a crossed book with its age and the two venues. Without a terminal it prints one line a second and symbol.",
)

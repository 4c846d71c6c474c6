"""Every setting there is: its section, kind, default and meaning. Pure; ``config`` reads and checks them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

__all__ = ["KEYS", "SECTIONS", "Key", "Kind"]

Kind = Literal["text", "choice", "int", "bool", "list", "symbols", "mapping", "endpoints", "duration", "speed"]
"""What a value may be. ``list``: a comma list or a TOML array of text; ``endpoints``: a URL, or a mapping
from venue to URL; ``symbols``: selectors of ``get_symbols``, also as a mapping from venue."""


class Key(Struct, frozen=True):
    """One setting: its section (empty: shared by all commands), name, kind, default and meaning."""

    section: str
    name: str
    kind: Kind
    doc: str
    default: Any = None
    choices: tuple[str, ...] = ()
    shared: bool = False  # falls back to the key of the same name at the top
    example: str = ""  # TOML, for the template
    least: int = 0

    @property
    def path(self) -> str:
        """The dotted name, such as ``record.types``."""
        return f"{self.section}.{self.name}" if self.section else self.name

    @property
    def variables(self) -> tuple[str, ...]:
        """Environment variables, the strongest first."""
        own = f"CMD_{self.path.replace('.', '_').replace('-', '_').upper()}"
        return (own, f"CMD_{self.name.replace('-', '_').upper()}") if self.section and self.shared else (own,)


_LOGGED: Final = ("log-file", "log-format")  # keys of commands that run long
_MERGED: Final = ("equivalent", "convert", "stale-after")  # keys of commands that merge books


def _top() -> Iterator[Key]:
    yield Key("", "exchange", "list", "exchanges to use", example='["binance-spot", "binance-usdm"]')
    yield Key(
        "",
        "symbols",
        "symbols",
        "symbols for every exchange, or a list for each of them",
        example='{ binance-spot = ["BTCUSDT", "*USDC"], binance-usdm = ["BTC-USDT-PERP"] }',
    )
    yield Key("", "store", "text", "where rows are stored and queried", example='"parquet:data"')
    yield Key("", "endpoint", "endpoints", "address instead of the exchange's own", example='"http://127.0.0.1:9001"')
    yield Key(
        "", "proxy", "text", "HTTP or SOCKS proxy for connections to exchanges", "", example='"http://proxy:3128"'
    )
    yield Key("", "interval", "list", "candle intervals", ["1m"], example='["1m", "1h"]')
    yield Key("", "equivalent", "list", "assets that count as one when books are merged", example='["USD=USDT=USDC"]')
    yield Key("", "convert", "list", "quote assets whose books are converted when books are merged", example='["EUR"]')
    yield Key(
        "",
        "stale-after",
        "duration",
        "a book without an update for this time leaves the merged book",
        "10s",
        example='"10s"',
    )
    yield Key("", "token", "text", "secret that a server asks its clients for; a file is safer", example='"secret"')
    yield Key("", "token-file", "text", "file that holds the token", example='"/etc/cmd/token"')
    yield Key(
        "",
        "log-file",
        "text",
        "file that everything said goes into, of a process that runs long; {command} in it is replaced",
        "",
        example='"/var/log/cryptomarketdata/{command}.log"',
    )
    forms = ("json", "text", "binary")
    yield Key("", "log-format", "choice", "form of that file", "json", forms, example='"text"')
    levels = ("debug", "info", "warning", "error")
    yield Key("", "log-level", "choice", "how much is logged", "warning", levels, example='"info"')


def _shared(section: str, *names: str) -> Iterator[Key]:
    for key in _top():
        if key.name in names:
            yield msgspec.structs.replace(key, section=section, shared=True)


def _record() -> Iterator[Key]:
    yield from _shared(
        "record", "exchange", "symbols", "store", "endpoint", "proxy", "interval", "token-file", *_LOGGED, *_MERGED
    )
    yield Key("record", "metrics", "text", "address of /metrics, /health and /ready", "", example='"127.0.0.1:9101"')
    types = ["trades", "quotes", "book", "candles"]
    yield Key("record", "types", "list", "what to record", types, example='["trades", "book"]')
    yield Key("record", "depth", "int", "levels of partial depth instead of the full book", least=1, example="20")
    yield Key("record", "duration", "duration", "stop after this time", example='"30s"')
    yield Key("record", "until-end", "bool", "stop when a replay has sent everything", False, example="true")
    yield Key("record", "snapshot-every", "duration", "time between full books", "60s", example='"60s"')
    yield Key(
        "record", "aggregate-every", "duration", "time between merged books of type aggregate", "1s", example='"1s"'
    )
    yield Key("record", "aggregate-depth", "int", "levels a side of a merged book", 20, least=1, example="20")
    yield Key("record", "raw", "text", "folder for raw recordings of all traffic", "", example='"raw"')
    yield Key("record", "queue-limit", "int", "records held for the store", 200_000, least=1000, example="200000")
    yield Key("record", "options", "mapping", "settings of one exchange package", {}, example="{ }")


def _numbers(section: str) -> Key:
    words = "file for the numbers of the last run, which node_exporter reads; it ends in .prom"
    return Key(section, "metrics-file", "text", words, "", example=f'"/var/lib/node_exporter/{section}.prom"')


def _archive() -> Iterator[Key]:
    yield from _shared("archive", "exchange", "symbols", "store", "endpoint", "proxy", "interval", *_LOGGED)
    yield _numbers("archive")
    yield Key("archive", "types", "list", "what to archive", ["trades"], example='["trades", "candles"]')
    yield Key("archive", "start", "text", "first day, inclusive, UTC", example='"2024-08-08"')
    yield Key("archive", "end", "text", "last day, inclusive, UTC; default: the first", example='"2024-08-09"')
    yield Key(
        "archive",
        "since-last",
        "bool",
        "all that is missing up to yesterday, for runs every day",
        False,
        example="true",
    )
    sources = ("exchange", "built")
    yield Key("archive", "candles", "choice", "candles as published or built", "exchange", sources, example='"built"')
    yield Key("archive", "compare", "bool", "compare built candles with the exchange's", False, example="true")
    ways = ("auto", "files", "rest")
    yield Key(
        "archive",
        "source",
        "choice",
        "bulk files or REST; auto: files where they exist",
        "auto",
        ways,
        example='"rest"',
    )
    yield Key(
        "archive", "from-file", "list", "read downloaded dumps instead of asking the exchange", [], example='["x.zip"]'
    )
    yield Key("archive", "dry-run", "bool", "only say what would be done", False, example="true")
    yield Key("archive", "force", "bool", "archive again what is done", False, example="true")
    yield Key("archive", "keep-downloads", "bool", "keep the downloaded files", False, example="true")
    yield Key("archive", "parallel", "int", "downloads at a time", 4, least=1, example="4")


def _replay() -> Iterator[Key]:
    yield from _shared("replay", "exchange")
    yield Key("replay", "recording", "list", "recordings to play, in order", example='["day1.ndjson.gz"]')
    yield Key("replay", "simulate", "bool", "serve a seeded simulation", False, example="true")
    yield Key("replay", "symbols", "text", "number or names of simulated symbols", "4", example='"BTCUSDT,ETHUSDT"')
    yield Key("replay", "seed", "int", "seed of the simulation and of the faults", 1, example="1")
    yield Key("replay", "speed", "speed", "times real time, or max", "1", example='"max"')
    yield Key("replay", "listen", "text", "address to listen on", "127.0.0.1:0", example='"127.0.0.1:9001"')
    yield Key("replay", "fault", "list", "faults to inject, KIND[:k=v,...]", [], example='["drop:rate=0.01"]')
    yield Key("replay", "exit-at-end", "bool", "end when everything was sent", False, example="true")
    yield Key(
        "replay", "start", "text", "time at which the simulation begins, UTC", "", example='"2025-03-01T23:59:00"'
    )
    yield Key("replay", "duration", "duration", "length of the simulation", example='"1h"')
    yield Key("replay", "instruments", "text", "file with the exchange's own reference data", "", example='"info.json"')
    yield Key(
        "replay", "history-trades", "int", "simulated trades of such a day, by fives", 8640, least=5, example="8640"
    )
    yield Key("replay", "history-days", "int", "simulated days in the archive before the start", 2, example="2")


def _serve() -> Iterator[Key]:
    yield Key(
        "serve", "listen", "list", "addresses to serve at", example='["tcp:127.0.0.1:9999", "unix:/run/cmd.sock"]'
    )
    yield from _shared(
        "serve",
        "exchange",
        "symbols",
        "endpoint",
        "proxy",
        "interval",
        "stale-after",
        "token-file",
        *_LOGGED,
        *_MERGED[:2],
    )
    types = ["trades", "quotes", "book", "candles"]
    yield Key("serve", "types", "list", "what to serve", types, example='["trades", "book"]')
    # not shared: a store that is queried is not silently recorded into
    yield Key("serve", "store", "text", "store to record into at the same time", example='"parquet:data"')
    yield Key("serve", "from-store", "text", "store whose rows are served before live data", example='"parquet:data"')
    yield Key("serve", "start", "text", "where its history begins, UTC", example='"2025-03-01T23:59:00"')
    yield Key(
        "serve", "end", "text", "where it ends, exclusive; live data does not follow then", example='"2025-03-02"'
    )
    yield Key("serve", "speed", "speed", "speed of the history, times real time, or max", "max", example='"10"')
    yield Key("serve", "metrics", "text", "address of /metrics, /health and /ready", "", example='"127.0.0.1:9100"')
    yield Key("serve", "max-clients", "int", "connections at a time", 1000, least=1, example="1000")
    yield Key("serve", "queue", "int", "messages that wait for a client at most", 10_000, least=16, example="10000")
    yield Key(
        "serve", "replay-buffer", "int", "messages of a stream kept for clients that return", 1024, example="1024"
    )
    yield Key("serve", "hold", "int", "live records held while history plays", 500_000, least=1000, example="500000")
    yield Key("serve", "duration", "duration", "stop after this time", example='"30s"')
    yield Key(
        "serve", "until-end", "bool", "stop when a replay or a history has sent everything", False, example="true"
    )
    yield Key("serve", "depth", "int", "levels of partial depth instead of the full book", least=1, example="20")
    yield Key("serve", "snapshot-every", "duration", "time between full books in the store", "60s", example='"60s"')
    yield Key("serve", "raw", "text", "folder for raw recordings of all traffic", "", example='"raw"')
    yield Key("serve", "queue-limit", "int", "records held for the store", 200_000, least=1000, example="200000")
    yield Key("serve", "options", "mapping", "settings of one exchange package", {}, example="{ }")


def _others() -> Iterator[Key]:
    yield Key(
        "deploy",
        "at",
        "text",
        "when the jobs of every day run; of systemd UTC, of cron local time",
        "00:40",
        example='"00:40"',
    )
    yield Key(
        "deploy", "run-as", "text", "user of the jobs of the machine", "cryptomarketdata", example='"cryptomarketdata"'
    )
    yield Key("deploy", "memory", "text", "most memory that a job may have", "2G", example='"2G"')
    yield Key(
        "deploy", "mail", "text", "address that is told of failures, through sendmail", "", example='"ops@example.org"'
    )
    yield Key(
        "deploy",
        "webhook",
        "text",
        "secret URL to which failures are posted; a file is safer",
        "",
        example='"https://example.org/hook"',
    )
    yield Key("deploy", "webhook-file", "text", "file that holds the webhook's URL", "", example='"/etc/cmd/webhook"')
    yield from _shared("doctor", "exchange", "store", "endpoint", "proxy")
    yield from _shared("verify", "store", "endpoint", "proxy")
    yield from _shared("repair", "store", "endpoint", "proxy", *_LOGGED)
    yield _numbers("repair")
    yield from _shared("query", "store")
    formats = ("table", "csv", "ndjson", "json")
    yield Key("query", "format", "choice", "form of the output", "table", formats, example='"csv"')
    yield Key("query", "complete-only", "bool", "leave out rows inside open gaps", False, example="true")
    yield from _shared("watch", "exchange", "symbols", "endpoint", "proxy", "interval", "token-file", *_MERGED)
    yield Key("watch", "connect", "text", "show what a server serves, by its address", example='"tcp:127.0.0.1:9999"')
    yield Key(
        "watch",
        "aggregate",
        "list",
        "instruments whose books are merged over the exchanges",
        [],
        example='["BTC-USDT"]',
    )
    yield Key(
        "watch",
        "fee",
        "mapping",
        "taker fees in basis points by exchange, for merged books",
        {},
        example="{ kraken = 26 }",
    )
    yield Key("watch", "types", "list", "what to show", ["book", "trades", "candles"], example='["book"]')
    yield Key("watch", "plain", "bool", "plain text instead of the full-screen application", False, example="true")
    yield Key("watch", "duration", "duration", "stop after this time", example='"30s"')


KEYS: Final[dict[str, Key]] = {k.path: k for k in (*_top(), *_record(), *_archive(), *_replay(), *_serve(), *_others())}
SECTIONS: Final = tuple(dict.fromkeys(k.section for k in KEYS.values() if k.section))

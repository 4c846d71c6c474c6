"""Options and results of the commands that distributions register under ``cmd.commands``.

cmd-cli parses flags, environment and configuration into these and calls the entry point; it imports
no implementation by name. Every function has the form ``run(options, reporter) -> Result``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import date
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from msgspec import Struct, field

from .emulation import Fault

if TYPE_CHECKING:
    from .aggregate import AggregatedOrderBook
    from .errors import CmdError
    from .multibook import MultiSymbolOrderBook
    from .records import Record

__all__ = [
    "EXIT_BUSY",
    "EXIT_FAILED",
    "EXIT_GAPS",
    "EXIT_OK",
    "EXIT_UNREACHABLE",
    "EXIT_USAGE",
    "AggregateOptions",
    "ArchiveOptions",
    "ConnectOptions",
    "ExportOptions",
    "LiveSource",
    "LogReporter",
    "RecordOptions",
    "RepairOptions",
    "ReplayOptions",
    "Reporter",
    "Result",
    "ServeOptions",
    "SizeOptions",
    "SymbolsOptions",
    "VerifyOptions",
]

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_GAPS = 3  # done, but data is missing
EXIT_BUSY = 4  # another process does the same
EXIT_UNREACHABLE = 5  # the exchange could not be asked


class Result(Struct):
    """How a command ended: an exit code and a summary that ``--json`` prints as the last line."""

    exit_code: int = EXIT_OK
    summary: dict[str, Any] = field(default_factory=dict)


class Reporter(Protocol):
    """Where a command tells a person what happens; words go to stderr, data to stdout."""

    def info(self, message: str) -> None:
        """One line of progress or fact."""

    def warn(self, message: str) -> None:
        """One line that a person should see."""

    def ready(self, facts: Mapping[str, Any]) -> None:
        """One JSON line on stdout: a server is ready."""

    def progress(self, task: str, done: int, total: int | None, *, unit: str = "bytes") -> None:
        """Update one named progress bar; ``done == total`` ends it."""


class LogReporter:
    """A Reporter for programs: words go to the standard logger ``cmd``, progress is not shown."""

    def __init__(self) -> None:
        from logging import getLogger  # not needed by cmd-cli's start

        self._log = getLogger("cmd")

    def info(self, message: str) -> None:
        """Log at level INFO."""
        self._log.info(message)

    def warn(self, message: str) -> None:
        """Log at level WARNING."""
        self._log.warning(message)

    def ready(self, facts: Mapping[str, Any]) -> None:
        """Log at level INFO."""
        self._log.info("ready: %s", dict(facts))

    def progress(self, task: str, done: int, total: int | None, *, unit: str = "bytes") -> None:
        """Log at level DEBUG."""
        self._log.debug("%s: %s of %s %s", task, done, total, unit)


class AggregateOptions(Struct, frozen=True):
    """How books are merged over venues: see ``cmd_common.following``."""

    equivalents: tuple[str, ...] = ()  # groups of assets, USD=USDT=USDC
    convert: tuple[str, ...] = ()  # quote assets whose books are converted
    fees: Mapping[str, float] = field(default_factory=dict)  # taker fees in basis points by venue
    max_age: int | None = 10_000_000_000  # ns
    every: int = 1_000_000_000  # ns of exchange time between two rows
    depth: int | None = 20  # levels a side of a row


class RecordOptions(Struct, frozen=True):
    """``record``: live market data into a store."""

    exchanges: tuple[str, ...]
    symbols: tuple[str, ...]  # selectors for get_symbols
    types: tuple[str, ...]
    store: str
    intervals: tuple[str, ...] = ("1m",)
    depth: int | None = None
    endpoints: Mapping[str, str] = field(default_factory=dict)  # venue, or "" for all, to URL
    duration: int | None = None  # ns
    until_end: bool = False
    snapshot_every: int = 60_000_000_000  # ns
    raw: str = ""  # directory of raw recordings; empty: none
    proxy: str = ""
    queue_limit: int = 200_000  # records between feeds and store
    options: Mapping[str, str] = field(default_factory=dict)
    aggregate: AggregateOptions = AggregateOptions()  # used where ``types`` has aggregate
    metrics: str = ""  # HOST:PORT of /metrics, /health and /ready of ``record``; empty: none
    token: str = ""  # that /metrics asks for where it can be reached from elsewhere


class ArchiveOptions(Struct, frozen=True):
    """``archive``: history into a store; days are inclusive."""

    exchanges: tuple[str, ...]
    symbols: tuple[str, ...]
    types: tuple[str, ...]
    start: date
    end: date
    store: str
    intervals: tuple[str, ...] = ("1m",)
    candles: str = "exchange"  # exchange or built
    compare: bool = False  # build candles from trades and compare with the exchange's own
    endpoints: Mapping[str, str] = field(default_factory=dict)
    dry_run: bool = False
    force: bool = False  # archive again what the manifest calls done
    keep_downloads: bool = False
    parallel: int = 4
    proxy: str = ""
    source: str = "auto"  # auto, files or rest: auto takes files where the exchange publishes them, else REST
    from_files: tuple[str, ...] = ()  # paths of local dumps instead of the exchange's own server
    since_last: bool = (
        False  # up to yesterday, from the oldest day of late that is not done; date.min: no start is given
    )


class VerifyOptions(Struct, frozen=True):
    """``verify``: what of a store is complete; ``end`` is exclusive, empty words mean everything that it holds."""

    store: str
    venues: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()  # the exchange's own names
    tables: tuple[str, ...] = ()
    start: date | None = None
    end: date | None = None
    html: str = ""  # a file for the report
    offline: bool = False  # ask no exchange
    compare: bool = True  # candles with trades
    write_gaps: bool = False  # what is missing and not in the ledger becomes a Gap of reason verify
    endpoints: Mapping[str, str] = field(default_factory=dict)
    proxy: str = ""


class RepairOptions(Struct, frozen=True):
    """``repair``: fetch what ``verify`` finds missing, where the exchange has it; ``end`` is exclusive."""

    store: str
    venues: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    start: date | None = None
    end: date | None = None
    dry_run: bool = False
    recheck: bool = False  # archive again what the exchange has replaced
    replaced: str = ""  # a published list of replaced files: only these are looked at, and archived again
    endpoints: Mapping[str, str] = field(default_factory=dict)
    proxy: str = ""


class ReplayOptions(Struct, frozen=True):
    """``replay``: serve recordings or a simulation as if by the exchange."""

    exchanges: tuple[str, ...]
    recordings: tuple[str, ...] = ()
    simulate: bool = False
    symbols: int = 4
    symbol_names: tuple[str, ...] = ()
    seed: int = 1
    speed: float = 1.0  # 0: as fast as possible
    listen: str = "127.0.0.1:0"
    faults: tuple[Fault, ...] = ()
    exit_at_end: bool = False
    start: int = 0
    duration: int = 0
    instruments: str = ""
    history_days: int = 2
    history_trades: int = 8_640  # a simulated day and symbol before the start; a multiple of 5


class SymbolsOptions(Struct, frozen=True):
    """``symbols``: the instruments of exchanges."""

    exchanges: tuple[str, ...]
    symbols: tuple[str, ...] = ("all",)
    endpoints: Mapping[str, str] = field(default_factory=dict)
    proxy: str = ""


class ExportOptions(Struct, frozen=True):
    """``export``: rows of a store into files."""

    store: str
    tables: tuple[str, ...]
    target: str  # a file for one table, or a folder: TABLE.parquet, SYMBOL.npz and so on in it
    format: str = ""  # parquet, csv, arrow, hftbacktest or nautilus; empty: by the file's name
    venue: str = ""
    symbols: tuple[str, ...] = ()  # the exchange's own names, or unified names of aggregated_books
    start: int | None = None  # ns, inclusive
    end: int | None = None  # ns, exclusive
    force: bool = False  # replace files that are there
    latency: int = 0  # ns from exchange to us where no receive time is known, for hftbacktest and nautilus
    instrument_id: str = ""  # of the one symbol, for nautilus; empty: as its own adapters name it


class SizeOptions(Struct, frozen=True):
    """``store size``: what a server needs for a load."""

    symbols: int
    types: tuple[str, ...]
    keep: int  # ns
    keep_of: Mapping[str, int] = field(default_factory=dict)  # ns, of tables that are kept for another time
    rows_per_day: Mapping[str, float] = field(default_factory=dict)  # of one symbol, by table
    measure: str = ""  # a store to measure them in
    depth: int = 1000  # levels a side of a full book


class ServeOptions(Struct, frozen=True):
    """``serve``: live market data, or what a store holds, pushed to other programs."""

    listen: tuple[str, ...]  # addresses, SCHEME:TARGET[?key=value&...]
    source: RecordOptions  # where live data comes from; its store is recorded into; no exchanges: only history
    token: str = ""  # what clients must show; needed where an address can be reached from elsewhere
    metrics: str = ""  # HOST:PORT of /metrics, /health and /ready; empty: none
    from_store: str = ""  # played before live data
    start: int | None = None  # ns, inclusive: where the history begins
    end: int | None = None  # ns, exclusive: where it ends; live data does not follow then
    speed: float = 0.0  # of the history; 0: as fast as the clients read
    max_clients: int = 1000
    queue: int = 0  # messages that a client's queue holds at most; 0: the server's own default
    replay_buffer: int = 0  # messages a stream kept for clients that come back; 0: the server's own default
    hold: int = 500_000  # live records that wait while history plays


class ConnectOptions(Struct, frozen=True):
    """What a viewer asks of a server; entry points of ``cmd.sources`` named ``server`` are made with it."""

    address: str  # SCHEME:TARGET[?key=value&...]
    topics: tuple[str, ...]  # as cmd-server reads them: ``book binance-spot:BTCUSDT``, ``trades *``
    token: str = ""
    name: str = ""  # for the server's metrics
    queue: int = 0  # messages that wait for this client at most; 0: the server's default


class LiveSource(Protocol):
    """Live records and books of exchanges, for consumers in the same event loop.

    An entry point of ``cmd.sources`` named ``live`` is a class that is made as ``Source(options, reporter)``
    with RecordOptions, and records where these have a store; one named ``server`` takes ConnectOptions. Entering it
    resolves the symbols and connects; leaving it closes all connections. Raises CmdError for what cannot be used.
    """

    error: CmdError | None  # why it ended early
    books: MultiSymbolOrderBook  # kept up to date between two records; each book has its state
    aggregates: Mapping[str, AggregatedOrderBook]  # by unified name, where type ``aggregate`` was asked for

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def subscribe(self) -> AsyncIterator[Sequence[Record]]:
        """Yield records in the order of arrival, several at a time, until the source has ended.

        The queue is bounded; a consumer that falls behind loses the oldest records.
        """

    def on_records(self, callback: Callable[[Sequence[Record]], None]) -> None:
        """Call ``callback`` in the event loop with every list of records, before it is queued anywhere.

        It must be quick and must not raise. Said before the source is entered it sees the first records too.
        """

    async def wait(self) -> None:
        """Return when the source has ended by itself; ``error`` says why it was early."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from mmap import mmap
from os import PathLike
from typing import Any, Literal, NoReturn, Self, final, overload

from typing_extensions import Buffer

def allocations() -> int:
    """Allocations of the calling thread within the native part since it began."""

# Logger: see cmd_common.log

@final
class LogRing:
    def __new__(cls, buffer: memoryview | bytearray | mmap, slot: int, count: int) -> LogRing: ...
    def head(self) -> int: ...
    def free_to(self, limit: int) -> None: ...
    def close(self) -> None: ...

@final
class LogEmitter:
    def __new__(
        cls,
        number: int,
        fields: Sequence[tuple[str, int]],
        explain: Callable[[BaseException | None, tuple[object, ...]], object],
    ) -> LogEmitter: ...
    def function(self) -> Callable[..., None]: ...
    def bind(self, ring: LogRing | None, full: Callable[[], bool] | None) -> None: ...

@final
class LogTable:
    def __new__(
        cls,
        events: Sequence[tuple[int, str, str, Sequence[str], Sequence[tuple[str, str, int, int, int]]]],
        symbols: Mapping[int, str],
    ) -> LogTable: ...

def log_lines(
    json: bool, parts: Sequence[tuple[bytes, int]], line: tuple[int, int, int], table: LogTable
) -> tuple[bytes, int]: ...
def log_clock() -> tuple[str, int]: ...
def log_calibrate() -> tuple[int, int, int]: ...

# Order book: see cmd_common._native_book

class OrderBook:
    last_id: int
    ts_event: int
    stage: int
    applied: int
    def __new__(cls, *args: object, **options: object) -> Self: ...
    def _set_up(self, mantissa: int, decimals: int, limit: int | None) -> None: ...
    def _clear(self) -> None: ...
    def apply(self, bids: Iterable[tuple[float, float]], asks: Iterable[tuple[float, float]]) -> None: ...
    def _apply_packed(self, bids: Buffer, asks: Buffer) -> bool: ...
    def _load(
        self,
        bids: Sequence[tuple[float, float]],
        asks: Sequence[tuple[float, float]],
        bids_complete: bool,
        asks_complete: bool,
    ) -> None: ...
    @property
    def best_bid(self) -> tuple[float, float] | None: ...
    @property
    def best_ask(self) -> tuple[float, float] | None: ...
    @property
    def best_bid_price(self) -> float: ...
    @property
    def best_ask_price(self) -> float: ...
    @property
    def top(self) -> tuple[float, float, float, float] | None: ...
    def top_into(self, buffer: Buffer, depth: int) -> tuple[int, int]: ...
    @property
    def mid(self) -> float | None: ...
    @property
    def spread(self) -> float | None: ...
    @property
    def crossed(self) -> bool: ...
    @property
    def known_depth(self) -> tuple[int, int]: ...
    @property
    def known_range(self) -> tuple[float, float]: ...
    def __len__(self) -> int: ...
    def _bids(self, depth: int | None = None) -> list[tuple[float, float]]: ...
    def _asks(self, depth: int | None = None) -> list[tuple[float, float]]: ...
    def _packed_bids(self, depth: int | None = None) -> bytes: ...
    def _packed_asks(self, depth: int | None = None) -> bytes: ...
    def touch_ok(self) -> bool: ...
    def look(self, low_bids: int, low_asks: int) -> tuple[str, bool]: ...
    def _ranges(self) -> tuple[float, float, float, float]: ...
    def _set_ranges(self, floor: float, ceiling: float, bid: float, ask: float) -> None: ...
    def _check(self) -> None: ...

# Archives: see cmd_archiver.ingest

@final
class CsvReader:
    """The rows of a packed CSV; a ValueError of any method means that nothing is decided."""

    def __new__(
        cls,
        path: str | PathLike[str],
        packing: Literal["plain", "gzip", "stored", "deflate"],
        offset: int = 0,
        packed: int = 0,
        size: int = 0,
        crc: int = 0,
        *,
        piece: int = 0,
        batch: int = 0,
    ) -> CsvReader: ...
    def head(self) -> bytes:
        """The first line without its end."""

    def start(self, header: bool, delimiter: int, columns: Sequence[tuple[str, str]]) -> None:
        """Say what the lines hold: name and type of every column, and whether the first line is a header."""

    def next(self) -> CsvBatch | bytes | None:
        """Rows; whole lines in which something is odd; or None when the file ended and is proven whole."""

    def close(self) -> None:
        """Let go of the file."""

@final
class CsvBatch:
    """Rows that pyarrow.record_batch() and others take over without a copy, once."""

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]: ...

# Wire codec: see cmd_server.codec and cmd_server.framing

@final
class WireCodec:
    def __new__(
        cls,
        records: Sequence[
            tuple[type, bytes, tuple[tuple[object, tuple[object, ...]], tuple[object, tuple[object, ...]]]]
        ],
        head: type,
        words: tuple[Sequence[tuple[str, int]], Sequence[tuple[str, int]], Sequence[tuple[str, int]]],
        pure: Mapping[str, Callable[..., Any]],
    ) -> WireCodec: ...
    def function(self, name: str) -> Callable[..., Any]: ...
    def columns(self, frames: object, template: int) -> tuple[Any, ...] | None: ...
    def writer(
        self, buffer: object, instrument: int, seq: int, view: int, flags: int, state: int
    ) -> WireWriter | None: ...
    @staticmethod
    def direct(on: bool) -> bool:
        """Whether numbers are read where they lie or by calls; False: by calls from now on. For tests."""

@final
class WireWriter:
    @property
    def end(self) -> int: ...
    @property
    def seq(self) -> int: ...
    def function(self) -> Callable[[object], int]: ...
    def rewind(self, end: int) -> None: ...

@final
class WireFraming:
    def __new__(cls, split: Callable[..., Any], frames: Callable[..., Any]) -> WireFraming: ...
    def function(self, name: str) -> Callable[..., Any]: ...

# Depth messages into books: see cmd_common.feed_books and cmd_common.decoding

Taken = tuple[Any, int, int, int, int, bytes | None, bytes | None]

@final
class DepthPath:
    """Takes depth messages of one venue from their bytes into the books of their symbols, one call a message.

    ``format`` is the venue's, such as ``binance-spot`` (docs/native.md lists them); frames of more than ``limit`` bytes
    are left alone. ``other`` is called by ``apply`` with the frame, and what ``take`` would have returned, for
    everything unusual.
    """

    def __new__(
        cls, format: str, limit: int, other: Callable[[str | bytes, Taken | None], Any] | None = None
    ) -> DepthPath: ...
    lenient: bool
    """Whether unknown keys are passed over; else Python gets every message that has one."""
    @property
    def taken(self) -> int:
        """Messages that were applied."""
    number: int
    """Number of the newest frame of the connection, where the venue numbers them, -1 before the first: set it when a frame was
    taken another way. Only the next one is taken here."""
    @property
    def prev(self) -> int | None:
        """The venue's id of the message before, as the last message that was taken had it."""
    def add(self, symbol: str, book: OrderBook, token: object) -> None:
        """Give the book of a symbol, and what stands for it in the results."""
    def remove(self, symbol: str) -> None: ...
    def checked(self, symbol: str, checked: ChecksumBook | None) -> None:
        """Give the book that the messages of a symbol are checked against, where the venue sends checksums.

        Without one its messages are left alone; ``add`` takes it away.
        """
    def take(self, frame: str | bytes, packed: bool) -> Taken | None:
        """Decode, judge and apply: token, first and last id, event time in ns, status, and the packed sides.

        None: nothing was changed and nothing decided. Status 0: applied, ids and time are set. Status 1: the levels
        are in the book, ids and time are not, and ``OrderBookBuilder.applied_natively`` has to look; the sides are given
        then in any case. Status 2: as 0, and the builder has to be told by ``took``.
        """
    def apply(self, frame: str | bytes) -> Any:
        """Return the token where the message was applied, else what ``other`` returns, else None."""
    def top(self, frame: str | bytes) -> tuple[float, float, float, float] | None:
        """The same, but return the ``top`` of the book that would have been returned: the token must be the book."""

@final
class TickPath:
    """Trades and quotes of Binance from their bytes: see ``cmd_common.ticks``.

    ``classes`` are those of trades, aggregates and quotes. Frames of more than ``limit`` bytes, and of symbols that are not
    among ``symbols`` (None: all are), are left alone.
    """

    def __new__(cls, limit: int, venue: str, classes: Sequence[type], symbols: Sequence[str] | None) -> TickPath: ...
    def take(self, frame: str | bytes, now: int) -> Any | None:
        """Return the record of a frame; None: nothing is decided."""
    def columns(
        self, frames: list[str | bytes], times: bytes | int
    ) -> tuple[tuple[tuple[bytes, ...], ...], list[str], list[tuple[int, int, int, int]]]:
        """Return the columns of trades, aggregates and quotes, names of the symbols' codes, and the frames that were left.

        ``times`` are int64 of the frames' arrival, or one for all. A frame that was left has its place among the frames, and
        how many rows of each table come before it.
        """

@final
class ChecksumBook:
    """The book behind Kraken's checksum; ``cmd_kraken.sync.ChecksumBook`` says what it does.

    Levels are price, quantity and the digits of both. A DepthPath that it was given changes it, too.
    """

    def __new__(cls, depth: int) -> ChecksumBook: ...
    def load(
        self, bids: Iterable[tuple[float, float, str]], asks: Iterable[tuple[float, float, str]]
    ) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]: ...
    def apply(
        self, bids: Iterable[tuple[float, float, str]], asks: Iterable[tuple[float, float, str]]
    ) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]: ...
    @property
    def checksum(self) -> int: ...
    def check(self) -> None:
        """Assert every invariant; for tests."""

@final
class SnapshotLevels(Sequence[tuple[float, float]]):
    """Levels of one side of a snapshot, the best first, that a book takes without an object a level."""

    @overload
    def __getitem__(self, at: int, /) -> tuple[float, float]: ...
    @overload
    def __getitem__(self, at: slice, /) -> NoReturn: ...
    def __len__(self) -> int: ...
    def packed(self) -> bytes:
        """The levels as records carry them: little-endian float64, price and quantity in turn."""

def binance_snapshot(book: OrderBook, body: bytes) -> tuple[int, int, SnapshotLevels, SnapshotLevels] | None:
    """Read a snapshot of Binance's REST interface for a book: its id, its time as it stands there (0: none), bids, asks.

    None for everything that is not surely usual, such as sides that are not sorted, which the parser in Python reads.
    """

def send_all(sockets: list[int], data: bytes) -> list[int] | None:
    """Offer bytes to each socket: None where all of them took everything, else what each took, or minus its error."""

"""Many frames of one template as numpy arrays, without a Python object a message."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from cmd_common.errors import UsageError

from .decoder import Frame, adapt, decode
from .errors import WireError
from .formats import HEADER, LAYOUTS, SOFH, Layout
from .framing import split
from .messages import Template
from .wire_native import CODEC

if TYPE_CHECKING:
    import numpy

__all__ = ["columns"]

_COMMON: Final = (
    ("stream_seq", "<u8"),
    ("ts_event", "<i8"),
    ("ts_recv", "<i8"),
    ("instrument_id", "<u4"),
    ("view", "<u2"),
    ("flags", "u1"),
    ("book_state", "u1"),
)
_TYPES: Final = {"Q": "<u8", "q": "<i8", "I": "<u4", "d": "<f8", "B": "u1"}
# Names of the block's own fields as the records have them, in the order of the layout.
_NAMES: Final[dict[int, tuple[str, ...]]] = {
    Template.TRADE: ("price", "quantity", "trade_seq", "side", "id_is_number"),
    Template.AGG_TRADE: (
        *("price", "quantity", "trade_seq", "first_trade_id", "last_trade_id", "side", "id_is_number"),
    ),
    Template.QUOTE: ("seq", "bid_price", "bid_quantity", "ask_price", "ask_quantity"),
    Template.BOOK_SNAPSHOT: ("epoch", "seq", "known_bids", "known_asks"),
    Template.BOOK_DELTA: ("epoch", "seq", "first_seq"),
    Template.CANDLE: (
        *("open_time", "close_time", "open", "high", "low", "close", "volume", "quote_volume", "trades"),
        *("taker_buy_volume", "taker_buy_quote_volume", "source", "state"),
    ),
}


def columns(frames: Sequence[Frame] | Frame, template: int) -> dict[str, numpy.ndarray[Any, Any]]:
    """Return frames of one template as arrays of one length, keyed by field.

    ``frames`` are single frames, or one buffer of whole frames behind each other, which is fastest where all have
    one length.

    Keys: ``stream_seq``, ``ts_event``, ``ts_recv``, ``instrument_id``, ``view``, ``flags``, ``book_state``, then the
    fields of the block under the names that the records have. Codes stay codes: ``side`` 0 unknown, 1 buy, 2 sell;
    candles' ``source`` 1 exchange, 2 built, ``state`` 1 provisional, 2 final, 3 corrected. An integer that is none
    is -2^63. Trades also have ``trade_id`` (str; empty where it is ``trade_seq`` in digits), candles ``interval``.
    Books have ``bids`` and ``asks`` of shape (levels, 2), all frames' levels behind each other, and ``bids_at`` and
    ``asks_at`` of shape (frames + 1): where each frame's levels begin. O(bytes). Raises WireError for frames that
    are broken or of another template, UsageError for a template without columns and where numpy is missing.
    """
    try:
        import numpy as np
    except ModuleNotFoundError as error:
        if error.name != "numpy":
            raise
        raise UsageError("columns need numpy", hint="pip install 'cmd-server[arrow]'") from None
    names = _NAMES.get(template)
    if names is None:
        raise UsageError(f"template {template} has no columns", hint="decode its frames one by one")
    layout = LAYOUTS[template]
    if CODEC is not None and not _alike(frames, layout):
        made = CODEC.columns(frames, template)
        if made is not None:
            return _native(np, made, names, layout)
    end = HEADER + layout.block
    types = [*_COMMON, *zip(names, (_TYPES[c] for c in layout.format), strict=True)]
    if isinstance(frames, bytes | bytearray | memoryview):
        table, frames = _joined(np, frames, types, end)
    else:
        if frames and min(map(len, frames)) < end:
            frames = _ours(frames, layout)
        table = _table(np, frames, types, end)
    if len(table) and (table["header"] != int.from_bytes(layout.header[2:], "little")).any():
        frames = _ours(frames, layout)
        table = _table(np, frames, types, end)
    found: dict[str, numpy.ndarray[Any, Any]] = {name: table[name].copy() for name, _ in types}
    if layout.groups:
        found.update(_books(np, frames, end, layout.name))
    elif template == Template.CANDLE:
        tails = [bytes(frame[end:]) for frame in frames]
        texts = {tail: decode(frame, "", "").interval for tail, frame in zip(tails, frames, strict=True)}  # type: ignore[union-attr]
        found["interval"] = _objects(np, [texts[tail] for tail in tails])
    elif layout.data:
        found["trade_id"] = ids = np.full(len(frames), "", object)
        for i in np.flatnonzero(found.pop("id_is_number") == 0).tolist():
            ids[i] = decode(frames[i], "", "").trade_id  # type: ignore[union-attr]
    return found


def _alike(frames: Sequence[Frame] | Frame, layout: Layout) -> bool:
    """Whether it is one buffer of numbered trades or of quotes, as its first frame shows: numpy is fastest then."""
    if layout.groups or not isinstance(frames, bytes | bytearray | memoryview):
        return False
    stride = HEADER + layout.block + (2 if layout.data else 0)
    return len(frames) % stride == 0 and bytes(frames[:4]) == stride.to_bytes(4, "big")


def _native(np: Any, made: tuple[Any, ...], names: tuple[str, ...], layout: Layout) -> dict[str, Any]:
    """Name what the native part has made: a buffer a field, then what stands behind the block."""
    types = [*_COMMON, *zip(names, (_TYPES[c] for c in layout.format), strict=True)]
    found = {name: np.frombuffer(data, kind) for (name, kind), data in zip(types, made, strict=False)}
    more = made[len(types) :]
    if layout.groups:
        for side, levels, places in zip(("bids", "asks"), more[::2], more[1::2], strict=True):
            found[side] = np.frombuffer(levels, "<f8").reshape(-1, 2)
            found[side + "_at"] = np.frombuffer(places, "<i8")
    elif layout.template == Template.CANDLE:
        found["interval"] = _objects(np, more[0])
    elif layout.data:
        count = len(found.pop("id_is_number"))
        found["trade_id"] = np.full(count, "", object) if more[0] is None else _objects(np, more[0])
    return found


def _ours(frames: Sequence[Frame], layout: Layout) -> list[Frame]:
    """Bring the frames of other versions into ours; raises WireError for what is of no version."""
    expected = layout.header[2:]
    return [frame if frame[SOFH:HEADER] == expected else adapt(frame, layout) for frame in frames]


def _joined(np: Any, buffer: Frame, types: list[tuple[str, str]], end: int) -> tuple[Any, Sequence[Frame]]:
    """View a buffer of frames as a structured array, and as single frames."""
    view = memoryview(buffer)
    stride = int.from_bytes(view[:4], "big")
    if stride >= end and len(view) % stride == 0:
        table = np.frombuffer(view, _dtype(np, types, stride))
        if (table["length"] == stride).all():
            return table, _Slices(view, stride)
    places, consumed = split(view, len(view))
    if consumed < len(view):
        raise WireError(f"the last {len(view) - consumed} bytes are no whole frame")
    frames = [view[start:stop] for start, stop in places]
    return _table(np, frames, types, end), frames


class _Slices(Sequence[Frame]):
    """Frames of one length in a buffer; a view is made when it is asked for."""

    def __init__(self, view: memoryview, stride: int) -> None:
        self._view = view
        self._stride = stride

    def __len__(self) -> int:
        return len(self._view) // self._stride

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._view[index * self._stride : (index + 1) * self._stride]


def _table(np: Any, frames: Sequence[Frame], types: list[tuple[str, str]], end: int) -> Any:
    """Copy the blocks of all frames into one structured array; bytes behind them may be part of it."""
    sizes = set(map(len, frames))
    if sizes and min(sizes) < end:
        raise WireError(f"a frame of {min(sizes)} bytes ends within its block")
    if len(sizes) == 1:  # frames of one length: joined as they are, which copies fastest
        return np.frombuffer(b"".join(frames), _dtype(np, types, sizes.pop()), len(frames))
    return np.frombuffer(b"".join([frame[:end] for frame in frames]), _dtype(np, types, end), len(frames))


def _dtype(np: Any, types: list[tuple[str, str]], stride: int) -> Any:
    """Return the type of a frame of ``stride`` bytes, of which everything up to the block's end is named."""
    fields = [("length", ">u4"), ("encoding", ">u2"), ("header", "<u8"), *types]
    offsets, at = [], 0
    for _, kind in fields:
        offsets.append(at)
        at += np.dtype(kind).itemsize
    names, formats = zip(*fields, strict=True)
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": stride})


def _objects(np: Any, values: list[str]) -> Any:
    array = np.empty(len(values), object)
    array[:] = values
    return array


_read = struct.Struct("<II").unpack_from


def _books(np: Any, frames: Sequence[Frame], end: int, name: str) -> dict[str, Any]:
    """Join the sides of all frames."""
    found: dict[str, Any] = {}
    places = [end] * len(frames)
    for side in ("bids", "asks"):
        parts: list[Frame] = []
        counts = np.zeros(len(frames) + 1, np.int64)
        for i, frame in enumerate(frames):
            at = places[i]
            if at + 8 > len(frame):
                raise WireError(f"a {name} frame ends before its {side}")
            stride, count = _read(frame, at)
            places[i] = stop = at + 8 + stride * count
            if stop > len(frame) or stride != 16:
                raise WireError(f"{count} {side} of {stride} bytes do not fit a {name} frame of {len(frame)} bytes")
            parts.append(frame[at + 8 : stop])
            counts[i + 1] = count
        found[side] = np.frombuffer(b"".join(parts), "<f8").reshape(-1, 2)
        found[side + "_at"] = counts.cumsum()
    return found

"""Many frames of one template as numpy arrays, without a Python object a message."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from cmd_common.errors import UsageError

from .decoder import Frame, adapt, decode
from .errors import WireError
from .formats import HEADER, LAYOUTS, SOFH
from .messages import Template

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
    ("state", "u1"),
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
        *("taker_buy_volume", "taker_buy_quote_volume", "source", "candle_state"),
    ),
}


def columns(frames: Sequence[Frame], template: int) -> dict[str, numpy.ndarray[Any, Any]]:
    """Return frames of one template as arrays of one length, keyed by field.

    Keys: ``stream_seq``, ``ts_event``, ``ts_recv``, ``instrument_id``, ``view``, ``flags``, ``state`` (of the book),
    then the fields of the block under the names that the records have; codes stay codes (``side`` 0 unknown, 1 buy,
    2 sell; candles' ``source`` 1 exchange, 2 built and ``candle_state`` 1 provisional, 2 final, 3 corrected), an
    integer that is none is -2^63. Trades also have ``trade_id``, candles ``interval``, as objects of str. Books have
    ``bids`` and ``asks`` of shape (levels, 2), all frames' levels behind each other, and ``bids_at`` and ``asks_at``
    of shape (frames + 1): where each frame's levels begin. Frames of another template raise WireError, as do broken
    ones. A few ns a frame where all are of one length, else about a hundred.
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
    end = HEADER + layout.block
    types = [*_COMMON, *zip(names, (_TYPES[c] for c in layout.format), strict=True)]
    sizes = set(map(len, frames))
    if sizes and min(sizes) < end:
        frames = [frame if frame[SOFH:HEADER] == layout.header[2:] else adapt(frame, layout) for frame in frames]
        if min(map(len, frames)) < end:
            raise WireError(f"a {layout.name} frame is too short")
        sizes = set(map(len, frames))
    table = _table(np, frames, sizes, types, end)
    if len(table) and (table["header"] != int.from_bytes(layout.header[2:], "little")).any():
        frames = [frame if frame[SOFH:HEADER] == layout.header[2:] else adapt(frame, layout) for frame in frames]
        table = _table(np, frames, set(map(len, frames)), types, end)
    found: dict[str, numpy.ndarray[Any, Any]] = {name: np.ascontiguousarray(table[name]) for name, _ in types}
    if layout.groups:
        found.update(_books(np, frames, end, layout.name))
    elif template == Template.CANDLE:
        found["interval"] = _objects(np, [decode(frame, "", "").interval for frame in frames])  # type: ignore[union-attr]
    elif layout.data:
        numbered = found.pop("id_is_number").astype(bool)
        ids = found["trade_seq"].astype(str).astype(object)
        for i in np.flatnonzero(~numbered).tolist():
            ids[i] = decode(frames[i], "", "").trade_id  # type: ignore[union-attr]
        found["trade_id"] = ids
    return found


def _table(np: Any, frames: Sequence[Frame], sizes: set[int], types: list[tuple[str, str]], end: int) -> Any:
    """View the blocks of all frames as one structured array."""
    if len(sizes) == 1:
        stride = sizes.pop()  # frames of one length: joined as they are, which copies fastest
        joined = b"".join(frames)
    else:
        stride = end
        joined = b"".join([frame[:end] for frame in frames])
    fields = [("header", "<u8"), *types]
    offsets, at = [], SOFH
    for _, kind in fields:
        offsets.append(at)
        at += np.dtype(kind).itemsize
    names, formats = zip(*fields, strict=True)
    dtype = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": stride})
    return np.frombuffer(joined, dtype, len(frames))


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

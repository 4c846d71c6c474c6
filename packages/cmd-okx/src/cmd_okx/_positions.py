"""Where a message stands in its stream, so that two connections can be merged (``cmd_common.handover``). Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from cmd_common.handover import Position

__all__ = ["confirms", "position"]

_BOOKS: Final = ("books", "books-l2-tbt", "books50-l2-tbt")


def confirms(frame: str | bytes) -> bool:
    """Whether a frame says that a channel was subscribed. Never raises."""
    if len(frame) > 500:
        return False
    reply = _decoded(frame)
    return isinstance(reply, dict) and reply.get("event") == "subscribe"


def position(frame: str | bytes) -> Position | None:
    """Where a data frame stands; None for any other frame. Never raises.

    Books chain by ``prevSeqId``; a snapshot stands where its ``seqId`` is. Trades of channel ``trades`` span the ids that
    they merge. What has only a time is not exact.
    """
    found = _decoded(frame)
    try:
        if not isinstance(found, dict) or "data" not in found:
            return None
        arg, rows = found["arg"], found["data"]
        channel, name = arg["channel"], f"{arg['channel']} {arg['instId']}"
        first, last = rows[0], rows[-1]
        if channel in _BOOKS:
            end = int(last["seqId"])
            begin = end if found.get("action") == "snapshot" else int(first["prevSeqId"])
            return Position(name, begin, end)
        if channel.startswith("trades"):
            begin = int(first["tradeId"]) - int(first.get("count") or 1)
            return Position(name, begin, max(int(row["tradeId"]) for row in rows))
        if channel.startswith("candle"):
            at = 2 * int(last[0]) + (len(last) > 8 and str(last[8]) == "1")  # the final one stands behind the others
            return Position(name, at, at, exact=False)
        if channel == "bbo-tbt" and last.get("seqId") is not None:
            return Position(name, int(last["seqId"]), int(last["seqId"]))
        return Position(name, int(last["ts"]), int(last["ts"]), exact=False)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def _decoded(frame: str | bytes) -> Any:
    try:
        return msgspec.json.decode(frame)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None

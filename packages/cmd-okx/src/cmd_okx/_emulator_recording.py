"""What recorded OKX frames and bodies are, for the emulator. Shapes: docs/exchanges/okx.md#channels."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import msgspec

from cmd_common.venue_emulator import RecordedPart

from .instruments import BARS

__all__ = ["BOOKS", "classify", "classify_rest"]

BOOKS: Final = ("books", "books-l2-tbt", "books50-l2-tbt")
"""Channels of a snapshot and its updates."""

_INTERVAL_OF: Final = {f"candle{bar}": interval for interval, bar in BARS.items()}


def classify(text: str) -> list[RecordedPart]:
    """Say what a recorded frame is; nothing for replies and unknown frames."""
    frame = msgspec.json.decode(text)
    if not isinstance(frame, dict) or "data" not in frame:
        return []
    channel, symbol = frame["arg"]["channel"], frame["arg"]["instId"]
    if channel in BOOKS:
        kind = frame["action"]
        return [_book(f"top:{symbol}:400", symbol, kind, row) for row in frame["data"]]
    if channel == "books5":
        # Whole books stand beside the updates of the same symbol, which alone make the own book.
        return [RecordedPart(f"top:{symbol}:5", symbol, ts=_ns(row["ts"])) for row in frame["data"]]
    if channel in ("bbo-tbt", "tickers"):
        return [RecordedPart(f"quotes:{symbol}", symbol, ts=_ns(row["ts"])) for row in frame["data"]]
    if channel in ("trades", "trades-all"):
        return [
            RecordedPart(
                f"trades:{symbol}",
                symbol,
                "trade",
                ts=_ns(row["ts"]),
                trade_id=str(row["tradeId"]),
                price=row["px"],
                quantity=row["sz"],
                side=row["side"],
            )
            for row in frame["data"]
        ]
    if channel in _INTERVAL_OF:
        return [RecordedPart(f"candles:{symbol}:{_INTERVAL_OF[channel]}", symbol) for _ in frame["data"]]
    return []


def _ns(text: str | int) -> int:
    return int(text) * 1_000_000


def _book(stream: str, symbol: str, action: str, row: dict[str, Any]) -> RecordedPart:
    last = int(row.get("seqId") or 0)
    previous = int(row.get("prevSeqId") or 0)
    return RecordedPart(
        stream,
        symbol,
        "snapshot" if action == "snapshot" else "update",
        ts=_ns(row["ts"]),
        first_id=max(previous, 0) + 1 if previous < last else last,
        last_id=last,
        prev_id=max(previous, 0),
        bids=[(level[0], level[1]) for level in row["bids"]],
        asks=[(level[0], level[1]) for level in row["asks"]],
        depth=400,
    )


def classify_rest(url: str, text: str) -> list[RecordedPart]:
    """Say which book a recorded body is: only those with a ``seqId`` chain with the stream."""
    parts = urlsplit(url)
    symbol = parse_qs(parts.query).get("instId", [""])[0]
    if not parts.path.endswith("/market/books") or not symbol:
        return []
    row = msgspec.json.decode(text)["data"][0]
    return [_book(f"top:{symbol}:400", symbol, "snapshot", row)] if row.get("seqId") else []

"""What is Binance's own about subscriptions: numbered requests, and which stream a damaged frame was for.

Rules: docs/exchanges.md#binance-control. A SUBSCRIBE frame carries at most 100 names. Losses, silence and
retries are those of every feed: ``cmd_common.feed_control``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from cmd_common.feed import Output
from cmd_common.feed_base import FeedBase
from cmd_common.feed_state import Stream
from cmd_common.handover import Position

__all__ = ["Control"]

NAMES_A_FRAME: Final = 100
_REMEMBERED: Final = 1000  # requests without an answer
_STREAM_NAME: Final = re.compile(r'"stream"\s*:\s*"([^"\\]{1,100})"')
_IDS: Final = {"trade": ("t", 1), "aggTrade": ("a", 1), "bookTicker": ("u", 0)}  # key of the id, how far it steps
_TYPE_OF: Final = {"trade": "trades", "aggTrade": "agg_trades", "bookTicker": "quotes"}


class Control(FeedBase):
    """Subscriptions of one connection; ``BinanceFeed`` adds the messages."""

    always_answers = True  # a request without an answer is a broken connection
    handover = True
    most_streams = 1024

    def _init_control(self) -> None:
        super()._init_control()
        self._next_request = 1
        self._requests: dict[int, tuple[str, tuple[str, ...]]] = {}  # sent, by id: method and names

    def _on_connected(self, now: int, out: Output) -> None:
        self._requests.clear()

    def _frames(self, method: str, streams: Sequence[Stream]) -> list[tuple[str, tuple[str, ...]]]:
        frames: list[tuple[str, tuple[str, ...]]] = []
        for at in range(0, len(streams), NAMES_A_FRAME):
            names = tuple(s.name for s in streams[at : at + NAMES_A_FRAME])
            number = self._next_request
            self._next_request += 1
            if len(self._requests) >= _REMEMBERED:
                del self._requests[next(iter(self._requests))]
            self._requests[number] = (method, names)
            text = msgspec.json.encode({"method": method.upper(), "params": names, "id": number}).decode()
            frames.append((text, names))
        return frames

    def _reply(self, message: Mapping[str, Any], now: int, out: Output) -> bool:
        """Take an answer to one of our frames; False if the message is none."""
        error = message.get("error", message)
        if isinstance(error, dict) and "code" in error and "msg" in error:
            method, names = self._take(message.get("id"))
            reason = f"{error['code']}: {error['msg']}"[:300]
            self._error(reason, now, out)
            if method == "subscribe":
                self._refused(names, reason, now, out)
            return True
        if "result" not in message:
            return False
        method, names = self._take(message.get("id"))
        if method == "subscribe":
            for name in names:
                self._acked(name, now, out)
        return True

    def _take(self, number: object) -> tuple[str, tuple[str, ...]]:
        return self._requests.pop(number, ("", ())) if isinstance(number, int) else ("", ())

    # Handover

    def confirms(self, frame: str | bytes) -> bool:
        """Whether a frame says that one frame of ``resubscribe`` was accepted."""
        if len(frame) > 200:
            return False
        try:
            reply = msgspec.json.decode(frame)
        except (msgspec.MsgspecError, ValueError):
            return False
        if not isinstance(reply, dict) or "result" not in reply or reply.get("error"):
            return False
        number = reply.get("id")
        return isinstance(number, int) and self._requests.get(number, ("", ()))[0] == "subscribe"

    def position(self, frame: str | bytes) -> Position | None:
        """Where a data frame stands in its stream; None for any other frame. Never raises."""
        try:
            outer = msgspec.json.decode(frame)
            if not isinstance(outer, dict):
                return None
            data = outer.get("data", outer)
            kind = data.get("e", "bookTicker" if "A" in data else "")
            if kind == "kline":
                return Position(f"kline {data['s']} {data['k']['i']}", data["E"], data["E"], exact=False)
            if kind == "depthUpdate":
                return Position(f"depth {data['s']}", data.get("pu", data["U"] - 1), data["u"])
            if not kind and "lastUpdateId" in data:
                return Position(str(outer.get("stream", "")), data["lastUpdateId"], data["lastUpdateId"])
            key, chained = _IDS[kind]
            return Position(f"{kind} {data['s']}", data[key] - chained, data[key])
        except (msgspec.MsgspecError, ValueError, RecursionError, AttributeError, LookupError, TypeError):
            return None

    # Damage

    def _stream_of(self, name: str) -> Stream | None:
        """Find a subscribed stream by the exchange's name; a recorded one may have another depth speed."""
        stream = self._streams.get(name)
        if stream is not None:
            return stream
        symbol, _, kind = name.partition("@")
        st = self._symbols.get(symbol.upper())
        if st is None:
            return None
        if kind.startswith("depth"):
            return st.depth
        if kind.startswith("kline_"):
            candles = st.candles.get(kind[6:])
            return candles.stream if candles is not None else None
        wanted = _TYPE_OF.get(kind)
        return next((s for s in st.streams if s.type == wanted), None)

    def _malformed(self, frame: str | bytes, why: str, now: int, out: Output, stream: Stream | None = None) -> None:
        """Count a damaged frame and mark what it may have carried: the stream that it names, or everything."""
        head = frame[:300]
        text = head if isinstance(head, str) else head.decode("utf-8", "replace")
        found = _STREAM_NAME.search(text)
        if stream is None and found:
            stream = self._stream_of(found[1])
        super()._malformed(frame, why, now, out, stream)

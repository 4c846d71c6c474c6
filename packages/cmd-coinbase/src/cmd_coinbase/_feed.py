"""What the feeds of both Coinbase APIs share: refusals, names of products, the status channel, options.

A ``subscribe`` frame with one product that does not exist is refused as a whole [S]. The error names the product:
its streams are left out and named, and the others are subscribed again at once. An error that names nothing
halves the frame, until the bad name stands alone. docs/exchanges/coinbase.md#control.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from cmd_common.exchange import Endpoints
from cmd_common.feed import Output, Subscription
from cmd_common.feed_base import FeedBase, Wire
from cmd_common.feed_state import Stream, SymbolState
from cmd_common.instruments import Instrument

from ._messages import ErrorFrame, Product
from .instruments import Market

__all__ = ["PRODUCTS_A_FRAME", "CoinbaseFeed", "field", "find", "text_of"]

PRODUCTS_A_FRAME: Final = 100
_SECOND: Final = 1_000_000_000


def field(name: str) -> tuple[re.Pattern[str], re.Pattern[bytes]]:
    """Return patterns that find the first text value of a key in a frame of text or bytes."""
    pattern = rf'"{name}"\s*:\s*"([^"\\]{{1,64}})"'
    return re.compile(pattern), re.compile(pattern.encode())


def find(patterns: tuple[re.Pattern[str], re.Pattern[bytes]], frame: str | bytes) -> str:
    """Return the value that a pattern of ``field`` finds, empty for none."""
    if isinstance(frame, str):
        text = patterns[0].search(frame)
        return text[1] if text else ""
    raw = patterns[1].search(frame)
    return raw[1].decode("utf-8", "replace") if raw else ""


_PRODUCT: Final = field("product_id")
_PASSING: Final = re.compile(r"limit|too many|try again|internal|unavailable", re.IGNORECASE)  # may be over soon


class CoinbaseFeed(FeedBase):
    """One connection of either API; see ``cmd_common.feed.Feed``."""

    max_frame = 16 * 1024 * 1024  # a full book of 46,000 levels is some 5 million characters
    quiet_limit = 90 * _SECOND  # both APIs send heartbeats once a second

    def __init__(
        self,
        market: Market,
        name: str,
        url: str,
        subscription: Subscription,
        types: Sequence[str],
        symbols: Sequence[str],
        instruments: Mapping[str, Instrument],
        endpoints: Endpoints,
    ) -> None:
        self.market = market
        self._now = 0  # of the call that is under way
        self._groups: dict[str, int] = {}  # stream to the frame that last asked for it
        self._group = 0
        self._states: dict[str, str] = {}  # product to its last status
        self._errors: Wire[ErrorFrame] = Wire(ErrorFrame)
        super().__init__(market.venue, name, url, subscription, types, symbols, instruments, endpoints)
        self._watch_status = self._options.get("status", "off") == "on"

    # The time of a call

    def connected(self, now: int) -> Output:
        """The connection is open: subscribe; the records are FeedStatus rows."""
        self._now = now
        return super().connected(now)

    def receive(self, frame: str | bytes, now: int) -> Output:
        """Take one data frame. Never raises for what an exchange may send: it counts and reports."""
        self._now = now
        return super().receive(frame, now)

    def tick(self, now: int) -> Output:
        """Called about once a second: answers that did not come, checks, silence."""
        self._now = now
        return super().tick(now)

    def add(self, symbols: Sequence[str], now: int) -> Output:
        """Subscribe more symbols while connected."""
        self._now = now
        return super().add(symbols, now)

    def remove(self, symbols: Sequence[str], now: int) -> Output:
        """Unsubscribe symbols while connected."""
        self._now = now
        out = super().remove(symbols, now)
        for symbol in symbols:
            self._forget(symbol)
        return out

    def _forget(self, symbol: str) -> None:
        """A symbol is gone."""

    # Subscriptions

    def _chunks(self, method: str, streams: Sequence[Stream]) -> Iterable[tuple[str, list[Stream]]]:
        """Yield the channel and streams of each frame: one channel, at most so many products."""
        channels: dict[str, list[Stream]] = {}
        for stream in streams:
            channels.setdefault(stream.name.partition(":")[0], []).append(stream)
        for channel, members in channels.items():
            for at in range(0, len(members), PRODUCTS_A_FRAME):
                chunk = members[at : at + PRODUCTS_A_FRAME]
                if method == "subscribe":
                    self._group += 1
                    self._groups.update((s.name, self._group) for s in chunk)
                yield channel, chunk

    def _on_refusal(self, words: str, now: int, out: Output) -> None:
        """An error reply: leave out what it names, ask again for what was refused with it."""
        self._error(words, now, out)
        if "unsubscribe" in words.lower():
            return
        waiting = self._waiting_streams()
        if not waiting:
            return
        named = set(re.findall(r"[^\s,;:\"'\[\]()]+", words.upper()))
        bad = [s for s in waiting if s.symbol.upper() in named]
        if bad:
            groups = {self._groups.get(s.name) for s in bad}
            for stream in bad:
                self._rejected(stream.name, words, now, out, retry=_PASSING.search(words) is not None)
            others = [s for s in waiting if s not in bad and self._groups.get(s.name) in groups]
            self._again(others, now, out)
            return
        # It names nobody; frames are answered in order, so it is about the oldest one.
        group = min(self._groups.get(s.name, 0) for s in waiting)
        members = [s for s in waiting if self._groups.get(s.name, 0) == group]
        self._refused([s.name for s in members], words, now, out)

    def _again(self, streams: Sequence[Stream], now: int, out: Output) -> None:
        for stream in streams:
            stream.attempts = 0  # it was not at fault
        self._subscribe(streams, now, out)

    # The status channel

    def _product_status(self, products: Iterable[Product], now: int, out: Output) -> None:
        """Report products whose state changed, such as a maintenance."""
        for product in products:
            if product.id not in self._symbols:
                continue
            words = " ".join(f"{product.status} {product.status_message or ''}".split())
            if self._states.get(product.id, "online") != words:
                self._status(out, now, "exchange_status", words, product.id)
            self._states[product.id] = words

    # Damage

    def _damaged(
        self, frame: str | bytes, stream: Stream | None, carries: bool, error: Exception, now: int, out: Output
    ) -> bool:
        """A frame could not be decoded; False when nobody knows whose it was, so that anything may be missing.

        ``carries``: frames of its kind have market data that is wanted.
        """
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        if not carries:
            self.counters.malformed += 1
            if now // _SECOND != self._damaged_second:
                self._damaged_second = now // _SECOND
                self._status(out, now, "malformed", why)
            return True
        if stream is None or not stream.ts:
            return False
        self._malformed(frame, why, now, out, stream)
        return True

    def _state_in(self, frame: str | bytes) -> SymbolState | None:
        """The symbol that a damaged frame names."""
        return self._symbols.get(find(_PRODUCT, frame[:2000]))


def text_of(value: Any) -> str:
    """Encode a frame."""
    return msgspec.json.encode(value).decode()

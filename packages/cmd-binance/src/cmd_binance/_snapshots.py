"""Book snapshots of the REST interface, read natively where cmd-native is there."""

from __future__ import annotations

from cmd_common import _native
from cmd_common.feed_books import ParsedBook
from cmd_common.orderbook import OrderBook

from .instruments import to_ns
from .rest import parse_depth

__all__ = ["read_snapshot"]


def read_snapshot(book: OrderBook, body: bytes) -> ParsedBook:
    """Read the body of a depth request for ``book``, whose tick size spares it work; raises ProtocolError."""
    module = _native.module
    if module is not None and isinstance(book, module.OrderBook):
        read = module.binance_snapshot(book, body)
        if read is not None:
            last, ts, bids, asks = read
            return ParsedBook(last, bids, asks, to_ns(ts) or None)
    depth = parse_depth(body)
    return ParsedBook(depth.lastUpdateId, depth.bids, depth.asks, to_ns(depth.T) or None)

"""Made-up messages in the form of both Coinbase APIs, and what the exchange would answer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from cmd_coinbase import ADVANCED, EXCHANGE, CoinbaseExchange
from cmd_common.feed import Feed, Output, Resubscribe, Send, Subscription
from cmd_common.instruments import Instrument

SECOND = 1_000_000_000
T0 = 1_767_225_599 * SECOND  # 2025-12-31T23:59:59Z
NOW = T0 + 2 * SECOND
BTC, ETH, USDC = "BTC-USD", "ETH-EUR", "BTC-USDC"
START = {BTC: 100, ETH: 5000, USDC: 100}


def ns(n: int) -> int:
    """Event time of the n-th message."""
    return T0 + n * 1_000_000


def iso(n: int) -> str:
    """The same as text: 2025-12-31T23:59:59.00n."""
    return f"2025-12-31T23:59:59.{n:03d}000Z"


def text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


# Coinbase Exchange


def product(id_: str, **changes: Any) -> dict[str, Any]:
    base, quote = id_.split("-")
    return {
        "id": id_,
        "base_currency": base,
        "quote_currency": quote,
        "quote_increment": "0.01000000",
        "base_increment": "0.00000001",
        "display_name": f"{base}/{quote}",
        "min_market_funds": "1",
        "status": "online",
        "status_message": "",
        "trading_disabled": False,
        **changes,
    }


PRODUCTS = text([product(BTC), product(ETH)]).encode()


def match(symbol: str, n: int, kind: str = "match", **changes: Any) -> str:
    """The n-th match: odd ones have a resting sell order, so the taker bought."""
    return text(
        {
            "type": kind,
            "trade_id": START[symbol] + n,
            "maker_order_id": "2a0da34e-0000-4000-8000-000000000001",
            "taker_order_id": "3c82abaa-0000-4000-8000-000000000002",
            "side": "sell" if n % 2 else "buy",
            "size": "0.50000000",
            "price": "100.25",
            "product_id": symbol,
            "sequence": 7000 + n,
            "time": iso(n),
            **changes,
        }
    )


def ticker(symbol: str, n: int = 1, bid: str = "99.50", ask: str = "100.50", **changes: Any) -> str:
    return text(
        {
            "type": "ticker",
            "sequence": 7000 + n,
            "product_id": symbol,
            "price": "100.25",
            "open_24h": "99",
            "volume_24h": "1.5",
            "low_24h": "98",
            "high_24h": "101",
            "volume_30d": "30",
            "best_bid": bid,
            "best_bid_size": "1.5",
            "best_ask": ask,
            "best_ask_size": "2",
            "side": "buy",
            "time": iso(n),
            "trade_id": START[symbol] + n,
            "last_size": "0.5",
            **changes,
        }
    )


def heartbeat(symbol: str, last_trade_id: int, n: int = 1) -> str:
    return text(
        {
            "type": "heartbeat",
            "sequence": 7000 + n,
            "last_trade_id": last_trade_id,
            "product_id": symbol,
            "time": iso(n),
        }
    )


def sides(n: int) -> tuple[dict[str, str], dict[str, str]]:
    """The book after n messages."""
    bids = {"99.50": "1.50000000", "99.00": "2.00000000"}
    asks = {"100.50": "2.00000000", "101.00": "3.00000000"}
    for k in range(1, n + 1):
        b, a = change(k)
        bids |= b
        asks |= a
    return {p: q for p, q in bids.items() if float(q)}, {p: q for p, q in asks.items() if float(q)}


def change(n: int) -> tuple[dict[str, str], dict[str, str]]:
    """What the n-th message changes: a new level, one that goes, and one that never was there."""
    bids = {f"98.{n % 90 + 10}": f"{n}.25", f"98.{(n - 2) % 90 + 10}": "0.00000000", "1.00": "0"}
    return bids, {"100.50": f"2.{n}"}


def l2update(symbol: str, n: int, time: str | None = None) -> str:
    bids, asks = change(n)
    changes = [["buy", p, q] for p, q in bids.items()] + [["sell", p, q] for p, q in asks.items()]
    return text(
        {"type": "l2update", "product_id": symbol, "changes": changes, "time": iso(n) if time is None else time}
    )


def snapshot(symbol: str, n: int = 0, **changes: Any) -> str:
    bids, asks = sides(n)
    return text(
        {
            "type": "snapshot",
            "product_id": symbol,
            "asks": [[p, asks[p]] for p in sorted(asks, key=float)],
            "bids": [[p, bids[p]] for p in sorted(bids, key=float, reverse=True)],
            "time": iso(n),
            **changes,
        }
    )


class Server:
    """What one connection has subscribed; answers as Coinbase Exchange, or as Advanced Trade."""

    def __init__(self, known: tuple[str, ...] = (BTC, ETH)) -> None:
        self.known = known
        self.channels: dict[str, list[str]] = {}

    def exchange(self, frame: str) -> list[str]:
        m = json.loads(frame)
        for p in m.get("product_ids", []):
            if p not in self.known:
                words = {"message": f"Failed to {m['type']}", "reason": f"{p} is not a valid product"}
                return [text({"type": "error", **words})]
        for channel in m["channels"]:
            name = channel if isinstance(channel, str) else channel["name"]
            have = self.channels.setdefault({"level2_batch": "level2_50"}.get(name, name), [])
            if m["type"] == "subscribe":
                have += [p for p in m.get("product_ids", []) if p not in have]
            else:
                have[:] = [p for p in have if p not in m["product_ids"]]
        rows = [{"name": n, "product_ids": p, "account_ids": None} for n, p in self.channels.items()]
        return [text({"type": "subscriptions", "channels": rows})]

    def advanced(self, frame: str) -> list[str]:
        m = json.loads(frame)
        products = m.get("product_ids", [m["channel"]])
        for p in products:
            if p not in (*self.known, m["channel"]):
                return [text({"type": "error", "message": f"{p} is not a valid product"})]
        have = self.channels.setdefault(m["channel"], [])
        if m["type"] == "subscribe":
            have += [p for p in products if p not in have]
        else:
            have[:] = [p for p in have if p not in products]
        return [envelope("subscriptions", [{"subscriptions": {n: p for n, p in self.channels.items() if p}}])]


def answer(frame: str) -> list[str]:
    """A confirmation that names just what a frame asks for."""
    return Server().exchange(frame)


def refusal(frame: str) -> list[str]:
    return [text({"type": "error", "message": "Failed to subscribe", "reason": "Invalid product ID provided"})]


def seeds(frame: str) -> list[str]:
    m = json.loads(frame)
    book = any(str(c).startswith("level2") for c in (*m.get("channels", ()), m.get("channel", "")))
    return m.get("product_ids", []) if m["type"] == "subscribe" and book else []


# Advanced Trade


def advanced_product(id_: str, **changes: Any) -> dict[str, Any]:
    base, quote = id_.split("-")
    return {
        "product_id": id_,
        "price": "100.25",
        "base_increment": "0.00000001",
        "quote_increment": "0.00000001",
        "price_increment": "0.01",
        "base_min_size": "0.00000001",
        "quote_min_size": "1",
        "status": "online",
        "product_type": "SPOT",
        "base_currency_id": base,
        "quote_currency_id": quote,
        "alias": "BTC-USD" if quote == "USDC" else "",
        "alias_to": ["BTC-USDC"] if id_ == BTC else [],
        "trading_disabled": False,
        "is_disabled": False,
        "cancel_only": False,
        "view_only": False,
        **changes,
    }


def advanced_products(*ids: str) -> bytes:
    return text({"products": [advanced_product(i) for i in ids], "num_products": len(ids)}).encode()


def envelope(channel: str, events: list[Any], n: int = 0, number: int = 0) -> str:
    return text(
        {
            "channel": channel,
            "client_id": "",
            "timestamp": iso(n).replace("Z", "789Z"),
            "sequence_num": number,
            "events": events,
        }
    )


def levels(bids: Mapping[str, str], asks: Mapping[str, str], n: int) -> list[dict[str, str]]:
    return [
        {"side": side, "event_time": iso(n), "price_level": p, "new_quantity": q}
        for side, rows in (("bid", bids), ("offer", asks))
        for p, q in rows.items()
    ]


def l2(symbol: str, n: int, number: int = 0) -> str:
    event = {"type": "update", "product_id": symbol, "updates": levels(*change(n), n)}
    return envelope("l2_data", [event], n, number)


def l2_snapshot(symbol: str, n: int = 0, number: int = 0) -> str:
    event = {"type": "snapshot", "product_id": symbol, "updates": levels(*sides(n), n)}
    return envelope("l2_data", [event], n, number)


def market_trade(symbol: str, n: int) -> dict[str, str]:
    return {
        "trade_id": str(START[symbol] + n),
        "product_id": symbol,
        "price": "100.25",
        "size": "0.5",
        "side": "SELL" if n % 2 else "BUY",
        "time": iso(n),
    }


def trades(symbol: str, *ns_: int, kind: str = "update", number: int = 0) -> str:
    """Trades as given; the exchange sends the newest first."""
    rows = [market_trade(symbol, n) for n in ns_]
    return envelope("market_trades", [{"type": kind, "trades": rows}], ns_[0], number)


def advanced_ticker(symbol: str, n: int = 1, bid: str = "99.5", number: int = 0, **changes: Any) -> str:
    row = {
        "type": "ticker",
        "product_id": symbol,
        "price": "100.25",
        "volume_24_h": "1",
        "low_24_h": "98",
        "high_24_h": "101",
        "low_52_w": "1",
        "high_52_w": "200",
        "price_percent_chg_24_h": "-4.15",
        "best_bid": bid,
        "best_bid_quantity": "1.5",
        "best_ask": "100.5",
        "best_ask_quantity": "2",
        **changes,
    }
    return envelope("ticker", [{"type": "update", "tickers": [row]}], n, number)


def candle(symbol: str, start: int, close: str = "101.5") -> dict[str, str]:
    return {
        "start": str(start),
        "high": "102",
        "low": "99",
        "open": "100",
        "close": close,
        "volume": "12.5",
        "product_id": symbol,
    }


def candles(*rows: dict[str, str], n: int = 0, kind: str = "update", number: int = 0) -> str:
    return envelope("candles", [{"type": kind, "candles": list(rows)}], n, number)


_NUMBER = re.compile(r'"sequence_num":\d+')


class NumberedFeed:
    """A feed whose frames are numbered as one connection of Advanced Trade numbers them."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.number = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.feed, name)

    def connected(self, now: int) -> Output:
        self.number = 0
        return self.feed.connected(now)

    def receive(self, frame: str | bytes, now: int) -> Output:
        raw = isinstance(frame, bytes)
        plain = frame.decode("utf-8", "surrogateescape") if isinstance(frame, bytes) else frame
        numbered, count = _NUMBER.subn(f'"sequence_num":{self.number}', plain, count=1)
        self.number += count
        return self.feed.receive(numbered.encode("utf-8", "surrogateescape") if raw else numbered, now)


class NumberedExchange:
    """Advanced Trade with numbered feeds: the frames of the conformance suite know no connection."""

    def __init__(self) -> None:
        self.inner = ADVANCED

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def feeds(self, subscription: Subscription, *arguments: Any) -> list[Any]:
        if subscription.intervals == ("1m",):  # what the suite asks for; live candles here are of five minutes
            subscription = replace(subscription, intervals=("5m",))
        return [NumberedFeed(feed) for feed in self.inner.feeds(subscription, *arguments)]


# Feeds


def instruments_of(exchange: CoinbaseExchange, *symbols: str) -> dict[str, Instrument]:
    body = (
        advanced_products(*symbols) if exchange is ADVANCED else text([product(symbol) for symbol in symbols]).encode()
    )
    return {i.symbol: i for i in exchange.parse_instruments(body)}


def feed_of(
    types: tuple[str, ...],
    symbols: tuple[str, ...] = (BTC, ETH),
    *,
    exchange: CoinbaseExchange = EXCHANGE,
    listed: tuple[str, ...] = (),
    **options: str,
) -> Any:
    """One feed that is not connected yet."""
    known = instruments_of(exchange, *(listed or symbols))
    subscription = Subscription(symbols, types, ("5m",), options=options)
    (feed,) = exchange.feeds(subscription, known, exchange.endpoints)
    return feed


def sent(output: Output) -> list[dict[str, Any]]:
    """The frames that a call wants to send, decoded."""
    frames: list[str] = []
    for action in output.actions:
        if isinstance(action, Send):
            frames.append(action.frame)
        elif isinstance(action, Resubscribe):
            frames += action.frames
    return [json.loads(frame) for frame in frames]

"""Made-up messages in the form of Bitstamp."""

from __future__ import annotations

import json
from typing import Any

SECOND = 1_000_000_000
NOW = 1_767_225_600 * SECOND
US = NOW // 1000 - 10_000
A, B = "BTCUSD", "ETHEUR"

PAIRS = json.dumps(
    [
        {
            "trading": "Enabled",
            "base_decimals": 8,
            "url_symbol": f"{base}{quote}".lower(),
            "name": f"{base}/{quote}",
            "instant_and_market_orders": "Enabled",
            "minimum_order": f"20.0 {quote}",
            "counter_decimals": 2,
            "description": f"{base} / {quote}",
        }
        for base, quote in (("BTC", "USD"), ("ETH", "EUR"))
    ]
).encode()


def text(body: Any) -> str:
    return json.dumps(body, separators=(",", ":"))


def us(n: int) -> int:
    return US + n * 1000


def ns(n: int) -> int:
    return us(n) * 1000


def changes(n: int) -> tuple[list[list[str]], list[list[str]]]:
    bids = [[f"{99 - n % 7}.50", f"{n % 5}.00000000"], ["90.00", f"{n}.00000000"]]
    asks = [[f"{101 + n % 7}.25", f"{(n + 2) % 5}.00000000"], ["120.00", f"{n}.50000000"]]
    return bids, asks


def sides(n: int) -> tuple[list[list[str]], list[list[str]]]:
    """The book after n messages."""
    books: tuple[dict[str, str], dict[str, str]] = ({"99.00": "5.000"}, {"101.00": "5.000"})
    for k in range(1, n + 1):
        for side, levels in zip(books, changes(k), strict=True):
            side.update(dict(levels))  # type: ignore[arg-type]
    bids = sorted(([p, q] for p, q in books[0].items() if float(q)), key=lambda x: -float(x[0]))
    asks = sorted(([p, q] for p, q in books[1].items() if float(q)), key=lambda x: float(x[0]))
    return bids, asks


def times(n: int) -> dict[str, str]:
    return {"timestamp": str(us(n) // 1_000_000), "microtimestamp": str(us(n))}


def depth(symbol: str, n: int, channel: str = "diff_order_book") -> str:
    bids, asks = changes(n) if channel.startswith("diff") else sides(n)
    data = {**times(n), "bids": bids, "asks": asks}
    return text({"data": data, "channel": f"{channel}_{symbol.lower()}", "event": "data"})


def snapshot(symbol: str, n: int) -> str:
    bids, asks = sides(n)
    return text({**times(n), "bids": bids, "asks": asks})


def trade(symbol: str, n: int, amount: str = "0.50000000") -> str:
    data = {
        "id": 70 + 3 * n,
        "timestamp": str(us(n) // 1_000_000),
        "amount": float(amount),
        "amount_str": amount,
        "price": 100.25,
        "price_str": "100.25",
        "type": n % 2,
        "microtimestamp": str(us(n)),
        "buy_order_id": 1,
        "sell_order_id": 2,
    }
    return text({"data": data, "channel": f"live_trades_{symbol.lower()}", "event": "trade"})


def order(symbol: str, n: int, event: str = "order_created") -> str:
    data = {"id": n, "id_str": str(n), "order_type": 0, "microtimestamp": str(us(n)), "amount": 1.0}
    head = {"data": data, "channel": f"live_orders_{symbol.lower()}", "event": event}
    return text({**head, "event_id": f"e{n}", "pre_event_id": f"e{n - 1}", "order_source": "orderbook"})


def answer(frame: str) -> list[str]:
    message = json.loads(frame)
    event = message["event"]
    if event == "bts:heartbeat":
        return [text({"event": event, "channel": "", "data": {"status": "success"}})]
    kind = "subscription" if event == "bts:subscribe" else "unsubscription"
    return [text({"event": f"bts:{kind}_succeeded", "channel": message["data"]["channel"], "data": {}})]


def refusal(frame: str) -> list[str]:
    return [text({"event": "bts:error", "channel": "", "data": {"code": None, "message": "Bad subscription string."}})]

"""Made-up messages in the form of Gemini's two feeds."""

from __future__ import annotations

import json
from typing import Any

SECOND = 1_000_000_000
NOW = 1_767_225_600 * SECOND
MS = NOW // 1_000_000 - 10
A, B = "BTCUSD", "ETHGUSDPERP"
START = {A: 1_000, B: 5_000}

DETAILS = (
    b'[{"symbol":"BTCUSD","base_currency":"BTC","quote_currency":"USD","tick_size":1E-8,"quote_increment":0.01,'
    b'"min_order_size":"0.00001","status":"open","wrap_enabled":false,"product_type":"spot",'
    b'"contract_type":"vanilla","contract_price_currency":"USD"},'
    b'{"symbol":"ETHGUSDPERP","base_currency":"ETH","quote_currency":"GUSD","tick_size":0.001,"quote_increment":0.05,'
    b'"min_order_size":"0.001","status":"open","product_type":"swap","contract_type":"linear",'
    b'"contract_price_currency":"GUSD"}]'
)


def text(body: Any) -> str:
    return json.dumps(body, separators=(",", ":"))


def ns(offset_ms: int) -> int:
    return (MS + offset_ms) * 1_000_000


def last_id(symbol: str, n: int) -> int:
    return START[symbol] + 10 * n


def changes(n: int) -> tuple[list[list[str]], list[list[str]]]:
    bids = [[f"{99 - n % 7}.50", f"{n % 5}.000"], ["90.00", f"{n}.000"]]
    asks = [[f"{101 + n % 7}.25", f"{(n + 2) % 5}.000"], ["120.00", f"{n}.500"]]
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


# Current API


def depth(symbol: str, n: int) -> str:
    bids, asks = changes(n)
    first, last = last_id(symbol, n - 1), last_id(symbol, n)
    return text({"e": "depthUpdate", "E": ns(n), "s": symbol.lower(), "U": first, "u": last, "b": bids, "a": asks})


def snapshot(symbol: str, n: int) -> str:
    bids, asks = sides(n)
    last = last_id(symbol, n)
    return text({"e": "depthUpdate", "E": ns(n), "s": symbol.lower(), "U": last, "u": last, "b": bids, "a": asks})


def trade(symbol: str, n: int) -> str:
    body = {"E": ns(n), "s": symbol.lower(), "t": 70 + n, "p": "100.25", "q": "0.50000000"}
    return text({**body, "m": n % 2 == 0})


def names(frame: str) -> list[str]:
    message = json.loads(frame)
    return list(message.get("params", [])) if message["method"] == "subscribe" else []


def answer(frame: str) -> list[str]:
    return [text({"id": json.loads(frame)["id"], "status": 200})]


def refusal(frame: str) -> list[str]:
    message = json.loads(frame)
    error = {"code": -1013, "msg": "Invalid stream name"}
    return [text({"id": message["id"], "status": 400, "error": error})]


def seeds(frame: str) -> list[str]:
    return [n.partition("@")[0].upper() for n in names(frame) if n.endswith(("@depth@100ms", "@depth"))]


# v2


def v2_changes(bids: list[list[str]], asks: list[list[str]]) -> list[list[str]]:
    return [["buy", *level] for level in bids] + [["sell", *level] for level in asks]


def v2_depth(symbol: str, n: int) -> str:
    return text({"type": "l2_updates", "symbol": symbol, "changes": v2_changes(*changes(n))})


def v2_snapshot(symbol: str, n: int) -> str:
    body = {"type": "l2_updates", "symbol": symbol, "changes": v2_changes(*sides(n)), "trades": []}
    return text({**body, "auction_events": []})


def v2_trade(symbol: str, n: int, **more: Any) -> str:
    body = {"type": "trade", "symbol": symbol, "event_id": 7_000_000 + 3 * n, "timestamp": MS + n}
    side = "buy" if n % 2 else "sell"
    return text({**body, "price": "100.25", "quantity": "0.5", "side": side, **more})


def v2_answer(frame: str) -> list[str]:
    return []


def v2_refusal(frame: str) -> list[str]:
    return [text({"result": "error", "reason": "InvalidSymbol", "message": "Supplied value 'X' is not valid"})]


def v2_seeds(frame: str) -> list[str]:
    message = json.loads(frame)
    if message["type"] != "subscribe":
        return []
    return [s for wanted in message["subscriptions"] if wanted["name"] == "l2" for s in wanted["symbols"]]

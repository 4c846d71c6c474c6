"""OKX's wire format, made up in the exchange's form, as functions of a message's number."""

from __future__ import annotations

import json
from typing import Any

from cmd_okx.sync import checksum

MS = 1_767_225_600_000  # 2026-01-01
NOW = MS * 1_000_000
SECOND = 1_000_000_000
SPOT, SWAP, FUTURE = "BTC-USDT", "BTC-USD-SWAP", "ETH-USDT-261225"
START = {SPOT: 1000, SWAP: 5000, FUTURE: 9000}


def ns(offset: int) -> int:
    return NOW + offset * 1_000_000


def instrument(inst_type: str, symbol: str, **changes: str) -> dict[str, str]:
    row = {
        "instType": inst_type, "instId": symbol, "uly": "", "instFamily": "", "baseCcy": "", "quoteCcy": "",
        "settleCcy": "", "ctVal": "", "ctMult": "", "ctValCcy": "", "ctType": "", "optType": "", "stk": "", "listTime": "1",
        "expTime": "", "tickSz": "0.1", "lotSz": "0.00000001", "minSz": "0.00001", "alias": "", "state": "live",
        "ruleType": "normal", "maxMktAmt": "1000000",
    }  # fmt: skip
    return {**row, **changes}


SPOT_ROW = instrument("SPOT", SPOT, baseCcy="BTC", quoteCcy="USDT")
SWAP_ROW = instrument(
    "SWAP", SWAP, uly="BTC-USD", settleCcy="BTC", ctVal="100", ctMult="1", ctValCcy="USD", ctType="inverse", lotSz="1",
    minSz="1",
)  # fmt: skip
FUTURE_ROW = instrument(
    "FUTURES", FUTURE, uly="ETH-USDT", settleCcy="USDT", ctVal="0.1", ctMult="1", ctValCcy="ETH", ctType="linear",
    lotSz="0.01", minSz="0.01", tickSz="0.01", expTime="1798185600000",
)  # fmt: skip


def body(*rows: Any, code: str = "0", msg: str = "") -> bytes:
    return json.dumps({"code": code, "msg": msg, "data": list(rows)}, separators=(",", ":")).encode()


INSTRUMENTS = body(SPOT_ROW, SWAP_ROW, FUTURE_ROW)


def frame(channel: str, symbol: str, *rows: Any, action: str = "") -> str:
    outer: dict[str, Any] = {"arg": {"channel": channel, "instId": symbol}}
    if action:
        outer["action"] = action
    return json.dumps({**outer, "data": list(rows)}, separators=(",", ":"))


def answer(text: str) -> list[str]:
    """What the exchange answers a frame of ours."""
    if text == "ping":
        return ["pong"]
    request = json.loads(text)
    return [json.dumps({"event": request["op"], "arg": arg, "connId": "a4d3ae55"}) for arg in request["args"]]


def seeds(text: str) -> list[str]:
    """The symbols whose book a frame of ours subscribes."""
    request = {"op": text} if text == "ping" else json.loads(text)
    return [a["instId"] for a in request["args"] if a["channel"] == "books"] if request["op"] == "subscribe" else []


def refusal(text: str, code: str = "60018") -> list[str]:
    """The same when it refuses every argument."""
    if text == "ping":
        return ["pong"]
    request = json.loads(text)
    return [error(arg["channel"], arg["instId"], code) for arg in request["args"]]


def error(channel: str, symbol: str, code: str = "60018") -> str:
    words = (
        f"Wrong URL or channel:{channel},instId:{symbol} doesn't exist. Please use the correct URL, channel and "
        "parameters referring to API document."
    )
    return json.dumps({"event": "error", "msg": words, "code": code, "connId": "a4d3ae55"}, separators=(",", ":"))


def level(price: str, quantity: str) -> list[str]:
    return [price, quantity, "0", "0" if float(quantity) == 0 else "3"]


def changes(n: int) -> tuple[list[list[str]], list[list[str]]]:
    bids = [level(f"{99 - n % 7}.5", str(n % 5)), level("90", str(n))]
    asks = [level(f"{101 + n % 7}.25", str((n + 2) % 5)), level("120", f"{n}.5")]
    return bids, asks


def seq(symbol: str, n: int) -> int:
    return START[symbol] + 10 * n


def depth(symbol: str, n: int, **more: Any) -> str:
    bids, asks = changes(n)
    row = {"asks": asks, "bids": bids, "ts": str(MS + n), "checksum": 0}
    row |= {"seqId": seq(symbol, n), "prevSeqId": seq(symbol, n - 1)}
    return frame("books", symbol, {**row, **more}, action="update")


def snapshot(symbol: str, n: int, **more: Any) -> str:
    sides: tuple[dict[str, list[str]], ...] = ({"99": level("99", "5")}, {"101": level("101", "5")})
    for k in range(1, n + 1):
        for side, levels in zip(sides, changes(k), strict=True):
            side.update((x[0], x) for x in levels)
    bids = sorted((x for x in sides[0].values() if float(x[1])), key=lambda x: -float(x[0]))
    asks = sorted((x for x in sides[1].values() if float(x[1])), key=lambda x: float(x[0]))
    row = {"asks": asks, "bids": bids, "ts": str(MS + n), "checksum": 0, "seqId": seq(symbol, n), "prevSeqId": -1}
    return frame("books", symbol, {**row, **more}, action="snapshot")


def trade_row(symbol: str, id_: int, **more: Any) -> dict[str, Any]:
    row = {"instId": symbol, "tradeId": str(id_), "px": "100.25", "sz": "0.5", "side": "buy", "ts": str(MS + id_)}
    return {**row, "count": "1", "source": "0", "seqId": 7, **more}


def trade(symbol: str, n: int, **more: Any) -> str:
    side = "sell" if n % 2 == 0 else "buy"
    return frame("trades", symbol, trade_row(symbol, 70 + n, side=side, ts=str(MS + n), **more))


CANDLE = [str(MS - 60_000), "100", "102", "99", "101.5", "12.5", "1250.25", "1260.5", "0"]


def summed(symbol: str, n: int, *, offset: int = 0) -> dict[str, Any]:
    """The checksum after the n-th message, plus an offset."""
    row = json.loads(snapshot(symbol, n))["data"][0]
    value = checksum(*([(x[0], x[1]) for x in row[side]] for side in ("bids", "asks")))
    return {"checksum": value + offset}


def old(text: str) -> str:
    """The same as in 2022: no ids."""
    frame = json.loads(text)
    for row in frame["data"]:
        del row["seqId"], row["prevSeqId"]
    frame["arg"]["channel"] = "books-l2-tbt"
    return json.dumps(frame, separators=(",", ":"))

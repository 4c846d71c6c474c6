"""Made-up messages of both markets in the exchange's form, and their conformance cases."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from cmd_bybit import LINEAR, SPOT, BybitExchange
from cmd_common.records import BookSnapshot, Quote, Record, Trade, pack_levels
from cmd_common.testing.harness import ConformanceCase, ParserCase

NOW = 1_767_225_600_000_000_000
MS = 1_767_225_599_990
SECOND = 1_000_000_000
SYMBOLS = {
    "bybit-spot": {"BTCUSDT": ("BTC", "USDT"), "ETHBTC": ("ETH", "BTC")},
    "bybit-linear": {"BTCUSDT": ("BTC", "USDT"), "BTCPERP": ("BTC", "USDC"), "ETHUSDT-26DEC26": ("ETH", "USDT")},
}


def dumps(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def instrument_row(exchange: BybitExchange, symbol: str, base: str, quote: str) -> dict[str, Any]:
    row: dict[str, Any] = {"symbol": symbol, "baseCoin": base, "quoteCoin": quote, "status": "Trading"}
    if exchange is SPOT:
        row["lotSizeFilter"] = {
            "basePrecision": "0.000001", "quotePrecision": "0.0000001", "minOrderQty": "0.000011",
            "maxOrderQty": "83", "minOrderAmt": "5", "maxOrderAmt": "8000000",
        }  # fmt: skip
        row["priceFilter"] = {"tickSize": "0.01"}
        return row
    dated = "-" in symbol
    row["contractType"] = "LinearFutures" if dated else "LinearPerpetual"
    row["deliveryTime"] = "1798272000000" if dated else "0"
    row["settleCoin"] = quote
    row["lotSizeFilter"] = {"maxOrderQty": "1190", "minOrderQty": "0.001", "qtyStep": "0.001", "minNotionalValue": "5"}
    row["priceFilter"] = {"minPrice": "0.10", "maxPrice": "1999999.80", "tickSize": "0.10"}
    return row


def instruments_body(exchange: BybitExchange, rows: Sequence[dict[str, Any]] | None = None, cursor: str = "") -> bytes:
    if rows is None:
        rows = [instrument_row(exchange, s, *pair) for s, pair in SYMBOLS[exchange.venue].items()]
    result: dict[str, Any] = {"category": exchange.market.category, "list": list(rows)}
    if exchange is LINEAR:
        result["nextPageCursor"] = cursor
    return dumps({"retCode": 0, "retMsg": "OK", "result": result, "retExtInfo": {}, "time": MS}).encode()


def book(symbol: str, kind: str, u: int, bids: Any, asks: Any, *, depth: int = 1000, ts: int = MS) -> str:
    data = {"s": symbol, "b": bids, "a": asks, "u": u, "seq": 7_961_638_000 + u}
    return dumps({"topic": f"orderbook.{depth}.{symbol}", "ts": ts + 8, "type": kind, "data": data, "cts": ts})


def trade_row(symbol: str, id_: str, side: str, price: str, quantity: str, ts: int, **more: Any) -> dict[str, Any]:
    return {"i": id_, "T": ts, "p": price, "v": quantity, "S": side, "s": symbol, "BT": False, "RPI": False} | more


def trades(symbol: str, *rows: dict[str, Any]) -> str:
    return dumps({"topic": f"publicTrade.{symbol}", "ts": MS + 3, "type": "snapshot", "data": rows})


def kline(symbol: str, interval: str, start: int, *, confirm: bool, ts: int = MS, **more: Any) -> str:
    row: dict[str, Any] = {
        "start": start, "end": start + 59_999, "interval": interval, "open": "100.0", "close": "101.5", "high": "102.0",
        "low": "99.0", "volume": "12.5", "turnover": "1250.25", "confirm": confirm, "timestamp": ts - 5,
    }  # fmt: skip
    return dumps({"topic": f"kline.{interval}.{symbol}", "data": [row | more], "ts": ts, "type": "snapshot"})


def ack(text: str, *, spot: bool, why: str = "") -> list[str]:
    """Answer a frame of ours; ``why`` refuses it. Spot and linear differ in ``ret_msg``."""
    frame = json.loads(text)
    said = why or ("pong" if frame["op"] == "ping" else frame["op"] if spot else "")
    head = {"success": not why, "ret_msg": said, "conn_id": "d30fdpbboasp1pjbe7r0-6bpk2"}
    return [dumps({**head, "req_id": frame.get("req_id", ""), "op": frame["op"]})]


def seeds(text: str) -> list[str]:
    """The symbols whose book a frame of ours subscribes."""
    frame = json.loads(text)
    topics = frame["args"] if frame["op"] == "subscribe" else []
    return [topic.split(".", 2)[2] for topic in topics if topic.startswith("orderbook.1000.")]


def case(exchange: BybitExchange) -> ConformanceCase:
    venue = exchange.venue
    spot = exchange is SPOT
    a, b = list(SYMBOLS[venue])[:2]
    start = {a: 1000, b: 5000}

    def ns(offset: int) -> int:
        return (MS + offset) * 1_000_000

    def changes(n: int) -> tuple[list[list[str]], list[list[str]]]:
        bids = [[f"{99 - n % 7}.50", f"{n % 5}.000" if n % 5 else "0"], ["90.00", f"{n}.000"]]
        return bids, [[f"{101 + n % 7}.25", f"{(n + 2) % 5}.000"], ["120.00", f"{n}.500"]]

    def depth(symbol: str, n: int) -> str:
        return book(symbol, "delta", start[symbol] + n, *changes(n), ts=MS + n)

    def snapshot(symbol: str, n: int) -> str:
        sides: tuple[dict[str, str], dict[str, str]] = ({"99.00": "5.000"}, {"101.00": "5.000"})
        for k in range(1, n + 1):
            for side, levels in zip(sides, changes(k), strict=True):
                side.update(dict(levels))  # type: ignore[arg-type]
        bids = sorted(([p, q] for p, q in sides[0].items() if float(q)), key=lambda x: -float(x[0]))
        asks = sorted(([p, q] for p, q in sides[1].items() if float(q)), key=lambda x: float(x[0]))
        return book(symbol, "snapshot", start[symbol] + n, bids, asks, ts=MS + n)

    def name(n: int) -> str:
        return str(2_290_000_000_061_666_300 + 7 * n) if spot else str(UUID(int=(0xF7496ECB << 96) + n))

    def trade(symbol: str, n: int) -> str:
        side = "Sell" if n % 2 == 0 else "Buy"
        return trades(symbol, trade_row(symbol, name(n), side, "100.25", "0.500", MS + n))

    def seq(n: int) -> int | None:
        return int(name(n)) if spot else None

    def with_unknown_field(text: str) -> str:
        outer = json.loads(text)
        inner = outer["data"][0] if isinstance(outer["data"], list) else outer["data"]
        inner["newKey"] = {"nested": [1, "x"]}
        return dumps(outer)

    bids, asks = [(99.0, 5.0)], [(101.0, 5.0)]
    first = book(a, "snapshot", 77, [["99.00", "5"]], [["101.00", "5"]], depth=1, ts=MS + 2)
    parsers: list[tuple[str, str, tuple[Record, ...]]] = [
        ("buy", trade(a, 1), (Trade(ns(1), NOW, venue, a, name(1), seq(1), 100.25, 0.5, "buy"),)),
        ("sell", trade(b, 2), (Trade(ns(2), NOW, venue, b, name(2), seq(2), 100.25, 0.5, "sell"),)),
        ("quote", first, (Quote(ns(2), NOW, venue, a, 77, 99.0, 5.0, 101.0, 5.0),)),
        (
            "book",
            snapshot(a, 0),
            (BookSnapshot(ns(0), NOW, venue, a, start[a], start[a], 1, 1, pack_levels(bids), pack_levels(asks)),),
        ),
    ]
    unified = {"BTCUSDT": "BTC-USDT", "ETHBTC": "ETH-BTC"}
    if not spot:
        unified = {"BTCUSDT": "BTC-USDT-PERP", "BTCPERP": "BTC-USDC-PERP", "ETHUSDT-26DEC26": "ETH-USDT-20261226"}
    return ConformanceCase(
        exchange=exchange,
        now=NOW,
        instruments=instruments_body(exchange),
        unified=unified,
        symbols=(a, b),
        parsers=tuple(ParserCase(*p) for p in parsers),
        answer=lambda text: ack(text, spot=spot),
        refusal=lambda text: ack(text, spot=spot, why="Params Error"),
        depth=depth,
        snapshot=snapshot,
        trade=trade,
        trade_id=lambda symbol, n: n,
        with_unknown_field=with_unknown_field,
        unknown_event=dumps({"topic": f"novelty.{a}", "ts": MS, "data": {"x": 1}}),
        snapshot_in_stream=True,
        seeds=seeds,
        trade_ids=False,
    )


CASES = {exchange.venue: case(exchange) for exchange in (SPOT, LINEAR)}

"""How the emulator writes OKX's messages, rows, reference data and bulk files. Shapes: docs/exchanges/okx.md#channels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final

import msgspec

from cmd_common.venue_market import trim, zip_bytes
from cmd_common.venue_world import BookChange, BookView, CandleUpdate, Level, Listed, Quote, Trade

__all__ = [
    "book_row",
    "bulk_file",
    "candle_row",
    "data_frame",
    "instrument_row",
    "levels",
    "ms",
    "quote_row",
    "ticker_row",
    "trade_row",
]

_HEADERS: Final = (
    "instrument_name,trade_id,side,price,size,created_time",
    "instrument_name,trade_id,side,price,size,created_time,source",
    "trade_id/撮合id,side/交易方向,size/数量,price/价格,created_time/成交时间",  # GBK
)


def ms(ns: int) -> str:
    """Write a time."""
    return str(ns // 1_000_000)


def data_frame(channel: str, symbol: str, rows: Sequence[Any], action: str = "") -> str:
    """Write a data frame."""
    frame: dict[str, Any] = {"arg": {"channel": channel, "instId": symbol}}
    if action:
        frame["action"] = action
    return msgspec.json.encode({**frame, "data": rows}).decode()


def levels(side: Iterable[Level]) -> list[list[str]]:
    """Write levels: price, size, a retired field, number of orders."""
    return [
        [trim(price), size, "0", "0" if size == "0" else "1"] for price, size in ((p, trim(q)) for p, q in side)
    ]  # fmt: skip


def book_row(event: BookChange | BookView, previous: int | None, limit: int | None = None) -> dict[str, Any]:
    """Write a row of a book channel; ``previous`` None: a channel of whole books."""
    row: dict[str, Any] = {
        "asks": levels(event.asks[:limit]),
        "bids": levels(event.bids[:limit]),
        "ts": ms(event.ts),
    }
    if previous is None:
        return {**row, "seqId": event.last_id}
    return {**row, "checksum": 0, "seqId": event.last_id, "prevSeqId": previous}


def trade_row(trade: Trade, *, count: bool) -> dict[str, Any]:
    """Write a row of ``trades`` (with ``count``) or ``trades-all``."""
    row: dict[str, Any] = {
        "instId": trade.symbol,
        "tradeId": trade.name or str(trade.id),
        "px": trim(trade.price),
        "sz": trim(trade.quantity),
        "side": trade.side,
        "ts": ms(trade.ts),
    }
    if count:
        row["count"] = "1"
    return {**row, "source": "0", "seqId": trade.id}


def quote_row(quote: Quote) -> dict[str, Any]:
    """Write a row of ``bbo-tbt``."""
    bid, ask = [(quote.bid, quote.bid_quantity)], [(quote.ask, quote.ask_quantity)]
    return {"asks": levels(ask), "bids": levels(bid), "ts": ms(quote.ts), "seqId": quote.id}


def ticker_row(quote: Quote, listed: Listed) -> dict[str, Any]:
    """Write a row of ``tickers``; statistics of the day are not emulated and empty."""
    return {
        "instType": _type_of(listed),
        "instId": quote.symbol,
        "last": "",
        "lastSz": "",
        "askPx": trim(quote.ask),
        "askSz": trim(quote.ask_quantity),
        "bidPx": trim(quote.bid),
        "bidSz": trim(quote.bid_quantity),
        "open24h": "",
        "high24h": "",
        "low24h": "",
        "sodUtc0": "",
        "sodUtc8": "",
        "volCcy24h": "",
        "vol24h": "",
        "ts": ms(quote.ts),
    }


def candle_row(candle: CandleUpdate, listed: Listed) -> list[str]:
    """Write a candle: volumes in contracts (spot: base asset), in the currency, in the quote asset."""
    volume, amount = trim(candle.volume), trim(candle.amount)
    if listed.contract_size is None:
        in_currency = in_quote = amount
    else:
        worth = _plain(Decimal(candle.volume) * listed.contract_size)
        # What the world calls amount is the base quantity of inverse contracts, the quote quantity else.
        in_currency, in_quote = (amount, worth) if listed.inverse else (worth, amount)
    prices = [trim(p) for p in (candle.open, candle.high, candle.low, candle.close)]
    return [ms(candle.open_time), *prices, volume, in_currency, in_quote, "1" if candle.closed else "0"]


def _plain(value: Decimal) -> str:
    return trim(format(value, "f"))


def _type_of(listed: Listed) -> str:
    return {"spot": "SPOT", "perpetual": "SWAP", "future": "FUTURES"}.get(listed.kind, "OPTION")


def instrument_row(listed: Listed) -> dict[str, str]:
    """Write a row of the reference data."""
    row = dict.fromkeys(
        ("alias", "baseCcy", "category", "ctMult", "ctType", "ctVal", "ctValCcy", "expTime", "instFamily", "instId",
         "instType", "lever", "listTime", "lotSz", "maxIcebergSz", "maxLmtSz", "maxMktSz", "minSz", "optType", "quoteCcy",
         "ruleType", "settleCcy", "state", "stk", "tickSz", "uly"), ""
    )  # fmt: skip
    lot = _plain(Decimal(listed.lot))
    row |= {"instId": listed.symbol, "instType": _type_of(listed), "tickSz": _plain(Decimal(listed.tick))}
    row |= {"lotSz": lot, "minSz": lot, "state": "live", "ruleType": "normal", "listTime": "1548133413000"}
    if listed.contract_size is None:
        return {**row, "baseCcy": listed.base, "quoteCcy": listed.quote}
    family = f"{listed.base}-{listed.quote}"
    row |= {"uly": family, "instFamily": family, "ctVal": _plain(listed.contract_size), "ctMult": "1"}
    row |= {
        "ctType": "inverse" if listed.inverse else "linear",
        "ctValCcy": listed.quote if listed.inverse else listed.base,
        "settleCcy": listed.base if listed.inverse else listed.quote,
    }
    if listed.kind == "future":
        end = datetime.strptime(listed.symbol.rpartition("-")[2], "%y%m%d").replace(hour=8, tzinfo=UTC)
        row["expTime"] = str(int(end.timestamp()) * 1000)
    return row


def bulk_file(symbol: str, day: date, trades: Iterable[Trade], form: int) -> bytes:
    """Write a zip of trades: ``form`` 0 is the header of today, 1 with ``source``, 2 the older bilingual one."""
    header = _HEADERS[form]
    lines = [header]
    for t in trades:
        id_, price, size, time = t.name or str(t.id), trim(t.price), trim(t.quantity), ms(t.ts)
        if form == 2:
            lines.append(f"{id_},{t.side},{size},{price},{time}")
        else:
            lines.append(f"{symbol},{id_},{t.side},{price},{size},{time}" + (",0" if form == 1 else ""))
    text = "\n".join(lines) + "\n"
    return zip_bytes(f"{symbol}-trades-{day.isoformat()}.csv", text.encode("gbk" if form == 2 else "utf-8"))

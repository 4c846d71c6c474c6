"""All trades of a recording, for the archive, REST and derived candles; read in one pass when first asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from cmd_common.candles import interval_bounds
from cmd_common.recording import Line
from cmd_common.simulation import MarketTrade

from ._emulator_frames import AGG, KLINE, TRADE, AggFrame, Trade, decimals_of, scaled, split_frame
from ._emulator_market import Agg, Bar, Numbers, aggregate
from ._emulator_world import Listed, split_stream
from .instruments import Market, to_ns

__all__ = ["History", "load_history"]


class History(Struct):
    """All trades of a symbol, by id, and what was recorded of the derived types."""

    numbers: Numbers
    trades: list[MarketTrade]
    aggs: list[Agg]
    bars: dict[str, list[Bar]]


def load_history(market: Market, lines: Iterable[tuple[int, Line]], listed: Sequence[Listed]) -> dict[str, History]:
    """Collect trades, aggregate trades and candles of each symbol; repeated ids count once.

    Aggregate trades that were not recorded are joined from trades and numbered from the first trade's id.
    """
    trades: dict[str, dict[int, Trade]] = {s.symbol: {} for s in listed}
    aggs: dict[str, dict[int, AggFrame]] = {s.symbol: {} for s in listed}
    klines: dict[str, dict[tuple[str, int], dict[str, Any]]] = {s.symbol: {} for s in listed}
    for _, line in lines:
        split = split_frame(line.text) if line.src == "ws" else None
        if split is None:
            continue
        symbol, kind, _ = split_stream(split[0])
        try:
            if kind == "trade":
                trade = TRADE.decode(split[1])
                trades[symbol].setdefault(trade.t, trade)
            elif kind == "aggTrade":
                agg = AGG.decode(split[1])
                aggs[symbol].setdefault(agg.a, agg)
            elif kind.startswith("kline_") and "@" not in kind:
                k = KLINE.decode(split[1]).k
                klines[symbol][k["i"], int(k["t"])] = k
        except (msgspec.DecodeError, KeyError, UnicodeDecodeError):
            continue
    return {s.symbol: _make(market, s.symbol, trades[s.symbol], aggs[s.symbol], klines[s.symbol], s) for s in listed}


def _make(
    market: Market,
    symbol: str,
    trades: dict[int, Trade],
    aggs: dict[int, AggFrame],
    klines: dict[tuple[str, int], dict[str, Any]],
    entry: Listed,
) -> History:
    prices = [t.p for t in trades.values()] + [a.p for a in aggs.values()] + [k["c"] for k in klines.values()]
    quantities = [t.q for t in trades.values()] + [a.q for a in aggs.values()] + [k["v"] for k in klines.values()]
    pd = max((decimals_of(p) for p in prices), default=decimals_of(entry.tick))
    qd = max((decimals_of(q) for q in quantities), default=decimals_of(entry.lot))
    numbers = Numbers(market, pd, qd, entry.contract_size)
    made = [
        MarketTrade(symbol, i, to_ns(t.T), scaled(t.p, pd), scaled(t.q, qd), t.m) for i, t in sorted(trades.items())
    ]
    if aggs:
        joined = [Agg(i, to_ns(a.T), scaled(a.p, pd), scaled(a.q, qd), a.f, a.l, a.m) for i, a in sorted(aggs.items())]
    else:
        joined = aggregate(made, made[0].id) if made else []
    bars: dict[str, list[Bar]] = {}
    for (interval, _), k in sorted(klines.items(), key=lambda item: item[0][1]):
        ad = numbers.amount_decimals
        bars.setdefault(interval, []).append(
            Bar(
                to_ns(int(k["t"])),
                interval_bounds(to_ns(int(k["t"])), interval)[1],
                scaled(k["o"], pd),
                scaled(k["h"], pd),
                scaled(k["l"], pd),
                scaled(k["c"], pd),
                first_id=int(k["f"]),
                last_id=int(k["L"]),
                volume=scaled(k["v"], qd),
                amount=scaled(k["q"], ad),
                count=int(k["n"]),
                buy_volume=scaled(k["V"], qd),
                buy_amount=scaled(k["Q"], ad),
            )
        )
    return History(numbers, made, joined, bars)

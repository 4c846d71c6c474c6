"""Binance's texts of simulated and derived market messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cmd_common.simulation import MarketDepth, MarketQuote, MarketTrade

from ._emulator_market import Agg, KlineUpdate, Numbers
from ._emulator_simulation import Partial
from .instruments import Market

__all__ = ["Texts"]


class Texts:
    """Encodes events of one market; ``unit`` is ns a time unit: 1000 for us, 1000000 for ms."""

    def __init__(self, market: Market) -> None:
        self._spot = market.name == "spot"
        self._coin = market.name == "coinm"

    def data(self, event: Any, symbol: str, numbers: Numbers, unit: int) -> str:
        """Return the event as JSON text."""
        if isinstance(event, MarketTrade):
            return self._trade(event, numbers, unit)
        if isinstance(event, MarketQuote):
            return self._quote(event, numbers, unit)
        if isinstance(event, MarketDepth):
            return self._depth(event, numbers, unit)
        if isinstance(event, Agg):
            return self._agg(event, symbol, numbers, unit)
        if isinstance(event, KlineUpdate):
            return self._kline(event, symbol, numbers, unit)
        assert isinstance(event, Partial)
        return self._partial(event, numbers, unit)

    def _pair(self, symbol: str) -> str:
        return f'"ps":"{symbol.partition("_")[0]}",' if self._coin else ""

    def _trade(self, t: MarketTrade, numbers: Numbers, unit: int) -> str:
        ts, maker = t.ts // unit, "true" if t.buyer_maker else "false"
        price, quantity = numbers.price(t.price), numbers.quantity(t.quantity)
        if self._spot:
            return (
                f'{{"e":"trade","E":{ts},"s":"{t.symbol}","t":{t.id},"p":"{price}","q":"{quantity}",'
                f'"T":{ts},"m":{maker},"M":true}}'
            )
        return (
            f'{{"e":"trade","E":{ts},"T":{ts},"s":"{t.symbol}","t":{t.id},"p":"{price}","q":"{quantity}",'
            f'"X":"MARKET","m":{maker}}}'
        )

    def _agg(self, a: Agg, symbol: str, numbers: Numbers, unit: int) -> str:
        ts, maker = a.ts // unit, "true" if a.buyer_maker else "false"
        tail = ',"M":true' if self._spot else ""
        return (
            f'{{"e":"aggTrade","E":{ts},"s":"{symbol}","a":{a.id},"p":"{numbers.price(a.price)}",'
            f'"q":"{numbers.quantity(a.quantity)}","f":{a.first_id},"l":{a.last_id},"T":{ts},"m":{maker}{tail}}}'
        )

    def _quote(self, q: MarketQuote, numbers: Numbers, unit: int) -> str:
        best = (
            f'"s":"{q.symbol}",{self._pair(q.symbol)}"b":"{numbers.price(q.bid)}",'
            f'"B":"{numbers.quantity(q.bid_quantity)}","a":"{numbers.price(q.ask)}","A":"{numbers.quantity(q.ask_quantity)}"'
        )
        if self._spot:
            return f'{{"u":{q.update_id},{best}}}'
        ts = q.ts // unit
        return f'{{"e":"bookTicker","u":{q.update_id},{best},"T":{ts},"E":{ts}}}'

    @staticmethod
    def _side(levels: Iterable[tuple[int, int]], numbers: Numbers) -> str:
        return ",".join([f'["{numbers.price(p)}","{numbers.quantity(q)}"]' for p, q in levels])

    def _depth(self, d: MarketDepth, numbers: Numbers, unit: int) -> str:
        bids, asks, ts = self._side(d.bids, numbers), self._side(d.asks, numbers), d.ts // unit
        if self._spot:
            return (
                f'{{"e":"depthUpdate","E":{ts},"s":"{d.symbol}","U":{d.first_id},"u":{d.last_id},'
                f'"b":[{bids}],"a":[{asks}]}}'
            )
        return (
            f'{{"e":"depthUpdate","E":{ts},"T":{ts},"s":"{d.symbol}",{self._pair(d.symbol)}"U":{d.first_id},'
            f'"u":{d.last_id},"pu":{d.prev_id},"b":[{bids}],"a":[{asks}]}}'
        )

    def _partial(self, p: Partial, numbers: Numbers, unit: int) -> str:
        bids, asks, ts = self._side(p.bids, numbers), self._side(p.asks, numbers), p.ts // unit
        if self._spot:
            return f'{{"lastUpdateId":{p.last_id},"bids":[{bids}],"asks":[{asks}]}}'
        return (
            f'{{"e":"depthUpdate","E":{ts},"T":{ts},"s":"{p.symbol}",{self._pair(p.symbol)}"U":{p.last_id},'
            f'"u":{p.last_id},"pu":{p.prev_id},"b":[{bids}],"a":[{asks}]}}'
        )

    def _kline(self, update: KlineUpdate, symbol: str, numbers: Numbers, unit: int) -> str:
        bar, price = update.bar, numbers.price
        return (
            f'{{"e":"kline","E":{update.ts // unit},"s":"{symbol}","k":{{"t":{bar.open_time // unit},'
            f'"T":{bar.close_time // unit - 1},"s":"{symbol}","i":"{update.interval}","f":{bar.first_id},"L":{bar.last_id},'
            f'"o":"{price(bar.open)}","c":"{price(bar.close)}","h":"{price(bar.high)}","l":"{price(bar.low)}",'
            f'"v":"{numbers.quantity(bar.volume)}","n":{bar.count},"x":{"true" if update.closed else "false"},'
            f'"q":"{numbers.amount_text(bar.amount)}","V":"{numbers.quantity(bar.buy_volume)}",'
            f'"Q":"{numbers.amount_text(bar.buy_amount)}","B":"0"}}}}'
        )

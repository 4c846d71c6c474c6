"""Binance's REST interface as the emulator serves it: same paths, weights, limits, errors and texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec

from cmd_common.emulation_base import json_response
from cmd_common.faults import Injector
from cmd_common.http import HttpResponse
from cmd_common.simulation import MarketTrade

from ._emulator_market import Agg, Bar, Numbers
from ._emulator_world import BinanceWorld, Listed, Snapshot
from .instruments import Market, to_ns
from .rest import weight_of

__all__ = ["EmulatedRest"]

_MINUTE: Final = 60_000_000_000
_BAN: Final = 2 * _MINUTE
_PATIENCE: Final = 20  # refused requests of a minute until the address is banned
_FUTURES_DEPTHS: Final = (5, 10, 20, 50, 100, 500, 1000)
_NUMBER: Final = re.compile(r"[0-9]{1,20}")
_JSON: Final = msgspec.json.Encoder()


class _Refusal(Exception):
    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.response = json_response({"code": code, "msg": message}, status)


class EmulatedRest:
    """Answers ``/api/v3``, ``/fapi/v1`` or ``/dapi/v1`` requests of one market."""

    def __init__(self, market: Market, world: BinanceWorld, injector: Injector, *, waits: Any) -> None:
        """``waits(symbol)`` says whether a depth request must wait for its recorded snapshot."""
        self._market = market
        self._world = world
        self._injector = injector
        self._waits = waits
        self._minute = 0
        self._used = 0
        self._refused = 0
        self._banned_until = 0
        self._endpoints = {
            "ping": self._ping,
            "time": self._time,
            "exchangeInfo": self._exchange_info,
            "depth": self._depth,
            "trades": self._trades,
            "historicalTrades": self._historical,
            "aggTrades": self._aggs,
            "klines": self._klines,
        }

    def handles(self, path: str) -> bool:
        """Whether a path belongs to the REST interface."""
        return path.startswith(self._market.prefix + "/")

    def respond(self, path: str, query: str, headers: Mapping[str, str], now: int) -> HttpResponse | str:
        """Answer, or return the symbol whose book must be waited for."""
        name = path.removeprefix(self._market.prefix + "/")
        handler = self._endpoints.get(name)
        if handler is None:
            return HttpResponse(
                404, b"<html><body>404 Not found</body></html>", {"content-type": "text/html"}, "Not Found"
            )
        refused = self._limits(path, self._weight(name, query), self._one(query, "symbol"), now)
        if refused is not None:
            return refused
        return self.answer(path, query, headers)

    def answer(self, path: str, query: str, headers: Mapping[str, str]) -> HttpResponse | str:
        """Answer a request whose weight was counted."""
        handler = self._endpoints[path.removeprefix(self._market.prefix + "/")]
        unit = 1_000_000
        if self._market.name == "spot":
            wanted = next((v for k, v in headers.items() if k.lower() == "x-mbx-time-unit"), "")
            unit = 1_000 if wanted.upper() == "MICROSECOND" else unit
        try:
            result = handler(query, unit)
        except _Refusal as refusal:
            result = refusal.response
        if isinstance(result, str):
            return result
        return HttpResponse(result.status, result.body, {**result.headers, **self._used_header()}, result.reason)

    def timeout(self) -> HttpResponse:
        """The answer when a book does not come in time."""
        message = "Timeout waiting for response from backend server. Send status unknown; execution status unknown."
        return json_response({"code": -1007, "msg": message}, 408, self._used_header())

    # Limits

    def _used_header(self) -> dict[str, str]:
        used = str(self._used)
        return {"x-mbx-used-weight": used, "x-mbx-used-weight-1m": used}

    def _weight(self, name: str, query: str) -> int:
        market = self._market
        given = self._one(query, "limit")
        limit = int(given) if _NUMBER.fullmatch(given) else 0
        if name == "depth":
            return weight_of(market.depth_weights, limit or (100 if market.name == "spot" else 500))
        if name == "klines":
            return weight_of(market.kline_weights, limit or 500)
        return {
            "exchangeInfo": market.exchange_info_weight,
            "trades": market.trades_weight,
            "historicalTrades": market.historical_trades_weight,
            "aggTrades": market.agg_trades_weight,
        }.get(name, 1)

    def _limits(self, path: str, weight: int, symbol: str, now: int) -> HttpResponse | None:
        if now // _MINUTE != self._minute:
            self._minute, self._used, self._refused = now // _MINUTE, 0, 0
        self._used += weight
        plan = self._injector.rest(path, symbol.upper())
        if plan is not None:
            self._injector.log(plan.kind, path=path, symbol=symbol)
            if plan.kind == "ban":
                return self._banned(now, now + max(plan.ms * 1_000_000, 1_000_000_000))
            return self._too_many(now, max(1, plan.ms // 1000))
        if now < self._banned_until:
            return self._banned(now, self._banned_until)
        if self._used > self._market.weight_per_minute:
            self._refused += 1
            if self._refused > _PATIENCE:
                self._banned_until = now + _BAN
                return self._banned(now, self._banned_until)
            return self._too_many(now, (_MINUTE - now % _MINUTE) // 1_000_000_000 + 1)
        return None

    def _too_many(self, now: int, seconds: int) -> HttpResponse:
        message = (
            f"Too much request weight used; current limit is {self._market.weight_per_minute} request weight per 1 MINUTE."
            " Please use WebSocket Streams for live updates to avoid polling the API."
        )
        headers = {**self._used_header(), "retry-after": str(seconds)}
        return json_response({"code": -1003, "msg": message}, 429, headers)

    def _banned(self, now: int, until: int) -> HttpResponse:
        message = (
            f"Way too much request weight used; IP banned until {until // 1_000_000}."
            " Please use WebSocket Streams for live updates to avoid bans."
        )
        headers = {**self._used_header(), "retry-after": str(max(1, (until - now) // 1_000_000_000))}
        return json_response({"code": -1003, "msg": message}, 418, headers)

    # Parameters

    @staticmethod
    def _one(query: str, name: str) -> str:
        return (parse_qs(query).get(name) or [""])[0]

    def _symbol(self, query: str) -> str:
        symbol = self._one(query, "symbol")
        if not symbol:
            raise _Refusal(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
        if symbol not in self._world.symbols:
            raise _Refusal(-1121, "Invalid symbol.")
        return symbol

    def _number(self, query: str, name: str) -> int | None:
        text = self._one(query, name)
        if not text:
            return None
        if not _NUMBER.fullmatch(text):
            raise _Refusal(-1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.")
        return int(text)

    def _limit(self, query: str, default: int, most: int) -> int:
        limit = self._number(query, "limit")
        if limit is None:
            return default
        if limit == 0:
            raise _Refusal(-1130, "Data sent for parameter 'limit' is not valid.")
        return min(limit, most)

    # Endpoints

    def _ping(self, query: str, unit: int) -> HttpResponse:
        return json_response(b"{}")

    def _time(self, query: str, unit: int) -> HttpResponse:
        return json_response({"serverTime": self._world.clock // unit})

    def _exchange_info(self, query: str, unit: int) -> HttpResponse:
        wanted: list[str] | None = None
        if self._market.name == "spot":
            if symbol := self._one(query, "symbol"):
                wanted = [symbol]
            elif many := self._one(query, "symbols"):
                try:
                    wanted = msgspec.json.decode(many, type=list[str])
                except (msgspec.DecodeError, UnicodeDecodeError):
                    raise _Refusal(-1100, "Illegal characters found in parameter 'symbols'.") from None
        if self._world.exchange_info is not None:
            if wanted is None:
                return json_response(self._world.exchange_info)
            info = msgspec.json.decode(self._world.exchange_info)
        else:
            info = self._derived_info(unit)
        if wanted is not None:
            by_name = {s["symbol"]: s for s in info["symbols"]}
            if any(name not in by_name for name in wanted):
                raise _Refusal(-1121, "Invalid symbol.")
            info["symbols"] = [by_name[name] for name in wanted]
        return json_response(info)

    def _derived_info(self, unit: int) -> dict[str, Any]:
        limit = {
            "rateLimitType": "REQUEST_WEIGHT",
            "interval": "MINUTE",
            "intervalNum": 1,
            "limit": self._market.weight_per_minute,
        }
        info: dict[str, Any] = {"timezone": "UTC", "serverTime": self._world.clock // unit}
        if self._market.futures:
            info["futuresType"] = "U_MARGINED" if self._market.name == "usdm" else "COIN_MARGINED"
        info.update(rateLimits=[limit], exchangeFilters=[], symbols=[self._describe(s) for s in self._world.listed()])
        return info

    def _describe(self, s: Listed) -> dict[str, Any]:
        filters: list[dict[str, Any]] = [
            {"filterType": "PRICE_FILTER", "minPrice": s.tick, "maxPrice": "1000000", "tickSize": s.tick},
            {"filterType": "LOT_SIZE", "minQty": s.lot, "maxQty": "9000000", "stepSize": s.lot},
        ]
        if not self._market.futures:
            filters = [{k: _eight(v) if k != "filterType" else v for k, v in f.items()} for f in filters]
            filters.append(
                {"filterType": "NOTIONAL", "minNotional": "5.00000000", "applyMinToMarket": True,
                 "maxNotional": "9000000.00000000", "applyMaxToMarket": False, "avgPriceMins": 5}
            )  # fmt: skip
            return {
                "symbol": s.symbol,
                "status": "TRADING",
                "baseAsset": s.base,
                "baseAssetPrecision": 8,
                "quoteAsset": s.quote,
                "quotePrecision": 8,
                "quoteAssetPrecision": 8,
                "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET"],
                "isSpotTradingAllowed": True,
                "filters": filters,
                "permissions": [],
                "permissionSets": [["SPOT"]],
            }
        pair, _, tail = s.symbol.partition("_")
        coin = self._market.name == "coinm"
        dated = tail.isdigit() and len(tail) == 6
        result: dict[str, Any] = {
            "symbol": s.symbol,
            "pair": pair,
            "contractType": "CURRENT_QUARTER" if dated else "PERPETUAL",
            "deliveryDate": _delivery(tail) if dated else 4_133_404_800_000,
            "onboardDate": 1_569_398_400_000,
            "contractStatus" if coin else "status": "TRADING",
            "baseAsset": s.base,
            "quoteAsset": s.quote,
            "marginAsset": s.base if coin else s.quote,
            "pricePrecision": len(s.tick.partition(".")[2]),
            "quantityPrecision": len(s.lot.partition(".")[2]),
            "baseAssetPrecision": 8,
            "quotePrecision": 8,
            "underlyingType": "COIN",
            "filters": filters,
        }
        if coin:
            result["contractSize"] = s.contract_size
        else:
            filters.append({"filterType": "MIN_NOTIONAL", "notional": "5"})
        return result

    def _depth(self, query: str, unit: int) -> HttpResponse | str:
        symbol = self._symbol(query)
        if self._market.futures:
            limit = self._number(query, "limit")
            if limit is None:
                limit = 500
            elif limit not in _FUTURES_DEPTHS:
                raise _Refusal(-4021, f"{limit} is not valid depth limit.")
        else:
            limit = self._limit(query, 100, 5000)
        if self._world.book_known(symbol):
            return self._book(symbol, self._world.snapshot(symbol, limit))
        if not self._world.book_possible(symbol):
            raise _Refusal(-1008, f"The recording holds no book snapshot of {symbol}.", 503)
        if self._waits(symbol):
            return symbol
        return self._book(symbol, self._world.first_snapshot(symbol, limit))

    def _book(self, symbol: str, book: Snapshot) -> HttpResponse:
        head = f'{{"lastUpdateId":{book.last_id},'
        if self._market.futures:
            ts = book.ts // 1_000_000
            head += f'"E":{ts},"T":{ts},'
            if self._market.name == "coinm":
                head += f'"symbol":"{symbol}","pair":"{symbol.partition("_")[0]}",'
        bids, asks = _JSON.encode(book.bids).decode(), _JSON.encode(book.asks).decode()
        return json_response(f'{head}"bids":{bids},"asks":{asks}}}'.encode())

    def _trades(self, query: str, unit: int) -> HttpResponse:
        symbol = self._symbol(query)
        return self._rows(symbol, self._world.latest_trades(symbol, self._limit(query, 500, 1000)), unit)

    def _historical(self, query: str, unit: int) -> HttpResponse:
        symbol, limit = self._symbol(query), self._limit(query, 500, 1000)
        first = self._number(query, "fromId")
        if first is None:
            return self._rows(symbol, self._world.latest_trades(symbol, limit), unit)
        return self._rows(symbol, self._world.trades_from(symbol, first, limit), unit)

    def _rows(self, symbol: str, trades: Iterable[MarketTrade], unit: int) -> HttpResponse:
        numbers = self._world.numbers(symbol)
        amount = "baseQty" if self._market.name == "coinm" else "quoteQty"
        best = {} if self._market.futures else {"isBestMatch": True}
        rows = [
            {
                "id": t.id,
                "price": numbers.price(t.price),
                "qty": numbers.quantity(t.quantity),
                amount: numbers.amount_text(numbers.amount(t.price, t.quantity)),
                "time": t.ts // unit,
                "isBuyerMaker": t.buyer_maker,
                **best,
            }
            for t in trades
        ]
        return json_response(rows)

    def _aggs(self, query: str, unit: int) -> HttpResponse:
        symbol, limit = self._symbol(query), self._limit(query, 500, 1000)
        first, start, end = (self._number(query, name) for name in ("fromId", "startTime", "endTime"))
        if first is not None and (start is not None or end is not None) and self._market.futures:
            raise _Refusal(-1128, "Combination of optional parameters invalid.")
        if self._market.futures and start is not None and end is not None and to_ns(end) - to_ns(start) > 60 * _MINUTE:
            raise _Refusal(-1127, "More than 1 hours between startTime and endTime.")
        aggs: list[Agg]
        if first is not None:
            aggs = self._world.aggs_from(symbol, first, limit)
        elif start is not None or end is not None:
            # Both ends are inclusive, in the unit that they were given in.
            stop = (to_ns(end) + (999 if end >= 10**14 else 999_999)) if end is not None else 1 << 62
            begin = to_ns(start) if start is not None else max(0, stop - 60 * _MINUTE)
            aggs = self._world.aggs_between(symbol, begin, stop, limit)
        else:
            aggs = self._world.latest_aggs(symbol, limit)
        numbers = self._world.numbers(symbol)
        best = {} if self._market.futures else {"M": True}
        rows = [
            {
                "a": a.id,
                "p": numbers.price(a.price),
                "q": numbers.quantity(a.quantity),
                "f": a.first_id,
                "l": a.last_id,
                "T": a.ts // unit,
                "m": a.buyer_maker,
                **best,
            }
            for a in aggs
        ]
        return json_response(rows)

    def _klines(self, query: str, unit: int) -> HttpResponse:
        symbol = self._symbol(query)
        limit = self._limit(query, 500, 1500 if self._market.futures else 1000)
        interval = self._one(query, "interval")
        if not interval:
            raise _Refusal(-1102, "Mandatory parameter 'interval' was not sent, was empty/null, or malformed.")
        if interval not in self._market.intervals:
            raise _Refusal(-1120, "Invalid interval.")
        start, end = self._number(query, "startTime"), self._number(query, "endTime")
        stop = to_ns(end) if end is not None else 1 << 62
        bars = self._world.bars(symbol, interval, to_ns(start) if start is not None else 0, stop)
        bars = bars[:limit] if start is not None else bars[-limit:]
        numbers = self._world.numbers(symbol)
        return json_response([_kline(bar, numbers, unit) for bar in bars])


def _kline(bar: Bar, numbers: Numbers, unit: int) -> list[Any]:
    return [
        bar.open_time // unit,
        numbers.price(bar.open),
        numbers.price(bar.high),
        numbers.price(bar.low),
        numbers.price(bar.close),
        numbers.quantity(bar.volume),
        bar.close_time // unit - 1,
        numbers.amount_text(bar.amount),
        bar.count,
        numbers.quantity(bar.buy_volume),
        numbers.amount_text(bar.buy_amount),
        "0",
    ]


def _eight(text: str) -> str:
    whole, _, rest = text.partition(".")
    return f"{whole}.{rest:0<8}"


def _delivery(tail: str) -> int:
    from datetime import UTC, datetime

    try:
        day = datetime.strptime(tail, "%y%m%d").replace(hour=8, tzinfo=UTC)
    except ValueError:
        return 4_133_404_800_000
    return int(day.timestamp()) * 1000

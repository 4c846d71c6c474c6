"""The emulator's REST answers: AssetPairs, Depth, Trades, OHLC, Time, SystemStatus. docs/exchanges/kraken.md#rest"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cmd_common.emulation_base import json_response
from cmd_common.http import HttpResponse
from cmd_common.venue_world import BookView, Trade, VenueWorld

from ._emulator_text import mean_price
from ._text import ns_to_iso, ns_to_seconds
from .instruments import MINUTES, rest_pair, v1_pair
from .rest import OHLC_ROWS, TRADES_A_PAGE

__all__ = ["asset_pairs", "depth", "error", "ohlc", "pairs_by_name", "times", "trades"]

_SECOND: Final = 1_000_000_000
_MINUTE: Final = 60 * _SECOND
_DAY: Final = 1440 * _MINUTE


def error(*words: str, status: int = 200, headers: Mapping[str, str] | None = None) -> HttpResponse:
    """Answer with an error, which comes with HTTP 200 as a rule."""
    return json_response({"error": list(words)}, status, headers)


def _result(value: Any) -> HttpResponse:
    return json_response({"error": [], "result": value})


def pairs_by_name(symbols: tuple[str, ...]) -> dict[str, str]:
    """Map every name of a pair, in lower case, to the native one."""
    names: dict[str, str] = {}
    for symbol in symbols:
        for name in (symbol, symbol.replace("/", ""), v1_pair(symbol), rest_pair(symbol)):
            names.setdefault(name.casefold(), symbol)
    return names


def asset_pairs(market: VenueWorld, query: Mapping[str, str]) -> HttpResponse:
    """Answer AssetPairs: the given reference data, else what is listed."""
    body = market.reference or market.body("/0/public/AssetPairs")
    if body is not None:
        return json_response(body)
    display = query.get("assetVersion") == "1"
    result = {}
    for listed in market.listed():
        base, quote = (listed.base, listed.quote) if display else v1_pair(f"{listed.base}/{listed.quote}").split("/")
        result[listed.symbol if display else rest_pair(listed.symbol)] = {
            "altname": rest_pair(listed.symbol),
            "wsname": v1_pair(listed.symbol),
            "aclass_base": "currency",
            "base": base,
            "aclass_quote": "currency",
            "quote": quote,
            "lot": "unit",
            "cost_decimals": 5,
            "pair_decimals": listed.price_decimals,
            "lot_decimals": listed.quantity_decimals,
            "lot_multiplier": 1,
            "ordermin": listed.lot,
            "costmin": "0.5",
            "tick_size": listed.tick,
            "status": "online",
        }
    return _result(result)


def _key(symbol: str, query: Mapping[str, str]) -> str:
    return symbol if query.get("assetVersion") == "1" else rest_pair(symbol)


def times(market: VenueWorld, path: str) -> HttpResponse:
    """Answer Time and SystemStatus."""
    if path.endswith("/Time"):
        return _result({"unixtime": market.clock // _SECOND, "rfc1123": ""})
    return _result({"status": "online", "timestamp": ns_to_iso(market.clock, 0).replace(".", "")})


def depth(view: BookView, query: Mapping[str, str]) -> HttpResponse:
    """Answer Depth."""
    seconds = view.ts // _SECOND
    sides = {key: [[p, q, seconds] for p, q in side] for key, side in (("asks", view.asks), ("bids", view.bids))}
    return _result({_key(view.symbol, query): sides})


def _following(market: VenueWorld, symbol: str, since: int, count: int) -> list[Trade]:
    """The first passed trades after an instant; looks at one day after the other."""
    found: list[Trade] = []
    for day in market.days(symbol):
        first = (day.toordinal() - 719_163) * _DAY  # 1970-01-01 is day 719163
        if first + _DAY <= since:
            continue
        found += market.trades_between(symbol, max(first, since + 1), first + _DAY)
        if len(found) >= count:
            break
    return found[:count]


def trades(market: VenueWorld, symbol: str, query: Mapping[str, str]) -> HttpResponse:
    """Answer Trades: those after ``since`` (ns), oldest first; without it the newest."""
    text = query.get("count", str(TRADES_A_PAGE))
    if not text.isdigit() or not 1 <= int(text) <= TRADES_A_PAGE:
        return error("EGeneral:Invalid arguments:count")
    if "since" in query:
        if not query["since"].isdigit():
            return error("EGeneral:Invalid arguments:since")
        since = int(query["since"])
        found = _following(market, symbol, since, int(text))
    else:
        since = 0
        found = market.latest_trades(symbol, int(text))
    # Times are numbers: written by hand, so that no float gets near them.
    rows = ",".join(
        f'["{t.price}","{t.quantity}",{ns_to_seconds(t.ts, 9).rstrip("0").rstrip(".")},'
        f'"{"b" if t.side == "buy" else "s"}","m","",{t.id}]'
        for t in found
    )
    last = found[-1].ts if found else since
    body = f'{{"error":[],"result":{{"{_key(symbol, query)}":[{rows}],"last":"{last}"}}}}'
    return json_response(body.encode())


def ohlc(market: VenueWorld, symbol: str, query: Mapping[str, str]) -> HttpResponse:
    """Answer OHLC: the last 720 candles after ``since`` (s); the last one is not finished."""
    text, since = query.get("interval", "1"), query.get("since", "0")
    interval = next((n for n, minutes in MINUTES.items() if str(minutes) == text), "")
    if not interval or not since.isdigit():
        return error("EGeneral:Invalid arguments:interval" if not interval else "EGeneral:Invalid arguments:since")
    reach = OHLC_ROWS * MINUTES[interval] * _MINUTE
    rows = market.candles(symbol, interval, max(0, market.clock - reach), market.clock)[-OHLC_ROWS:]
    made = [
        [c.open_time // _SECOND, c.open, c.high, c.low, c.close, mean_price(c), c.volume, c.count]
        for c in rows
        if c.open_time // _SECOND > int(since)
    ]
    last = rows[-2].open_time // _SECOND if len(rows) > 1 else int(since)
    return _result({_key(symbol, query): made, "last": last})

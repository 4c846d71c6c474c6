"""Kraken's reference data: names, precisions and sizes of the pairs.

Rules: docs/exchanges/kraken.md#names. One pair has up to four names, which ``AssetPairs`` gives together:
the v2 name ``BTC/USD`` (native here), the v1 name ``XBT/USD`` (``wsname``), the short REST name
``XBTUSD`` (``altname``) and the REST key ``XXBTZUSD``. Base and quote are those of the v2 name's two
assets, which the exchange itself separates by a slash.

The tick size keeps as many places as the pair's prices are written with (``pair_decimals``), also
where these are zeros: they are part of the checksum's text.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from cmd_common.errors import ProtocolError
from cmd_common.instruments import Instrument, InstrumentStatus

__all__ = [
    "HOSTS",
    "INTERVALS",
    "MINUTES",
    "VENUE",
    "decimals_of",
    "native_symbol",
    "parse_asset_pairs",
    "rest_pair",
    "v1_pair",
]

VENUE: Final = "kraken"
HOSTS: Final = ("ws.kraken.com", "api.kraken.com")

MINUTES: Final = {
    "1m": 1,
    "5m": 5,
    "15m": 15,
    "30m": 30,
    "1h": 60,
    "4h": 240,
    "1d": 1440,
    "1w": 10080,
    "15d": 21600,
}
"""Candle intervals and their number of minutes, by which the exchange calls them."""

INTERVALS: Final = tuple(MINUTES)

# v1 and REST use these names; v2 and the rest of the world the others.
_TO_V2: Final = {"XBT": "BTC", "XDG": "DOGE"}
_FROM_V2: Final = {new: old for old, new in _TO_V2.items()}

_STATUS: Final[dict[str, InstrumentStatus]] = {
    "": "trading",  # bodies before about 2022 have no status
    "online": "trading",
    "limit_only": "trading",
    "post_only": "trading",
    "reduce_only": "trading",
    "cancel_only": "halted",
    "work_in_progress": "pre_trading",
    "maintenance": "halted",
    "delisted": "delisted",
}


def native_symbol(wsname: str) -> str:
    """Return the v2 name of a v1 name: ``XBT/USD`` to ``BTC/USD``."""
    return "/".join(_TO_V2.get(asset, asset) for asset in wsname.split("/"))


def v1_pair(symbol: str) -> str:
    """Return the v1 name of a v2 name: ``BTC/USD`` to ``XBT/USD``."""
    return "/".join(_FROM_V2.get(asset, asset) for asset in symbol.split("/"))


def rest_pair(symbol: str) -> str:
    """Return the REST name (altname) of a v2 name: ``BTC/USD`` to ``XBTUSD``.

    In recorded reference data the altname is the v1 name without its slash for every pair that has one.
    """
    return v1_pair(symbol).replace("/", "")


def decimals_of(step: Decimal) -> int:
    """Return the number of places that a tick or lot size is written with; 0 where it is unknown."""
    exponent = step.as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


_Places = Annotated[int, Meta(ge=0, le=24)]


class _Pair(Struct):
    altname: str
    base: str
    quote: str
    pair_decimals: _Places
    lot_decimals: _Places
    wsname: str = ""  # dark pools have none and are in no stream
    status: str = ""
    tick_size: Decimal | None = None
    ordermin: Decimal = Decimal(0)
    costmin: Decimal = Decimal(0)


class _Body(Struct):
    error: list[str] = []
    result: dict[str, Any] = {}


_BODY: Final = msgspec.json.Decoder(_Body)


def parse_asset_pairs(body: bytes) -> list[Instrument]:
    """Parse the body of ``AssetPairs`` in its order; pairs that are in no stream are left out.

    Raises ProtocolError. With ``assetVersion=1`` the keys are v2 names already; without it they are
    made from the v1 names.
    """
    try:
        decoded = _BODY.decode(body)
        if decoded.error or not decoded.result:
            said = ", ".join(decoded.error) or "no pairs"
            raise ProtocolError(f"{VENUE}: AssetPairs answered {said[:200]}")
        pairs = {key: msgspec.convert(value, _Pair, strict=False) for key, value in decoded.result.items()}
    except (msgspec.MsgspecError, ValueError, RecursionError, ArithmeticError) as error:
        raise ProtocolError(f"{VENUE}: AssetPairs is not in the known form: {error}") from error
    instruments = (_instrument(key, pair) for key, pair in pairs.items() if "/" in (pair.wsname or key))
    return list({i.symbol: i for i in instruments}.values())


def _step(decimals: int) -> Decimal:
    return Decimal((0, (1,), -decimals))


def _instrument(key: str, pair: _Pair) -> Instrument:
    symbol = key if "/" in key else native_symbol(pair.wsname)
    base, _, quote = symbol.partition("/")
    tick = _step(pair.pair_decimals)
    if pair.tick_size is not None and pair.tick_size > 0:
        # The same value, written with at least the places of the pair's prices.
        tick = pair.tick_size + Decimal((0, (0,), -pair.pair_decimals))
    return Instrument(
        venue=VENUE,
        symbol=symbol,
        base=base,
        quote=quote,
        kind="spot",
        tick_size=tick,
        lot_size=_step(pair.lot_decimals),
        min_quantity=pair.ordermin,
        min_notional=pair.costmin,
        status=_STATUS.get(pair.status, "unknown"),
        raw_status=pair.status,
    )

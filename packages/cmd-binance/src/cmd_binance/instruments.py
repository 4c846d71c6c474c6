"""Binance's three markets and their reference data.

Rules: docs/exchanges.md#binance-reference-data. Base and quote come from exchangeInfo, never from
splitting a symbol; tick and lot sizes come from the filters, never from the precision fields.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final, Literal

import msgspec
from msgspec import Struct

from cmd_common.errors import ProtocolError
from cmd_common.instruments import Instrument, InstrumentKind, InstrumentStatus

__all__ = ["COINM", "INTERVALS", "SPOT", "USDM", "Market", "parse_exchange_info", "to_ns"]


class Market(Struct, frozen=True):
    """What differs between the markets: names, hosts, paths and published limits."""

    name: Literal["spot", "usdm", "coinm"]
    venue: str
    title: str
    ws: str  # base of the WebSocket URLs
    rest: str
    prefix: str  # path of the REST API
    archive: str  # folder in the public archive
    hosts: tuple[str, ...]  # host parts that mark this market's traffic in a recording
    intervals: tuple[str, ...]  # of candles
    weight_per_minute: int
    weight_pool: str
    messages_per_second: int
    snapshot_limit: int  # largest depth by REST
    depth_weights: tuple[tuple[int, int], ...]  # (limit up to, weight)
    agg_trades_weight: int
    trades_weight: int
    historical_trades_weight: int
    exchange_info_weight: int
    kline_weights: tuple[tuple[int, int], ...]

    @property
    def futures(self) -> bool:
        """Whether the futures rules (``pu`` chain, ``T`` beside ``E``) apply."""
        return self.name != "spot"


INTERVALS: Final = ("1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M")
_FUTURES_DEPTH: Final = ((50, 2), (100, 5), (500, 10), (1000, 20))
_FUTURES_KLINES: Final = ((99, 1), (499, 2), (1000, 5), (1500, 10))

SPOT: Final = Market(
    name="spot",
    venue="binance-spot",
    title="Binance spot",
    ws="wss://stream.binance.com:9443",
    rest="https://api.binance.com",
    prefix="/api/v3",
    archive="spot",
    hosts=("stream.binance.", "data-stream.binance.", "api.binance.", "data-api.binance."),
    intervals=INTERVALS,
    weight_per_minute=6000,
    weight_pool="binance-spot",
    messages_per_second=5,
    snapshot_limit=5000,
    depth_weights=((100, 5), (500, 25), (1000, 50), (5000, 250)),
    agg_trades_weight=4,
    trades_weight=25,
    historical_trades_weight=25,
    exchange_info_weight=20,
    kline_weights=((1000, 2),),
)
USDM: Final = Market(
    name="usdm",
    venue="binance-usdm",
    title="Binance USD-M futures",
    ws="wss://fstream.binance.com",
    rest="https://fapi.binance.com",
    prefix="/fapi/v1",
    archive="futures/um",
    hosts=("fstream.binance.", "fapi.binance."),
    intervals=INTERVALS[1:],
    weight_per_minute=2400,
    weight_pool="binance-futures",
    messages_per_second=10,
    snapshot_limit=1000,
    depth_weights=_FUTURES_DEPTH,
    agg_trades_weight=20,
    trades_weight=5,
    historical_trades_weight=200,
    exchange_info_weight=1,
    kline_weights=_FUTURES_KLINES,
)
COINM: Final = Market(
    name="coinm",
    venue="binance-coinm",
    title="Binance COIN-M futures",
    ws="wss://dstream.binance.com",
    rest="https://dapi.binance.com",
    prefix="/dapi/v1",
    archive="futures/cm",
    hosts=("dstream.binance.", "dapi.binance."),
    intervals=INTERVALS[1:],
    weight_per_minute=2400,
    weight_pool="binance-futures",  # shared with USD-M since 2026-06-30
    messages_per_second=10,
    snapshot_limit=1000,
    depth_weights=_FUTURES_DEPTH,
    agg_trades_weight=20,
    trades_weight=5,
    historical_trades_weight=200,
    exchange_info_weight=1,
    kline_weights=_FUTURES_KLINES,
)


def to_ns(value: int) -> int:
    """Turn a Binance time into ns: microseconds from 10^14 on, else milliseconds.

    10^14 ms is the year 5138 and 10^14 us is 1973, so that the size alone decides.
    """
    return value * 1000 if value >= 9_200_000_000_000 else value * 1_000_000


# Futures without an end carry this delivery date (2100-12-25).
_NEVER: Final = 4_133_404_800_000

_STATUS: Final[dict[str, InstrumentStatus]] = {
    "TRADING": "trading",
    "PRE_TRADING": "pre_trading",
    "PENDING_TRADING": "pre_trading",
    "HALT": "halted",
    "BREAK": "halted",
    "AUCTION_MATCH": "halted",
    "POST_TRADING": "halted",
    "END_OF_DAY": "halted",
    "CANCEL_ONLY": "halted",
    "PRE_DELIVERING": "halted",
    "DELIVERING": "halted",
    "PRE_SETTLE": "halted",
    "SETTLING": "halted",
    "DELIVERED": "delisted",
    "CLOSE": "delisted",
}


class _Filter(Struct):
    filterType: str
    tickSize: Decimal | None = None
    stepSize: Decimal | None = None
    minQty: Decimal | None = None
    minNotional: Decimal | None = None  # spot
    notional: Decimal | None = None  # futures


class _Symbol(Struct):
    symbol: str
    baseAsset: str
    quoteAsset: str
    filters: list[_Filter]
    status: str = ""
    contractStatus: str = ""  # COIN-M's name of it
    marginAsset: str = ""
    contractType: str = ""
    deliveryDate: int | None = None
    contractSize: Decimal | None = None


class _ExchangeInfo(Struct):
    symbols: list[_Symbol]


_DECODER: Final = msgspec.json.Decoder(_ExchangeInfo)


def parse_exchange_info(market: Market, body: bytes) -> list[Instrument]:
    """Parse the body of exchangeInfo, in its order; raises ProtocolError.

    A status that this version does not know becomes ``unknown`` and keeps its word in ``raw_status``.
    An instrument without a filter (not yet listed) has 0 in the place of that size.
    """
    try:
        info = _DECODER.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f"{market.venue}: exchangeInfo is not in the known form: {error}") from error
    return [_instrument(market, s) for s in info.symbols]


def _shortest(value: Decimal) -> Decimal:
    """Drop trailing zeros without falling into exponents: 0.01000000 to 0.01, 10.00 to 10."""
    return Decimal(format(value.normalize(), "f")) if value else Decimal(0)


def _instrument(market: Market, s: _Symbol) -> Instrument:
    tick = lot = min_quantity = min_notional = Decimal(0)
    for f in s.filters:
        if f.filterType == "PRICE_FILTER":
            tick = f.tickSize or tick
        elif f.filterType == "LOT_SIZE":
            lot = f.stepSize or lot
            min_quantity = f.minQty or min_quantity
        elif f.filterType in ("MIN_NOTIONAL", "NOTIONAL"):
            min_notional = f.minNotional or f.notional or min_notional
    raw = s.status or s.contractStatus
    expiry = None
    kind: InstrumentKind = "spot"
    if market.futures:
        endless = s.deliveryDate is None or s.deliveryDate >= _NEVER
        kind = "perpetual" if endless or "PERPETUAL" in s.contractType else "future"
        if kind == "future" and s.deliveryDate is not None:
            expiry = to_ns(s.deliveryDate)
    coin = market.name == "coinm"
    return Instrument(
        venue=market.venue,
        symbol=s.symbol,
        base=s.baseAsset,
        quote=s.quoteAsset,
        kind=kind,
        tick_size=_shortest(tick),
        lot_size=_shortest(lot),
        settle=s.marginAsset if s.marginAsset != s.quoteAsset else "",
        min_quantity=_shortest(min_quantity),
        min_notional=_shortest(min_notional),
        contract_size=s.contractSize if coin else None,
        inverse=coin,
        expiry=expiry,
        status=_STATUS.get(raw, "unknown"),
        raw_status=raw,
    )

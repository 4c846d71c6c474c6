"""OKX's instruments: one list over spot, perpetual swaps, dated futures (and options where given).

Rules: docs/exchanges/okx.md#reference-data. Base and quote come from the metadata, never from splitting
``instId``: derivatives leave ``baseCcy`` and ``quoteCcy`` empty, there ``ctValCcy``, ``settleCcy`` and the
underlying ``uly`` say it. Quantities of derivatives are contracts of ``ctVal * ctMult`` units of ``ctValCcy``.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Final

import msgspec
from msgspec import Struct

from cmd_common.errors import ProtocolError
from cmd_common.instruments import Instrument, InstrumentKind, InstrumentStatus

__all__ = ["BARS", "INSTRUMENT_TYPES", "INTERVALS", "VENUE", "parse_instruments"]

VENUE: Final = "okx"

INSTRUMENT_TYPES: Final = ("SPOT", "SWAP", "FUTURES")
"""Types that are asked for. MARGIN repeats SPOT; OPTION is only answered for one underlying at a time."""

BARS: Final = {
    "1m": "1m",
    "3m": "3m",
    "5m": "5m",
    "15m": "15m",
    "30m": "30m",
    "1h": "1H",
    "2h": "2H",
    "4h": "4H",
    "6h": "6Hutc",
    "12h": "12Hutc",
    "1d": "1Dutc",
    "1w": "1Wutc",
    "1M": "1Mutc",
}
"""The exchange's name of each interval. From 6 hours on the plain names open on UTC+8, so the UTC ones are used."""

INTERVALS: Final = tuple(BARS)

_KINDS: Final[dict[str, InstrumentKind]] = {
    "SPOT": "spot",
    "SWAP": "perpetual",
    "FUTURES": "future",
    "OPTION": "option",
}
_STATUS: Final[dict[str, InstrumentStatus]] = {
    "live": "trading",
    "suspend": "halted",
    "rebase": "halted",
    "post_only": "halted",
    "settling": "halted",
    "preopen": "pre_trading",
    "expired": "delisted",
}


class _Row(Struct):
    instType: str
    instId: str
    tickSz: str
    lotSz: str
    minSz: str = ""
    baseCcy: str = ""
    quoteCcy: str = ""
    settleCcy: str = ""
    ctVal: str = ""
    ctMult: str = ""
    ctValCcy: str = ""
    ctType: str = ""
    uly: str = ""
    expTime: str = ""
    state: str = ""


class _Body(Struct):
    code: str
    data: list[_Row]
    msg: str = ""


_DECODER: Final = msgspec.json.Decoder(_Body)


def parse_instruments(body: bytes) -> list[Instrument]:
    """Parse one body of ``public/instruments``, in its order; raises ProtocolError.

    Types that this version does not know (and MARGIN, which repeats SPOT) are left out. A status that it
    does not know becomes ``unknown`` and keeps its word in ``raw_status``.
    """
    try:
        parsed = _DECODER.decode(body)
        if parsed.code != "0":
            raise ProtocolError(f"{VENUE}: instruments answered with error {parsed.code}: {parsed.msg[:200]}")
        return [_instrument(row) for row in parsed.data if row.instType in _KINDS and not _unnamed(row)]
    except (msgspec.MsgspecError, ValueError, InvalidOperation, RecursionError) as error:
        text = " ".join(str(error).split())
        raise ProtocolError(f"{VENUE}: instruments are not in the known form: {text}") from error


def _unnamed(row: _Row) -> bool:
    """Whether a derivative that is not open yet has no assets yet; it cannot be named and comes later."""
    return row.state == "preopen" and row.instType != "SPOT" and not (row.ctValCcy and row.settleCcy)


def _decimal(text: str) -> Decimal:
    """Read an exact decimal; an empty text (not yet set before listing) is 0. Raises ValueError."""
    if not text:
        return Decimal(0)
    value = Decimal(text)
    if not value.is_finite() or value < 0:
        raise ValueError(f"{text[:40]!r} is not a size")
    return Decimal(format(value.normalize(), "f")) if value else Decimal(0)


def _instrument(row: _Row) -> Instrument:
    kind = _KINDS[row.instType]
    base, quote = row.baseCcy, row.quoteCcy
    inverse = row.ctType == "inverse"
    contract_size = None
    if kind != "spot":
        # A contract is worth ctVal (times its multiplier) of ctValCcy: the base asset of linear markets and
        # options, the quote asset of inverse ones, whose settlement asset is the base.
        contract_size = _decimal(row.ctVal) * (_decimal(row.ctMult) if row.ctMult else 1) or None
        base = row.settleCcy if inverse else row.ctValCcy
        quote = row.ctValCcy if inverse else row.settleCcy
        named = row.uly.removeprefix(f"{base}-")
        if named and named != row.uly:
            quote = (
                named  # an option is quoted in USD and settled in the coin; so are some linear swaps in another coin
            )
        if not base or not quote:
            raise ValueError(f"{row.instId[:60]} has neither base nor quote")
    expiry = None
    if row.expTime and kind in ("future", "option"):
        expiry = int(row.expTime) * 1_000_000
    return Instrument(
        venue=VENUE,
        symbol=row.instId,
        base=base,
        quote=quote,
        kind=kind,
        tick_size=_decimal(row.tickSz),
        lot_size=_decimal(row.lotSz),
        settle=row.settleCcy if row.settleCcy != quote else "",
        min_quantity=_decimal(row.minSz),
        contract_size=contract_size,
        inverse=inverse,
        expiry=expiry,
        status=_STATUS.get(row.state, "unknown"),
        raw_status=row.state,
    )

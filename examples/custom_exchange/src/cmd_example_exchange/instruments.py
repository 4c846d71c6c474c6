"""Reference data of exampex: ``GET /v1/instruments``."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

import msgspec
from msgspec import Struct

from cmd_common.errors import ProtocolError
from cmd_common.instruments import Instrument

__all__ = ["VENUE", "parse_instruments"]

VENUE: Final = "exampex"


class _Row(Struct):
    name: str
    base: str
    quote: str
    tick: Decimal
    lot: Decimal
    open: bool


class _Body(Struct):
    instruments: list[_Row]


_DECODER: Final = msgspec.json.Decoder(_Body)


def parse_instruments(body: bytes) -> list[Instrument]:
    """Parse the body; raises ProtocolError. Names are never split: base and quote are told."""
    try:
        rows = _DECODER.decode(body).instruments
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f"{VENUE}: instruments are not in the known form: {error}") from error
    return [
        Instrument(
            VENUE, r.name, r.base, r.quote, "spot", r.tick, r.lot, status="trading" if r.open else "halted"
        )
        for r in rows
    ]  # fmt: skip

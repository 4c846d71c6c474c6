"""What tests of reader, bulk load and parity share: models of the Parquet store's tests, a schema of one's own."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from cmd_questdb.conf import Conf

sys.path.insert(0, str(Path(__file__).parents[1] / "cmd_parquet"))

from parquet_models import (
    DAY,
    T0,
    VENUE,
    candle,
    gap,
    key_of,
    model,
    one_of_each,
    random_records,
    stored,
    to_batches,
    trade,
)

__all__ = [
    "DAY",
    "T0",
    "VENUE",
    "candle",
    "conf_of",
    "gap",
    "key_of",
    "location_of",
    "model",
    "one_of_each",
    "random_records",
    "stored",
    "to_batches",
    "trade",
]

_numbers = itertools.count()


def location_of(server: object, **more: object) -> str:
    """A location with tables that no other test has; they live until a test empties the server."""
    return server.conf(table_prefix=f"d{next(_numbers)}_", **more)  # type: ignore[attr-defined, no-any-return]


def conf_of(location: str) -> Conf:
    return Conf.parse(location.removeprefix("questdb:"))

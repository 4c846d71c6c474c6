"""Records, instruments, order books, candles and the interfaces that all of CryptoMarketData shares.

Names are imported on first use, so that ``import cmd_common`` costs a few milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._native import native as native
    from .aggregate import AggregatedOrderBook as AggregatedOrderBook
    from .builder import OrderBookBuilder as OrderBookBuilder
    from .candles import CandleBuilder as CandleBuilder
    from .errors import CmdError as CmdError
    from .following import BookFollower as BookFollower
    from .instruments import Instrument as Instrument
    from .instruments import ReferenceData as ReferenceData
    from .io import IReader as IReader
    from .io import IWriter as IWriter
    from .io import open_reader as open_reader
    from .io import open_writer as open_writer
    from .multibook import MultiSymbolOrderBook as MultiSymbolOrderBook
    from .orderbook import OrderBook as OrderBook
    from .sequence import BookState as BookState
    from .symbols import get_symbols as get_symbols

__version__ = "0.1.0"

_HOME = {
    "AggregatedOrderBook": "aggregate",
    "BookFollower": "following",
    "BookState": "sequence",
    "CandleBuilder": "candles",
    "CmdError": "errors",
    "IReader": "io",
    "IWriter": "io",
    "Instrument": "instruments",
    "MultiSymbolOrderBook": "multibook",
    "OrderBook": "orderbook",
    "OrderBookBuilder": "builder",
    "ReferenceData": "instruments",
    "get_symbols": "symbols",
    "native": "_native",
    "open_reader": "io",
    "open_writer": "io",
}

__all__ = [
    "AggregatedOrderBook",
    "BookFollower",
    "BookState",
    "CandleBuilder",
    "CmdError",
    "IReader",
    "IWriter",
    "Instrument",
    "MultiSymbolOrderBook",
    "OrderBook",
    "OrderBookBuilder",
    "ReferenceData",
    "__version__",
    "get_symbols",
    "native",
    "open_reader",
    "open_writer",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

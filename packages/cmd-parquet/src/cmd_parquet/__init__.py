"""Embedded Parquet store of CryptoMarketData.

``ParquetStore`` is the entry point ``parquet`` of ``cmd.stores``; names are imported on first use, so that
pyarrow and duckdb load only when a store is read or written.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checking import Problem as Problem
    from .checking import rebuild as rebuild
    from .checking import verify as verify
    from .reader import ParquetReader as ParquetReader
    from .store import ParquetStore as ParquetStore
    from .writer import ParquetWriter as ParquetWriter
    from .writer import WriterOptions as WriterOptions

__all__ = ["ParquetReader", "ParquetStore", "ParquetWriter", "Problem", "WriterOptions", "rebuild", "verify"]

_HOME = {
    "ParquetReader": "reader",
    "ParquetStore": "store",
    "ParquetWriter": "writer",
    "Problem": "checking",
    "WriterOptions": "writer",
    "rebuild": "checking",
    "verify": "checking",
}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value

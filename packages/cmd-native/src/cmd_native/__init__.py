"""The parts of CryptoMarketData in Rust. Use them by ``cmd_common``, which chooses between them and their pure twins."""

from __future__ import annotations

import contextlib

from ._native import (
    ChecksumBook,
    CsvBatch,
    CsvReader,
    DepthPath,
    LogEmitter,
    LogRing,
    LogTable,
    OrderBook,
    SnapshotLevels,
    TickPath,
    WireCodec,
    WireFraming,
    WireWriter,
    allocations,
    binance_snapshot,
    log_calibrate,
    log_clock,
    log_lines,
)

with contextlib.suppress(ImportError):  # not on Windows
    from ._native import send_all as send_all

__all__ = [
    "ChecksumBook",
    "CsvBatch",
    "CsvReader",
    "DepthPath",
    "LogEmitter",
    "LogRing",
    "LogTable",
    "OrderBook",
    "SnapshotLevels",
    "TickPath",
    "WireCodec",
    "WireFraming",
    "WireWriter",
    "__version__",
    "allocations",
    "binance_snapshot",
    "log_calibrate",
    "log_clock",
    "log_lines",
]

__version__ = "0.1.0"

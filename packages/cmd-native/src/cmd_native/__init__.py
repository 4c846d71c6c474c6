"""The parts of CryptoMarketData in Rust. Use them by ``cmd_common``, which chooses between them and their pure twins."""

from __future__ import annotations

from ._native import LogEmitter, LogRing, LogTable, allocations, log_calibrate, log_clock, log_lines

__all__ = ["LogEmitter", "LogRing", "LogTable", "__version__", "allocations", "log_calibrate", "log_clock", "log_lines"]

__version__ = "0.1.0"

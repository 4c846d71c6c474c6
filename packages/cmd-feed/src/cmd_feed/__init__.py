"""Live connections to crypto exchanges for CryptoMarketData.

The only place with live network I/O towards exchanges. Exchanges are found by entry point; protocol
code stays in their packages. Names are imported on first use, so that importing this package is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .net import SystemNet as SystemNet
    from .pipeline import Pipeline as Pipeline
    from .raw import RawRecorder as RawRecorder
    from .runner import ConnectionRunner as ConnectionRunner
    from .session import LiveSession as LiveSession

_HOME = {
    "ConnectionRunner": "runner",
    "LiveSession": "session",
    "Pipeline": "pipeline",
    "RawRecorder": "raw",
    "SystemNet": "net",
}

__all__ = ["ConnectionRunner", "LiveSession", "Pipeline", "RawRecorder", "SystemNet"]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{home}", __name__), name)

"""Bitstamp publishes no bulk files: history comes from its REST interface.

See docs/exchanges/bitstamp.md#history. ``HISTORY`` is what the archiver walks.
"""

from __future__ import annotations

from ._history import HISTORY, BitstampHistory

__all__ = ["HISTORY", "BitstampHistory"]

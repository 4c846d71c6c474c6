"""Gemini publishes no bulk files: history comes page by page from its REST interface.

See docs/exchanges/gemini.md#history. ``HISTORY`` is what the archiver walks.
"""

from __future__ import annotations

from ._history import HISTORY, GeminiHistory

__all__ = ["HISTORY", "GeminiHistory"]

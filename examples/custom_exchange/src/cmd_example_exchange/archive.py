"""exampex publishes no bulk files: history comes page by page, from ``rest``."""

from __future__ import annotations

from typing import Final

from .rest import ExampexHistory

__all__ = ["HISTORY"]

HISTORY: Final = ExampexHistory()

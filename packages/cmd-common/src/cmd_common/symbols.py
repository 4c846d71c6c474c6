"""Selecting symbols: one generic function for command lines and configuration files."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["nearest"]


def nearest(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """Return up to ``limit`` known names that look like ``name``, best first, whatever their case."""
    by_fold = {k.casefold(): k for k in known}
    return [by_fold[m] for m in get_close_matches(name.casefold(), by_fold, n=limit, cutoff=0.6)]

"""Symbols kept for shell completion: one plain file a venue, a name a line, read by the shell itself."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

__all__ = ["cache_folder", "remember_symbols"]


def cache_folder(environ: Mapping[str, str] | None = None) -> str:
    """``$XDG_CACHE_HOME/cryptomarketdata/symbols``; empty where no home is known."""
    env = os.environ if environ is None else environ
    home = env.get("HOME", "")
    base = env.get("XDG_CACHE_HOME") or (os.path.join(home, ".cache") if home else env.get("LOCALAPPDATA", ""))
    return os.path.join(base, "cryptomarketdata", "symbols") if base else ""


def remember_symbols(names: Iterable[tuple[str, str]], folder: str | None = None) -> None:
    """Add ``(venue, symbol)`` names to the cache. A cache that cannot be written is left alone."""
    folder = cache_folder() if folder is None else folder
    if not folder:
        return
    by_venue: dict[str, set[str]] = {}
    for venue, symbol in names:
        by_venue.setdefault(venue, set()).add(symbol)
    try:
        os.makedirs(folder, exist_ok=True)
        for venue, symbols in by_venue.items():
            path = os.path.join(folder, venue)
            if os.path.isfile(path):
                with open(path, encoding="utf-8") as f:
                    symbols |= set(f.read().split())
            part = f"{path}.{os.getpid()}.part"
            with open(part, "w", encoding="utf-8") as f:
                f.write("".join(f"{s}\n" for s in sorted(symbols)))
            os.replace(part, path)
    except OSError:
        return

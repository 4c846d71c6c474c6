"""Whether the parts in Rust run: cmd-native is installed and ``CMD_PURE`` does not forbid it.

Nothing here or elsewhere needs cmd-native for a correct result; every part of it has a twin in Python.
"""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType
from typing import Final

__all__ = ["module", "native"]


def _load() -> ModuleType | None:
    if os.environ.get("CMD_PURE", "") not in ("", "0"):
        return None
    try:
        return import_module("cmd_native")
    except ModuleNotFoundError as error:
        if error.name != "cmd_native":  # it is there but broken: that must not pass for absent
            raise
        return None


module: Final = _load()
native: Final = module is not None

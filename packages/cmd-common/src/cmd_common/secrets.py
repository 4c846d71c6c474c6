"""Secrets that a setting names instead of holding them: ``env:NAME`` and ``file:PATH``.

So neither a configuration nor a command line has to hold one. What is read is never part of an error.
"""

from __future__ import annotations

import logging
import os
import stat
import sys
from collections.abc import Mapping
from typing import Final

from .errors import UsageError

__all__ = ["resolve"]

_LARGEST: Final = 64 << 10  # bytes of a file that can be a secret


def resolve(text: str, what: str, environ: Mapping[str, str] | None = None) -> str:
    """Return the secret that ``text`` names, or ``text`` itself where it names none.

    Of a file it is the text without the line's end. ``what`` says whose secret it is, for errors: UsageError where the variable is
    not set, or the file is missing, empty or no text. A file that others can read is a warning in the log.
    """
    if text.startswith("env:"):
        name = text[4:]
        found = (os.environ if environ is None else environ).get(name, "")
        if not found:
            raise UsageError(f"{what} names the environment variable {name}, which is not set", hint=f"export {name}")
        return found
    if text.startswith("file:"):
        return _read(text[5:], what)
    return text


def _read(path: str, what: str) -> str:
    path = os.path.expanduser(path)
    try:
        with open(path, encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            found = file.read(_LARGEST + 1)
    except (OSError, UnicodeDecodeError) as error:
        words = getattr(error, "strerror", None) or "it is not text"
        raise UsageError(
            f"cannot read {what} from {path}: {words}", hint="check the path and the file's mode"
        ) from None
    found = found.rstrip("\r\n")
    if not found or len(found) > _LARGEST or "\n" in found:
        raise UsageError(f"{path} holds no secret for {what}", hint="it is one line of text")
    if sys.platform != "win32" and stat.S_IMODE(mode) & 0o077:
        logging.getLogger("cmd").warning("%s can be read by others than its owner: chmod 600 %s", path, path)
    return found

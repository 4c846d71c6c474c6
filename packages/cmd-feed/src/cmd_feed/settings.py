"""Options (``--options K=V``) in one session: those of the session itself, and which of the exchanges' nobody asked for.

Every package reads its own options and ignores those of others, so that a misspelt one would have no effect
and nobody would say so. Here a session learns which names were looked at when its feeds were made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar, overload
from urllib.parse import urlsplit

from cmd_common.commands import RecordOptions
from cmd_common.errors import UsageError
from cmd_common.symbols import nearest

from .raw import Compression

__all__ = ["Settings", "connection_age_of", "handover_of", "moved_url", "raw_compression_of", "redundant_of"]

T = TypeVar("T")
_OWN = frozenset({"raw_compression", "handover", "connection_age", "redundant"})  # read by the session itself


class Settings(dict[str, str]):
    """The options of a session, which remember the names that were asked for."""

    def __init__(self, given: Mapping[str, str]) -> None:
        super().__init__(given)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.read.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.read.add(str(name))
        return super().__contains__(name)

    @overload
    def get(self, name: str, default: None = None, /) -> str | None: ...

    @overload
    def get(self, name: str, default: str, /) -> str: ...

    @overload
    def get(self, name: str, default: T, /) -> str | T: ...

    def get(self, name: str, default: object = None, /) -> object:
        """Return an option, and remember that it was asked for."""
        self.read.add(name)
        return super().get(name, default)

    def unread(self, venues: Iterable[str]) -> list[str]:
        """Return a line for each option that was not asked for: misspelt, or of other exchanges or types."""
        lines = []
        for name in sorted(set(self) - self.read - _OWN):
            near = nearest(name, self.read)
            hint = f"did you mean {near[0]}?" if near else "see docs/exchanges"
            lines.append(f"option {name} means nothing for {', '.join(venues)} and these types; {hint}")
        return lines


def handover_of(options: RecordOptions) -> bool:
    """The option ``handover``: on (default) or off."""
    word = options.options.get("handover", "on")
    if word not in ("on", "off"):
        raise UsageError(f"unknown handover {word!r}", hint="it is on or off")
    return word == "on"


def connection_age_of(options: RecordOptions) -> int | None:
    """The option ``connection_age``: seconds that a connection may live, in ns; None: what the exchange says."""
    text = options.options.get("connection_age")
    if text is None:
        return None
    if not text.isdecimal() or not 10 <= int(text) <= 864_000:
        raise UsageError(f"connection_age {text!r} is no number of seconds", hint="it is from 10 to 864000")
    return int(text) * 1_000_000_000


def redundant_of(options: RecordOptions) -> str:
    """The option ``redundant``: off (default; empty here), on, or the other host, ``[wss://]HOST[:PORT]``; raises UsageError."""
    word = options.options.get("redundant", "off")
    if word == "off":
        return ""
    if options.options.get("handover", "on") == "off":
        raise UsageError("redundant connections need handover", hint="leave out handover=off")
    if word == "on":
        return word
    try:
        parts = urlsplit(word if "://" in word else f"wss://{word}")
        found = bool(parts.hostname) and parts.port != 0
    except ValueError:
        found = False
    if not found or parts.scheme not in ("ws", "wss") or parts.path not in ("", "/") or parts.query:
        raise UsageError(
            f"redundant {word!r} is no host", hint="it is on, off, or HOST:PORT of the exchange's other host"
        )
    if len(options.exchanges) > 1:
        raise UsageError("redundant names a host of one exchange", hint="record one exchange, or say redundant=on")
    return word


def moved_url(url: str, host: str) -> str:
    """A feed's URL at another host: ``wss://a/stream`` at ``b:443`` is ``wss://b:443/stream``."""
    there, here = urlsplit(host if "://" in host else f"//{host}"), urlsplit(url)
    return here._replace(netloc=there.netloc, scheme=there.scheme or here.scheme).geturl()


def raw_compression_of(options: RecordOptions) -> Compression:
    """The venue option ``raw_compression``: gz (default), zst or plain."""
    word = options.options.get("raw_compression", "gz")
    found: dict[str, Compression] = {"gz": "gz", "zst": "zst", "plain": ""}
    if word not in found:
        raise UsageError(f"unknown raw_compression {word!r}", hint="it is gz, zst or plain")
    return found[word]

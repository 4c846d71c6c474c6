"""HTTP requests and responses as plain data, shared by protocol code, shells and emulators."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

__all__ = ["HttpRequest", "HttpResponse"]


class HttpRequest(Struct, frozen=True):
    """A request to make: ``weight`` is what it costs in the venue's rate budget."""

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    weight: int = 1


class HttpResponse(Struct, frozen=True):
    """A response: header names are lower case."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""

    def header(self, name: str, default: str = "") -> str:
        """Return a header, whatever the case of ``name``."""
        return self.headers.get(name.lower(), default)

    @property
    def retry_after(self) -> int:
        """The pause that ``Retry-After`` asks for, ns; 0 without one, and for what is no number of at most 115 days."""
        text = self.header("retry-after").strip()
        return int(text) * 1_000_000_000 if text.isascii() and text.isdigit() and len(text) <= 7 else 0

"""Records, answers and requests as SBE frames, and back; pure functions without state.

A frame is framing header, message header, block, groups, texts, as ``cmd-market-data.xml`` defines them. A record
is encoded once for all of its readers. ``encoder`` and ``decoder`` hold the two halves, ``columns`` the bulk.

Who reads a stream looks at ``head(frame).template`` and skips what is in none of ``RECORD_TEMPLATES``,
``SERVICE_TEMPLATES`` and ``REQUEST_TEMPLATES``: it comes from a newer version. Frames of known templates are read
whatever their version is.
"""

from __future__ import annotations

from typing import Final

from .columns import columns
from .decoder import Frame, Head, decode, decode_request, decode_service, head
from .encoder import encode, encode_into, encode_request, encode_service
from .formats import FLAGS_AT, LAYOUTS
from .many import encode_many, encode_many_into

__all__ = [
    "RECORD_TEMPLATES",
    "REQUEST_TEMPLATES",
    "SERVICE_TEMPLATES",
    "Frame",
    "Head",
    "columns",
    "decode",
    "decode_request",
    "decode_service",
    "encode",
    "encode_into",
    "encode_many",
    "encode_many_into",
    "encode_request",
    "encode_service",
    "head",
    "with_flags",
]

RECORD_TEMPLATES: Final = frozenset(t for t in LAYOUTS if t < 20)
SERVICE_TEMPLATES: Final = frozenset(t for t in LAYOUTS if 20 <= t < 40)
REQUEST_TEMPLATES: Final = frozenset(t for t in LAYOUTS if t >= 40)


def with_flags(frame: Frame, flags: int) -> bytes:
    """Return a copy of a frame with flag bits added: CONFLATED, REPLAYED."""
    copy = bytearray(frame)
    copy[FLAGS_AT] |= flags
    return bytes(copy)

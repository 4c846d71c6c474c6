"""Records, answers and requests as SBE frames, and back; pure functions without state.

A frame is framing header, message header, block, groups, texts, as ``cmd-market-data.xml`` defines them. A record
is encoded once for all of its readers. ``encoder`` and ``decoder`` hold the two halves, ``columns`` the bulk. With
cmd-native the same runs in Rust (``wire_native``); ``native`` says whether it does.

Who reads a stream looks at ``head(frame).template`` and skips what is in none of ``RECORD_TEMPLATES``,
``SERVICE_TEMPLATES`` and ``REQUEST_TEMPLATES``: it comes from a newer version. Frames of known templates are read
whatever their version is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from . import encoder
from .columns import columns
from .decoder import Frame, Head, decode_request, decode_service
from .encoder import encode_request, encode_service
from .formats import FLAGS_AT, LAYOUTS
from .wire_native import CODEC
from .writer import FrameWriter

if TYPE_CHECKING or CODEC is None:
    from .decoder import decode, head
    from .encoder import encode, encode_into
    from .many import encode_many, encode_many_into, same_stream
else:
    encode, encode_into = CODEC.function("encode"), CODEC.function("encode_into")
    encode_many, encode_many_into = CODEC.function("encode_many"), CODEC.function("encode_many_into")
    same_stream = CODEC.function("same_stream")
    decode, head = CODEC.function("decode"), CODEC.function("head")

__all__ = [
    "ENCODERS",
    "RECORD_TEMPLATES",
    "REQUEST_TEMPLATES",
    "SERVICE_TEMPLATES",
    "Frame",
    "FrameWriter",
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
    "native",
    "same_stream",
    "with_flags",
]

native: Final = CODEC is not None
ENCODERS: Final[dict[type, Callable[[Any, int, int, int, int, int], bytes]]] = (
    encoder.ENCODERS if CODEC is None else dict.fromkeys(encoder.ENCODERS, encode)
)
"""``encode`` by the class of the record, without its checks where it is the pure one: raises any of ``encoder.MISFITS``."""

RECORD_TEMPLATES: Final = frozenset(t for t in LAYOUTS if t < 20)
SERVICE_TEMPLATES: Final = frozenset(t for t in LAYOUTS if 20 <= t < 40)
REQUEST_TEMPLATES: Final = frozenset(t for t in LAYOUTS if t >= 40)


def with_flags(frame: Frame, flags: int) -> bytes:
    """Return a copy of a frame with flag bits added: CONFLATED, REPLAYED."""
    copy = bytearray(frame)
    copy[FLAGS_AT] |= flags
    return bytes(copy)

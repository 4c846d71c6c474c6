"""The codec in its two ways: pure, which is the specification, and native, which must not differ in a single byte."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

from tests.conftest import require

from cmd_server import codec, columns, decoder, encoder, framing, many, wire_native

WAYS = ("pure", "native")


def native_module() -> ModuleType:
    """``cmd_native``, also where CMD_PURE forbids the rest of the process to use it."""
    how = "install cmd-native, which deploy/test.sh builds where a Rust toolchain is"
    require("native", find_spec("cmd_native") is not None, how)
    return import_module("cmd_native")


def codec_of(way: str) -> Any:
    """All of ``cmd_server.codec``, with the calls of one way."""
    found = SimpleNamespace(**{name: getattr(codec, name) for name in codec.__all__})
    if way == "pure":
        made = None
        found.encode, found.encode_into = encoder.encode, encoder.encode_into
        found.encode_many, found.encode_many_into = many.encode_many, many.encode_many_into
        found.same_stream = many.same_stream
        found.decode, found.head = decoder.decode, decoder.head
    else:
        made = wire_native.make(native_module())
        assert made is not None
        for name in ("encode", "encode_into", "encode_many", "encode_many_into", "same_stream", "decode", "head"):
            setattr(found, name, made.function(name))

    def of_this_way(frames: Any, template: int) -> Any:
        before, columns.CODEC = columns.CODEC, made  # type: ignore[misc]
        try:
            return columns.columns(frames, template)
        finally:
            columns.CODEC = before  # type: ignore[misc]

    found.columns = of_this_way
    return found


def framing_of(way: str) -> tuple[Any, Any]:
    """``split`` and ``frames`` of one way."""
    return framing.make(None if way == "pure" else native_module())

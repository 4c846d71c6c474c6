"""The codec in Rust where cmd-native is: the calls of ``encoder``, ``many`` and ``decoder``, which are its twins.

It takes what is usual and leaves the rest to the twins: frames of other versions, values that fit no field, sides as
views. So bytes, records and errors are the same either way; ``tests/cmd_server`` runs over both.
"""

from __future__ import annotations

from types import MemberDescriptorType, ModuleType
from typing import Any, Final

from cmd_common._native import module

from .decoder import Head, decode, head
from .encoder import ENCODERS, SIDES, SOURCES, STATES, TEMPLATE_OF, encode, encode_into
from .formats import LAYOUTS
from .many import encode_many, encode_many_into, same_stream

__all__ = ["CODEC", "make"]


def _sample(cls: type) -> tuple[object, tuple[object, ...]]:
    """Return a record whose fields hold objects that nothing else holds, and these: so it is seen where they lie."""
    fields: tuple[str, ...] = cls.__struct_fields__  # type: ignore[attr-defined]
    values = tuple(object() for _ in fields)
    return cls(*values), values


def _plain(cls: type) -> bool:
    """Whether every field is a slot, which has one place in all instances."""
    return all(isinstance(cls.__dict__[name], MemberDescriptorType) for name in cls.__struct_fields__)  # type: ignore[attr-defined]


def make(native: ModuleType | None) -> Any:
    """Return a ``WireCodec`` of that module; None where there is none, or records are not laid out as it needs them."""
    if native is None or not all(map(_plain, ENCODERS)):
        return None
    return native.WireCodec(
        [(cls, LAYOUTS[TEMPLATE_OF[cls]].header, (_sample(cls), _sample(cls))) for cls in ENCODERS],
        Head,
        tuple(list(words.items()) for words in (SIDES, SOURCES, STATES)),
        {
            twin.__name__: twin
            for twin in (encode, encode_into, encode_many, encode_many_into, same_stream, decode, head)
        },
    )


CODEC: Final[Any] = make(module)

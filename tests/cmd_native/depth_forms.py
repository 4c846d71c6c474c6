"""The same message in many forms, and levels of all kinds, for tests that compare native and pure decoders."""

from __future__ import annotations

import json
import random
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st
from tests.cmd_native.depth_twins import Twins

PRICES = st.one_of(
    st.integers(8_000, 12_000).map(lambda n: f"{n / 100:.2f}"),
    st.sampled_from(["99.005", "99.00", "99", "99.000", "0.00000001", "99999999999999.99", "123456789012345678901"]),
    st.decimals(Decimal("0.01"), 1000, places=8).map(str),
)
QUANTITIES = st.one_of(
    st.just("0"),
    st.integers(0, 10**12).map(lambda n: f"{n / 1e8:.8f}"),
    st.sampled_from(["1", "1e3", "-1", "nan", "00", "1.", ".5", "12345678901234567.123", "1E-7", "", "\u0661"]),
)
SIDE = st.lists(st.tuples(PRICES, QUANTITIES).map(list), max_size=6)
ODD = ["unknown", "twice", "escape", "exponent", "null", "float", "inside", "text", "number"]


def frame(message: object) -> str:
    """A message as exchanges write it."""
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False)


def spelled(message: Any, seed: int) -> str | bytes:
    """A message as JSON in one of many ways; most of them say the same."""
    rng = random.Random(seed)
    space = rng.choice(["", "", "", " ", "\n\t "])
    mixed = rng.random() < 0.7
    odd = rng.choice(ODD) if rng.random() < 0.3 else ""
    text = _spelled(message, rng, space, mixed, odd)
    return text.encode() if rng.random() < 0.5 else text


def _spelled(value: Any, rng: random.Random, space: str, mixed: bool, odd: str) -> str:
    s = space
    if isinstance(value, list):
        return "[" + s + f"{s},{s}".join(_spelled(item, rng, s, mixed, odd) for item in value) + s + "]"
    if not isinstance(value, dict):
        return _odd(value, rng, odd)
    parts = [(key, _spelled(item, rng, s, mixed, odd)) for key, item in value.items()]
    if mixed:
        rng.shuffle(parts)
    at = rng.randrange(len(parts) + 1)
    match odd if rng.random() < 0.5 else "":
        case "unknown":
            parts.insert(at, ("zz", '[1,{"b":"x","c":[true,null,-1.5e3]}]'))
        case "twice":
            parts.insert(at, rng.choice(parts))
        case "inside":
            key = rng.choice(["type", "channel", "e", "s", "symbol", "id", "event", "data", "product_id", "time"])
            parts.insert(at, ("zz", f'{{"{key}":"x"}}'))
            parts.insert(at, ("yy", f'"{key}"'))
    return "{" + s + f"{s},{s}".join(f'"{k}"{s}:{s}{v}' for k, v in parts) + s + "}"


def _odd(value: Any, rng: random.Random, odd: str) -> str:
    text = json.dumps(value, ensure_ascii=False)
    if not odd or rng.random() < 0.8:
        return text
    match odd:
        case "escape" if isinstance(value, str) and value:
            return f'"\\u{ord(value[0]):04x}{text[2:]}'
        case "exponent" if isinstance(value, int):
            return f"{value}e0"
        case "float" if isinstance(value, int):
            return f"{value}.0"
        case "text" if isinstance(value, int):
            return f'"{value}"'
        case "number" if isinstance(value, str) and value.replace(".", "", 1).isascii():
            return value if value.replace(".", "", 1).isdigit() else text
        case "null":
            return "null"
    return text


def damaged(made: Twins, text: str) -> None:
    """Give a message cut off at every byte, and with every byte changed."""
    rng = random.Random(1)
    raw = text.encode()
    for end in range(len(text)):
        made.receive(text[:end])
        made.receive(raw[:end])
        made.receive(text[:end] + rng.choice('0"\\ ,]}x\x00\u20ac') + text[end + 1 :])
        made.receive(raw[:end] + bytes([rng.randrange(256)]) + raw[end + 1 :])


def replayed(made: Twins, texts: list[str], seed: int | None, keep: int = 3) -> None:
    """Give recorded frames; with a seed some are lost, torn, or come twice, but for the first ones."""
    rng = random.Random(seed)
    for n, text in enumerate(texts):
        draw = rng.random() if seed is not None and n >= keep else 0.5
        if draw < 0.05:
            continue
        made.receive(text[: int(draw * 1e6) % len(text)] if draw < 0.1 else text if n % 2 else text.encode())
        if draw > 0.95:
            made.receive(text)

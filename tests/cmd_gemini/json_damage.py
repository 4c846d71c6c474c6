"""Damaged JSON for fuzz tests: one place of a message replaced, removed or lengthened by something odd."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

Odd = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2), st.sampled_from(["1e400", "-1", "0", "0E5", "1E-8", "1E99", "9e9", "NaN"]),
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += places(item, (*path, key))
    return found


def changed(frame: str, data: st.DataObject) -> str:
    message = json.loads(frame)
    path = data.draw(st.sampled_from(places(message)))
    odd = data.draw(Odd)
    if not path:
        return json.dumps(odd)
    inner = message
    for key in path[:-1]:
        inner = inner[key]
    if data.draw(st.booleans()):
        inner[path[-1]] = odd
    elif isinstance(inner, dict):
        del inner[path[-1]]
    else:
        inner.append(odd)
    return json.dumps(message)

"""Helper modules lie beside the tests that use them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from collections.abc import Iterator

import pytest
import wire_ways

from cmd_server import framing


@pytest.fixture(params=wire_ways.WAYS, scope="module")
def both_ways(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a module's tests twice: its ``codec`` and what ``Splitter`` uses are pure, then native."""
    way: str = request.param
    module = request.module
    before = {name: getattr(module, name) for name in ("codec", "split", "frames") if hasattr(module, name)}
    split, frames = framing.split, framing.frames
    framing.split, framing.frames = wire_ways.framing_of(way)
    ours = {"codec": wire_ways.codec_of(way), "split": framing.split, "frames": framing.frames}
    for name in before:
        setattr(module, name, ours[name])
    yield way
    framing.split, framing.frames = split, frames
    for name, value in before.items():
        setattr(module, name, value)

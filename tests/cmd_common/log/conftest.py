"""Loggers of both kinds: every test that takes ``make`` runs over pure Python and over Rust."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.conftest import require

from cmd_common import _native
from cmd_common.log import Logger

sys.path.insert(0, str(Path(__file__).parent))

HOW = "install cmd-native, which deploy/test.sh builds where a Rust toolchain is"


@pytest.fixture(params=["pure", "native"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which twin runs, formatting included."""
    if request.param == "pure":
        monkeypatch.setattr(_native, "module", None)
        monkeypatch.setattr(_native, "native", False)
    else:
        require("native", find_spec("cmd_native") is not None, HOW)
        import cmd_native

        monkeypatch.setattr(_native, "module", cmd_native)
        monkeypatch.setattr(_native, "native", True)
    return str(request.param)


@pytest.fixture
def make(kind: str) -> Iterator[Callable[[], Logger]]:
    """Make loggers that are closed at the end."""
    made: list[Logger] = []

    def one() -> Logger:
        made.append(Logger())
        assert made[-1].native == (kind == "native")
        return made[-1]

    yield one
    for logger in made:
        logger.close()

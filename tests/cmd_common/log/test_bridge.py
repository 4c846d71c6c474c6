"""Records of ``logging`` in our file, and ours in ``logging``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from log_kit import records_of

from cmd_common.log import Handler, Logger, to_logging

Make = Callable[[], Logger]


@pytest.fixture
def standard() -> Iterator[logging.Logger]:
    logger = logging.getLogger("cmd-log-test")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield logger
    logger.handlers.clear()
    logger.propagate = True


def test_what_libraries_log_is_in_the_file(make: Make, tmp_path: Path, standard: logging.Logger) -> None:
    logger = make()
    standard.addHandler(Handler(logger))
    logger.set_level("debug")
    with logger.open(tmp_path / "a.log"):
        standard.debug("hello %s", "you")
        standard.log(35, "between")
        standard.critical("x" * 500)
        try:
            raise ValueError("wrong")
        except ValueError:
            standard.exception("it failed")
    found, _ = records_of(tmp_path / "a.log")
    assert [(r.event.name, r.event.level) for r in found] == [
        ("logging.debug", 10), ("logging.warning", 30), ("logging.critical", 50), ("logging.error", 40),
    ]  # fmt: skip
    assert found[0].message == "cmd-log-test: hello you"
    assert found[2].values[1] == "x" * 397 + "…"
    assert "ValueError: wrong" in str(found[3].values[1])


def test_a_handlers_own_failure_goes_where_logging_sends_it(
    make: Make, tmp_path: Path, standard: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[logging.LogRecord] = []
    handler = Handler(make())
    monkeypatch.setattr(handler, "handleError", seen.append)
    handler.handle(standard.makeRecord("x", 20, "", 0, "%d", ("no number",), None))
    assert len(seen) == 1


def test_what_is_drained_goes_to_logging_once(make: Make, tmp_path: Path, standard: logging.Logger) -> None:
    seen: list[logging.LogRecord] = []
    catch = logging.Handler()
    catch.emit = seen.append  # type: ignore[method-assign]
    logger = make()
    standard.addHandler(catch)
    standard.addHandler(Handler(logger))  # both ways at once must not run in a circle
    one = logger.event("order.sent", "sent {price:f8} {n:i8}", "warning")
    with logger.open(tmp_path / "a.log", consumers=[to_logging(standard)], thread=False):
        one(101.5, 3)
        standard.info("from a library")
        logger.flush()
        logger.flush()
    assert [r.getMessage() for r in seen] == ["from a library", "sent 101.5 3"]
    ours = seen[1]
    assert (ours.levelno, ours.name, ours.funcName) == (30, standard.name, "order.sent")
    assert ours.event == "order.sent"  # type: ignore[attr-defined]
    assert ours.fields == {"price": 101.5, "n": 3}  # type: ignore[attr-defined]
    found, _ = records_of(tmp_path / "a.log")
    assert ours.created == found[0].ts / 1e9
    assert [r.event.name for r in found] == ["order.sent", "logging.info", "logging.warning"]


def test_a_failing_consumer_stops_nothing(make: Make, tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    logger = make()
    one = logger.event("one", "{n:i8}")
    with logger.open(tmp_path / "a.log", consumers=[fail], thread=False):
        one(1)
        logger.flush()
        assert isinstance(logger.error, RuntimeError)
        one(2)
    assert [r.values[0] for r in records_of(tmp_path / "a.log")[0]] == [1, 2]

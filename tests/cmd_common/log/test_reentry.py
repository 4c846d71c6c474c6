"""A log that is closed, opened or logged to at the worst moments: from a value's own code, from its drain, by other threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from log_kit import records_of

from cmd_common.log import Logger

Make = Callable[[], Logger]


def test_a_value_that_closes_the_log_while_it_is_converted(make: Make, tmp_path: Path) -> None:
    logger = make()
    one = logger.event("one", "{a:i8} {b:i8}")

    class Closing:
        def __index__(self) -> int:
            logger.close()
            return 7

    logger.open(tmp_path / "a.log", thread=False)
    one(1, 1)
    one(2, Closing())  # type: ignore[arg-type]
    one(3, 3)
    found, reader = records_of(tmp_path / "a.log")
    assert [r.values for r in found] == [(1, 1)]
    assert reader.lost == []


def test_who_logs_from_within_the_drain_waits_for_nobody(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = make()
    one = logger.event("one", "{a:i8}")
    logger.open(tmp_path / "a.log", thread=False, slots=16)
    drain = logger._drain
    assert drain is not None
    write = drain.sink.write

    def interrupted(*args: object) -> None:
        for n in range(100, 120):  # as a signal's handler may
            one(n)
        assert logger.flush() == 0
        write(*args)  # type: ignore[arg-type]

    for n in range(16):
        one(n)
    with monkeypatch.context() as patch:
        patch.setattr(drain.sink, "write", interrupted)
        logger.flush()
    logger.close()
    found, reader = records_of(tmp_path / "a.log")
    assert reader.lost == []
    values = [r.values[0] for r in found if r.event.name == "one"]
    dropped = sum(int(r.values[0]) for r in found if r.event.name == "log.dropped")
    assert values[:16] == list(range(16))
    assert len(values) + dropped >= 36
    assert dropped >= 20


def test_opening_and_closing_while_threads_log(make: Make, tmp_path: Path) -> None:
    logger = make()
    one = logger.event("one", "{thread:i8} {n:i8} {text:s16}")
    stop = threading.Event()
    errors: list[BaseException] = []
    counts = [0, 0, 0]

    def run(number: int) -> None:
        try:
            while not stop.is_set():
                one(number, counts[number], "some text")
                counts[number] += 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(15):
        with logger.open(tmp_path / "a.log", slots=64, interval=0.001, rotate_bytes=20_000, keep=0):
            logger.set_level("warning")
            logger.event(f"other.{_}", "{a:i8}")(1)
            logger.set_level("info")
            stop.wait(0.005)
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    found, reader = records_of(tmp_path / "a.log")
    assert reader.lost == []
    assert len(reader.sessions) == 15
    for number in range(3):
        own = [int(r.values[1]) for r in found if r.event.name == "one" and r.values[0] == number]
        assert own == sorted(set(own))
        assert len(own) <= counts[number] + 1
    assert {r.values[2] for r in found if r.event.name == "one"} == {"some text"}

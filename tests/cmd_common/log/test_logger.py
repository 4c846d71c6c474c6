"""One table of behaviour for both twins."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from log_kit import ALL, NUMBERS, ROWS, held, in_order, records_of, values_of

from cmd_common import _native
from cmd_common.errors import StoreBusyError, UnknownNameError, UsageError
from cmd_common.log import Logger, Reader, Record
from cmd_common.log.render import json_line, text_line

Make = Callable[[], Logger]


def test_what_is_logged_is_read(make: Make, tmp_path: Path) -> None:
    logger = make()
    sent = logger.event("order.sent", NUMBERS)
    before = time.time_ns()
    with logger.open(tmp_path / "a.log"):
        for n in range(1000):
            sent(101.5, 0.25, 7, n)
    after = time.time_ns()
    found, reader = records_of(tmp_path / "a.log")
    assert [r.values for r in found] == [(101.5, 0.25, 7, n) for n in range(1000)]
    assert in_order(found)
    assert before - 1_000_000 <= found[0].ts <= found[-1].ts <= after + 1_000_000
    assert found[3].message == "sent 101.5 0.25 7 3"
    assert found[3].fields == {"price": 101.5, "qty": 0.25, "id": 7, "n": 3}
    assert reader.lost == []
    assert reader.open_ends == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.log"]  # no ring, no lock stay behind


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(row=ROWS)
def test_every_type_keeps_its_value(make: Make, tmp_path: Path, row: tuple[object, ...]) -> None:
    logger = make()
    log_all = logger.event("all", ALL)
    path = tmp_path / "a.log"
    path.unlink(missing_ok=True)
    with logger.open(path, thread=False, slots=2, large_slots=2):
        log_all(*row)  # type: ignore[arg-type]
    (found,) = values_of(path)
    expected = (*row[:-2], held(str(row[-2]), 8), held(str(row[-1]), 40))
    assert repr(found) == repr(expected)  # nan is nan, -0.0 is -0.0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(row=ROWS)
def test_lines_are_the_same_in_both(make: Make, tmp_path: Path, row: tuple[object, ...]) -> None:
    logger = make()
    log_all = logger.event("all", ALL)
    path = tmp_path / "a.log"
    path.unlink(missing_ok=True)
    with logger.open(path, thread=False, slots=2, large_slots=2):
        log_all(*row)  # type: ignore[arg-type]
    for batch in Reader(path).batches():
        (record,) = batch.records()
        assert isinstance(record, Record)
        assert batch.lines("text") == ((text_line(record) + "\n").encode(), 0)
        assert batch.lines("json") == ((json_line(record) + "\n").encode(), 0)
        assert len(text_line(record).splitlines()) <= 1 or not str(row[-1]).isascii() or not str(row[-2]).isascii()
        fields = json.loads(json_line(record))["fields"]
        assert fields["e"] == row[4]
        assert fields["m"] == record.values[-1]
        assert fields["a"] == row[0] or not math.isfinite(row[0])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("form", "values", "error"),
    [
        ("{a:f8}", ("x",), TypeError),
        ("{a:f8}", (None,), TypeError),
        ("{a:i8}", (1.0,), TypeError),
        ("{a:i8}", (1 << 63,), OverflowError),
        ("{a:i1}", (128,), OverflowError),
        ("{a:i2}", (-32769,), OverflowError),
        ("{a:u1}", (-1,), OverflowError),
        ("{a:u8}", (1 << 64,), OverflowError),
        ("{a:u8}", (-1,), OverflowError),
        ("{a:u8}", ("1",), TypeError),
        ("{a:u4}", (1 << 32,), OverflowError),
        ("{a:u4}", (None,), TypeError),
        ("{a:s8}", (b"x",), TypeError),
        ("{a:s8}", (1,), TypeError),
        ("{a:sym}", ("x",), TypeError),
        ("{a:f8}", (10**400,), OverflowError),
    ],
)
def test_a_wrong_value_is_an_error_and_no_record(
    make: Make, tmp_path: Path, form: str, values: tuple[object, ...], error: type[Exception]
) -> None:
    logger = make()
    one, ok = logger.event("one", form), logger.event("ok", "{a:i8}")
    with logger.open(tmp_path / "a.log"):
        ok(1)
        with pytest.raises(error, match=r"event one: field a is .* does not fit") as told:
            one(*values)  # type: ignore[arg-type]
        assert type(told.value) is error
        ok(2)
    assert values_of(tmp_path / "a.log") == [(1,), (2,)]


def test_a_wrong_number_of_values_is_a_type_error(make: Make, tmp_path: Path) -> None:
    logger = make()
    one = logger.event("one", "{a:i8}")
    with logger.open(tmp_path / "a.log"):
        for values in ((), (1, 2)):
            with pytest.raises(TypeError):
                one(*values)


def test_numbers_that_are_no_float_or_int_are_taken_as_python_takes_them(make: Make, tmp_path: Path) -> None:
    class Odd:
        def __index__(self) -> int:
            return 41

        def __float__(self) -> float:
            return 4.5

    logger = make()
    one = logger.event("one", "{a:i8} {b:u8} {c:f8} {d:f8} {e:bool} {f:u1}")
    with logger.open(tmp_path / "a.log"):
        one(Odd(), Odd(), Odd(), 7, [], True)  # type: ignore[arg-type]
    assert values_of(tmp_path / "a.log") == [(41, 41, 4.5, 7.0, False, 1)]


def test_levels(make: Make, tmp_path: Path) -> None:
    logger = make()
    debug, info, error = (logger.event(f"x.{n}", "{a:i8}", n) for n in ("debug", "info", "error"))

    def all_three(n: int) -> None:
        for event in (debug, info, error):
            event(n)

    all_three(0)  # nothing is open
    with logger.open(tmp_path / "a.log"):
        all_three(1)
        logger.set_level("debug")
        all_three(2)
        logger.set_level("error", "x.*")
        all_three(3)
        logger.set_level("debug", "x.debug")
        all_three(4)
        logger.set_level("critical")  # single events keep their own
        all_three(5)
    all_three(6)
    found, _ = records_of(tmp_path / "a.log")
    assert [(r.values[0], r.event.name.removeprefix("x.")) for r in found] == [
        (1, "info"), (1, "error"), (2, "debug"), (2, "info"), (2, "error"), (3, "error"),
        (4, "debug"), (4, "error"), (5, "debug"), (5, "error"),
    ]  # fmt: skip
    with pytest.raises(UnknownNameError, match="did you mean warning"):
        logger.set_level("warnign")


def test_declarations(make: Make) -> None:
    logger = make()
    one = logger.event("one", "{{x}} {a:i8} {{")
    assert logger.event("one", "{{x}} {a:i8} {{") is one
    assert logger.events["one"].pieces == ("{x} ", " {")
    for name, form, words in (
        ("one", "{a:i4}", "declared already"),
        ("", "x", "is empty"),
        ("a b", "x", "has spaces"),
        ("two", "{a}", r"is not \{name:type\}"),
        ("two", "{a:f9}", "types are f8, i1"),
        ("two", "{a:s3}", "unknown type"),
        ("two", "{a:s1001}", "unknown type"),
        ("two", "{a:i8} {a:i8}", "two fields"),
        ("two", "{a:i8", "single"),
        ("two", "}", "single"),
        ("two", " ".join(f"{{a{n}:i8}}" for n in range(33)), "33 fields"),
    ):
        with pytest.raises(UsageError, match=words):
            logger.event(name, form)
    with pytest.raises(UsageError):
        logger.event("two", "x", 25)
    assert list(logger.events) == ["one"]


def test_events_and_texts_may_come_while_it_is_open(make: Make, tmp_path: Path) -> None:
    logger = make()
    with logger.open(tmp_path / "a.log"):
        one = logger.event("one", "{a:sym} {b:sym}")
        one(logger.intern("BTCUSDT"), logger.intern("ETHUSDT"))
        assert logger.intern("BTCUSDT") == 1
        with pytest.raises(UsageError, match="fields; 496 fit"):
            logger.event("large", "{a:s600}")
        one(1, 99)
    assert values_of(tmp_path / "a.log") == [("BTCUSDT", "ETHUSDT"), ("BTCUSDT", "#99")]


def test_events_without_fields_and_of_any_size(make: Make, tmp_path: Path) -> None:
    logger = make()
    nothing, large = logger.event("nothing", "hello {{}}"), logger.event("large", "{a:s1000}")
    with logger.open(tmp_path / "a.log", large=1024):
        nothing()
        large("x" * 2000)
    found, _ = records_of(tmp_path / "a.log")
    assert [r.message for r in found] == ["hello {}", "x" * 997 + "…"]


def test_large_and_small_records_stay_in_order(make: Make, tmp_path: Path) -> None:
    logger = make()
    small, large = logger.event("small", "{a:i8}"), logger.event("large", "{a:i8} {b:s100}")
    with logger.open(tmp_path / "a.log", slots=64, large_slots=16):
        for n in range(5000):
            (large if n % 3 else small)(*((n, "x") if n % 3 else (n,)))
    found, reader = records_of(tmp_path / "a.log")
    assert reader.lost == []
    assert [r.values[0] for r in found] == list(range(5000))


@pytest.mark.parametrize("form", ["text", "json"])
def test_text_and_json_files(make: Make, tmp_path: Path, form: str) -> None:
    logger = make()
    one, large = logger.event("one", "a {a:i8}"), logger.event("large", "b {a:i8} {b:s100}", "warning")
    with logger.open(tmp_path / "a.log", format=form):
        for n in range(100):
            one(n)
            large(n, "a\nb\\")
    lines = (tmp_path / "a.log").read_text().splitlines()
    assert len(lines) == 200
    if form == "json":
        rows = [json.loads(line) for line in lines]
        assert [(r["event"], r["fields"]["a"]) for r in rows[:3]] == [("one", 0), ("large", 0), ("one", 1)]
        assert rows[1]["fields"]["b"] == "a\nb\\"
    else:
        assert lines[-1].endswith("Z WARNING large b 99 a\\nb\\\\")
        assert lines[-2].split(" ", 1)[1] == "INFO one a 99"


@pytest.mark.parametrize("policy", ["block", "drop", "overwrite"])
def test_a_full_ring(make: Make, tmp_path: Path, policy: str) -> None:
    logger = make()
    one = logger.event("one", "{a:i8}")
    with logger.open(tmp_path / "a.log", full=policy, slots=16, thread=False):
        for n in range(100):
            one(n)
        stats = logger.stats
    found, reader = records_of(tmp_path / "a.log")
    assert reader.lost == []
    values = [r.values[0] for r in found if r.event.name == "one"]
    told = {r.event.name: r.values[0] for r in found if r.event.name.startswith("log.")}
    if policy == "block":
        assert (values, told) == (list(range(100)), {})
    elif policy == "drop":
        assert (values, told) == (list(range(16)), {"log.dropped": 84})
        assert stats["dropped"] == 84
    else:
        assert values == list(range(100 - len(values), 100))
        assert len(values) > 8
        assert told == {"log.overwritten": 100 - len(values)}
        assert stats["overwritten"] == 100 - len(values)


@pytest.mark.parametrize("policy", ["block", "drop", "overwrite"])
def test_threads(make: Make, tmp_path: Path, policy: str) -> None:
    logger = make()
    one = logger.event("one", "{thread:i8} {a:i8}")

    def run(number: int) -> None:
        for n in range(5000):
            one(number, n)

    with logger.open(tmp_path / "a.log", full=policy, slots=256, interval=0.001):
        threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found, reader = records_of(tmp_path / "a.log")
    assert reader.lost == []
    rows = [r.values for r in found if r.event.name == "one"]
    told = sum(int(r.values[0]) for r in found if r.event.name != "one")
    assert len(rows) + told == 20_000
    assert policy != "block" or not told
    for number in range(4):
        own = [a for thread, a in rows if thread == number]
        assert own == sorted(set(own))


def test_rotation_by_size_keeps_a_bounded_number(make: Make, tmp_path: Path) -> None:
    logger = make()
    one = logger.event("one", "{a:i8}")
    with logger.open(tmp_path / "a.log", thread=False, slots=64, rotate_bytes=10_000, keep=3):
        for n in range(2000):
            one(n)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert len(names) == 4
    assert names[0] == "a.log"
    assert names[1] > "a.log.000005"
    found, reader = records_of(tmp_path / "a.log")
    values = [r.values[0] for r in found]
    assert values == list(range(2000 - len(values), 2000))
    assert reader.lost == []  # the files that are left follow each other without a hole


def test_rotation_by_time(make: Make, tmp_path: Path) -> None:
    logger = make()
    one = logger.event("one", "{a:i8}")
    with logger.open(tmp_path / "a.log", thread=False, rotate_ns=1, keep=0, format="text"):
        for n in range(5):
            one(n)
            logger.flush()
    assert len(list(tmp_path.iterdir())) == 5


def test_a_path_belongs_to_one_logger(make: Make, tmp_path: Path) -> None:
    one, two = make(), make()
    one.open(tmp_path / "a.log")
    with pytest.raises(UsageError, match="open already"):
        one.open(tmp_path / "b.log")
    with pytest.raises(StoreBusyError):
        two.open(tmp_path / "a.log")
    one.close()
    two.open(tmp_path / "a.log")
    two.close()
    (tmp_path / "t.log").write_text("hello")
    with pytest.raises(UsageError, match="is no binary log"):
        one.open(tmp_path / "t.log")
    with pytest.raises(UsageError, match="is a binary log"):
        one.open(tmp_path / "a.log", format="text")
    for wrong in ({"full": "wait"}, {"format": "xml"}, {"slots": 0}, {"large": 100}):
        with pytest.raises(UsageError):
            one.open(tmp_path / "c.log", **wrong)  # type: ignore[arg-type]
    one.close()
    one.close()


def test_it_goes_on_in_the_same_file(make: Make, tmp_path: Path) -> None:
    logger = make()
    one = logger.event("one", "{a:i8}")
    for n in range(3):
        with logger.open(tmp_path / "a.log"):
            one(n)
    found, reader = records_of(tmp_path / "a.log")
    assert [r.values[0] for r in found] == [0, 1, 2]
    assert len({r.session for r in found}) == 3
    assert reader.open_ends == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork is needed")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_logs_nothing_into_its_parents_log(make: Make, tmp_path: Path) -> None:
    logger = make()
    one = logger.event("one", "{a:i8}")
    with logger.open(tmp_path / "a.log"):
        one(1)
        pid = os.fork()
        if not pid:
            code = 1
            try:
                one(2)
                with logger.open(tmp_path / "child.log"):
                    one(3)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        one(4)
    assert values_of(tmp_path / "a.log") == [(1,), (4,)]
    assert values_of(tmp_path / "child.log") == [(3,)]


def test_a_call_allocates_nothing_that_stays(make: Make, tmp_path: Path) -> None:
    logger = make()
    sent = logger.event("order.sent", NUMBERS)
    note = logger.event("note", "{a:s32}")
    logger.open(tmp_path / "a.log", thread=False, slots=1 << 16)
    for _ in range(2000):
        sent(101.5, 0.25, 7, 1)
        note("hello")
    tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        start, _ = tracemalloc.get_traced_memory()
        for _ in range(5000):
            sent(101.5, 0.25, 7, 1)
        middle, numbers_peak = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(5000):
            note("hello, this is text")
        end, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # tracemalloc itself, the range and the loop's number take some hundred bytes, however many calls there are
    assert middle - start < 600
    assert end - middle < 600
    assert numbers_peak - start < 1000
    assert peak - middle < 1000
    if logger.native:
        before = _native.module.allocations()  # type: ignore[union-attr]
        for _ in range(5000):
            sent(101.5, 0.25, 7, 1)
            note("hello, this is text")
        assert _native.module.allocations() == before  # type: ignore[union-attr]


def test_a_failing_disk_blocks_nobody(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = make()
    one = logger.event("one", "{a:i8}")
    logger.open(tmp_path / "a.log", thread=False, slots=16)
    drain = logger._drain
    assert drain is not None

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(drain.sink, "write", full_disk)
        for n in range(20):
            one(n)
        assert isinstance(logger.error, OSError)
        assert logger.stats["dropped"] == 4
    logger.flush()
    one(99)
    logger.close()
    found, reader = records_of(tmp_path / "a.log")
    assert reader.lost == []
    assert [r.values[0] for r in found if r.event.name == "one"] == [*range(16), 99]
    assert [r.values[0] for r in found if r.event.name == "log.dropped"] == [4]


def test_what_cannot_be_written_at_the_end_stays_in_the_ring(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = make()
    one = logger.event("one", "{a:i8}")
    logger.open(tmp_path / "a.log", thread=False)
    one(1)
    drain = logger._drain
    assert drain is not None

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(drain.sink, "write", full_disk)
    with pytest.raises(OSError, match="No space"):
        logger.close()
    assert values_of(tmp_path / "a.log") == [(1,)]
    with logger.open(tmp_path / "a.log"):
        one(2)
    assert values_of(tmp_path / "a.log") == [(1,), (2,)]


def test_a_slot_that_was_taken_and_never_written_does_not_stop_the_log(tmp_path: Path, make: Make) -> None:
    logger = make()
    one = logger.event("one", "{a:i8}")
    logger.open(tmp_path / "a.log", thread=False, slots=16)
    drain = logger._drain
    assert drain is not None
    one(1)
    if not logger.native:
        drain.file.rings[0].take()()  # a thread that an exception took away at the worst moment
    for n in range(2, 50):
        one(n)
    logger.close()
    found, reader = records_of(tmp_path / "a.log")
    assert [r.values[0] for r in found] == list(range(1, 50))
    assert reader.lost == []


def test_a_program_that_ends_without_closing_leaves_a_whole_log(kind: str, tmp_path: Path) -> None:
    code = (
        "import sys; from cmd_common import log; one = log.event('one', '{a:i8}'); log.open(sys.argv[1]);"
        "[one(n) for n in range(100)]"
    )
    env = {**os.environ, "CMD_PURE": "1" if kind == "pure" else ""}
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.log")], env=env, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    found, reader = records_of(tmp_path / "a.log")
    assert [r.values for r in found] == [(n,) for n in range(100)]
    assert (reader.lost, reader.open_ends) == ([], 0)
    assert [p.name for p in tmp_path.iterdir()] == ["a.log"]

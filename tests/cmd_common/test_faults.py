from __future__ import annotations

import pytest

from cmd_common.emulation import Fault
from cmd_common.errors import UsageError
from cmd_common.faults import FAULTS, FaultPlan, Injector, parse_fault


@pytest.mark.parametrize("kind", FAULTS)
def test_every_kind_parses_alone(kind: str) -> None:
    assert parse_fault(kind) == Fault(kind, {})


def test_parameters_are_read_and_spaces_ignored() -> None:
    assert parse_fault(" drop: rate=0.5, symbol=BTCUSDT ") == Fault("drop", {"rate": "0.5", "symbol": "BTCUSDT"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dorp", "did you mean drop"),
        ("drop:rate", "is not k=v"),
        ("drop:rate=2", "a number from 0 to 1"),
        ("drop:at=x", "a whole number from 1"),
        ("drop:day=2025-01-01", "unknown parameter of fault drop 'day'"),
        ("malformed:form=odd", "one of text"),
        ("missing_day:day=tomorrow", "a date"),
        ("truncated_zip:checksum=no", "match"),
    ],
)
def test_wrong_faults_are_named(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_fault(text)


def struck(text: str, messages: int, seed: int = 1) -> list[int]:
    plan = FaultPlan(parse_fault(text), seed)
    return [n for n in range(1, messages + 1) if plan.take()]


def test_at_strikes_the_nth_and_count_the_following() -> None:
    assert struck("drop:at=5", 20) == [5]
    assert struck("drop:at=5,count=3", 20) == [5, 6, 7]


def test_rate_is_seeded_and_count_limits_it() -> None:
    assert struck("drop:rate=0.2", 500) == struck("drop:rate=0.2", 500)
    assert struck("drop:rate=0.2", 500) != struck("drop:rate=0.2", 500, seed=2)
    assert 60 < len(struck("drop:rate=0.2", 500)) < 140
    assert len(struck("drop:rate=0.2,count=4", 500)) == 4
    assert struck("drop:rate=0", 500) == []
    assert struck("drop:rate=1", 5) == [1, 2, 3, 4, 5]


def test_defaults_of_each_group() -> None:
    assert struck("disconnect", 300) == [100]
    assert struck("rate_limit", 5) == [1]
    assert 0 < len(struck("tear", 1000)) < 40
    assert struck("bad_checksum", 3) == [1, 2, 3]


@pytest.mark.parametrize(
    ("fault", "stream", "symbol", "hit"),
    [
        ("drop", "btcusdt@trade", "BTCUSDT", True),
        ("drop:stream=depth", "btcusdt@depth@100ms", "BTCUSDT", True),
        ("drop:stream=depth", "btcusdt@trade", "BTCUSDT", False),
        ("drop:stream=btcusdt@trade", "btcusdt@trade", "BTCUSDT", True),
        ("drop:symbol=ethusdt", "btcusdt@trade", "BTCUSDT", False),
        ("drop:symbol=btcusdt", "btcusdt@trade", "BTCUSDT", True),
    ],
)
def test_filters(fault: str, stream: str, symbol: str, hit: bool) -> None:
    assert FaultPlan(parse_fault(fault), 1).matches(stream, symbol) is hit


def test_an_injector_counts_only_what_matches() -> None:
    injector = Injector((parse_fault("drop:at=2,symbol=B"),), 1)
    assert [bool(injector.frame("x", s)) for s in "ABABAB"] == [False, False, False, True, False, False]


def test_files_and_requests() -> None:
    injector = Injector((parse_fault("missing_day:day=2025-06-01"), parse_fault("ban:path=depth")), 1)
    assert injector.file("missing_day", "BTCUSDT", "2025-06-02") is None
    assert injector.file("missing_day", "BTCUSDT", "2025-06-01") is not None
    assert injector.file("bad_checksum", "BTCUSDT", "2025-06-01") is None
    assert injector.rest("/api/v3/klines", "") is None
    assert injector.rest("/api/v3/depth", "") is not None
    assert injector.rest("/api/v3/depth", "") is None

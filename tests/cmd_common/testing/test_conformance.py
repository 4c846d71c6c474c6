"""The conformance suite finds what it is for: each broken exchange fails the check that names its fault.

The whole exchange is Binance spot with the case of its own tests; a wrapper breaks one thing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from cmd_common.exchange import Endpoints
from cmd_common.feed import Feed, FetchSnapshot, Output, Subscription
from cmd_common.instruments import Instrument
from cmd_common.records import BookDelta, FeedStatus, Gap, Trade
from cmd_common.testing.conformance import Conformance

HERE = Path(__file__).parent


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("binance_conformance_case", path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


GOOD = module(HERE.parents[1] / "cmd_binance" / "test_exchange.py").CASES["binance-spot"]
Change = Callable[[Output, str], Output]


class BrokenFeed:
    """A feed whose every output passes through ``change``."""

    def __init__(self, feed: Feed, change: Change) -> None:
        self._feed = feed
        self._change = change

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._feed, name)
        if not callable(value):
            return value
        return lambda *arguments: self._change(value(*arguments), name)


class BrokenExchange:
    """An exchange whose feeds are broken."""

    def __init__(self, change: Change) -> None:
        self._change = change

    def __getattr__(self, name: str) -> Any:
        return getattr(GOOD.exchange, name)

    def feeds(
        self, subscription: Subscription, instruments: Mapping[str, Instrument], endpoints: Endpoints
    ) -> list[Any]:
        return [BrokenFeed(f, self._change) for f in GOOD.exchange.feeds(subscription, instruments, endpoints)]


def suite(change: Change) -> Conformance:
    class Broken(Conformance):
        case = msgspec.structs.replace(GOOD, exchange=BrokenExchange(change))

    return Broken()


def checks() -> list[str]:
    return [name for name in dir(Conformance) if name.startswith("test_")]


def failures(change: Change) -> set[str]:
    failed = set()
    for name in checks():
        try:
            getattr(suite(change), name)()
        except (AssertionError, ValueError, ZeroDivisionError):
            failed.add(name.removeprefix("test_"))
    return failed


def keep(output: Output, name: str) -> Output:
    return output


def without(kind: type[Any]) -> Change:
    def change(output: Output, name: str) -> Output:
        output.records = [r for r in output.records if not isinstance(r, kind)]
        return output

    return change


def wrong_side(output: Output, name: str) -> Output:
    output.records = [
        msgspec.structs.replace(r, side={"buy": "sell", "sell": "buy"}[r.side]) if isinstance(r, Trade) else r
        for r in output.records
    ]
    return output


def wrong_unit(output: Output, name: str) -> Output:
    output.records = [
        msgspec.structs.replace(r, ts_event=r.ts_event // 1000) if isinstance(r, Trade) else r for r in output.records
    ]
    return output


def clamped(output: Output, name: str) -> Output:
    output.records = [
        msgspec.structs.replace(r, ts_event=min(r.ts_event, r.ts_recv)) if isinstance(r, Trade) else r
        for r in output.records
    ]
    return output


def never_syncs(output: Output, name: str) -> Output:
    output.actions = [a for a in output.actions if not isinstance(a, FetchSnapshot)]
    return output


def no_alarm(output: Output, name: str) -> Output:
    if name == "tick":
        output.records = [r for r in output.records if not isinstance(r, FeedStatus)]
    return output


def twice(output: Output, name: str) -> Output:
    output.records = [r for r in output.records for _ in range(1 + isinstance(r, Trade))]
    return output


def raises(output: Output, name: str) -> Output:
    if any(isinstance(r, FeedStatus) and r.state == "malformed" for r in output.records):
        raise ValueError("malformed")
    return output


def test_the_whole_exchange_passes() -> None:
    assert failures(keep) == set()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (wrong_side, "parser_table"),
        (wrong_unit, "parser_table"),
        (clamped, "receive_time_may_precede_event_time"),
        (never_syncs, "books_sync_and_follow"),
        (no_alarm, "silent_streams_raise_an_alarm"),
        (twice, "repeated_trades_are_dropped"),
        (raises, "damage_never_raises_and_is_reported"),
        (without(Gap), "missing_trades_become_a_gap_with_their_ids"),
        (without(Gap), "a_lost_depth_message_is_noticed_at_the_next_one"),
        (without(Gap), "a_disconnect_is_a_gap_of_quotes"),
        (without(FeedStatus), "refused_subscription_is_counted_and_reported"),
        (without(BookDelta), "nothing_is_published_before_the_book_is_live"),
    ],
)
def test_a_broken_exchange_fails(change: Change, expected: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        getattr(suite(change), f"test_{expected}")()

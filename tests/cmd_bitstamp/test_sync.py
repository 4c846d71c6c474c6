"""Bitstamp's rule of books and its chain of order events, as tables and as properties; reference data."""

from __future__ import annotations

import json
from decimal import Decimal

import bitstamp_wire as w
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_bitstamp.instruments import parse_pairs
from cmd_bitstamp.sync import OrderChain, TimeRule
from cmd_common.builder import OrderBookBuilder
from cmd_common.errors import ProtocolError
from cmd_common.orderbook import OrderBook
from cmd_common.sequence import BookState, Verdict

RULE = TimeRule()


@pytest.mark.parametrize(
    ("book", "time", "verdict"),
    [(100, 99, Verdict.DROP), (100, 100, Verdict.DROP), (100, 101, Verdict.APPLY), (100, 10_000, Verdict.APPLY)],
)
def test_verdicts(book: int, time: int, verdict: Verdict) -> None:
    assert RULE.first(book, time, time, None) is verdict
    assert RULE.next(book, time, time, None) is (Verdict.GAP if time < book else verdict)
    assert RULE.too_old(book, time, time, None) is (time > book)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=20, unique=True), st.integers(0, 110))
def test_a_snapshot_takes_what_came_behind_it(times: list[int], at: int) -> None:
    """Whatever was buffered: the book is LIVE with all later changes, or the snapshot is older than all."""
    times.sort()
    builder = OrderBookBuilder(OrderBook(), RULE, snapshot_levels=1000)
    builder.start()
    for t in times:
        builder.delta(t, t, None, [(1.0, float(t))], [], t)
    result = builder.snapshot(at, [(1.0, 1000.0)], [(2.0, 1.0)], complete=True, ts_event=at)
    builder.check()
    assert result.accepted is (at >= times[0])
    if result.accepted:
        later = [t for t in times if t > at]
        assert builder.state is BookState.LIVE
        assert [d[0] for d in result.replayed] == later
        assert builder.book.bids() == [(1.0, float(later[-1]) if later else 1000.0)]


@given(st.integers(1, 40), st.data())
def test_every_missing_order_event_is_seen(count: int, data: st.DataObject) -> None:
    lost = data.draw(st.sets(st.integers(1, count)))
    chain = OrderChain()
    assert chain.follow("e0", "x")
    broken = [n for n in range(1, count + 1) if n not in lost and not chain.follow(f"e{n}", f"e{n - 1}")]
    assert broken == [n for n in range(1, count + 1) if n not in lost and n - 1 in lost]


def test_events_without_ids_are_not_judged() -> None:
    chain = OrderChain()
    assert chain.follow("a", "")
    assert chain.follow("", "b")
    assert chain.follow("c", "d")
    assert not chain.follow("e", "x")
    chain.reset()
    assert chain.follow("f", "x")


# Reference data


def pair(**changes: object) -> bytes:
    return json.dumps([{**json.loads(w.PAIRS)[0], **changes}]).encode()


def test_pairs() -> None:
    (btc, eth) = parse_pairs(w.PAIRS)
    assert (btc.symbol, btc.unified, btc.tick_size, btc.lot_size) == (
        "BTCUSD",
        "BTC-USD",
        Decimal("0.01"),
        Decimal("1E-8"),
    )
    assert (eth.min_notional, eth.status, eth.raw_status) == (Decimal("20"), "trading", "Enabled")
    (other,) = parse_pairs(pair(trading="Disabled", minimum_order="", name="1INCH/EUR", url_symbol="1incheur"))
    assert (other.status, other.min_notional, other.symbol, other.base) == ("halted", 0, "1INCHEUR", "1INCH")
    (unknown,) = parse_pairs(pair(trading="Auction"))
    assert (unknown.status, unknown.raw_status) == ("unknown", "Auction")
    (renamed,) = parse_pairs(pair(url_symbol="", market_symbol="btcusd"))
    assert renamed.symbol == "BTCUSD"


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "BTCUSD"},
        {"name": "/USD"},
        {"url_symbol": ""},
        {"base_decimals": -1},
        {"base_decimals": 25},
        {"base_decimals": "x"},
        {"minimum_order": "many USD"},
        {"minimum_order": "NaN USD"},
        {"minimum_order": "1E999999999 USD"},
        {"minimum_order": "1E-999999999 USD"},
    ],
)
def test_impossible_pairs_are_one_clear_error(changes: dict[str, object]) -> None:
    with pytest.raises(ProtocolError) as error:
        parse_pairs(pair(**changes))
    assert "\n" not in str(error.value)


@given(st.integers(0, 24))
def test_steps_are_exact(places: int) -> None:
    (instrument,) = parse_pairs(pair(counter_decimals=places))
    assert instrument.tick_size * 10**places == 1

"""The checksum book against a naive book, and the texts of numbers and times."""

from __future__ import annotations

from decimal import Decimal

import kraken_wire as w
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_common.errors import UsageError
from cmd_common.orderbook import OrderBook
from cmd_kraken._text import decimal_digits, iso_to_ns, ns_to_iso, ns_to_seconds, plain, seconds_to_ns
from cmd_kraken.sync import CHECKED, DEPTHS, ChecksumBook, Level, book_depth, level, level_of_bytes

PRICES = st.integers(1, 60).map(lambda n: f"{n}.5")
QUANTITIES = st.sampled_from(["0.00000000", "0.00005100", "1.00000000", "20.12345678"])
SIDES = st.lists(st.tuples(PRICES, QUANTITIES), max_size=8)
UPDATES = st.lists(st.tuples(SIDES, SIDES), max_size=30)


def levels(side: list[tuple[str, str]]) -> list[Level]:
    return [level(p, q) for p, q in side]


class Naive:
    """Sorts everything again for every message."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.sides: tuple[dict[str, str], dict[str, str]] = ({}, {})

    def apply(self, bids: list[tuple[str, str]], asks: list[tuple[str, str]]) -> None:
        for n, changes in enumerate((bids, asks)):
            side = self.sides[n]
            side.update(changes)
            best = sorted((p for p, q in side.items() if float(q)), key=float, reverse=not n)[: self.depth]
            for price in set(side) - set(best):
                del side[price]

    def sorted(self) -> list[list[tuple[str, str]]]:
        return [sorted(side.items(), key=lambda x: float(x[0]), reverse=not n) for n, side in enumerate(self.sides)]


@given(UPDATES, st.sampled_from([1, 3, 10, 25]))
def test_checksums_and_changes_are_those_of_a_naive_book(
    updates: list[tuple[list[tuple[str, str]], list[tuple[str, str]]]], depth: int
) -> None:
    book, naive, plain_book = ChecksumBook(depth), Naive(depth), OrderBook()
    for bids, asks in updates:
        changed = book.apply(levels(bids), levels(asks))
        plain_book.apply(*changed)  # what is handed on needs no rule of truncation
        naive.apply(bids, asks)
        book.check()
        wanted = naive.sorted()
        assert book.checksum == w.crc(*wanted)
        assert plain_book.bids() == [(float(p), float(q)) for p, q in wanted[0]]
        assert plain_book.asks() == [(float(p), float(q)) for p, q in wanted[1]]
        assert book.bids.prices() == [p for p, _ in plain_book.bids()]
        assert len({p for p, _ in changed[0]}) == len(changed[0])  # one row a price


@given(SIDES, SIDES)
def test_a_snapshot_replaces_everything(bids: list[tuple[str, str]], asks: list[tuple[str, str]]) -> None:
    book, naive = ChecksumBook(10), Naive(10)
    book.apply(levels([("61.5", "1.0"), ("0.5", "3.0")]), [])
    sides = book.load(levels(bids), levels(asks))
    naive.apply(bids, asks)
    assert book.checksum == w.crc(*naive.sorted())
    assert sorted(sides[0], reverse=True) == [(float(p), float(q)) for p, q in naive.sorted()[0]]
    assert sorted(sides[1]) == [(float(p), float(q)) for p, q in naive.sorted()[1]]


def test_only_the_best_ten_levels_are_protected() -> None:
    book = ChecksumBook(25)
    book.load(levels([(f"{n}.5", "1.0") for n in range(1, 26)]), levels([(f"{n}.5", "1.0") for n in range(30, 55)]))
    before = book.checksum
    book.apply(levels([("15.5", "2.0")]), [])
    assert book.checksum == before
    book.apply(levels([("16.5", "2.0")]), [])
    assert book.checksum != before
    assert len(book.bids) == 25
    assert CHECKED == 10


def test_a_level_that_another_one_pushed_out_is_deleted_and_does_not_come_back() -> None:
    book = ChecksumBook(2)
    book.load(levels([("3.0", "1.0"), ("2.0", "1.0")]), [])
    assert book.apply(levels([("4.0", "1.0")]), [])[0] == [(4.0, 1.0), (2.0, 0.0)]
    assert book.apply(levels([("4.0", "0.0")]), [])[0] == [(4.0, 0.0)]
    assert book.bids.prices() == [3.0]
    assert book.apply(levels([("1.0", "1.0"), ("1.0", "7.0"), ("0.5", "1.0")]), [])[0] == [(1.0, 7.0), (0.5, 0.0)]


def test_empty_sides_have_a_checksum() -> None:
    book = ChecksumBook(10)
    assert book.load([], []) == ([], [])
    assert book.checksum == w.crc([], []) == 0
    book.load(levels([("5711.4", "0.00100000")]), [])
    assert book.checksum == w.crc([("5711.4", "0.00100000")], [])


def test_depths() -> None:
    assert book_depth(None) == 1000
    assert [book_depth(d) for d in DEPTHS] == list(DEPTHS)
    with pytest.raises(UsageError, match="depth 50 does not exist"):
        book_depth(50)


@pytest.mark.parametrize(
    ("text", "places", "digits"),
    [
        ("78871.5", 1, "788715"), ("0.00005100", 8, "5100"), ("0.00000000", 8, ""), ("100", 0, "100"), ("8750.0", 1, "87500"),
        ("5.1e-5", 8, "5100"), ("5.1E-05", 8, "5100"), ("1e5", 1, "1000000"), ("57126.70000", 1, "5712670000"), ("1.5", 8, "15"),
    ],
)  # fmt: skip
def test_digits(text: str, places: int, digits: str) -> None:
    assert decimal_digits(text, places) == digits
    if float(text):
        assert level_of_bytes(text.encode(), b"0.00001000", places, 8)[2] == digits + "1000"
        assert level_of_bytes(b"1.0", text.encode(), 1, places)[:2] == (1.0, float(text))


@pytest.mark.parametrize(
    "text", ["", "-1.0", "abc", "1e999", "1e-999", "NaN", "Infinity", "1_0.0", "9" * 50, "١.٠", " 1", "0x1"]
)
def test_what_is_no_price_is_refused(text: str) -> None:
    with pytest.raises((ValueError, OverflowError)):
        level(text, "1.0")
    with pytest.raises((ValueError, OverflowError)):
        level_of_bytes(text.encode(), b"1.0", 1, 8)
    with pytest.raises((ValueError, OverflowError)):
        level("1.0", text)


@given(st.integers(0, 10**12), st.integers(0, 10**8 - 1))
def test_the_fast_way_to_a_level_is_the_slow_one(whole: int, fraction: int) -> None:
    price, quantity = f"{whole + 1}.{fraction:08d}", f"{fraction}.{whole % 1000:03d}"
    assert level_of_bytes(price.encode(), quantity.encode(), 8, 3) == level(price, quantity, 8, 3)
    assert float(price) == float(Decimal(price))


@given(st.integers(0, 9_000_000_000_000_000_000))
def test_times_survive_their_text(ns: int) -> None:
    assert iso_to_ns(ns_to_iso(ns, 9)) == ns
    assert seconds_to_ns(ns_to_seconds(ns, 9)) == ns
    assert iso_to_ns(ns_to_iso(ns)) == seconds_to_ns(ns_to_seconds(ns)) == ns // 1000 * 1000


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1559347203.7998", 1_559_347_203_799_800_000), ("1688669597.8277369", 1_688_669_597_827_736_900), ("12", 12_000_000_000),
        ("1.6e9", 1_600_000_000_000_000_000), ("0.1234567899", 123_456_789),
    ],
)  # fmt: skip
def test_decimal_seconds(text: str, ns: int) -> None:
    assert seconds_to_ns(text) == ns


@pytest.mark.parametrize("text", ["", "-1", "1.-5", "x", "1e20", "99999999999", "1.5.5"])
def test_no_seconds(text: str) -> None:
    with pytest.raises(ValueError, match=r"time|number|range"):
        seconds_to_ns(text)


@pytest.mark.parametrize(
    "text",
    ["", "Z", "2026-08-24T22:21:57", "2026-08-24 22:21:57Z", "2026-13-24T22:21:57Z", "2026-08-24T22:21:xxZ", "1969-01-01T00:00:00Z",
     "2026-08-24T22:21:57.12345678901234567890Z", "2026-08-24T22:21:99Z", "2300-01-01T00:00:00Z", "2026-08-24T22:21:57+01:00"],
)  # fmt: skip
def test_no_times(text: str) -> None:
    with pytest.raises(ValueError, match=r"time|match"):
        iso_to_ns(text)


def test_plain_numbers() -> None:
    assert plain("5E-8") == "0.00000005"
    with pytest.raises(ValueError, match="not a number"):
        plain("e")

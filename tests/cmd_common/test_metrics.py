"""Numbers for monitoring: what a meter makes of records."""

from __future__ import annotations

import pytest

from cmd_common.builder import Audit
from cmd_common.metrics import Family, FeedMeter, book_families, one
from cmd_common.orderbook import OrderBook
from cmd_common.records import FeedStatus, Trade
from cmd_common.sequence import BookState

S = 1_000_000_000


def status(state: str, reason: str = "", *, symbol: str = "", table: str = "", connection: str = "c") -> FeedStatus:
    return FeedStatus(1, 1, "v", symbol, table, connection, state, reason)


def numbers(meter: FeedMeter) -> dict[tuple[str, ...], float]:
    return {(f.name, *labels): value for f in meter.families() for labels, value in f.samples}


def test_every_family_has_its_labels_and_one_kind() -> None:
    meter = FeedMeter()
    meter.take([Trade(S, 2 * S, "v", "A", "1", 1, 1.0, 1.0, "buy"), status("connected"), status("handover")])
    families = list(meter.families())
    assert len({f.name for f in families}) == len(families)
    for family in families:
        assert family.kind in ("counter", "gauge")
        assert family.words.endswith((".", "1."))
        assert not family.name.endswith("_total")
        assert all(len(labels) == len(family.labels) for labels, _ in family.samples)
    assert one("gauge", "x", "X.", 3) == Family("gauge", "x", "X.", (), [((), 3)])


def test_self_audits_are_counted_and_the_last_match_is_kept() -> None:
    meter = FeedMeter()
    meter.take([status("audited", Audit(100, 100).words, symbol="A", table="book")])
    meter.take([status("audit_failed", Audit(100, 98).words, symbol="B", table="book")])
    meter.take([status("audited", "words of another version", symbol="A", table="book")])
    found = numbers(meter)
    assert found["cmd_feed_audits", "v", "equal"] == 2
    assert found["cmd_feed_audits", "v", "different"] == 1
    assert found["cmd_feed_audit_match", "v", "A"] == 1.0
    assert found["cmd_feed_audit_match", "v", "B"] == 0.98


@pytest.mark.parametrize("words", ["", "of", "1 of", "a of b levels", "1 or 2 levels", "-1 of 2 levels"])
def test_other_words_are_no_audit(words: str) -> None:
    assert Audit.read(words) is None


@pytest.mark.parametrize("audit", [Audit(0, 0), Audit(7, 7), Audit(7, 0)])
def test_an_audit_reads_its_own_words(audit: Audit) -> None:
    assert Audit.read(audit.words) == audit
    assert audit.match == (1.0 if audit.agrees else 0.0)


def test_silent_streams_are_those_of_now() -> None:
    meter = FeedMeter()
    meter.take([status("silent", symbol="A", table="trades"), status("silent", symbol="B", table="trades")])
    meter.take([status("silent", symbol="B", table="trades")])
    assert numbers(meter)["cmd_feed_silent_streams", "v", "trades"] == 2
    meter.take([status("heard", symbol="A", table="trades"), status("heard", symbol="C", table="trades")])
    assert numbers(meter)["cmd_feed_silent_streams", "v", "trades"] == 1
    meter.take([status("disconnected", connection="another")])
    assert meter.silent
    meter.take([status("disconnected")])
    assert not meter.silent


def test_handovers_and_connections() -> None:
    meter = FeedMeter()
    meter.take([status("connected"), status("handover"), status("handover"), status("disconnected", symbol="A")])
    found = numbers(meter)
    assert found["cmd_feed_handovers", "v", "c"] == 2
    assert found["cmd_feed_connected", "v", "c"] == 1
    assert ("cmd_feed_reconnects", "v", "c") not in found  # that was of a stream


def test_books_by_state() -> None:
    books = {"v:A": OrderBook(), "v:B": OrderBook()}
    books["v:A"].state = BookState.LIVE
    (family,) = book_families(books)
    assert {labels[0]: n for labels, n in family.samples} == {"EMPTY": 1, "SYNCING": 0, "LIVE": 1, "STALE": 0}

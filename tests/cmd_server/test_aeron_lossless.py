"""Over Aeron nothing is lost or doubled without a word, whoever is ended and started again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import aeron_lossless
import pytest
from aeron_lossless import CONNECTED, ENTRY, LOST, REPLAY, RUN, STARTED, Plan, audit, carry_out
from aeron_raw import folder, present


@pytest.fixture
def place() -> Iterator[Path]:
    with folder() as path:
        yield path


@pytest.mark.slow
@pytest.mark.parametrize(("way", "total"), [("own", 300_000), ("shared", 150_000)])
def test_each_number_once_while_both_sides_are_restarted(place: Path, way: str, total: int) -> None:
    present()
    report = carry_out(Plan(place, total, way))
    assert not report.wrong
    assert report.unexplained == 0
    assert (report.starts, report.epochs) == (4, 4)
    assert report.orderly == [0]  # a server that ends in order sends what it has published
    assert len(report.tails) == 3
    # A client that comes back soon has everything; one that stayed away too long is told what it missed.
    assert report.gaps == 1
    assert report.told > 0
    assert report.received + report.told + sum(report.tails) + report.absent == total


EPOCH = 7


def written(place: Path, *entries: tuple[int, ...]) -> Path:
    """A log and its journal: in epoch 7 a reader joins at number 1, in epoch 8, which begins with 101, at 111."""
    (place / "journal").write_text(
        '{"begins": 1, "epoch": 7}\n{"joined": 1, "seq": 0, "epoch": 7}\n{"begins": 101, "epoch": 8}\n'
        '{"joined": 111, "seq": 0, "epoch": 8}\n'
    )
    (place / "log").write_bytes(b"".join(ENTRY.pack(*entry, *(0,) * (7 - len(entry))) for entry in entries))
    return place


GOOD = (
    (STARTED, 0),
    (CONNECTED, 7),
    (RUN, 7, 1, 40, 1, 40, 1),
    (LOST, 7, 41, 50, 1),
    (RUN, 7, 51, 90, 51, 90, 1),
    (LOST, 8, 91, 0, 2),
    (CONNECTED, 8),
    (RUN, 8, 111, 150, 1, 40, 1),
)


def test_the_audit_accounts_for_every_number(place: Path) -> None:
    report = audit(written(place, *GOOD), 150)
    assert not report.wrong
    assert (report.received, report.told, report.tails, report.absent) == (120, 10, [10], 10)


@pytest.mark.parametrize(
    ("at", "entry"),
    [
        (2, (RUN, 7, 1, 39, 1, 39, 1)),  # a number and its sequence are missing before the gap
        (2, (RUN, 7, 2, 40, 2, 40, 1)),  # the first message after joining
        (3, (LOST, 7, 41, 49, 1)),  # a gap that does not reach
        (3, (LOST, 7, 41, 51, 1)),  # a gap over what came
        (3, (CONNECTED, 7)),  # no gap at all
        (4, (RUN, 7, 50, 90, 51, 90, 1)),  # doubled with another sequence
        (5, (CONNECTED, 8)),  # an epoch that ends without a word
        (5, (LOST, 8, 92, 0, 2)),  # as if one more had come
        (7, (RUN, 8, 112, 150, 2, 40, 1)),  # the first message of the second epoch
        (7, (RUN, 8, 111, 149, 1, 39, 1)),  # the last message
        (7, (RUN, 7, 111, 150, 1, 40, 1)),  # of the epoch that has ended
    ],
)
def test_the_audit_finds_what_is_lost_or_doubled(place: Path, at: int, entry: tuple[int, ...]) -> None:
    wrong = [*GOOD]
    wrong[at] = entry
    assert audit(written(place, *wrong), 150).unexplained > 0


def test_a_client_goes_on_behind_what_it_wrote(place: Path) -> None:
    assert aeron_lossless.position(place / "none") is None
    assert aeron_lossless.position(written(place, *GOOD[:3]) / "log") == (7, 1, 40)
    assert aeron_lossless.position(written(place, *GOOD[:4]) / "log") == (7, 1, 50)
    assert aeron_lossless.position(written(place, *GOOD[:6]) / "log") is None  # a new epoch begins anywhere
    assert REPLAY < 100_000

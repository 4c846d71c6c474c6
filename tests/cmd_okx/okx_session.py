"""OKX's emulator and feeds in one loop without sockets, on a clock that jumps."""

from __future__ import annotations

import json
from typing import Any

from cmd_common.records import Gap, Trade
from cmd_common.sequence import BookState
from cmd_common.testing import session
from cmd_common.testing.session import ENDPOINTS, SECOND, T0
from cmd_okx import OKX
from cmd_okx.emulator import OkxEmulator

__all__ = ["ENDPOINTS", "SECOND", "T0", "Session", "check_books", "check_trades", "simulated"]


def simulated(*faults: str, **options: Any) -> OkxEmulator:
    return OkxEmulator(session.simulated(OKX, *faults, **options))


class Session(session.VenueSession):
    def __init__(self, emulator: OkxEmulator, now: int = T0) -> None:
        super().__init__(OKX, emulator, now, pause=SECOND // 4)

    def rows(self, target: str) -> Any:
        body = json.loads(self.get(target).body)
        assert body["code"] == "0", body
        return body["data"]


def check_books(s: Session, feeds: list[Any]) -> None:
    """Every book is LIVE and equal to the emulator's own, as deep as the channel goes."""
    truth = s.emulator.truth(400)["books"]
    for feed in feeds:
        for symbol, builder in feed.books.items():
            builder.check()
            assert builder.state is BookState.LIVE
            assert builder.book.bids(400) == truth[symbol]["bids"]
            assert builder.book.asks(400) == truth[symbol]["asks"]


def check_trades(s: Session, symbol: str) -> None:
    """Every trade came once, or its id lies in a gap."""
    truth = s.emulator.truth()["trades"][symbol]
    got = [t.trade_seq for t in s.of(Trade, symbol)]
    assert len(set(got)) == len(got)
    missing = set(range(truth["first_id"], truth["last_id"] + 1)) - set(got)
    told: set[int] = set()
    for gap in s.of(Gap, symbol):
        if gap.record_type == "trades" and gap.first_id is not None:
            told |= set(range(gap.first_id, gap.last_id + 1))
    # What is lost before the first or after the last trade that came cannot be seen by ids.
    assert {i for i in missing if min(got) < i < max(got)} <= told

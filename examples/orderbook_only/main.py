"""Build an order book from a snapshot and diffs, and print it as a ladder. Needs cmd-common only.

The messages below are made up, in the form of Binance spot's depth stream. One of them is left out on
purpose: the builder notices at the next one, keeps the last good book readable, and recovers with a
new snapshot. Your own exchange needs nothing but its own rule of continuity.
"""

from __future__ import annotations

import json

from cmd_common import BookState, OrderBook, OrderBookBuilder
from cmd_common.sequence import Verdict

SNAPSHOT = """{"lastUpdateId": 100,
 "bids": [["60000.00", "1.50"], ["59999.90", "0.80"], ["59999.50", "2.00"]],
 "asks": [["60000.10", "0.40"], ["60000.20", "1.10"], ["60000.70", "3.00"]]}"""

DIFFS = [
    '{"E": 1723075200100, "U": 99, "u": 102, "b": [["60000.00", "1.20"]], "a": [["60000.10", "0.00"]]}',
    '{"E": 1723075200200, "U": 103, "u": 103, "b": [["60000.05", "0.25"]], "a": []}',
    # 104 to 106 never arrived
    '{"E": 1723075200400, "U": 107, "u": 109, "b": [["60000.00", "0.00"]], "a": [["60000.15", "0.90"]]}',
]

SECOND_SNAPSHOT = """{"lastUpdateId": 108,
 "bids": [["60000.05", "0.25"], ["59999.90", "0.80"], ["59999.50", "2.00"]],
 "asks": [["60000.15", "0.70"], ["60000.20", "1.10"], ["60000.70", "3.00"]]}"""


class Spot:
    """Ids count every change: a message starts where the one before ended, plus one."""

    name = "spot"

    def first(self, snapshot_id: int, first: int, last: int, prev: int | None) -> Verdict:
        if last <= snapshot_id:
            return Verdict.DROP
        return Verdict.APPLY if first <= snapshot_id + 1 else Verdict.GAP

    def next(self, book_id: int, first: int, last: int, prev: int | None) -> Verdict:
        if first == book_id + 1:
            return Verdict.APPLY
        return Verdict.DROP if last <= book_id else Verdict.GAP

    def too_old(self, snapshot_id: int, first: int, last: int, prev: int | None) -> bool:
        return snapshot_id + 1 < first


def levels(rows: list[list[str]]) -> list[tuple[float, float]]:
    return [(float(price), float(quantity)) for price, quantity in rows]


def load(builder: OrderBookBuilder, text: str) -> None:
    snapshot = json.loads(text)
    builder.snapshot_requested()  # a program would fetch it here
    result = builder.snapshot(snapshot["lastUpdateId"], levels(snapshot["bids"]), levels(snapshot["asks"]))
    print(f"snapshot {snapshot['lastUpdateId']}: {builder.state.value}, {len(result.replayed)} buffered applied")


def ladder(book: OrderBook, depth: int = 3) -> None:
    print(f"\n{book.venue}:{book.symbol}  {book.state.value}  update {book.last_id}  spread {book.spread:.2f}")
    for price, quantity in reversed(book.asks(depth)):
        print(f"{'':10} {price:>10.2f} {quantity:>8.2f}")
    for price, quantity in book.bids(depth):
        print(f"{quantity:>10.2f} {price:>10.2f}")
    print()


def main() -> None:
    builder = OrderBookBuilder(OrderBook(0.01, venue="example", symbol="BTCUSDT"), Spot(), snapshot_levels=5000)
    builder.start()
    load(builder, SNAPSHOT)
    for text in DIFFS:
        diff = json.loads(text)
        became = builder.delta(diff["U"], diff["u"], None, levels(diff["b"]), levels(diff["a"]), diff["E"] * 1_000_000)
        print(f"diff {diff['U']} to {diff['u']}: {became.value}, book {builder.state.value} {builder.detail}".rstrip())
        ladder(builder.book)
    if builder.needs_snapshot:
        load(builder, SECOND_SNAPSHOT)
    ladder(builder.book)
    builder.check()
    assert builder.state is BookState.LIVE


if __name__ == "__main__":
    main()

"""The screen of books merged over venues: a ladder with a column a book, who is left out and why, crossings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from cmd_common.aggregate import AggregatedLevel, AggregatedOrderBook
from cmd_common.orderbook import OrderBook
from cmd_common.records import AggTrade, Record, Trade, full_name

from .lines import Line, Role, clock, columns, decimals, fit, number
from .model import Market, View

__all__ = ["MergedView", "facts", "ladder", "trades", "venues", "words"]

_DEPTH: Final = 10  # levels a side of a line for a pipe


class MergedView(View):
    """Merged books by unified name; the trades of their books together."""

    def __init__(self, books: Mapping[str, OrderBook], aggregates: Mapping[str, AggregatedOrderBook]) -> None:
        self.aggregates = aggregates
        super().__init__(books)

    def sync(self) -> None:
        """Know every merged book."""
        for name in self.aggregates:
            if name not in self.markets:
                self.markets[name] = Market(name)

    def apply(self, records: Sequence[Record], now: int) -> None:
        """Take records; a trade belongs to every merged book that its venue's book is part of."""
        self.records += len(records)
        for record in records:
            symbol: str = getattr(record, "symbol", "")
            if not symbol:
                continue
            name = full_name(getattr(record, "venue", ""), symbol)
            for merged, book in self.aggregates.items():
                if name in book:
                    market = self.markets[merged]
                    market.seen = now
                    if isinstance(record, Trade | AggTrade):
                        market.add(record, now)

    def state(self, name: str) -> str:
        """LIVE with all books, PARTIAL with some, else STALE."""
        if self.ended:
            return "ENDED"
        book = self.aggregates[name]
        return ("LIVE" if not book.excluded else "PARTIAL") if book.names else "STALE"

    @property
    def book(self) -> AggregatedOrderBook | None:
        """The chosen merged book."""
        market = self.current
        return self.aggregates.get(market.name) if market is not None else None


def ladder(view: MergedView, width: int, height: int, now: int) -> list[Line]:
    """The merged book: asks above, the crossing or the spread, bids below; a column a book shows its part."""
    book = view.book
    if book is None:
        return [[("no order book", "dim")]]
    if not view.ended:
        book.refresh(now)
    state = view.state(book.name)
    head: Line = [(f"{book.name} ", "head"), (f" {state} ", "live" if state == "LIVE" else "stale")]
    if height < 6:  # no place for levels
        return [fit(head, width), *_left_out(book, width, height - 1)][: max(1, height)]
    out = _left_out(book, width, height // 3)
    rows = max(1, (height - 3 - len(out)) // 2)
    bids, asks = book.bids(rows), book.asks(rows)
    if not bids and not asks:
        return [fit(head, width), [("waiting for the order books", "dim")], *out]
    labels = _labels(book.names)
    table = _table(bids, asks, labels, fees=bool(book.fees))
    lines = [fit(head, width), table[0]]
    lines += [[("", "")]] * (rows - len(asks))
    lines += table[1 : 1 + len(asks)]
    lines.append(_middle(book, decimals([level.price for level in (*bids, *asks)])))
    lines += table[1 + len(asks) :]
    return [fit(line, width) for line in lines] + out


def _table(
    bids: list[AggregatedLevel], asks: list[AggregatedLevel], labels: dict[str, str], *, fees: bool
) -> list[Line]:
    """Header, asks from the worst to the best, bids from the best."""
    levels = [*reversed(asks), *bids]
    prices = decimals([level.price for level in levels])
    sizes = decimals([part.quantity for level in levels for part in level.parts])
    own = decimals([part.price for level in levels for part in level.parts])
    cells = [["", "price", *(["shown"] if fees else []), "quantity", *labels.values()]]
    roles: list[Role] = ["head"]
    for n, level in enumerate(levels):
        side: Literal["bid", "ask"] = "ask" if n < len(asks) else "bid"
        parts: dict[str, float] = {}
        for part in level.parts:
            parts[part.name] = parts.get(part.name, 0.0) + part.quantity
        row = [side, f"{level.price:,.{prices}f}"]
        if fees:
            row.append(f"{level.parts[0].price:,.{own}f}")
        row.append(f"{level.quantity:,.{sizes}f}")
        row += [f"{parts[name]:,.{sizes}f}" if name in parts else "·" for name in labels]
        cells.append(row)
        roles.append(side)
    widths = [max(len(row[n]) for row in cells) for n in range(len(cells[0]))]
    return [
        [("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)), role)]
        for row, role in zip(cells, roles, strict=True)
    ]


def _labels(names: Sequence[str]) -> dict[str, str]:
    """A book's column is called like its venue; with the symbol where a venue has several."""
    found = [name.partition(":")[0] for name in names]
    return {name: name if found.count(venue) > 1 else venue for name, venue in zip(names, found, strict=True)}


def _middle(book: AggregatedOrderBook, prices: int) -> Line:
    crossing = book.crossing
    if crossing is not None:
        word = "LOCKED" if crossing.locked else "CROSSED"
        return [
            (
                f"{word} for {crossing.age / 1e9:.1f} s: bid {crossing.bid:,.{prices}f} of {crossing.bid_name}, "
                f"ask {crossing.ask:,.{prices}f} of {crossing.ask_name}",
                "stale",
            )
        ]
    bid, ask = book.best_bid, book.best_ask
    if bid is None or ask is None:
        return [("one side is empty", "dim")]
    spread = ask.price - bid.price
    words = f"spread {spread:,.{prices}f}  {spread / (bid.price + spread / 2) * 10_000:.2f} bp"
    return [(f"{words}   bid {_who(bid)}   ask {_who(ask)}", "head")]


def _who(level: AggregatedLevel) -> str:
    return "+".join(dict.fromkeys(name.partition(":")[0] for name in level.names))


def _left_out(book: AggregatedOrderBook, width: int, most: int) -> list[Line]:
    excluded = list(book.excluded.items())
    lines: list[Line] = [[(f"left out: {name}: {reason}", "stale")] for name, reason in excluded[: max(1, most)]]
    if len(excluded) > len(lines):
        lines[-1] = [(f"left out: {len(excluded) - len(lines) + 1} more", "stale")]
    return [fit(line, width) for line in lines]


def trades(view: MergedView, width: int, height: int) -> list[Line]:
    """The last trades of all books, newest first."""
    market = view.current
    shown = list(market.trades)[: -max(1, height) : -1] if market else []
    prices, sizes = decimals([t.price for t in shown]), decimals([t.quantity for t in shown])
    rows = [[clock(t.ts_event), t.venue, t.side, f"{t.price:,.{prices}f}", f"{t.quantity:,.{sizes}f}"] for t in shown]
    roles: list[Role] = ["bid" if t.side == "buy" else "ask" if t.side == "sell" else "" for t in shown]
    return columns(["time (UTC)", "venue", "side", "price", "quantity"], rows, roles, width, "no trades yet")


def venues(view: MergedView, width: int, height: int) -> list[Line]:
    """Every book: in, or why not, how long ago it was updated, its best prices as merged."""
    book = view.book
    status = book.status()[: max(0, height - 1)] if book is not None else []
    places = decimals([p for s in status for p in (s.bid, s.ask) if p is not None])
    rows = []
    for s in status:
        prices = [f"{p:,.{places}f}" if p is not None else "·" for p in (s.bid, s.ask)]
        age = f"{s.age / 1e9:.1f} s" if s.age is not None else "·"
        rows.append([s.name, s.reason or "in", age, *prices])
    roles: list[Role] = ["stale" if s.reason else "" for s in status]
    return columns(["book", "state", "updated", "bid", "ask"], rows, roles, width, "no books yet")


def facts(view: MergedView, name: str, now: int) -> dict[str, object]:
    """The state of one merged book as plain facts, for a pipe."""
    book = view.aggregates[name]
    if not view.ended:
        book.refresh(now)
    bid, ask, crossing = book.best_bid, book.best_ask, book.crossing
    return {
        "instrument": name,
        "state": view.state(name),
        "ts_event": book.ts_event,
        "best_bid": [bid.price, bid.quantity, list(bid.names)] if bid else None,
        "best_ask": [ask.price, ask.quantity, list(ask.names)] if ask else None,
        "crossed": {
            "locked": crossing.locked,
            "age": crossing.age,
            "bid": [crossing.bid, crossing.bid_name],
            "ask": [crossing.ask, crossing.ask_name],
        }
        if crossing
        else None,
        "venues": book.names,
        "excluded": book.excluded,
        "bids": [_level(level) for level in book.bids(_DEPTH)],
        "asks": [_level(level) for level in book.asks(_DEPTH)],
        "trades": view.markets[name].count,
    }


def _level(level: AggregatedLevel) -> list[object]:
    return [level.price, level.quantity, [[part.name, part.price, part.quantity] for part in level.parts]]


def words(found: dict[str, object]) -> str:
    """The facts as one line for a person."""
    parts = [f"{found['instrument']} {found['state']}"]
    for side in ("bid", "ask"):
        level = found[f"best_{side}"]
        if isinstance(level, list):
            parts.append(f"{side} {number(level[0])} x {number(level[1])} {'+'.join(level[2])}")
    crossed = found["crossed"]
    if isinstance(crossed, dict):
        word = "LOCKED" if crossed["locked"] else "CROSSED"
        parts.append(f"{word} for {crossed['age'] / 1e9:.1f} s ({crossed['bid'][1]}, {crossed['ask'][1]})")
    excluded = found["excluded"]
    if isinstance(excluded, dict) and excluded:
        parts.append("left out " + ", ".join(f"{name} ({why})" for name, why in excluded.items()))
    ts = found["ts_event"]
    return (f"{clock(ts)} " if isinstance(ts, int) and ts else "") + "  ".join(parts)

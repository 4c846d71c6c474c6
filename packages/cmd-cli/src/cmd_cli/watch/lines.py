"""Lines of text with roles, made from the model; screens turn roles into colours.

A line is a list of ``(text, role)``. Everything is said by words and places too, never by colour alone.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, Literal

from cmd_common.orderbook import Level, OrderBook

from .model import Market, View

__all__ = [
    "Line",
    "Role",
    "candles",
    "clock",
    "columns",
    "decimals",
    "fit",
    "instruments",
    "ladder",
    "number",
    "one_line",
    "trades",
]

Role = Literal["", "head", "dim", "bid", "ask", "live", "stale", "chosen"]
Line = list[tuple[str, Role]]

_SILENT: Final = 10_000_000_000  # ns without a record before it is said


def instruments(view: View, width: int, now: int) -> Line:
    """One line with all instruments and their states; the chosen one first if the line is too short."""
    line: Line = []
    names = view.names
    current = view.current
    if current is None:
        return [("connecting ...", "dim")]
    if sum(len(n) + 12 for n in names) > width:  # begin at the chosen one
        names = names[view.chosen :] + names[: view.chosen]
    for name in names:
        state = view.state(name)
        line.append((f" {name} ", "chosen" if name == current.name else ""))
        line.append((f"{state} ", "live" if state == "LIVE" else "stale"))
        silent = now - view.markets[name].seen if view.markets[name].seen else 0
        if silent > _SILENT and not view.ended:
            line.append((f"silent {silent // 1_000_000_000} s ", "stale"))
    return fit(line, width)


def ladder(view: View, width: int, height: int) -> list[Line]:
    """The order book: asks above, spread, bids below, each row price, quantity, sum and a bar."""
    market = view.current
    book = view.books.get(market.name) if market else None
    if market is None or book is None or height < 4:
        return [[("no order book", "dim")]]
    state = view.state(market.name)
    stale = state not in ("LIVE", "ENDED")
    rows = max(1, (height - 2) // 2)
    bids, asks = book.bids(rows), book.asks(rows)
    if not bids and not asks:
        return [_state_line(market.name, state, width), [("waiting for the order book", "dim")]]
    prices = decimals([p for p, _ in (*bids, *asks)]) if book.tick_size is None else _places(str(book.tick_size))
    sizes = decimals([q for _, q in (*bids, *asks)])
    most = max(q for _, q in (*bids, *asks)) or 1.0
    lines = [_state_line(market.name, state, width)]
    lines += [[("", "")]] * (rows - len(asks))
    lines += reversed(_rows(asks, "ask", prices, sizes, most, width, stale))
    lines.append(_middle(book, prices, stale))
    lines += _rows(bids, "bid", prices, sizes, most, width, stale)
    return [fit(line, width) for line in lines]


def _state_line(name: str, state: str, width: int) -> Line:
    return fit([(f"{name} ", "head"), (f" {state} ", "live" if state == "LIVE" else "stale")], width)


def _rows(
    levels: list[Level], side: Literal["bid", "ask"], prices: int, sizes: int, most: float, width: int, stale: bool
) -> list[Line]:
    lines: list[Line] = []
    total = 0.0
    for price, quantity in levels:
        total += quantity
        text = f"{side} {price:>14,.{prices}f} {quantity:>16,.{sizes}f} {total:>16,.{sizes}f} "
        bar = "█" * max(1, round((width - len(text)) * quantity / most)) if width > len(text) else ""
        lines.append([(text, "dim" if stale else side), (bar, "dim" if stale else side)])
    return lines


def _middle(book: OrderBook, prices: int, stale: bool) -> Line:
    spread, mid = book.spread, book.mid
    if spread is None or mid is None:
        return [("one side is empty", "dim")]
    words = f"    {mid:>14,.{prices + 1}f}  spread {spread:,.{prices}f}  {spread / mid * 10_000:.2f} bp"
    return [(words + ("  not current" if stale else ""), "stale" if stale else "head")]


def trades(market: Market | None, width: int, height: int) -> list[Line]:
    """The last trades, newest first."""
    shown = list(market.trades)[: -max(1, height) : -1] if market else []
    prices, sizes = decimals([t.price for t in shown]), decimals([t.quantity for t in shown])
    rows = [[clock(t.ts_event), t.side, f"{t.price:,.{prices}f}", f"{t.quantity:,.{sizes}f}"] for t in shown]
    roles: list[Role] = ["bid" if t.side == "buy" else "ask" if t.side == "sell" else "" for t in shown]
    return columns(["time (UTC)", "side", "price", "quantity"], rows, roles, width, "no trades yet")


def candles(market: Market | None, width: int, height: int) -> list[Line]:
    """The last candles, newest first."""
    found = market.last_candles(height - 1) if market else []
    places = decimals([p for c in found for p in (c.open, c.high, c.low, c.close)])
    rows = []
    for c in found:
        at = datetime.fromtimestamp(c.open_time // 1_000_000_000, UTC)
        prices = [f"{p:,.{places}f}" for p in (c.open, c.high, c.low, c.close)]
        rows.append([f"{at:%H:%M:%S}", *prices, f"{c.volume:,.3f}", "..." if c.state == "provisional" else ""])
    roles: list[Role] = ["bid" if c.close >= c.open else "ask" for c in found]
    head = [found[0].interval if found else "candle", "open", "high", "low", "close", "volume", ""]
    return columns(head, rows, roles, width, "no candles yet")


def columns(head: list[str], rows: list[list[str]], roles: list[Role], width: int, empty: str) -> list[Line]:
    """Rows in columns as narrow as their text; the first is left-aligned."""
    widths = [max(len(row[n]) for row in (head, *rows)) for n in range(len(head))]

    def text(row: list[str]) -> str:
        return " ".join(c.ljust(w) if n == 0 else c.rjust(w) for n, (c, w) in enumerate(zip(row, widths, strict=True)))

    lines = [fit([(text(head), "head")], width)]
    lines += [fit([(text(row), role)], width) for row, role in zip(rows, roles, strict=True)]
    return lines if rows else [*lines, fit([(empty, "dim")], width)]


def one_line(view: View, name: str) -> dict[str, object]:
    """The state of one instrument as plain facts, for a pipe."""
    market = view.markets[name]
    book = view.books.get(name)
    facts: dict[str, object] = {"instrument": name, "state": view.state(name)}
    if book is not None:
        facts["ts_event"] = book.ts_event
        facts["best_bid"] = list(book.best_bid) if book.best_bid else None
        facts["best_ask"] = list(book.best_ask) if book.best_ask else None
    elif market.quote:
        quote = market.quote
        facts["ts_event"] = quote.ts_event
        facts["best_bid"] = [quote.bid_price, quote.bid_quantity]
        facts["best_ask"] = [quote.ask_price, quote.ask_quantity]
    if market.trades:
        trade = market.trades[-1]
        facts["last_trade"] = {"price": trade.price, "quantity": trade.quantity, "side": trade.side}
    facts["trades"] = market.count
    found = market.last_candles(1)
    if found:
        c = found[0]
        facts["candle"] = {"interval": c.interval, "open": c.open, "high": c.high, "low": c.low, "close": c.close}
    return facts


def words(facts: dict[str, object]) -> str:
    """The facts of ``one_line`` as one line for a person."""
    parts = [f"{facts['instrument']} {facts['state']}"]
    for side in ("bid", "ask"):
        level = facts.get(f"best_{side}")
        if isinstance(level, list):
            parts.append(f"{side} {number(level[0])} x {number(level[1])}")
    trade = facts.get("last_trade")
    if isinstance(trade, dict):
        parts.append(f"last {number(trade['price'])} {trade['side']} {number(trade['quantity'])}")
    parts.append(f"trades {facts['trades']}")
    ts = facts.get("ts_event")
    return (f"{clock(ts)} " if isinstance(ts, int) and ts else "") + "  ".join(parts)


def fit(line: Line, width: int) -> Line:
    """Cut a line to a width."""
    out: Line = []
    left = max(0, width)
    for text, role in line:
        if left <= 0:
            break
        out.append((text[:left], role))
        left -= len(text)
    return out


def clock(ns: int) -> str:
    """``23:54:14.123``."""
    return f"{datetime.fromtimestamp(ns // 1_000_000_000, UTC):%H:%M:%S}.{ns // 1_000_000 % 1000:03d}"


def number(value: float) -> str:
    """A float without an exponent, shortest form."""
    return f"{value:.{decimals([value])}f}"


def decimals(values: list[float]) -> int:
    """The most places after the point that any of the values has, at most 8."""
    return max((_places(f"{v:.8f}") for v in values), default=0)


def _places(text: str) -> int:
    if "e" in text or "E" in text:
        text = f"{float(text):.12f}"
    return len(text.partition(".")[2].rstrip("0"))

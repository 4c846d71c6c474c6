"""The book as numpy arrays: depth, imbalance and the price of a large order, once a second. Needs numpy.

python book_numpy.py unix:/run/cmd.sock binance-spot:BTCUSDT [TIMES]
"""

from __future__ import annotations

import sys
from itertools import count, islice

import numpy as np

from cmd_common import BookState, OrderBook
from cmd_common.errors import CmdError
from cmd_server.client import connect


def side(levels: list[tuple[float, float]]) -> np.ndarray:
    """One row a level: price, quantity; best first."""
    return np.array(levels, dtype=np.float64).reshape(-1, 2)


def measures(book: OrderBook, depth: int = 20) -> dict[str, float]:
    bids, asks = side(book.bids(depth)), side(book.asks(depth))
    bought = np.cumsum(asks[:, 1])
    size = bought[-1] / 2  # half of what is offered in these levels
    taken = np.diff(np.minimum(bought, size), prepend=0.0)
    return {
        "bid_quantity": float(bids[:, 1].sum()),
        "ask_quantity": float(bought[-1]),
        "imbalance": float((bids[:, 1].sum() - bought[-1]) / (bids[:, 1].sum() + bought[-1])),
        "price_of_half": float((taken * asks[:, 0]).sum() / size),
    }


def main(address: str, name: str, times: int | None = None) -> None:
    with connect(address, topics=[f"book {name}"]) as client:  # a slow reader gets the latest state
        client.live(name, timeout=30)
        for _ in islice(count(), times):
            client.run(1.0)
            book = client.book(name)
            if book.state is BookState.LIVE and book.bids(1) and book.asks(1):
                print({key: round(value, 4) for key, value in measures(book).items()}, flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:3], *map(int, sys.argv[3:4]))
    except CmdError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        pass

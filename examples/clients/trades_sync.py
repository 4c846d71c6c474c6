"""Print trades and the best prices of the book beside each. Needs cmd-server alone.

    python trades_sync.py tcp:127.0.0.1:9999 binance-spot:BTCUSDT [MESSAGES]

The book is kept in step while the program iterates; it is worth reading only while its state is LIVE.
"""

from __future__ import annotations

import sys
from itertools import islice

from cmd_common import BookState
from cmd_common.errors import CmdError
from cmd_common.records import Trade
from cmd_server.client import connect


def main(address: str, name: str, count: int | None = None) -> None:
    with connect(address, topics=[f"trades {name}", f"book {name}"], policy="drop-oldest") as client:
        client.live(name, timeout=30)
        trades = (record for record in client if type(record) is Trade)
        for trade in islice(trades, count):
            book = client.book(name)
            bid, ask = book.best_bid, book.best_ask
            if book.state is BookState.LIVE and bid and ask:
                print(f"{trade.side:>7} {trade.quantity:g} at {trade.price}; {bid[0]} | {ask[0]}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:3], *map(int, sys.argv[3:4]))
    except CmdError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        pass

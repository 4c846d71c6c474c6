"""Write trades to a CSV file, without a hole that the file does not show.

    python trades_csv.py tcp:127.0.0.1:9999 "trades *:BTC*" trades.csv [ROWS]

``drop-oldest`` with a large queue: when this program is too slow, the server says which messages it left out, and so
does the file, as a comment. A lost connection is opened again, and the trades of that time are sent again.
"""

from __future__ import annotations

import csv
import sys
from datetime import UTC, datetime

from cmd_common.errors import CmdError
from cmd_common.records import Trade
from cmd_server.client import Lost, Message, connect

COLUMNS = ("ts_event", "time", "venue", "symbol", "trade_id", "price", "quantity", "side")


def main(address: str, topic: str, path: str, rows: int | None = None) -> None:
    written = 0
    with (
        connect(address, topics=[topic], policy="drop-oldest", queue=100_000) as client,
        open(path, "w", newline="") as f,
    ):
        out = csv.writer(f)
        out.writerow(COLUMNS)
        for items in client.items():  # what arrived together: one flush for all of it
            for item in items:
                if isinstance(item, Lost):
                    f.write(f"# lost: {item.venue}:{item.symbol} {item.count or 'some'} messages, {item.reason}\n")
                elif isinstance(item, Message) and type(trade := item.record) is Trade:
                    time = datetime.fromtimestamp(trade.ts_event / 1e9, UTC).isoformat(timespec="milliseconds")
                    row = (trade.ts_event, time, trade.venue, trade.symbol, trade.trade_id)
                    out.writerow((*row, repr(trade.price), repr(trade.quantity), trade.side))
                    written += 1
                    if written == rows:
                        return
            f.flush()


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:4], *map(int, sys.argv[4:5]))
    except CmdError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        pass

"""Say when the best bid of one venue is above the best ask of another: a crossed book over several venues.

    python crossed_alert.py tcp:127.0.0.1:9999 BTC-USDT [MIN_MS [ALERTS]]

The server merges the books (`cmd-cli serve --exchange binance-spot,coinbase --equivalent USD=USDT ...`); this program only watches the result.
``MIN_MS`` leaves out what lasted for less: a book that is late by a moment crosses others all the time.
"""

from __future__ import annotations

import sys

from cmd_common.errors import CmdError
from cmd_common.records import CROSSED, AggregatedBook, venue_levels
from cmd_server.client import connect


def alert(row: AggregatedBook) -> str:
    """What to say of a crossed row: who bids more than who asks."""
    venues = row.venues.split(",")
    bid, bid_quantity, bidder = next(venue_levels(row.bids))
    ask, ask_quantity, asker = next(venue_levels(row.asks))
    quantity = min(bid_quantity, ask_quantity)
    lasted = (row.crossed_for or 0) / 1e6
    return (
        f"{row.instrument}: {venues[bidder]} bids {bid:g}, {venues[asker]} asks {ask:g}, {bid - ask:+.8g} for {quantity:g};"
        f" crossed for {lasted:.0f} ms"
    )


def main(address: str, instrument: str, min_ms: float = 0.0, alerts: int | None = None) -> None:
    said = False  # once an episode
    with connect(address, topics=[f"aggregate@20 {instrument}"]) as client:
        for row in client:
            if type(row) is not AggregatedBook:
                continue
            crossed = bool(row.flags & CROSSED) and (row.crossed_for or 0) >= min_ms * 1e6
            if crossed and not said:
                print(alert(row), flush=True)
                if alerts is not None and (alerts := alerts - 1) == 0:
                    return
            said = crossed


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:3], *map(float, sys.argv[3:4]), *map(int, sys.argv[4:5]))
    except CmdError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        pass

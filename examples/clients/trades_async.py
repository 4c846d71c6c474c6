"""The same with asyncio, and what happens to the connection: losses and reconnects are events, never silence.

python trades_async.py tcp:127.0.0.1:9999 binance-spot:BTCUSDT [MESSAGES]
"""

from __future__ import annotations

import asyncio
import sys

from cmd_common.errors import CmdError
from cmd_common.records import Trade
from cmd_server.client import Event
from cmd_server.client.aio import connect


def told(event: Event) -> None:
    print(f"# {event}", file=sys.stderr)


async def main(address: str, name: str, count: int | None = None) -> None:
    async with connect(address, topics=[f"trades {name}"], policy="drop-oldest", on_event=told) as client:
        seen = 0
        async for record in client:
            if type(record) is Trade:
                print(f"{record.side:>7} {record.quantity:g} at {record.price:g}")
                seen += 1
                if seen == count:
                    return


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        asyncio.run(main(*sys.argv[1:3], *map(int, sys.argv[3:4])))
    except CmdError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        pass

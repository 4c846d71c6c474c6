"""A reader of a shared stream as a process of its own; it says what it has for each line on stdin."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from cmd_common.records import Trade
from cmd_server.aeron_source import SharedSource
from cmd_server.client import aio
from cmd_server.group_link import GroupLink


async def main(address: str) -> None:
    got: list[int] = []

    def on_record(record: Any) -> None:
        if isinstance(record, Trade):
            assert record.trade_seq is not None
            got.append(record.trade_seq)

    async with aio.connect(
        address, topics=["trades *", "book *"], policy="drop-oldest", retry=0.02, on_record=on_record
    ) as client:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        evicted = rebuilt = 0
        while await reader.readline():
            link = client._link
            state, number = "", 0
            if isinstance(link, GroupLink) and isinstance(link.source, SharedSource):
                state = link.merger.state.name
                evicted, rebuilt = link.source.evicted, link.source.rebuilt
                reading = link.source._reading
                number = reading.client.client.client_id if reading is not None else 0
            book = client.books.get("v:A")
            facts = {
                "state": state,
                "client": number,
                "evicted": evicted,
                "rebuilt": rebuilt,
                "connects": client.core.connects,
                "first": got[0] if got else 0,
                "last": got[-1] if got else 0,
                "whole": got == list(range(got[0], got[-1] + 1)) if got else True,
                "lost": client.core.lost + client.core.holes,
                "book": [book.state.value, book.bids(), book.asks()] if book is not None else None,
            }
            print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

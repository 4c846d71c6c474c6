"""A shared stream of Aeron to a multicast group, in a network namespace of its own: ``python aeron_group_child.py group``."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

from aeron_raw import folder
from hub_world import snapshot, trade
from multicast_children import PATIENCE, collect, complete, detached, levels, market, play

from cmd_server.client import aio
from cmd_server.limits import Limits
from cmd_server.server import Server


async def group() -> None:
    """A reader at the server's driver and one with a driver of its own hear the same packets."""
    with folder() as place:
        where = f"aeron:udp?shared=1&liveness=2s&endpoint=239.1.2.3:9997&interface=127.0.0.1&dir={place}"
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(Server(token="secret", limits=Limits(replay_messages=50_000)))
            control, _ = await server.listen_all(
                ["tcp:127.0.0.1:0", f"{where}/server&term-length=64k&heartbeat=50&driver=embedded"]
            )
            server.publish([snapshot(1, levels(1)), trade(1)])
            readers = []
            for more in ("/server", "/reader&driver=embedded"):
                got: list[int] = []
                address = f"{where}{more}&control={control.address}"
                client = await stack.enter_async_context(
                    aio.connect(
                        address,
                        topics=["trades *", "book *"],
                        policy="drop-oldest",
                        token="secret",
                        on_record=collect(got),
                    )
                )
                await client.live("v:A", timeout=PATIENCE)
                await detached(client)
                readers.append((client, got))
            await market(server, 2, 2_000)
            for client, got in readers:
                await complete(server, client, got, 2_000)
        assert not list(place.iterdir())


if __name__ == "__main__":
    play({"group": group})

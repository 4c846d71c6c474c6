"""One way of sockets.py in a process of its own: ``sockets_run.py WAY FOLDER``; the last line printed is JSON.

``FOLDER/stream.txt`` holds the messages (the snapshot in the first line), ``FOLDER/tops.txt`` what must come out. A
server in another process does the handshake by hand and then sends every message as fast as the client reads. The
clock counts the CPU time of the client's process, all threads, from the handshake's end to the last message.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from book_peers import _set, best
from book_stream import floats, read

PATIENCE = 120
SIZE = 500  # bytes of a message of W1


def wrapped(frame: bytes) -> bytes:
    """As an exchange's combined stream sends it."""
    return b'{"stream":"btcusdt@depth@100ms","data":' + frame + b"}"


def texts(count: int) -> list[bytes]:
    """Messages of 500 bytes, no two alike."""
    return [f"{number:08d}".encode() + b"x" * (SIZE - 8) for number in range(count)]


def messages(way: str, folder: str) -> list[bytes]:
    deltas = read(folder).deltas
    return texts(len(deltas)) if way.startswith("w1_") else [wrapped(frame) for frame in deltas]


# -- the server


def serve(way: str, folder: str) -> None:
    """Send every message to the first client, then wait for its end."""
    data = b"".join(bytes((0x81, 126)) + len(m).to_bytes(2, "big") + m for m in messages(way, folder))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        client, _ = listener.accept()
    with client:
        asked = b""
        while not asked.endswith(b"\r\n\r\n"):
            asked += client.recv(4096)
        fields = dict(line.lower().split(": ", 1) for line in asked.decode().splitlines()[1:] if ": " in line)
        sent = next(line.split(": ", 1)[1] for line in asked.decode().splitlines() if "-key: " in line.lower())
        assert fields["upgrade"] == "websocket"
        digest = hashlib.sha1(sent.strip().encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        answer = base64.b64encode(digest).decode()
        client.sendall(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {answer}\r\n\r\n".encode()
        )
        client.sendall(data)
        while client.recv(4096):
            pass


# -- clients: each receives ``count`` messages and returns the CPU time and what it found


class Kept(deque[Any]):
    """Answers: all of them, to be judged, or only the last while the clock runs, as a program forgets what it acted on."""

    def __init__(self, all_of_them: bool) -> None:
        super().__init__(maxlen=None if all_of_them else 1)


async def _picows(url: str, count: int, found: Kept, take: Callable[[Any], Any]) -> float:
    from picows import WSListener, WSMsgType, ws_connect

    done = asyncio.get_running_loop().create_future()
    keep = found.append
    text = WSMsgType.TEXT

    class Listener(WSListener):
        __slots__ = ("left",)

        def __init__(self) -> None:
            self.left = count

        def on_ws_frame(self, transport: Any, frame: Any) -> None:
            if frame.msg_type is text:  # the end of the connection comes here, too
                keep(take(frame))
                self.left -= 1
                if not self.left:
                    done.set_result(time.process_time_ns())

    start = time.process_time_ns()
    transport, _ = await ws_connect(Listener, url, max_frame_size=1 << 20)
    end = await asyncio.wait_for(done, PATIENCE)
    transport.disconnect()
    return float(end - start)


async def _websockets(
    url: str, count: int, found: Kept, take: Callable[[Any], Any], decode: bool | None = None
) -> float:
    from websockets.asyncio.client import connect

    keep = found.append
    start = time.process_time_ns()
    async with connect(url, compression=None, max_size=1 << 20, ping_interval=None) as ws:
        recv = ws.recv
        for _ in range(count):
            keep(take(await recv(decode=decode)))
        end = time.process_time_ns()
        ws.transport.abort()
    return float(end - start)


async def _ours(url: str, count: int, found: Kept, take: Callable[[Any], Any] | None) -> float:
    """Our WebSocket with the extra ``fast``, as feeds read it."""
    from cmd_feed.net import SystemNet, fast_available

    assert fast_available(), "the extra fast is not installed"
    import cmd_feed.fastws  # noqa: F401  # else it would be imported while the clock runs

    net = SystemNet()
    keep = found.append
    start = time.process_time_ns()
    ws = await net.connect(url)
    receive = ws.receive_all
    while count > 0:
        frames = await receive()
        count -= len(frames)
        if take is None:
            for frame in frames:
                keep(frame)
        else:
            for frame in frames:
                keep(take(frame))
    end = time.process_time_ns()
    await net.close()
    return float(end - start)


def text_of(frame: Any) -> str:
    text: str = frame.get_payload_as_utf8_text()
    return text


def same(message: Any) -> Any:
    return message


async def w1_ours(url: str, count: int, folder: str, found: Kept) -> float:
    return await _ours(url, count, found, None)


async def w1_picows(url: str, count: int, folder: str, found: Kept) -> float:
    return await _picows(url, count, found, text_of)


async def w1_websockets(url: str, count: int, folder: str, found: Kept) -> float:
    return await _websockets(url, count, found, same)


async def w2_ours(url: str, count: int, folder: str, found: Kept) -> float:
    from book_ours import native

    return await _ours(url, count, found, native(read(folder).snapshot))


async def w2_feed(url: str, count: int, folder: str, found: Kept) -> float:
    from book_ours import feed

    return await _ours(url, count, found, feed(read(folder).snapshot))


async def w2_picows_bisect(url: str, count: int, folder: str, found: Kept) -> float:
    import msgspec

    class Depth(msgspec.Struct, gc=False):
        b: list[tuple[float, float]]
        a: list[tuple[float, float]]

    message = msgspec.defstruct("Message", [("data", Depth)], gc=False)
    bids, asks = map(dict, floats(read(folder).snapshot))
    bid_prices, ask_prices = sorted(bids), sorted(asks)
    decode = msgspec.json.Decoder(message, strict=False).decode

    def take(frame: Any) -> Any:
        depth = decode(frame.get_payload_as_memoryview()).data
        _set(bids, bid_prices, depth.b)
        _set(asks, ask_prices, depth.a)
        return bid_prices[-1], ask_prices[0]

    return await _picows(url, count, found, take)


async def w2_websockets_sorteddict(url: str, count: int, folder: str, found: Kept) -> float:
    import orjson
    from sortedcontainers import SortedDict

    bids, asks = map(SortedDict, floats(read(folder).snapshot))
    loads = orjson.loads

    def take(message: bytes) -> Any:
        depth = loads(message)["data"]
        for side, changes in ((bids, depth["b"]), (asks, depth["a"])):
            for price, amount in changes:
                quantity = float(amount)
                if quantity == 0.0:
                    side.pop(float(price), None)
                else:
                    side[float(price)] = quantity
        return bids.peekitem(-1)[0], asks.peekitem(0)[0]

    return await _websockets(url, count, found, take, decode=False)


async def w2_cryptofeed(url: str, count: int, folder: str, found: Kept) -> float:
    """Its connection's library, its handler of messages and its book, with a callback that reads the best prices."""
    from decimal import Decimal

    from cryptofeed.defines import L2_BOOK
    from cryptofeed.exchanges import Binance
    from cryptofeed.symbols import Symbols
    from cryptofeed.types import OrderBook
    from websockets.asyncio.client import connect

    name = "BTC-USDT"
    Symbols.set(Binance.id, {name: "BTCUSDT"}, {"instrument_type": {name: "spot"}})
    keep = found.append

    async def book_of(book: Any, receipt: float) -> None:
        keep((book.book.bids.index(0)[0], book.book.asks.index(0)[0]))

    one = Binance(symbols=[name], channels=[L2_BOOK], callbacks={L2_BOOK: book_of})
    first = json.loads(read(folder).snapshot)
    sides = ({Decimal(p): Decimal(q) for p, q in first[side]} for side in ("bids", "asks"))
    bids, asks = sides
    one._l2_book[name] = OrderBook(one.id, name, bids=bids, asks=asks)  # else it would ask the exchange
    one.last_update_id[name] = first["lastUpdateId"]
    handler = one.message_handler
    start = time.process_time_ns()
    async with connect(url, compression=None, max_size=1 << 20, ping_interval=None) as ws:
        recv = ws.recv
        for _ in range(count):
            await handler(await recv(), None, time.time())
        end = time.process_time_ns()
        ws.transport.abort()
    return float(end - start)


def check(way: str, found: Kept, folder: str) -> None:
    """Compare what came with the oracle's."""
    frames = read(folder)
    if way.startswith("w1_"):
        right = [one.encode() if isinstance(one, str) else bytes(one) for one in found] == texts(len(frames.deltas))
    else:
        right = [best(one) for one in found] == frames.tops
    if not right:
        raise SystemExit(f"{way}: wrong results")


def receive(way: str, folder: str, count: int, found: Kept) -> float:
    """Connect to a fresh server and receive everything; the CPU time in ns."""
    import uvloop  # everybody runs on it

    client: Callable[[str, int, str, Kept], Coroutine[Any, Any, float]] = globals()[way]
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), "serve", folder, way], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        url = f"ws://127.0.0.1:{int(server.stdout.readline())}/"
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(client(url, count, folder, found))
    finally:
        server.kill()
        server.wait()


def main() -> None:
    way, folder = sys.argv[1:3]
    if way == "serve":
        serve(sys.argv[3], folder)
        return
    count = len(read(folder).deltas)
    last, found = Kept(False), Kept(True)
    used = receive(way, folder, count, last)
    receive(way, folder, count, found)
    check(way, found, folder)
    if last[0] != found[-1]:
        raise SystemExit(f"{way}: the timed run ended with {last[0]}, the other with {found[-1]}")
    print(json.dumps({"us": used / 1000 / count}))


if __name__ == "__main__":
    main()

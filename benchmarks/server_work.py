"""What the benchmarks of server and clients send, and the oracle that says whether all of it arrived.

A message is one trade whose frame has 104 bytes; every competitor carries the same frames. A sink keeps what it
read; ``Sink.verify`` compares it with the frames that were to be sent, outside every clock.
"""

from __future__ import annotations

import os
import random
import socket
import struct
from pathlib import Path

from cmd_common.records import InstrumentRecord, Trade
from cmd_server import codec
from cmd_server.messages import Login, Policy, Subscribe, Template

FRAME = 104
VENUE, SYMBOL = "binance-spot", "BTCUSDT"
TOPIC = f"trades {VENUE}:{SYMBOL}"
T0 = 1_790_000_000_000_000_000
READ = 1 << 18
LENGTH = struct.Struct(">I").unpack_from  # SOFH: length of the whole frame, itself included
TEMPLATE = struct.Struct("<H").unpack_from  # at 8: SBE's template id
SEQ = struct.Struct("<Q").unpack_from  # at 14: the first field of every message
STAMP = struct.Struct("<q").unpack_from  # at 30: tsRecv
QUEUE = 1_000_000  # messages: nothing may be lost, whoever is slow


def instrument() -> InstrumentRecord:
    return InstrumentRecord(
        T0, T0, VENUE, SYMBOL, "BTC", "USDT", "", "spot", "0.01", "0.00001", "0.00001", "5", "", False, None, "trading"
    )


def _padding() -> int:
    shortest = codec.encode(Trade(T0, T0, VENUE, SYMBOL, "", 1, 1.0, 1.0, "buy"), 1, 1)
    if len(shortest) > FRAME - 10:
        raise SystemExit(f"a trade without an id has {len(shortest)} bytes: {FRAME} cannot be reached")
    return FRAME - len(shortest)


def trades(count: int, seed: int = 1) -> list[Trade]:
    """Trades whose frames have 104 bytes each."""
    rng, width = random.Random(seed), _padding()
    return [
        Trade(
            T0 + n * 1_000_000,
            T0 + n * 1_000_000 + 1,
            VENUE,
            SYMBOL,
            str(10_000_000 + n).rjust(width, "0"),
            10_000_000 + n,
            round(61_837 + rng.gauss(0, 5), 2),
            round(rng.paretovariate(1.2) * 1e-3, 5),
            "buy" if rng.random() < 0.5 else "sell",
        )
        for n in range(count)
    ]


def frames(records: list[Trade], instrument_id: int = 1) -> list[bytes]:
    """The frame of each record, numbered from 1."""
    made = [codec.encode(record, instrument_id, seq) for seq, record in enumerate(records, 1)]
    assert {len(frame) for frame in made} == {FRAME}
    return made


def plug(address: str) -> socket.socket:
    """Connect a blocking socket to ``tcp:HOST:PORT`` or ``unix:PATH``."""
    scheme, _, target = address.partition(":")
    if scheme == "unix":
        made = socket.socket(socket.AF_UNIX)
        made.connect(target)
    else:
        host, _, port = target.rpartition(":")
        made = socket.create_connection((host, int(port)))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def fresh(transport: str, folder: str, name: str = "s") -> str:
    """An address to listen at: a Unix socket in ``folder``, or a free port of loopback."""
    if transport == "unix":
        return f"unix:{Path(folder) / f'{name}{os.getpid()}.sock'}"
    with socket.create_server(("127.0.0.1", 0)) as found:
        return f"tcp:127.0.0.1:{found.getsockname()[1]}"


def login(policy: Policy = Policy.DISCONNECT, queue: int = QUEUE) -> bytes:
    """What a client of ours says first; by default nothing may be lost."""
    return codec.encode_request(Login(client="bench")) + codec.encode_request(Subscribe(1, (TOPIC,), policy, queue))


class Sink:
    """One client without a library: keeps every frame of trades, counts them, forgets the rest."""

    __slots__ = ("acks", "bad", "data", "kept", "rest", "seen", "sock")

    def __init__(self, sock: socket.socket, *, keep: bool = True) -> None:
        self.sock = sock
        self.rest = b""
        self.data: list[bytes] = []
        self.kept = keep
        self.seen = self.acks = 0
        self.bad = ""

    def read(self) -> bool:
        """Take what is there; False once the peer has closed."""
        try:
            data = self.sock.recv(READ)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False
        if not data:
            return False
        if self.rest:
            data = self.rest + data
        at, size = 0, len(data)
        while size - at >= 14:
            end = at + LENGTH(data, at)[0]
            if end > size:
                break
            template = TEMPLATE(data, at + 8)[0]
            if template == Template.TRADE:
                self.seen += 1
                if not self.kept and SEQ(data, at + 14)[0] != self.seen:
                    self.bad = self.bad or f"sequence {SEQ(data, at + 14)[0]} after {self.seen - 1}"
                if self.kept:
                    self.data.append(data[at:end])
            elif template == Template.ACK:
                self.acks += 1
            elif template in (Template.BYE, Template.REJECT, Template.STREAM_GAP):
                self.bad = self.bad or f"template {template}: {data[at:end]!r}"
            at = end
        self.rest = data[at:]
        return True

    def verify(self, expected: list[bytes]) -> None:
        """Raise unless exactly the expected frames came; ours number the instrument as the server likes."""
        if self.bad:
            raise SystemExit(f"a client was told: {self.bad}")
        if self.seen != len(expected):
            raise SystemExit(f"a client has {self.seen} messages instead of {len(expected)}")
        for got, wanted in zip(self.data, expected, strict=True):
            if got[:38] + got[42:] != wanted[:38] + wanted[42:]:  # all but the instrument's id
                raise SystemExit(f"a frame differs:\n {got.hex()}\n {wanted.hex()}")

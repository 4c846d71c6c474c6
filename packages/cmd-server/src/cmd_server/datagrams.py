"""Datagrams of the multicast transport, and packets of shared streams of Aeron: packing and ordering, without a socket.

A datagram is a header of 32 bytes, little-endian, and then whole frames as on a stream socket:

    magic "CMDM" | version u8 | flags u8 | messages u16 | epoch u64 | sequence u64 | send time i64 (ns UTC)

``epoch`` is the server's (another one is another run), ``sequence`` counts packets from 1. A heartbeat has the sequence
of the packet that comes next and takes none itself, so that a lost last packet is noticed; its frames (the topics that
the group carries) belong to no sequence. A frame that is longer than a datagram is cut: each piece is a packet of its
own with the flag FRAGMENT, the first one has FIRST too and the last one LAST. Nothing is retransmitted here: what is lost is fetched elsewhere.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from cmd_server.errors import FrameError
from cmd_server.framing import split

__all__ = [
    "END",
    "FIRST",
    "FRAGMENT",
    "HEADER",
    "HEARTBEAT",
    "LAST",
    "MAX_BODY",
    "MAX_DATAGRAM",
    "Packer",
    "Packet",
    "PacketOrder",
    "unpack",
]

MAX_DATAGRAM: Final = 1400
"""Bytes of the longest datagram: one Ethernet frame with room for tunnels, so that IP never fragments it."""

HEARTBEAT: Final = 1
FRAGMENT: Final = 2
LAST: Final = 4  # the last piece of a cut frame
FIRST: Final = 16  # the first piece of a cut frame
END: Final = 8  # with HEARTBEAT: the server stops; nothing follows

_MAGIC: Final = b"CMDM"
_VERSION: Final = 1
_HEAD: Final = struct.Struct("<4sBBHQQq")
HEADER: Final = _HEAD.size
MAX_BODY: Final = MAX_DATAGRAM - HEADER
_MOST: Final = 0xFFFF  # frames in one packet, for which there are two bytes
_LENGTH: Final = struct.Struct(">I")


class Packet(NamedTuple):
    """One datagram taken apart; ``body`` are whole frames, or one piece of a frame."""

    flags: int
    messages: int
    epoch: int
    seq: int
    time: int
    body: bytes


def unpack(data: bytes) -> Packet:
    """Take a datagram apart; raises FrameError for anything that is none of ours, in constant time."""
    if len(data) < _HEAD.size:
        raise FrameError(f"a datagram of {len(data)} bytes has no header")
    magic, version, flags, count, epoch, seq, time = _HEAD.unpack_from(data)
    if magic != _MAGIC:
        raise FrameError("a datagram of another protocol", hint="does another program use this group and port?")
    if version != _VERSION:
        raise FrameError(f"a datagram of version {version}; this program reads version {_VERSION}")
    return Packet(flags, count, epoch, seq, time, data[_HEAD.size :])


class Packer:
    """Packs frames into datagrams of one server epoch; ``seq`` is that of the next packet.

    ``body`` is how many bytes of frames a packet has at most; another value holds from the next call on.
    """

    def __init__(self, epoch: int, body: int = MAX_BODY) -> None:
        self.epoch = epoch
        self.body = body
        self.seq = 1

    def pack(self, frames: Sequence[bytes], now: int) -> list[bytes]:
        """Return the datagrams of some frames, filled as far as they go; order is kept. O(bytes)."""
        packets: list[bytes] = []
        body = self.body
        if len(frames) <= _MOST and sum(map(len, frames)) <= body:
            self._put(packets, 0, frames, now)
            return packets
        parts: list[bytes] = []
        size = 0
        for frame in frames:
            length = len(frame)
            if size + length > body or len(parts) == _MOST:
                self._put(packets, 0, parts, now)
                parts, size = [], 0
            if length > body:
                for start in range(0, length, body):
                    ends = (0 if start else FIRST) | (LAST if start + body >= length else 0)
                    self._put(packets, FRAGMENT | ends, [frame[start : start + body]], now)
                continue
            parts.append(frame)
            size += length
        self._put(packets, 0, parts, now)
        return packets

    def heartbeat(self, frames: Iterable[bytes], now: int, *, end: bool = False) -> bytes:
        """Return a datagram that takes no sequence; ``frames`` must fit, ValueError otherwise."""
        parts = list(frames)
        body = b"".join(parts)
        if len(body) > self.body:
            raise ValueError(f"{len(body)} bytes do not fit into one heartbeat")
        flags = HEARTBEAT | (END if end else 0)
        return _HEAD.pack(_MAGIC, _VERSION, flags, len(parts), self.epoch, self.seq, now) + body

    def _put(self, packets: list[bytes], flags: int, parts: Sequence[bytes], now: int) -> None:
        if parts:
            head = _HEAD.pack(_MAGIC, _VERSION, flags, len(parts), self.epoch, self.seq, now)
            packets.append(head + b"".join(parts))
            self.seq += 1


class PacketOrder:
    """Puts datagrams back in order and says what was lost, doubled or began anew.

    ``take`` returns the frames that are next. A hole waits for ``patience`` ns or until ``window`` packets wait behind
    it, then it is given up and ``lost`` counts its packets. ``restarts`` counts changes of the epoch; packets of an
    epoch that is over are ``stale``. At most ``window`` packets and one frame of ``limit`` bytes are kept.
    """

    def __init__(self, *, window: int = 256, patience: int = 20_000_000, limit: int = 64 << 20) -> None:
        self.window = window
        self.patience = patience
        self.limit = limit
        self.epoch: int | None = None
        self.expected = 0
        self.lost = 0
        self.doubles = 0
        self.reordered = 0
        self.restarts = 0
        self.stale = 0
        self.ended = False
        self._over: list[int] = []  # epochs that ended; a late packet of theirs must not bring them back
        self._waiting: dict[int, Packet] = {}
        self._known = 0  # sequences below this one were sent, by word of a heartbeat
        self._since = 0  # when the hole was noticed
        self._piece = bytearray()
        self._in_frame = False

    @property
    def waiting(self) -> int:
        """Packets that wait behind a hole."""
        return len(self._waiting)

    @property
    def deadline(self) -> int | None:
        """When ``tick`` gives the present hole up, in ns; None without a hole."""
        return self._since + self.patience if self._hole else None

    @property
    def _hole(self) -> bool:
        return bool(self._waiting) or self._known > self.expected

    def take(self, packet: Packet, now: int) -> list[bytes]:
        """Take the next datagram and return the frames that are in order now; raises FrameError for bad frames."""
        if packet.epoch != self.epoch:
            if packet.epoch in self._over:
                self.stale += 1
                return []
            self._begin(packet)
        hole = self._hole
        frames: list[bytes] = []
        if packet.flags & HEARTBEAT:
            self.ended = bool(packet.flags & END)
            self._known = max(self._known, packet.seq)
        elif packet.seq < self.expected or packet.seq in self._waiting:
            self.doubles += 1
        elif packet.seq == self.expected:
            if hole and self._waiting:
                self.reordered += 1
            self._advance(packet, frames)
            self._drain(frames)
        else:
            self._waiting[packet.seq] = packet
        if self._hole and not hole:
            self._since = now
        if len(self._waiting) > self.window:
            self._skip(now, frames)
        return frames + self.tick(now)

    def tick(self, now: int) -> list[bytes]:
        """Give up a hole that has waited too long, and return the frames behind it."""
        frames: list[bytes] = []
        while self._hole and now - self._since >= self.patience:
            self._skip(now, frames)
        return frames

    def check(self) -> None:
        """Assert the invariants: bounds, and nothing kept that could be handed out."""
        assert len(self._waiting) <= self.window
        assert all(seq > self.expected for seq in self._waiting)
        assert len(self._piece) <= self.limit
        assert self._in_frame or not self._piece

    def _begin(self, packet: Packet) -> None:
        if self.epoch is not None:
            self.restarts += 1
            self._over = [*self._over[-15:], self.epoch]
        self.epoch = packet.epoch
        self.expected = packet.seq
        self._known = packet.seq
        self._waiting.clear()
        self._forget()
        self.ended = False

    def _skip(self, now: int, frames: list[bytes]) -> None:
        """Give up the first hole."""
        following = min(self._waiting) if self._waiting else self._known
        self.lost += following - self.expected
        self.expected = following
        self._forget()
        self._drain(frames)
        self._since = now

    def _drain(self, frames: list[bytes]) -> None:
        while (packet := self._waiting.pop(self.expected, None)) is not None:
            self._advance(packet, frames)

    def _advance(self, packet: Packet, frames: list[bytes]) -> None:
        self.expected += 1
        body = packet.body
        if packet.flags & FRAGMENT:
            self._fragment(packet, frames)
            return
        self._forget()
        found, consumed = split(body, len(body), self.limit)
        if consumed != len(body) or len(found) != packet.messages:
            raise FrameError(f"a datagram of {packet.messages} frames does not end with a frame")
        frames.extend(body[start:stop] for start, stop in found)

    def _fragment(self, packet: Packet, frames: list[bytes]) -> None:
        body = packet.body
        if packet.flags & FIRST:
            self._forget()
            self._in_frame = True
        elif not self._in_frame:
            return  # we joined in the middle of a frame, or its beginning was lost
        self._piece += body
        if len(self._piece) > self.limit:
            self._forget()
            raise FrameError(f"a cut frame is longer than {self.limit} bytes")
        if packet.flags & LAST:
            frame = bytes(self._piece)
            self._forget()
            if len(frame) < _LENGTH.size or _LENGTH.unpack_from(frame)[0] != len(frame):
                raise FrameError("the pieces of a cut frame do not make a whole one")
            frames.append(frame)

    def _forget(self) -> None:
        self._piece = bytearray()
        self._in_frame = False

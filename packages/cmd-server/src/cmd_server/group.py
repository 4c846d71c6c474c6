"""What a server sends to a group (multicast, a shared stream of Aeron), as packets; pure.

The hub's frames for the group's client are packed as they are, with three exceptions: what concerns a connection is
left out; a snapshot becomes a StreamGap (reason ``snapshot``), which tells receivers that are behind it to fetch it; and
instruments are remembered, to be told again in turn by heartbeats for those who join later.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from . import codec
from .datagrams import MAX_BODY, Packer
from .messages import KIND_OF, Hello, StreamGap, Subscribe, Template

__all__ = ["Group"]

_HEAD: Final = struct.Struct("<8xH4xQ16xIH")  # of a frame: template, sequence, instrument, view
# Templates, as they stand in a frame, of messages that are packed as they are: nearly all of them.
_AS_IT_IS: Final = frozenset(
    int(template).to_bytes(2, "little")
    for template in KIND_OF
    if template not in (Template.INSTRUMENT, Template.BOOK_SNAPSHOT, Template.HELLO)
)


class Group:
    """Packets of one group; nothing is sent before Hello has named the epoch.

    ``body`` is how many bytes of frames a packet has at most.
    """

    def __init__(self, topics: tuple[str, ...], body: int = MAX_BODY) -> None:
        self.topics = topics
        self.body = body
        self._packer: Packer | None = None
        self._announcement = codec.encode_request(Subscribe(0, topics))
        self._instruments: dict[int, bytes] = {}
        self._turn = 0  # next instrument to tell again

    @property
    def fits(self) -> bool:
        """Whether the topics leave room for an instrument in one heartbeat."""
        return len(self._announcement) <= self.body // 2

    def pack(self, frames: Sequence[bytes], now: int) -> list[bytes]:
        """Return the packets of frames that the hub gave."""
        kept = [frame if frame[8:10] in _AS_IT_IS else self._frame(frame) for frame in frames]
        kept = [frame for frame in kept if frame]
        return self._packer.pack(kept, now) if kept and self._packer is not None else []

    def heartbeat(self, now: int, *, end: bool = False) -> list[bytes]:
        """Return the packet that says what the group carries, and that the sender is there (or ``end``: no more)."""
        if self._packer is None:
            return []
        frames = [self._announcement]
        room = self.body - len(self._announcement)
        known = list(self._instruments.values())
        for _ in known:
            frame = known[self._turn % len(known)]
            if len(frame) > room:
                break
            room -= len(frame)
            frames.append(frame)
            self._turn += 1
        return [self._packer.heartbeat(frames, now, end=end)]

    def _frame(self, frame: bytes) -> bytes:
        template, seq, instrument, view = _HEAD.unpack_from(frame)  # the hub's own: they are whole
        kind = KIND_OF.get(template)
        if template == Template.INSTRUMENT:
            self._instruments[instrument] = frame
        elif template == Template.BOOK_SNAPSHOT and kind is not None:
            return codec.encode_service(StreamGap(instrument, kind, view, seq, seq, "snapshot"))
        elif template == Template.HELLO:
            hello = codec.decode_service(frame)
            assert isinstance(hello, Hello)
            self._packer = Packer(hello.epoch, self.body)
            return b""
        elif kind is None and template != Template.STREAM_GAP:
            return b""
        return frame

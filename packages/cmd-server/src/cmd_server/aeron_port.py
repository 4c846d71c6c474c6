"""A port whose frames go over Aeron while its requests come by a stream connection.

Theory of operation. A publication takes a message at once or not at all; there is no descriptor that tells when it
takes more. So what it refuses stays here, in order, and is offered again by a timer, every 0.1 ms at first and every
2 ms at last; meanwhile the port is not ``writable`` and the frames behind it stay in the client's queue of the hub,
where its policy applies. What was taken is never offered again.

Frames are joined up to what fits one packet of Aeron. One that is longer than the longest message is cut: a receiver
reads the messages as one stream of bytes, in which frames tell their own length.

The client connects to the publication after ``Diverted``; until then nothing can be sent and nothing is lost. If it
is gone afterwards, or the publication has come to its end, or control breaks, the whole session is over: the client
comes back and resumes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from .codec import encode_service
from .errors import ConnectionBrokenError
from .messages import Bye
from .transport import Port, ServerSide, Session

if TYPE_CHECKING:
    from cmd_aeron import ExclusivePublication

__all__ = ["AeronPort", "joined"]

_NOT_CONNECTED: Final = -1
_BACK_PRESSURED: Final = -2
_ADMIN_ACTION: Final = -3
_WORDS: Final = {
    _NOT_CONNECTED: "the client does not receive any more",
    -4: "the publication was closed",
    -5: "the publication has reached its last position",
    -6: "the media driver is gone",
}
_SOON: Final = 0.000_1  # s until what was refused is offered again, doubled each time
_LATER: Final = 0.002  # s at most
_UNHEARD: Final = 0.02  # s at most until the client has subscribed


def joined(frames: Sequence[bytes], payload: int, longest: int) -> list[bytes]:
    """Return messages of whole frames, ``payload`` bytes at most; longer frames alone, cut where over ``longest``."""
    found: list[bytes] = []
    part: list[bytes] = []
    size = 0
    for frame in frames:
        length = len(frame)
        if part and size + length > payload:
            found.append(part[0] if len(part) == 1 else b"".join(part))
            part = []
            size = 0
        if length <= payload:
            part.append(frame)
            size += length
        elif length <= longest:
            found.append(frame)
        else:
            found += [frame[at : at + longest] for at in range(0, length, longest)]
    if part:
        found.append(part[0] if len(part) == 1 else b"".join(part))
    return found


class AeronPort:
    """A client's port over ``publication``, below it the stream connection ``control``.

    ``released`` is called once with the port when it needs its publication no longer; ``patience`` is how many ns the
    client has to subscribe.
    """

    form = "sbe"

    def __init__(
        self,
        server: ServerSide,
        control: Port,
        publication: ExclusivePublication,
        *,
        low_water: int,
        patience: int,
        released: Callable[[AeronPort], None],
    ) -> None:
        self.peer = f"{control.peer} aeron stream {publication.stream_id}"
        self.publication = publication
        self.retries = 0  # how often what was refused was offered again
        self._loop = asyncio.get_running_loop()
        self._server = server
        self._control = control
        self._low = low_water
        self._patience = patience / 1e9
        self._released: Callable[[AeronPort], None] | None = released
        self._payload: int = publication.max_payload_length
        self._longest: int = publication.max_message_length
        self._session: Session = None
        self._waiting: list[bytes] = []  # messages, from _next on not taken yet
        self._next = 0
        self._unsent = 0
        self._connected = False
        self._blocked = True
        self._stage = "new"  # open, closing, closed (control says the rest), over
        self._timer: asyncio.TimerHandle | None = None
        self._pause = _SOON
        self._deadline = 0.0
        self.pause = control.pause
        self.resume = control.resume

    @property
    def writable(self) -> bool:
        """Whether it takes more: never before the client has subscribed."""
        return self._stage == "open" and self._connected and self._unsent <= self._low

    @property
    def unsent(self) -> int:
        """Bytes that the publication has refused so far, and those behind them."""
        return self._unsent

    def start(self, session: Session) -> None:
        """Begin; the client is told where to subscribe."""
        self._session = session
        self._stage = "open"
        self._deadline = self._loop.time() + self._patience
        self._again()

    def send(self, frames: Sequence[bytes]) -> None:
        """Send frames, at once where nothing waits."""
        if self._stage != "open":
            return
        if len(frames) == 1 and len(frames[0]) <= self._payload:
            messages = [frames[0]]
        else:
            messages = joined(frames, self._payload, self._longest)
        if self._waiting:
            self._waiting += messages
            self._unsent += sum(map(len, messages))
        else:
            self._waiting = messages
            self._unsent = sum(map(len, messages))
            self._pause = _SOON
            self._offer()
        if self._unsent > self._low:
            self._blocked = True

    def close(self, code: str = "", text: str = "") -> None:
        """Say Bye by control too, send what is unsent, then close control; ``closed`` follows when that is gone."""
        if self._stage not in ("new", "open"):
            return
        self._stage = "closing"
        # At once: one who does not read the publication learns by it why it ends.
        self._control.send([encode_service(Bye(code, text))])
        if not self._waiting:
            self._loop.call_soon(self._farewell)
        # Else the timer goes on; the server aborts who takes too long.

    def abort(self) -> None:
        """Close at once."""
        if self._stage != "over":
            self._end()
            self._control.abort()

    def look(self) -> None:
        """See whether the client is still there; called some times a second."""
        publication = self.publication
        if self._stage not in ("open", "closing") or not self._connected:
            return
        if publication.closed:
            self._break(-4)
        elif not publication.connected:
            self._break(_NOT_CONNECTED)

    def lose(self, error: Exception) -> None:
        """Say that the way is gone, and end the session."""
        if self._stage == "over":
            return
        self._end()
        self._loop.call_soon(self._tell, error)

    def release(self) -> None:
        """Let go of the publication; said by the server when the session is over."""
        self._end()
        released, self._released = self._released, None
        if released is not None:
            released(self)

    # -- inside

    def _offer(self) -> None:
        """Offer what waits."""
        messages, first = self._waiting, self._next
        try:
            accepted, result = self.publication.offer_many(messages, first)
        except Exception as error:  # of cmd_aeron: closed meanwhile
            self.lose(ConnectionBrokenError(f"connection broken: {error}"))
            return
        if accepted:
            self._connected = True
            self._pause = _SOON
            at = self._next = first + accepted
            if at == len(messages):
                self._waiting = []
                self._next = self._unsent = 0
                return
            self._unsent -= sum(map(len, messages[first:at]))
            if at > 512:
                del messages[:at]
                self._next = 0
        if result >= 0 or result in (_BACK_PRESSURED, _ADMIN_ACTION) or (result == -1 and not self._connected):
            if self._timer is None:
                self._timer = self._loop.call_later(self._pause, self._again)
        else:
            self._break(result)

    def _again(self) -> None:
        """Offer what waits again, or see whether the client has come."""
        self._timer = None
        if self._stage not in ("open", "closing"):
            return
        if not self._connected and not self._came():
            return
        if self._waiting:
            self.retries += 1
            self._pause = min(_LATER, self._pause * 2)
            self._offer()
        if not self._waiting and self._stage == "closing":
            self._farewell()
        elif self._blocked and self.writable:
            self._blocked = False
            self._server.writable(self._session)

    def _came(self) -> bool:
        """Whether the client has subscribed; where not, look again soon, and not for ever."""
        if self.publication.connected:
            self._connected = True
            self._pause = _SOON
            return True
        if self.publication.closed:
            self._break(-4)
        elif self._loop.time() > self._deadline:
            text = f"the client did not subscribe to {self.peer.partition(' aeron ')[2]} in {self._patience:g} s"
            self.lose(ConnectionBrokenError(text))
        else:
            self._pause = min(_UNHEARD, self._pause * 2)
            self._timer = self._loop.call_later(self._pause, self._again)
        return False

    def _farewell(self) -> None:
        if self._stage == "closing":
            self._stage = "closed"
            self._cancel()
            self._control.close()

    def _break(self, result: int) -> None:
        self.lose(ConnectionBrokenError(f"connection broken: {_WORDS.get(result, f'Aeron says {result}')}"))

    def _tell(self, error: Exception) -> None:
        if self._session is not None:
            self._server.closed(self._session, error)
        self._control.abort()

    def _end(self) -> None:
        self._stage = "over"
        self._cancel()
        self._waiting = []
        self._next = self._unsent = 0

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def check(self) -> None:
        """Assert every invariant; for tests."""
        assert self._unsent == sum(map(len, self._waiting[self._next :]))
        assert bool(self._waiting) == bool(self._unsent)
        assert not self._waiting or self._timer is not None

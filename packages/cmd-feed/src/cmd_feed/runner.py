"""Runs one Feed over one WebSocket after another: connect, subscribe, receive, reconnect.

The runner is the only place where a Feed meets sockets and time. It stamps what it receives, carries
out the Feed's actions, and collects records into lists that it hands on when the socket has nothing
more to give, so that a message costs no queue operation and no task switch of its own.

    idle -> connecting -> connected -> (lost) waiting -> connecting ...
                              |-> ended   the server said that everything was sent (code 4000)
                              '-> failed  given up; stopped: asked to
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum

from msgspec import Struct, field

from cmd_common.backoff import SECOND, Backoff
from cmd_common.errors import BlockedError, CmdError, DisconnectedError, RateLimitError, VenueError
from cmd_common.exchange import Exchange
from cmd_common.feed import Action, Feed, FetchSnapshot, Output, Reconnect, Resubscribe, Send
from cmd_common.handover import HandoverCounters, Movable, Verdict
from cmd_common.records import Record
from cmd_common.seams import Clock, Net, Rng, WebSocket

from .handover import Standby
from .limiter import WindowLimiter
from .net import HandshakeError
from .scheduler import DEFAULT_RETRY_AFTER, SnapshotScheduler, sleep_or

__all__ = ["END_OF_DATA", "ConnectionRunner", "Hooks", "RunnerCounters", "RunnerState"]

END_OF_DATA = 4000  # close code: everything was sent
BATCH = 2048  # records that are handed on at once at the latest
OUTBOX = 4096  # frames that wait for the message rate; more is a defect of the Feed
DEFECTS = 5  # exceptions of a Feed in a row before it is given up
HANDOVER_TIME = 30 * SECOND  # before the age limit, at least
SECOND_MOST = 60 * SECOND  # between two attempts to open a second connection that is there for good
HANDOVERS = 3  # second connections that are tried before an ordinary reconnect
REFUSALS = 3  # handshakes refused with 403 or 451 in a row before it is given up


class RunnerState(Enum):
    """Where a connection is."""

    IDLE = "idle"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    WAITING = "waiting"
    ENDED = "ended"
    FAILED = "failed"
    STOPPED = "stopped"


class RunnerCounters(Struct):
    """Counts since the runner was made; rates are of the last whole second or so."""

    messages: int = 0
    bytes: int = 0
    records: int = 0
    connects: int = 0
    disconnects: int = 0
    defects: int = 0  # exceptions of the Feed
    sent: int = 0
    rate: float = 0.0  # messages a second
    handovers: HandoverCounters = field(default_factory=HandoverCounters)
    second: int = -1  # a second connection for good: 1 it could take over now, 0 not yet, -1 none is asked for
    lag: int = 0  # ns, receive minus event time of the newest record; negative where clocks differ


class Hooks(Struct):
    """What a runner tells its owner; all are called in the event loop and must not wait.

    ``full`` and ``wait`` are the back-pressure of whatever takes the records.
    """

    sink: Callable[[list[Record]], None]
    full: Callable[[], bool]
    wait: Callable[[], Awaitable[None]]
    raw: Callable[[int, str, str, str | bytes], None] | None = None  # recv_ns, src, url, text
    warn: Callable[[str], None] = lambda message: None
    info: Callable[[str], None] = lambda message: None
    changed: Callable[[ConnectionRunner], None] = lambda runner: None


class _Lost(Exception):
    """The connection is over; ``planned`` when we close it ourselves and nothing is wrong, ``fresh`` when the
    feed has to begin anew, so that no other connection may take over.
    """

    def __init__(self, reason: str, *, planned: bool = False, fresh: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.planned = planned
        self.fresh = fresh


class ConnectionRunner:
    """One Feed and its connections. ``run`` returns when it ended, failed or was stopped; it never raises
    for what an exchange, a network or a Feed may do.
    """

    def __init__(
        self,
        feed: Feed,
        exchange: Exchange,
        hooks: Hooks,
        *,
        net: Net,
        clock: Clock,
        rng: Rng,
        scheduler: SnapshotScheduler,
        connects: WindowLimiter,
        until_end: bool = False,
        attempts: int = 1000,
        first_attempts: int = 8,
        handover: bool = True,
        lifetime: int | None = None,
        redundant: str = "",
    ) -> None:
        self.feed = feed
        self.exchange = exchange
        self.state = RunnerState.IDLE
        self.error: CmdError | None = None
        self.counters = RunnerCounters()
        self.ever_connected = False
        self._hooks = hooks
        self._net = net
        self._clock = clock
        self._rng = rng
        self._scheduler = scheduler
        self._connects = connects
        self._until_end = until_end
        self._attempts = attempts
        self._first_attempts = first_attempts
        self._backoff = Backoff(rng, limit=first_attempts)
        self._messages = WindowLimiter.messages(exchange.limits.messages_per_second)
        self._movable: Movable | None = feed if isinstance(feed, Movable) and feed.handover and handover else None
        self._standby: Standby | None = None  # a second connection, beside the open one
        self._next: Standby | None = None  # the one that has taken over
        self._tries = 0  # handovers begun on this connection
        self._other = redundant if redundant not in ("", "on") else ""  # URL of the other host
        self._swapped = False  # the connection that is read is at the other host
        self._keep = bool(redundant) and self._movable is not None
        self._second_at = 0  # monotonic ns, when to open it
        self._second_wait = SECOND
        if self._keep:
            self.counters.second = 0
        self._lifetime = exchange.limits.connection_lifetime if lifetime is None else lifetime
        self._leave = ""  # why this connection is to be left, while there is time
        self._ws: WebSocket | None = None
        self._outbox: asyncio.Queue[str] = asyncio.Queue(OUTBOX)
        self._batch: list[Record] = []
        self._flush_scheduled = False
        self._loop = asyncio.get_running_loop()
        self._interrupt: _Lost | None = None
        self._stopping = asyncio.Event()
        self._defects = 0
        self._defect_text = ""
        self._refusals = 0
        self._unreachable = 0  # handshakes in a row that failed
        self._closed = False
        self._blocked = False  # reading waits for whatever takes the records

    @property
    def name(self) -> str:
        """The Feed's name, unique in the process."""
        return self.feed.name

    # ---- life

    async def run(self) -> None:
        """Connect again and again until it is over."""
        try:
            while not self._stopping.is_set():
                wait = await self._once()
                if wait is None:
                    break
                if self._next is not None:
                    continue
                self._set(RunnerState.WAITING)
                await self._sleep(wait)
        finally:
            self._scheduler.cancel(self.name)
            await self._drop_standby()
            if self._next is not None:
                await self._next.close()
            self._finish()
            if self._stopping.is_set() and self.state not in (RunnerState.ENDED, RunnerState.FAILED):
                self._set(RunnerState.STOPPED)

    async def stop(self) -> None:
        """Ask for the end: the connection is closed, ``run`` returns soon."""
        self._stopping.set()
        self._scheduler.cancel(self.name)
        ws = self._ws
        if ws is not None:
            await ws.close()

    async def _once(self) -> int | None:
        """One connection; returns ns to wait before the next, or None when it is over."""
        if self._next is not None:
            standby, self._next = self._next, None
            return await self._use(standby, standby)
        self._set(RunnerState.CONNECTING)
        while delay := self._connects.delay(self._clock.monotonic()):  # others may take the place meanwhile
            self._connects.waited += 1
            self._hooks.warn(f"{self.name}: {delay / SECOND:.0f} s until the exchange allows another connection")
            await self._sleep(delay)
            if self._stopping.is_set():
                return None
        self._connects.take(self._clock.monotonic())
        try:
            ws = await self._net.connect(self._url(self._swapped))
        except VenueError as error:
            self._swapped = bool(self._other) and not self._swapped
            return self._refused(self._translate(error))
        if self._stopping.is_set():  # asked to stop while the handshake was under way
            await ws.close()
            return None
        return await self._use(ws)

    async def _use(self, ws: WebSocket, moved: Standby | None = None) -> int | None:
        """Serve an open connection to its end; ``moved``: it has taken over from another."""
        self.counters.connects += 1
        self.ever_connected = True
        self._refusals = self._unreachable = 0
        self._backoff.limit = self._attempts
        opened = self._clock.monotonic()
        self._backoff.succeeded(opened)
        before = self._defects
        try:
            lost = await self._serve(ws, moved)
        finally:
            await ws.close()
        if self._clock.monotonic() - opened >= self._backoff.stable:
            self._defects -= before  # those were not in a row
        return await self._over(ws, lost)

    def _refused(self, error: VenueError) -> int | None:
        now = self._clock.monotonic()
        wait = self._backoff.failed(now)
        self._unreachable += 1
        if isinstance(error, BlockedError):
            self._refusals += 1
        # One who waits for the end of the data need not wait for a server that is gone.
        gone = self._until_end and self._unreachable >= self._first_attempts
        if self._backoff.exhausted or self._refusals >= REFUSALS or gone:
            return self._give_up(error)
        if isinstance(error, RateLimitError):
            wait = max(wait, error.retry_after or DEFAULT_RETRY_AFTER)
        self._hooks.warn(f"{self.name}: {error}; next attempt in {wait / SECOND:.1f} s")
        return wait

    async def _over(self, ws: WebSocket, lost: _Lost) -> int | None:
        if self._stopping.is_set():
            return None
        if self._until_end and ws.close_code == END_OF_DATA:
            await self._await_snapshots()
            self._set(RunnerState.ENDED)
            return None
        if await self._move(lost):
            return 0
        self.counters.disconnects += 1
        self._scheduler.cancel(self.name)
        self._drop_outbox()
        now = self._clock.now()
        self._guard(lambda: self.feed.disconnected(now, lost.reason))
        if self._defects >= DEFECTS:
            return self._give_up(CmdError(f"{DEFECTS} defects in a row, the last one {self._defect_text}"))
        wait = 0 if lost.planned else self._backoff.failed(self._clock.monotonic())
        if self._backoff.exhausted:
            return self._give_up(DisconnectedError(f"{self.name}: {lost.reason}"))
        say = self._hooks.info if lost.planned else self._hooks.warn
        say(f"{self.name}: {lost.reason}; connecting again" + (f" in {wait / SECOND:.1f} s" if wait else ""))
        return wait

    def _give_up(self, error: CmdError) -> int | None:
        """The end of this connection, as an answer to how long to wait."""
        self.error = error
        self._hooks.warn(f"{self.name} is given up: {error}")
        self._set(RunnerState.FAILED)
        return None

    def _translate(self, error: VenueError) -> VenueError:
        """Say a refused handshake in the exchange's own words."""
        if isinstance(error, HandshakeError):
            return self.exchange.check(error.response, self.feed.url) or error
        return error

    async def _await_snapshots(self) -> None:
        """Everything was sent, but snapshots that were asked for may be under way: wait a little."""
        for _ in range(100):
            if not self._scheduler.queue.pending(self.name):
                return
            await self._sleep(SECOND // 20)

    # ---- one connection

    async def _serve(self, ws: WebSocket, moved: Standby | None = None) -> _Lost:
        self._ws = ws
        reason, self._leave = self._leave, ""
        self._tries = 0
        self._second_at = self._clock.monotonic()
        self._interrupt = None
        self._blocked = False
        now = self._clock.now()
        if self._hooks.raw is not None and moved is None:
            self._hooks.raw(now, "ws_open", self.feed.url, "null")
        self._set(RunnerState.CONNECTED)
        helpers = [
            asyncio.create_task(self._send_loop(ws), name=f"send {self.name}"),
            asyncio.create_task(self._tick_loop(ws, moved), name=f"tick {self.name}"),
        ]
        for task in helpers:
            task.add_done_callback(self._helper_done)
        try:
            movable = self._movable
            if not self._guard(
                lambda: movable.moved(now, reason) if moved and movable else self.feed.connected(now),
            ):
                return _Lost("defect", fresh=True)
            return await self._receive_loop(ws)
        finally:
            self._ws = None
            for task in helpers:
                task.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            self._flush()

    async def _receive_loop(self, ws: WebSocket) -> _Lost:
        # The hot path. ``receive_all`` returns without a task switch while frames are queued; records gather
        # in one list, which a callback hands on as soon as this coroutine really waits.
        receive_all = ws.receive_all
        take = self.feed.receive
        clock_now = self._clock.now
        hooks = self._hooks
        raw = hooks.raw
        full = hooks.full
        url = self.feed.url
        counters = self.counters
        since_yield = 0
        while True:
            try:
                frames = await receive_all()
            except DisconnectedError as error:
                return self._interrupt or _Lost(error.message)
            for frame in frames:
                if self._interrupt is not None:
                    return self._interrupt
                now = clock_now()
                counters.messages += 1
                counters.bytes += len(frame)
                if raw is not None:
                    raw(now, "ws", url, frame)
                try:
                    output = take(frame, now)
                except Exception as error:  # a defect of one Feed must not end the others
                    return self._defect(error)
                if output.records:
                    self._collect(output.records)
                if self._standby is not None:
                    self._standby.first(frame)
                if output.actions:
                    self._act(output.actions)
                since_yield += 1
                if since_yield >= 256:  # a socket that always has frames must not starve timers and peers
                    since_yield = 0
                    self._flush()
                    await asyncio.sleep(0)
                if full():
                    self._flush()
                    self._blocked = True
                    await hooks.wait()
                    self._blocked = False

    async def _send_loop(self, ws: WebSocket) -> None:
        while True:
            frame = await self._outbox.get()
            while delay := self._messages.delay(self._clock.monotonic()):
                self._messages.waited += 1
                await self._clock.sleep(delay)
            self._messages.take(self._clock.monotonic())
            try:
                await ws.send(frame)
            except DisconnectedError:
                return  # the receiver learns it, too
            self.counters.sent += 1
            if self._hooks.raw is not None:
                self._hooks.raw(self._clock.now(), "ws_out", self.feed.url, frame)

    async def _tick_loop(self, ws: WebSocket, moved: Standby | None = None) -> None:
        last = self._clock.monotonic()
        started = moved.opened if moved is not None else last
        seen = self.counters.messages
        lifetime = self._lifetime
        # before the exchange does it, and not at the same moment for all connections
        planned = int(lifetime * (0.97 - 0.02 * self._rng.random())) if lifetime else 0
        if planned and self._movable is not None:  # both need time beside each other
            planned = max(lifetime // 2, min(planned, lifetime - HANDOVER_TIME))
        while True:
            await self._clock.sleep(SECOND)
            mono = self._clock.monotonic()
            if mono > last:
                self.counters.rate = (self.counters.messages - seen) * SECOND / (mono - last)
            last, seen = mono, self.counters.messages
            now = self._clock.now()
            if not self._blocked:  # what is not read yet is no silence
                self._guard(lambda now=now: self.feed.tick(now))  # type: ignore[misc]
            if planned and mono - started >= planned and self._interrupt is None:
                planned = 0
                self._plan_to_leave("planned reconnect before the exchange closes the connection")
            await self._care_for_standby()
            if self._interrupt is not None:
                await ws.close()  # wakes the receiver
                return

    # ---- handover

    def _plan_to_leave(self, reason: str) -> None:
        """The exchange will close this connection: open the next one beside it, or else reconnect now."""
        movable = self._movable
        if movable is None:
            self._interrupt = self._interrupt or _Lost(reason, planned=True)
            return
        if self._ws is None:
            return
        if self._standby is not None:  # one is under way, or there for good
            self._leave = self._leave or reason
            return
        self._leave = reason
        self._tries += 1
        self.counters.handovers.started += 1
        self._open_standby(movable, keep=False)

    def _url(self, other: bool) -> str:
        return self._other if other and self._other else self.feed.url

    def _open_standby(self, movable: Movable, *, keep: bool) -> None:
        raw, url = self._hooks.raw, self._url(not self._swapped)
        self._standby = Standby(
            movable,
            url,
            keep=keep,
            net=self._net,
            clock=self._clock,
            connects=self._connects,
            messages=WindowLimiter.messages(self.exchange.limits.messages_per_second),
            raw=lambda src, text: raw(self._clock.now(), src, url, text) if raw is not None else None,
        )

    async def _care_for_standby(self) -> None:
        """Leave this connection when the next one has caught up, or in the ordinary way when it cannot."""
        standby = self._standby
        if self._interrupt is not None:
            return
        if standby is None:
            if self._keep and self._movable is not None and self._clock.monotonic() >= self._second_at:
                self._open_standby(self._movable, keep=True)
            return
        verdict = standby.verdict()
        if standby.keep and not self._leave:
            await self._keep_beside(standby, verdict)
            return
        if verdict is Verdict.GIVE_UP:
            await self._drop_standby()
            if self._tries < HANDOVERS:
                self._plan_to_leave(self._leave)
                return
        if verdict is not Verdict.WAIT:
            self._interrupt = _Lost(self._leave, planned=True)

    async def _keep_beside(self, standby: Standby, verdict: Verdict) -> None:
        """Look after a second connection that is there for good: it takes over where the first one lacks something."""
        now = self._clock.monotonic()
        lacking = standby.trim()
        self.counters.second = int(verdict is Verdict.TAKE)
        if verdict is Verdict.TAKE:
            self._second_wait = SECOND
            if lacking:
                self._leave = f"{', '.join(lacking[:3])} came on the second connection alone"
                self._interrupt = _Lost(self._leave, planned=True)
            elif self._lifetime and now - standby.opened >= self._lifetime // 2:
                await self._drop_standby()  # both must not reach the exchange's limit at one time
                self._second_at = now
        elif verdict is Verdict.GIVE_UP:
            await self._drop_standby()
            self._second_at = now + int(self._second_wait * (0.5 + self._rng.random()))
            self._second_wait = min(self._second_wait * 2, SECOND_MOST)

    async def _move(self, lost: _Lost) -> bool:
        """Go over to the second connection if it has caught up, whoever ended the first; False: there is none."""
        standby = self._standby
        if standby is None or lost.fresh or standby.verdict() is not Verdict.TAKE:
            await self._drop_standby()
            return False
        self._standby = None
        await standby.take()
        self._next = standby
        self._swapped = bool(self._other) and not self._swapped
        if self._keep:
            self.counters.second = 0
        self.counters.handovers.started += standby.keep
        self.counters.handovers.done += 1
        self._leave = self._leave or lost.reason
        self._hooks.info(f"{self.name}: {self._leave}; a second connection took over")
        return True

    async def _drop_standby(self) -> None:
        standby, self._standby = self._standby, None
        if standby is None:
            return
        if self._keep:
            self.counters.second = 0
        if not self._stopping.is_set() and not standby.keep:
            self.counters.handovers.failed += 1
        if standby.error:
            what = "the second connection is opened anew" if standby.keep else "no handover"
            self._hooks.warn(f"{self.name}: {what}: {standby.error}")
        await standby.close()

    # ---- what a Feed wants

    def _guard(self, call: Callable[[], Output]) -> bool:
        """Call the Feed and carry out what it returns; an exception becomes one line and a reconnect."""
        try:
            output = call()
        except Exception as error:
            self._interrupt = self._defect(error)
            self._kick()
            return False
        self._handle(output)
        return True

    def _handle(self, output: Output) -> None:
        if output.records:
            self._collect(output.records)
        if output.actions:
            self._act(output.actions)

    def _defect(self, error: Exception) -> _Lost:
        self._defects += 1
        self.counters.defects += 1
        text = self._defect_text = " ".join(f"{type(error).__name__}: {error}".split())
        self._hooks.warn(f"{self.name}: defect while reading a message ({text}); the connection is opened anew")
        return _Lost(f"defect {type(error).__name__}", fresh=True)

    def _helper_done(self, task: asyncio.Task[None]) -> None:
        """A sender or ticker that breaks must not leave a connection that looks alive."""
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._interrupt = self._defect(error)
            self._kick()

    def _act(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                self._queue_frame(action.frame)
            elif isinstance(action, FetchSnapshot):
                self._scheduler.ask(self.name, action)
            elif isinstance(action, Resubscribe):
                for frame in action.frames:
                    self._queue_frame(frame)
            elif isinstance(action, Reconnect):
                if action.planned:
                    self._plan_to_leave(action.reason)
                elif self._standby is not None and self._standby.keep and self._standby.verdict() is Verdict.TAKE:
                    self._leave = action.reason
                    self._interrupt = _Lost(action.reason, planned=True)
                else:
                    self._interrupt = _Lost(action.reason, fresh=True)
                if self._interrupt is not None:
                    self._kick()

    def _queue_frame(self, frame: str) -> None:
        if self._ws is None:
            return  # not connected: ``connected`` subscribes everything anew
        try:
            self._outbox.put_nowait(frame)
        except asyncio.QueueFull:
            self._interrupt = _Lost(f"{OUTBOX} messages wait to be sent", fresh=True)
            self._kick()

    def _kick(self) -> None:
        """Close the connection from outside of the receiver, which then returns."""
        ws = self._ws
        if ws is not None:
            task = self._loop.create_task(ws.close(), name=f"close {self.name}")
            _KEEP.add(task)
            task.add_done_callback(_KEEP.discard)

    def _drop_outbox(self) -> None:
        while not self._outbox.empty():
            self._outbox.get_nowait()

    # ---- records

    def _collect(self, records: list[Record]) -> None:
        batch = self._batch
        batch += records
        if len(batch) >= BATCH:
            self._flush()
        elif not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush_soon)

    def _flush_soon(self) -> None:
        self._flush_scheduled = False
        self._flush()

    def _flush(self) -> None:
        batch = self._batch
        if not batch:
            return
        self._batch = []
        self.counters.records += len(batch)
        newest = batch[-1]
        received = getattr(newest, "ts_recv", 0)
        if received and (event := getattr(newest, "ts_event", received)) != received:
            self.counters.lag = received - event
        self._hooks.sink(batch)

    def _finish(self) -> None:
        """The last records of the Feed, once."""
        if self._closed:
            return
        self._closed = True
        now = self._clock.now()
        try:
            self._collect(self.feed.close(now).records)
        except Exception as error:
            self._defect(error)
        self._flush()

    # ---- called by the owner

    def snapshot(self, symbol: str, body: bytes) -> None:
        """A snapshot that the Feed asked for has come."""
        if self.state in (RunnerState.CONNECTED, RunnerState.CONNECTING) or self._until_end:
            now = self._clock.now()
            self._guard(lambda: self.feed.snapshot(symbol, body, now))

    def snapshot_failed(self, symbol: str, error: CmdError) -> None:
        """A snapshot that the Feed asked for was given up."""
        now = self._clock.now()
        self._hooks.warn(f"{self.name}: no order book snapshot of {symbol}: {error}")
        self._guard(lambda: self.feed.snapshot_failed(symbol, error.message, now))

    def add(self, symbols: Sequence[str]) -> None:
        """Subscribe more symbols; while disconnected they join at the next connection.

        Raises the Feed's CmdError where it cannot take them, such as UsageError when it is full.
        """
        refused: CmdError | None = None
        self._streams_changed()

        def call() -> Output:
            nonlocal refused
            try:
                return self.feed.add(symbols, self._clock.now())
            except CmdError as error:
                refused = error
                return Output()

        self._guard(call)
        if refused is not None:
            raise refused

    def remove(self, symbols: Sequence[str]) -> None:
        """Unsubscribe symbols."""
        now = self._clock.now()
        self._scheduler.cancel(self.name, symbols)
        self._streams_changed()
        self._guard(lambda: self.feed.remove(symbols, now))

    def _streams_changed(self) -> None:
        """A second connection that is being prepared has other streams now: another one is opened instead."""
        if self._standby is not None:
            self._standby.error = "its subscriptions changed meanwhile"

    # ---- small

    def _set(self, state: RunnerState) -> None:
        if state is not self.state:
            self.state = state
            self._hooks.changed(self)

    async def _sleep(self, ns: int) -> None:
        """Sleep, but not beyond a stop."""
        await sleep_or(self._clock, ns, self._stopping)


_KEEP: set[asyncio.Task[None]] = set()  # tasks that nobody awaits are else collected while they run

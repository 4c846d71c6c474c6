"""A server and clients over Aeron as processes of their own, for tests in which they are stopped, killed and starved.

The server publishes trades with numbers from 1; a client keeps a ledger in which each number came once, or was told to
be lost. Both answer each line on stdin by a line of JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from cmd_common.errors import CmdError
from cmd_common.records import Trade
from cmd_server.client import Disconnected, Lost, Message, connect
from cmd_server.client.aio import connect as aio_connect
from cmd_server.client.events import Connected
from cmd_server.messages import Kind

DEADLINE = 120.0  # s, for machines that do much else; a wait ends as soon as what it waits for is there


class Ledger:
    """What a client was told; ``wrong`` is empty while every number came once or was said to be lost."""

    def __init__(self) -> None:
        self.first = self.last = 0  # numbers
        self.received = self.told = self.restarts = 0
        self.wrong: list[str] = []
        self.reasons: list[str] = []
        self.codes: list[str] = []
        self.connects = 0
        self.connected = False
        self._ahead = 0  # number of a trade less its sequence, of this run of the server
        self._open = True  # the next number may be any: nothing came before it

    def take(self, items: Sequence[Any]) -> None:
        """Write down what came."""
        for item in items:
            if isinstance(item, Message) and isinstance(item.record, Trade):
                self._trade(item.record.trade_seq or 0, item.seq)
            elif isinstance(item, Lost) and item.kind is Kind.TRADES:
                self._lost(item)
            elif isinstance(item, Connected):
                self.connects += 1
                self.connected = True
            elif isinstance(item, Disconnected):
                self.connected = False
                self.reasons.append(item.reason)
                self.codes.append(item.code)

    def _trade(self, number: int, seq: int) -> None:
        if number <= self.last or (number != self.last + 1 and not self._open):
            self.wrong.append(f"{number} behind {self.last}")
        self.first = self.first or number
        self.last, self._ahead, self._open = number, number - seq, False
        self.received += 1

    def _lost(self, item: Lost) -> None:
        if not item.to_seq:
            self.restarts += 1
            self._open = True
        elif not self.last:  # before anything came
            self.told += item.count
        elif item.from_seq + self._ahead != self.last + 1:
            self.wrong.append(f"told to have lost from {item.from_seq + self._ahead} behind {self.last}")
        else:
            self.told += item.count
            self.last = item.to_seq + self._ahead

    def facts(self) -> dict[str, Any]:
        """All of it."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}


def say(**facts: Any) -> None:
    """Answer."""
    print(json.dumps(facts), flush=True)


# -- the processes


async def _lines() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def serve(first: int, addresses: list[str]) -> None:
    """Publish on ``publish N``; ``drop`` cuts all connections; every line is answered by the state."""
    from cmd_server.aeron_listener import AeronListener
    from cmd_server.aeron_shared import SharedListener
    from cmd_server.limits import Limits
    from cmd_server.server import Server
    from cmd_server.transport import ListenOptions

    number = first
    options = ListenOptions(low_water=8 << 10)
    async with Server(limits=Limits(heartbeat=300_000_000), options=options) as server:
        listeners = await server.listen_all(addresses)
        mine = [listener for listener in listeners if isinstance(listener, AeronListener)]
        shared = [listener for listener in listeners if isinstance(listener, SharedListener)]
        say(addresses=[str(listener.address) for listener in listeners])
        reader = await _lines()
        while line := (await reader.readline()).decode().split():
            if line[0] == "publish":
                for n in range(int(line[1])):
                    server.publish([Trade(number + 1, number + 2, "v", "A", str(number), number, 1.0, 1.0, "buy")])
                    number += 1
                    if n % 20 == 19:
                        await asyncio.sleep(0)
            elif line[0] == "drop":
                for session in list(server.sessions):
                    session.port.abort()
            say(
                published=number - 1,
                clients=len(server.hub.clients),
                subscribed=sum(bool(client.topics) for client in server.hub.clients),
                sessions=len(server.sessions),
                blocked=sum(not session.port.writable for session in server.sessions),
                ports=sum(listener.ports for listener in mine),
                rebuilt=sum(listener.rebuilt for listener in (*mine, *shared)),
                packets=sum(listener.sender.packets for listener in shared if listener.sender is not None),
                byes=server.hub.counters.byes,
            )


def read_in_threads(address: str, policy: str, queue: int) -> None:
    """A client without an event loop."""
    ledger = Ledger()
    with connect(address, topics="trades *", policy=policy, queue=queue, retry=0.02) as client:
        say(ready=True)
        waiting = selectors.DefaultSelector()
        waiting.register(sys.stdin, selectors.EVENT_READ)
        while True:
            ledger.take(client.poll(0.02))
            if waiting.select(0):
                if not os.read(sys.stdin.fileno(), 4096):
                    return
                say(**ledger.facts())


async def read_in_a_loop(address: str, policy: str, queue: int) -> None:
    """A client in an event loop."""
    ledger = Ledger()
    async with aio_connect(address, topics="trades *", policy=policy, queue=queue, retry=0.02) as client:
        say(ready=True)

        async def take() -> None:
            async for items in client.items():
                ledger.take(items)

        task = asyncio.create_task(take())
        reader = await _lines()
        while await reader.readline():
            if task.done():
                task.result()
            say(**ledger.facts())
        task.cancel()


def main(role: str, *arguments: str) -> int:
    """Be one of them; an error is a line of JSON."""
    try:
        if role == "server":
            asyncio.run(serve(int(arguments[0]), list(arguments[1:])))
        elif role == "threads":
            read_in_threads(arguments[0], arguments[1], int(arguments[2]))
        else:
            asyncio.run(read_in_a_loop(arguments[0], arguments[1], int(arguments[2])))
    except CmdError as error:
        say(error=type(error).__name__, text=str(error), hint=error.hint)
        return 1
    return 0


# -- for the tests


class Part:
    """One of these processes."""

    def __init__(self, *arguments: str, prefix: Sequence[str] = ()) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by close
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-W", "error", __file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            bufsize=0,
        )
        self._rest = b""
        try:
            self.first = self._read()
        except BaseException:
            self.process.kill()
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Its process."""
        return self.process.pid

    def ask(self, line: str = "status") -> dict[str, Any]:
        """Say something and take the answer."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # what it said in its end is read
            self.process.stdin.write(line.encode() + b"\n")
        return self._read()

    def until(self, what: Callable[[dict[str, Any]], Any], line: str = "status") -> dict[str, Any]:
        """Ask until the answer is as wanted; returns it."""
        end = time.monotonic() + DEADLINE
        while not what(found := self.ask(line)):
            assert time.monotonic() < end, f"waited in vain: {found}; {self.said()}"
            time.sleep(0.02)
        return found

    def reaches(self, number: int) -> dict[str, Any]:
        """Wait until a client has come to a number and is connected, with nothing wrong on the way."""
        found = self.until(lambda facts: (facts["last"] >= number and facts["connected"]) or facts["wrong"])
        assert not found["wrong"], found
        assert found["last"] == number
        for reason in found["reasons"]:
            assert reason, found
            assert "\n" not in reason
        return found

    def stop(self) -> None:
        """Stop it as a whole, and wait until it stands."""
        self.process.send_signal(signal.SIGSTOP)
        until(lambda: Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T")

    def go_on(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait(DEADLINE)

    def said(self) -> str:
        """What it wrote to stderr."""
        return os.pread(self.errors.fileno(), 1 << 20, 0).decode()

    def close(self) -> None:
        """End it: in order where it still lives, so that it leaves nothing; may be called again."""
        if self.errors.closed:
            return
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(DEADLINE)
        if self.process.stdout is not None:
            self.process.stdout.close()
        text = self.said()
        self.errors.close()
        assert "Traceback" not in text, text
        assert "Warning:" not in text, text

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        end = time.monotonic() + DEADLINE
        while b"\n" not in self._rest:
            with selectors.DefaultSelector() as selector:
                selector.register(self.process.stdout, selectors.EVENT_READ)
                assert selector.select(max(0.0, end - time.monotonic())), f"no answer; {self.said()}"
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            assert data, f"it ended with {self.process.wait(DEADLINE)}; {self.said()}"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found


class Parts:
    """All processes of a test, ended with it: those that were started last first."""

    def __init__(self) -> None:
        self._parts: list[Part] = []

    def server(self, *addresses: str, first: int = 1, prefix: Sequence[str] = ()) -> Part:
        """A server that listens."""
        return self._add(Part("server", str(first), *addresses, prefix=prefix))

    def clients(self, address: str, policy: str = "conflate", queue: int = 10_000) -> list[Part]:
        """One client of each kind."""
        return [self.client(kind, address, policy, queue) for kind in ("threads", "asyncio")]

    def client(
        self, kind: str, address: str, policy: str = "conflate", queue: int = 10_000, prefix: Sequence[str] = ()
    ) -> Part:
        """A client; ``first`` of it is how its first connection went."""
        return self._add(Part(kind, address, policy, str(queue), prefix=prefix))

    def _add(self, part: Part) -> Part:
        self._parts.append(part)
        return part

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        problems: list[Exception | AssertionError] = []
        for part in reversed(self._parts):
            with contextlib.suppress(ProcessLookupError):
                part.process.send_signal(signal.SIGCONT)
            try:
                part.close()
            except (AssertionError, Exception) as error:
                problems.append(error)
        if problems:
            raise problems[0]


def until(what: Callable[[], Any]) -> Any:
    """Wait until something is true; returns it."""
    end = time.monotonic() + DEADLINE
    while not (found := what()):
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)
    return found


@contextlib.contextmanager
def driver(directory: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A media driver as a process; ended in order at the end, where it still lives."""
    command = [sys.executable, "-m", "cmd_aeron.driver", "--dir", str(directory), "--client-liveness", "1500ms"]
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline(), "the driver did not start"
            yield child
        finally:
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(20)
                finally:
                    child.kill()


def hearts(directory: Path) -> int:
    """How many Aeron clients a driver takes for alive, but the one that asks."""
    import cmd_aeron

    with cmd_aeron.Client(str(directory)) as client:
        return sum(
            counter.type_id == 11 and f"id={client.client_id} " not in counter.label + " "
            for counter in client.counters()
        )


def roomy(size: str, place: Path) -> list[str]:
    """What to put before a command so that it gets a tmpfs of its own of so many bytes at ``place``."""
    unshare = ["unshare", "-m"] if not os.geteuid() else ["unshare", "-rm"]
    mount = f'mount -t tmpfs -o size={size} none "{place}" && exec "$@"'
    return [*unshare, "sh", "-c", mount, "sh"]


def beside(pid: int) -> list[str]:
    """What to put before a command so that it sees the files of that process."""
    more = [] if not os.geteuid() else ["-U", "--preserve-credentials"]
    return ["nsenter", "-t", str(pid), *more, "-m"]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

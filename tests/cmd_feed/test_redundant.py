"""Two connections for good over real sockets: two hosts of an exchange, of which one breaks off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from cmd_common.commands import RecordOptions
from cmd_common.errors import UsageError
from cmd_common.records import FeedStatus, Gap, Record, Trade
from cmd_feed.session import LiveSession
from cmd_feed.settings import moved_url, redundant_of

from .test_session import options, replay


class Host:
    """A TCP proxy before the exchange, whose connections can be cut."""

    def __init__(self) -> None:
        self.port = 0
        self.taken = 0
        self._open: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Break off everything that is open."""
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, target: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken += 1
        there = await asyncio.open_connection("127.0.0.1", target)
        self._open |= {writer, there[1]}

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(1 << 16):
                    sink.write(data)
                    await sink.drain()
            except OSError:
                pass
            finally:
                sink.transport.abort()

        await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))
        self._open -= {writer, there[1]}


@asynccontextmanager
async def hosts(endpoint: str) -> AsyncIterator[tuple[Host, Host]]:
    target = urlsplit(endpoint).port
    assert target is not None
    pair = Host(), Host()
    servers = []
    for one in pair:
        server = await asyncio.start_server(lambda r, w, one=one: one._serve(target, r, w), "127.0.0.1", 0)  # type: ignore[misc]
        one.port = server.sockets[0].getsockname()[1]
        servers.append(server)
    try:
        yield pair
    finally:
        for server in servers:
            server.close()
        for one in pair:
            one.cut()


def contiguous(got: list[Record]) -> None:
    for symbol in {r.symbol for r in got if isinstance(r, Trade)}:
        ids = [r.trade_seq or 0 for r in got if isinstance(r, Trade) and r.symbol == symbol]
        assert ids == list(range(ids[0], ids[0] + len(ids)))


async def test_a_host_that_breaks_off_costs_nothing(words: Any, until: Any) -> None:
    async with (
        replay(exchanges=["binance-spot"], simulate=True, symbols=2, speed=1) as endpoints,
        hosts(endpoints["binance-spot"]) as (one, two),
    ):
        found = {"binance-spot": f"http://127.0.0.1:{one.port}"}
        got: list[Record] = []
        asked = options(found, options={"redundant": f"ws://127.0.0.1:{two.port}"})
        async with LiveSession(asked, words) as session:
            session.on_records(got.extend)
            counters = lambda: session.connections()[0].counters  # noqa: E731
            for broken, done in ((one, 1), (two, 2), (one, 3)):
                await until(lambda: counters().second == 1)
                before = len(got)
                await until(lambda before=before: sum(isinstance(r, Trade) for r in got[before:]) > 5)
                broken.cut()
                await until(lambda done=done: counters().handovers.done == done)
            before = len(got)
            await until(lambda: sum(isinstance(r, Trade) for r in got[before:]) > 10)
            assert counters().disconnects == 0
            assert {b.state for b in session.book_states().values()} == {"LIVE"}
            (connection,) = session.connections()
            assert any(f.name == "cmd_connection_second" and f.samples for f in session.families())
            assert connection.counters.handovers.failed == 0
        assert two.taken >= 2  # REST went through the first host alone
    assert not any(isinstance(r, Gap) for r in got)
    assert sum(isinstance(r, FeedStatus) and r.state == "LIVE" for r in got) == 2
    contiguous(got)


async def test_the_age_limit_is_left_behind_in_time(words: Any, until: Any) -> None:
    async with replay(exchanges=["binance-spot"], simulate=True, symbols=2, speed=1) as endpoints:
        got: list[Record] = []
        async with LiveSession(options(endpoints, options={"connection_age": "10"}), words) as session:
            session.on_records(got.extend)
            await until(lambda: session.connections()[0].counters.handovers.done == 1)
            before = len(got)
            await until(lambda: sum(isinstance(r, Trade) for r in got[before:]) > 10)
            assert session.connections()[0].counters.disconnects == 0
    assert not any(isinstance(r, Gap) for r in got)
    contiguous(got)


async def test_venues_that_cannot_say_so(words: Any) -> None:
    async with (
        replay(exchanges=["gemini"], simulate=True, symbols=1, speed=1) as endpoints,
        LiveSession(options(endpoints, options={"redundant": "on"}), words) as session,
    ):
        assert session.connections()[0].counters.second == -1
    assert [w for w in words.warnings if "one connection at a time" in w] == [
        "gemini has one connection at a time: its feed cannot be merged from two"
    ]


def asked(word: str, **more: str) -> str:
    return redundant_of(RecordOptions(("binance-spot",), (), (), "", options={"redundant": word, **more}))


def test_words() -> None:
    assert redundant_of(RecordOptions(("binance-spot",), (), (), "")) == ""
    assert asked("off") == ""
    assert asked("on") == "on"
    assert asked("data-stream.binance.vision:443") == "data-stream.binance.vision:443"
    for wrong in ("", "http://a:1", "wss://", "a:b", "wss://a/path", "a:99999"):
        with pytest.raises(UsageError, match="is no host"):
            asked(wrong)
    with pytest.raises(UsageError, match="need handover"):
        asked("on", handover="off")
    two = RecordOptions(("binance-spot", "kraken"), (), (), "", options={"redundant": "a:1"})
    with pytest.raises(UsageError, match="of one exchange"):
        redundant_of(two)


def test_the_other_host_has_the_same_path() -> None:
    assert moved_url("wss://a:9443/stream?x=1", "b:443") == "wss://b:443/stream?x=1"
    assert moved_url("wss://a:9443/stream", "ws://b") == "ws://b/stream"

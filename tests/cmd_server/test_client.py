"""Both clients against a real server in this process, over TCP and Unix sockets."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from client_children import DEADLINE, SMALL, ThreadedServer, eventually, until
from client_pair import Market
from hub_world import T0, delta, quote, snapshot, status, trade

from cmd_common.commands import ConnectOptions
from cmd_common.errors import CmdError, UnknownNameError, UsageError
from cmd_common.records import InstrumentRecord, Trade
from cmd_common.registry import load
from cmd_common.sequence import BookState
from cmd_server.client import Connected, Disconnected, Lost, Message, Subscribed, connect
from cmd_server.client.aio import connect as aio_connect
from cmd_server.client.batches import Batch, BatchBuilder
from cmd_server.client.source import ServerSource
from cmd_server.errors import ConnectionBrokenError, RefusedError, ServerError
from cmd_server.limits import Limits
from cmd_server.server import Server

A = InstrumentRecord(T0, T0, "v", "A", "A", "USD", "USD", "spot", "0.01", "1", "0", "0", "", False, None, "trading")
BOOK = [A, snapshot(1), delta(2, [(98.5, 2.0)])]


@pytest.fixture
def threaded() -> Iterator[ThreadedServer]:
    server = ThreadedServer(limits=Limits(heartbeat=300_000_000, replay_messages=100))
    server.listen("tcp:127.0.0.1:0")
    yield server
    server.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server(limits=Limits(heartbeat=300_000_000), options=SMALL) as server:
        await server.listen("tcp:127.0.0.1:0")
        yield server


def where(server: Server) -> str:
    return str(server.listeners[0].address)


# -- blocking


def test_iterating_gives_records_and_keeps_books_in_step(threaded: ThreadedServer) -> None:
    with connect(threaded.address, topics=["book v:A", "trades *", "bbo *"], name="test") as client:
        threaded.publish(*BOOK, trade(1))
        for record in client:
            if isinstance(record, Trade):
                break
        assert client.book("v:A").bids() == [(99.0, 1.0), (98.5, 2.0)]
        assert client.book("A") is client.books["v:A"] is client.book("v:A", 0)
        assert client.instruments["v:A"].base == "A"
        assert client.book("v:A").tick_size == Decimal("0.01")
        while "v:A" not in client.quotes:
            client.poll(1)
        assert client.quote("v:A").bid_price == 99.0
        with pytest.raises(UnknownNameError, match="did you mean v:A"):
            client.quote("v:B")
        assert client.connected
        assert client.topics == ("book v:A", "trades *", "bbo *")
        assert client.counters.connects == 1
        assert client.counters.messages >= 4
    assert client.poll() == []
    assert list(client) == []
    with pytest.raises(ConnectionBrokenError, match="closed"):
        client.subscribe("agg_trades *")


def test_callbacks_and_events(threaded: ThreadedServer) -> None:
    records: list[Any] = []
    events: list[Any] = []
    with connect(
        threaded.address, topics="trades *", on_record=records.append, on_event=events.append, retry=0.01
    ) as client:
        assert [type(e) for e in events] == [Connected, Subscribed]
        threaded.publish(trade(1))
        until(lambda: client.poll(0.05) is None or trade(1) in records)
        threaded.drop()
        threaded.publish(trade(2), trade(3))
        until(lambda: client.run(0.02) or trade(3) in records)
    assert [r.trade_seq for r in records if isinstance(r, Trade)] == [1, 2, 3]
    assert [type(e) for e in events[2:]] == [Disconnected, Connected, Subscribed]
    assert events[3].resumed


def test_a_callback_sees_the_books_as_of_its_record(threaded: ThreadedServer) -> None:
    seen: list[float] = []

    def on_record(record: Any) -> None:
        if isinstance(record, Trade):
            seen.append(client.book("v:A").bids(1)[0][1])

    with connect(threaded.address, topics=["book *", "trades *"], on_record=on_record) as client:
        threaded.publish(*BOOK)
        client.live("v:A", timeout=DEADLINE)
        threaded.publish(*(r for n in range(3, 100) for r in (delta(n, [(99.0, float(n))]), trade(n))))
        until(lambda: client.run(0.02) or len(seen) == 97)
    assert seen == [float(n) for n in range(3, 100)]


def test_what_the_replay_buffer_lost_is_said(threaded: ThreadedServer) -> None:
    events: list[Any] = []
    with connect(threaded.address, topics="trades *", on_event=events.append, retry=0.01) as client:
        threaded.publish(trade(1))
        until(lambda: any(isinstance(i, Message) and i.seq for i in client.poll(0.05)))
        threaded.drop()
        threaded.publish(*(trade(n) for n in range(2, 500)))
        until(lambda: client.run(0.02) or any(isinstance(e, Lost) for e in events))
    (lost,) = [e for e in events if isinstance(e, Lost)]
    assert (lost.venue, lost.symbol, lost.reason, lost.from_seq) == ("v", "A", "resume", 2)


def test_poll_returns_after_its_time_and_pings_keep_the_connection(threaded: ThreadedServer) -> None:
    with connect(threaded.address, topics="trades *") as client:
        assert [type(i) for i in client.poll()] == [Connected, Subscribed]
        assert client.poll() == []
        assert client.poll(0.01) == []
        client.run(1.5)  # five heartbeats of silence
        assert client.counters.connects == 1
        assert client.connected


def test_giving_up_an_iteration_leaves_the_rest(threaded: ThreadedServer) -> None:
    with connect(threaded.address, topics="trades *") as client:
        threaded.publish(*(trade(n) for n in range(1, 9)))
        got = []
        while len(got) < 8:
            for record in client:
                if isinstance(record, Trade):
                    got.append(record.trade_seq)
                    break
        assert got == list(range(1, 9))


def test_live_waits_for_books_and_loses_nothing(threaded: ThreadedServer) -> None:
    threaded.publish(*BOOK)
    with connect(threaded.address, topics="book *") as client:
        book = client.live("v:A", timeout=DEADLINE)
        assert book.state is BookState.LIVE
        kinds = {type(i).__name__ for i in client.poll()}
        assert kinds >= {"Message", "BookChanged"}
        with pytest.raises(ServerError, match=r"not LIVE after 0\.05 s: v:B"):
            client.live("v:B", timeout=0.05)
        with pytest.raises(UsageError):
            client.live()


def test_topics_are_added_and_given_up(threaded: ThreadedServer) -> None:
    with connect(threaded.address) as client:
        threaded.publish(A, trade(1))
        assert client.subscribe("trades v:A") >= 1
        threaded.publish(trade(2))
        until(lambda: any(isinstance(i, Message) and i.record == trade(2) for i in client.poll(0.05)))
        with pytest.raises(RefusedError, match="no topic") as caught:
            client.subscribe("trades")
        assert caught.value.code == "usage"
        client.unsubscribe("trades v:A")
        with pytest.raises(UsageError, match="not subscribed"):
            client.unsubscribe("trades v:A")
        assert client.topics == ()


def test_batches_are_arrays_and_arrow(threaded: ThreadedServer) -> None:
    np = pytest.importorskip("numpy")
    with connect(threaded.address, topics=["trades *", "book *"]) as client:
        threaded.publish(*BOOK, *(trade(n) for n in range(1, 26)))
        batches = client.batches("trades", max_rows=10, max_ns=50_000_000)
        found = [next(batches) for _ in range(3)]
    assert [len(b) for b in found] == [10, 10, 5]
    columns = found[0].numpy()
    assert columns["price"].dtype == np.float64
    assert columns["trade_seq"].tolist() == list(range(1, 11))
    assert found[2].arrow().column("trade_seq").to_pylist() == list(range(21, 26))
    assert found[2].arrow().schema.field("ts_event").nullable is False


def test_book_sides_of_batches() -> None:
    np = pytest.importorskip("numpy")
    batch = Batch("book_snapshots", [snapshot(1, [(99.0, 1.0), (98.0, 2.0)]), snapshot(2, ())])  # type: ignore[list-item]
    bids = batch.numpy()["bids"]
    assert np.array_equal(bids[0], [[99.0, 1.0], [98.0, 2.0]])
    assert bids[1].shape == (0, 2)
    assert batch.arrow().column("bids").to_pylist() == [[99.0, 1.0, 98.0, 2.0], []]
    odd = trade(1)
    odd = Trade(**{**{f: getattr(odd, f) for f in odd.__struct_fields__}, "trade_seq": None})
    assert Batch("trades", [odd, trade(2)]).numpy()["trade_seq"].tolist() == [None, 2]
    with pytest.raises(UnknownNameError, match="did you mean trades"):
        BatchBuilder("trade", 1, 1)


@pytest.mark.parametrize("scheme", ["tcp", "unix", "abstract", "ws"])
def test_every_stream_transport_carries_the_same(scheme: str, tmp_path: Path) -> None:
    where = {
        "tcp": "tcp:127.0.0.1:0",
        "unix": f"unix:{tmp_path / 's'}",
        "abstract": f"unix:@cmd-test-{os.getpid()}-{scheme}",
        "ws": "ws:127.0.0.1:0",
    }[scheme]
    server = ThreadedServer()
    try:
        server.listen(where)
        with connect(server.address, topics=["book *", "trades *"]) as client:
            server.publish(*BOOK, *(trade(n) for n in range(1, 5_000)))
            got = []
            for record in client:
                if isinstance(record, Trade):
                    got.append(record.trade_seq)
                    if record.trade_seq == 4_999:
                        break
            assert got == list(range(1, 5_000))
            assert client.live("v:A", timeout=DEADLINE).bids() == [(99.0, 1.0), (98.5, 2.0)]
    finally:
        server.close()


# -- errors


def test_an_address_without_a_server_ends_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConnectionBrokenError, match="no server at unix:"):
        connect(f"unix:{tmp_path / 'none'}", topics="trades *")
    with pytest.raises(UnknownNameError, match="tcp"):
        connect("tpc:127.0.0.1:1")
    with pytest.raises(UsageError, match="cannot be"):
        connect("tcp:127.0.0.1:1", buffer=0)
    with pytest.raises(UnknownNameError, match="drop-oldest"):
        connect("tcp:127.0.0.1:1", policy="drop-oldst")


@pytest.mark.parametrize(
    ("address", "part"),
    [
        ("tcp:127.0.0.1:1?quue=4", "unknown option of tcp addresses 'quue'"),
        ("tcp:127.0.0.1:1?ca=/no/file", "cannot read ca /no/file"),
        ("unix:/run/", "names no socket"),
    ],
)
def test_an_address_that_is_wrong_in_itself_is_not_called_an_absent_server(address: str, part: str) -> None:
    with pytest.raises(UsageError, match=part) as caught:
        connect(address, topics="trades *")
    assert "no server" not in str(caught.value)


@pytest.mark.parametrize(
    ("topics", "part"),
    [
        ([f"trades v:{i}" for i in range(30)], "a client may have 20 topics"),
        (["trades v:" + "x" * 70_000], "does not fit a message"),
        ([None], "does not fit its message"),
    ],
)
def test_what_the_server_can_never_take_is_an_error_at_once(topics: list[Any], part: str) -> None:
    server = ThreadedServer(limits=Limits(topics=20))
    try:
        server.listen("tcp:127.0.0.1:0")
        with pytest.raises(ServerError, match=part) as caught:
            connect(server.address, topics=topics)
        assert "no server" not in str(caught.value)
        with connect(server.address, topics="trades *") as client:
            with pytest.raises(ServerError, match=part):
                client.subscribe(*topics)
            assert client.topics == ("trades *",)
            assert client.connected
    finally:
        server.close()


def test_the_address_is_said_once(tmp_path: Path) -> None:
    with pytest.raises(ConnectionBrokenError) as caught:
        connect(f"unix:{tmp_path}/s", topics="trades *")
    assert str(caught.value).count(str(tmp_path)) == 1


def test_a_wrong_token_is_refused_and_a_right_one_is_not() -> None:
    server = ThreadedServer(token="a-secret-of-many-letters")
    try:
        server.listen("tcp:127.0.0.1:0")
        for token in ("", "wrong"):
            with pytest.raises(RefusedError) as caught:
                connect(server.address, topics="trades *", token=token)
            assert caught.value.code == "token"
        with connect(server.address, topics="trades *", token="a-secret-of-many-letters") as client:
            assert client.connected
        with pytest.raises(RefusedError, match="no topic"):
            connect(server.address, topics="trades", token="a-secret-of-many-letters")
    finally:
        server.close()


def test_a_program_that_is_no_server_is_found_out() -> None:
    import socket
    import threading

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ServerError, match="encoding type"):
            connect(f"tcp:127.0.0.1:{listener.getsockname()[1]}", topics="trades *")
        thread.join()


def test_a_client_gives_up_after_its_attempts() -> None:
    server = ThreadedServer()
    server.listen("tcp:127.0.0.1:0")
    events: list[Any] = []
    with connect(server.address, topics="trades *", on_event=events.append, retry=0.01, attempts=3) as client:
        server.close()
        with pytest.raises(ConnectionBrokenError, match="3 attempts failed"):
            client.run(DEADLINE)
        assert client.closed
    gone = [e for e in events if isinstance(e, Disconnected)]
    assert gone[0].code == "shutdown"
    assert [e.attempt for e in gone] == [1, 2, 3, 4]  # the loss, and three attempts


def test_importing_the_client_needs_no_array_library() -> None:
    code = (
        "import sys, cmd_server.client, cmd_server.client.aio; "
        "print(sorted({'numpy', 'pyarrow', 'websockets', 'prometheus_client'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# -- asyncio


async def test_records_books_and_events_in_an_event_loop(server: Server) -> None:
    async with aio_connect(where(server), topics=["book *", "trades *"]) as client:
        server.publish([*BOOK, trade(1)])
        assert (await client.live("v:A", timeout=DEADLINE)).best_bid == (99.0, 1.0)
        seen: list[Any] = []
        async for item in client.events():
            seen.append(item)
            if len(seen) >= 6:
                break
        kinds = [type(i.record if isinstance(i, Message) else i).__name__ for i in seen]
        assert kinds[:3] == ["Connected", "Subscribed", "InstrumentRecord"]
        assert sorted(kinds[3:]) == ["BookChanged", "BookSnapshot", "Trade"]
        server.publish([trade(2)])
        async for record in client:
            assert record == trade(2)
            break
        with pytest.raises(ServerError, match="not LIVE"):
            await client.live("v:B", timeout=0.02)
        with pytest.raises(UsageError):
            await client.start()
        assert await client.subscribe("bbo *") > 1
        with pytest.raises(RefusedError):
            await client.subscribe("bbo")
        await client.unsubscribe("bbo *")
    await client.wait()
    async for _ in client.events():
        pass  # what is left comes, then it ends


async def test_a_slow_consumer_holds_a_bounded_number_and_the_policy_applies(server: Server) -> None:
    lost: list[Lost] = []
    async with aio_connect(where(server), topics="trades *", policy="drop-oldest", queue=100, buffer=50) as client:
        stream = client.items()
        waiting = asyncio.ensure_future(anext(stream))
        await waiting  # the consumer has begun
        market = Market()
        for _ in range(100):
            server.publish([r for _ in range(500) for r in market.records("A", 0)])
            await asyncio.sleep(0)
            assert len(client._items) < 50 + 5_000  # one read may bring more than the buffer, not more reads
        last = 0
        async with asyncio.timeout(DEADLINE):
            while last < market.trades["A"]:
                for item in await anext(stream):
                    if isinstance(item, Lost):
                        lost.append(item)
                        last += item.count
                    elif isinstance(item, Message) and isinstance(item.record, Trade):
                        assert item.record.trade_seq == last + 1
                        last += 1
        assert lost
        assert client.counters.holes == 0
        await stream.aclose()


async def test_what_nobody_reads_is_bounded_and_books_go_on(server: Server) -> None:
    async with aio_connect(where(server), topics=["book *", "trades *"], buffer=20) as client:
        market = Market()
        for n in range(300):
            server.publish(market.records("A", (0, 5)[n % 2]))
        book = server.hub.books["v:A"]
        await eventually(lambda: "v:A" in client.books and client.book("v:A").last_id == book.last_id)
        assert len(client._items) <= 20


async def test_batches_in_an_event_loop(server: Server) -> None:
    async with aio_connect(where(server), topics="trades *") as client:
        server.publish([trade(n) for n in range(1, 26)])
        batches = client.batches("trades", max_rows=10, max_ns=30_000_000)
        async with asyncio.timeout(DEADLINE):
            found = [await anext(batches) for _ in range(3)]
            assert [len(b) for b in found] == [10, 10, 5]
            await batches.aclose()
            server.publish([trade(26)])
            async for record in client:
                assert record == trade(26)
                break


async def test_a_callback_that_raises_ends_the_client(server: Server) -> None:
    def on_record(record: object) -> None:
        raise ZeroDivisionError("mine")

    async with aio_connect(where(server), topics="trades *", on_record=on_record) as client:
        server.publish([trade(1)])
        with pytest.raises(ZeroDivisionError):
            await client.wait()
        with pytest.raises(ZeroDivisionError):
            async for _ in client.events():
                pass


async def test_errors_in_an_event_loop(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ConnectionBrokenError, match="no server at"):
        await aio_connect(f"unix:{tmp_path / 'none'}").start()
    with pytest.raises(RefusedError, match="no topic"):
        await aio_connect(where(server), topics="nonsense").start()
    client = aio_connect(where(server), topics="trades *", retry=0.01, attempts=2)
    await client.start()
    await server.close()
    with pytest.raises(ConnectionBrokenError, match="2 attempts failed"):
        await client.wait()
    with pytest.raises(ConnectionBrokenError):
        await client.subscribe("book *")
    await client.close()


# -- as a live source


class Told:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str) -> None:
        self.lines.append(message)

    warn = info

    def ready(self, facts: object) -> None: ...

    def progress(self, task: str, done: int, total: int | None, *, unit: str = "bytes") -> None: ...


async def test_a_viewer_is_told_when_nothing_matches(server: Server) -> None:
    server.publish([*BOOK, trade(1)])
    told = Told()
    async with ServerSource(ConnectOptions(where(server), ("book *:BTC-USDT",)), told):
        await eventually(lambda: told.lines)
    assert "nothing there matches book *:BTC-USDT yet" in told.lines[0]
    assert len(told.lines) == 1


async def test_a_server_is_a_live_source(server: Server) -> None:
    assert load("cmd.sources", "server") is ServerSource
    told = Told()
    called: list[Any] = []
    source = ServerSource(ConnectOptions(where(server), ("book *", "trades *"), name="viewer"), told)
    source.client._backoff.base = 10_000_000
    source.on_records(called.extend)
    async with source:
        records = source.subscribe()
        server.publish([*BOOK, trade(1)])
        got: list[Any] = []
        async with asyncio.timeout(DEADLINE):
            async for some in records:
                got += some
                if trade(1) in got:
                    break
        assert called == got
        assert source.books["v:A"].best_bid == (99.0, 1.0)
        for session in list(server.sessions):
            session.port.abort()
        await eventually(lambda: any("again, going on" in line for line in told.lines))
        assert any("trying again in" in line for line in told.lines)
        server.publish([status("STALE", 9), quote(1), trade(2)])
        async with asyncio.timeout(DEADLINE):
            async for some in records:
                got += some
                if trade(2) in got:
                    break
        await eventually(lambda: source.books["v:A"].state is BookState.STALE)
    await source.wait()
    assert source.error is None
    assert [r async for r in source.subscribe()] == []
    with pytest.raises(CmdError):
        await ServerSource(ConnectOptions("unix:/nowhere", ("trades *",))).__aenter__()

"""cmd-cli serve as a process: exchange, server and clients together, history with its seam, and what cannot be served."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cmd_common.errors import StoreError
from cmd_common.io import open_reader
from cmd_common.records import BookDelta, Gap, Record, Trade
from cmd_server.client import Client, Disconnected, Event, Message, connect
from cmd_server.errors import ConnectionBrokenError

from .conftest import TIMEOUT, Ran, finish, replaying, start

TRADES = ["--exchange", "binance-spot", "--symbols", "all", "--types", "trades,book"]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with replaying(
        "--exchange", "binance-spot", "--simulate", "--symbols", "BTCUSDT,ETHUSDT", "--speed", "4"
    ) as endpoints:
        yield endpoints["binance-spot"]


@pytest.fixture(scope="module")
def recorded(endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that was recorded; tests take copies."""
    folder = tmp_path_factory.mktemp("recorded") / "data"
    ran = finish(start("record", *TRADES, "--store", f"parquet:{folder}", "--duration", "3s", "--endpoint", endpoint))
    assert ran.code == 0, ran.err
    return folder


@pytest.fixture
def store(recorded: Path) -> list[int]:
    """A copy of it in ``data``; returns the ids of its BTCUSDT trades."""
    shutil.copytree(recorded, "data")
    with open_reader("parquet:data") as reader:
        return ids(list(reader.records("trades")))


class Serving:
    """A server that is ready: its addresses and its process."""

    def __init__(self, process: subprocess.Popen[str], ready: dict[str, Any]) -> None:
        self.process = process
        self.ready = ready
        self.addresses: list[str] = ready["listen"]
        self.ran: Ran | None = None

    @property
    def summary(self) -> dict[str, Any]:
        assert self.ran is not None
        return json.loads(self.ran.out.splitlines()[-1])  # type: ignore[no-any-return]


@contextlib.contextmanager
def serving(*args: str, code: int = 0) -> Iterator[Serving]:
    """Run ``cmd-cli serve --json``; it must end as expected on SIGTERM."""
    process = start("serve", *args, "--json")
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            ran = finish(process)
            pytest.fail(f"serve ended with {ran.code}: {ran.err}")
        found = Serving(process, json.loads(line))
        yield found
    finally:
        ran = finish(process, signal.SIGTERM if process.poll() is None else None)
    found.ran = ran
    assert ran.code == code, ran.err
    assert "Traceback" not in ran.err


def collect(client: Client, enough: Any) -> list[Message]:
    """Everything that comes until ``enough(messages)``."""
    found: list[Message] = []
    end = time.monotonic() + TIMEOUT
    while not enough(found):
        assert time.monotonic() < end, f"only {len(found)} messages came"
        found += [item for item in client.poll(1.0) if isinstance(item, Message)]
    return found


def ids(records: list[Record], symbol: str = "BTCUSDT") -> list[int]:
    return [r.trade_seq for r in records if isinstance(r, Trade) and r.symbol == symbol and r.trade_seq is not None]


def records_of(messages: list[Message]) -> list[Record]:
    return [m.record for m in messages]


def test_two_transports_a_store_and_a_viewer(endpoint: str) -> None:
    listen = ["--listen", "tcp:127.0.0.1:0", "unix:market.sock"]
    args = [*TRADES, *listen, "--store", "parquet:data", "--metrics", "127.0.0.1:0", "--endpoint", endpoint]
    with serving(*args) as server:
        assert server.addresses[1] == "unix:market.sock"
        assert server.ready["symbols"] == {"binance-spot": 2}
        viewer = start(
            "watch", "--connect", server.addresses[0], "--types", "book,trades", "--json", "--duration", "3s"
        )
        topics = ["trades *", "book binance-spot:BTCUSDT"]
        with connect(server.addresses[0], topics=topics) as tcp, connect("unix:market.sock", topics=topics) as unix:
            both = [records_of(collect(c, lambda m: len(ids(records_of(m))) >= 10)) for c in (tcp, unix)]
            assert tcp.book("binance-spot:BTCUSDT").state.value == "LIVE"
            status, ready = get(server.ready["metrics"] + "/ready")
            assert (status, ready["ready"], ready["books"]) == (200, True, {"LIVE": 2})
            assert get(server.ready["metrics"] + "/health")[1]["clients"] >= 2
            with urllib.request.urlopen(server.ready["metrics"] + "/metrics", timeout=TIMEOUT) as answer:
                text = answer.read().decode()
            assert 'cmd_client_sent_total{client="' in text
            assert 'cmd_feed_records_total{table="trades",venue="binance-spot"}' in text
        ran = finish(viewer)
        assert ran.code == 0, ran.err
        last = json.loads(ran.out.splitlines()[-1])
        assert last["best_bid"][0] < last["best_ask"][0]
    assert not Path("market.sock").exists()
    assert server.summary["clients"] == 3
    with open_reader("parquet:data") as reader:
        stored = ids(list(reader.records("trades")))
    assert stored == list(range(stored[0], stored[-1] + 1))
    for records in both:
        got = ids(records)
        assert got == list(range(got[0], got[-1] + 1))  # each once, in order
        assert set(got) <= set(stored)


def get(url: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_history_that_is_being_recorded_goes_on_live_without_a_seam(endpoint: str) -> None:
    recorder = start("record", *TRADES, "--store", "parquet:data", "--endpoint", endpoint)
    try:
        wait_for_rows(5)
        args = [*TRADES, "--listen", "unix:m.sock", "--from-store", "parquet:data", "--endpoint", endpoint]
        with serving(*args) as server, connect("unix:m.sock", topics=["trades *", "book *"]) as client:
            check_seam(client)
        assert server.summary["history"]["gaps"] == 0
        assert server.summary["history"]["records"] > 5
    finally:
        ran = finish(recorder, signal.SIGINT)
    assert ran.code == 0, ran.err


def check_seam(client: Client) -> None:
    """From the first stored trade to a live one: every id once and in order, and books that are right."""

    def enough(messages: list[Message]) -> bool:
        live = [m for m in messages if not m.replayed]
        return len(ids(records_of(live))) >= 5 and any(isinstance(m.record, BookDelta) for m in live)

    messages = collect(client, enough)
    records = records_of(messages)
    with open_reader("parquet:data") as reader:
        stored = list(reader.records("trades"))
    for symbol in ("BTCUSDT", "ETHUSDT"):
        got = ids(records, symbol)
        assert got[0] == ids(stored, symbol)[0]
        assert got == list(range(got[0], got[-1] + 1))
    marks = [m.replayed for m in messages if isinstance(m.record, Trade) and m.record.symbol == "BTCUSDT"]
    assert marks == sorted(marks, reverse=True)  # history, then live
    assert not [r for r in records if isinstance(r, Gap)]
    assert client.book("binance-spot:BTCUSDT").state.value == "LIVE"


def test_a_server_that_records_into_the_store_that_it_serves(endpoint: str, store: list[int]) -> None:
    args = [*TRADES, "--listen", "tcp:127.0.0.1:0", "--store", "parquet:data", "--from-store", "parquet:data"]
    # gaps were recorded: nobody recorded while one recorder had ended and the other had not begun
    with serving(*args, "--endpoint", endpoint, code=3) as server, connect(server.addresses[0], topics="trades *") as client:  # fmt: skip
        messages = collect(client, lambda m: len(ids(records_of([x for x in m if not x.replayed]))) >= 5)
    records = records_of(messages)
    got = ids(records)
    assert got[: len(store)] == store
    assert got == sorted(set(got))
    missing = sorted(set(range(got[0], got[-1] + 1)) - set(got))
    told = [g for g in records if isinstance(g, Gap) and (g.symbol, g.record_type) == ("BTCUSDT", "trades")]
    assert missing
    assert [(g.first_id, g.last_id) for g in told] == [(missing[0], missing[-1])]


def wait_for_rows(n: int) -> None:
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        with contextlib.suppress(StoreError), open_reader("parquet:data") as reader:  # it may not be there yet
            if "trades" in reader.tables() and len(ids(list(reader.records("trades")))) >= n:
                return
        time.sleep(0.1)
    pytest.fail("nothing was recorded")


def test_history_alone_at_a_speed_until_its_end(store: list[int]) -> None:
    args = ["--types", "trades,book", "--symbols", "BTC-USDT", "--from-store", "parquet:data", "--until-end"]
    with serving(*args, "--listen", "unix:m.sock", "--speed", "20") as server:
        with connect("unix:m.sock", topics=["trades *", "book *"], attempts=1) as client:
            messages = collect(client, lambda m: len(ids(records_of(m))) >= len(store))
            assert ids(records_of(messages)) == store
            assert {r.symbol for r in records_of(messages) if isinstance(r, Trade)} == {"BTCUSDT"}
            assert all(m.replayed for m in messages if isinstance(m.record, Trade | BookDelta))
        server.process.wait(TIMEOUT)
    assert server.summary["history"]["records"] >= len(store)


def test_a_signal_says_goodbye_and_leaves_nothing(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMD_FAST", "0")  # asyncio's own loop
    args = [*TRADES, "--listen", "unix:m.sock", "--endpoint", endpoint]
    events: list[Event] = []
    with (
        serving(*args) as server,
        connect("unix:m.sock", topics="trades *", attempts=1, on_event=events.append) as client,
    ):
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionBrokenError):
            collect(client, lambda messages: False)
        assert next(e.code for e in events if isinstance(e, Disconnected)) == "shutdown"
        server.process.wait(TIMEOUT)
    assert not Path("m.sock").exists()
    assert server.summary["byes"] == {"shutdown": 1}


def test_a_token_is_asked_for_where_there_is_one(endpoint: str) -> None:
    Path("token").write_text("secret-of-this-test\n")
    Path("wrong").write_text("another\n")
    with serving(*TRADES, "--listen", "tcp:127.0.0.1:0", "--token-file", "token", "--endpoint", endpoint) as server:
        watch = ["watch", "--connect", server.addresses[0], "--types", "book", "--json", "--duration", "1500ms"]
        ran = finish(start(*watch))
        assert (ran.code, ran.out) == (1, "")
        assert_one_line(ran, "token")
        ran = finish(start(*watch, "--token-file", "wrong"))
        assert_one_line(ran, "the token is wrong")
        ran = finish(start(*watch, "--token-file", "token"))
        assert ran.code == 0, ran.err
        ran = finish(start(*watch, env={**os.environ, "CMD_TOKEN": "secret-of-this-test"}))
        assert ran.code == 0, ran.err
        assert "secret-of-this-test" not in ran.out + ran.err


def assert_one_line(ran: Ran, *words: str) -> None:
    line = ran.err.splitlines()[-1]
    assert line.startswith("cmd-cli: error: "), ran.err
    for word in words:
        assert word in line
    assert "Traceback" not in ran.err


def test_addresses_in_use_are_one_line(endpoint: str) -> None:
    args = ["serve", *TRADES, "--endpoint", endpoint, "--duration", "1s"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = finish(start(*args, "--listen", f"tcp:127.0.0.1:{port}"))
        assert ran.code == 1
        assert_one_line(ran, f"127.0.0.1:{port}", "in use")
        ran = finish(start(*args, "--listen", "unix:m.sock", "--metrics", f"127.0.0.1:{port}"))
        assert ran.code == 1
        assert_one_line(ran, f"127.0.0.1:{port}", "in use")
    assert not Path("m.sock").exists()  # what was bound before the error is taken away
    with serving(*TRADES, "--listen", "unix:m.sock", "--endpoint", endpoint):
        ran = finish(start(*args, "--listen", "unix:m.sock"))
        assert ran.code == 1
        assert_one_line(ran, "m.sock")
    Path("m.sock").write_text("no socket")
    ran = finish(start(*args, "--listen", "unix:m.sock"))
    assert ran.code == 1
    assert_one_line(ran, "m.sock")
    assert Path("m.sock").read_text() == "no socket"


def test_what_is_not_there_is_one_line(endpoint: str) -> None:
    live = ["serve", *TRADES, "--endpoint", endpoint, "--listen", "unix:m.sock", "--duration", "1s"]
    ran = finish(start(*live, "--from-store", "parquet:nowhere"))
    assert ran.code == 1
    assert_one_line(ran, "there is no store at nowhere")
    ran = finish(start("serve", *TRADES, "--endpoint", "http://127.0.0.1:9", "--listen", "unix:m.sock"))
    assert ran.code == 1
    assert_one_line(ran, "127.0.0.1:9")
    ran = finish(start(*live[:4], "BTCUSTD", *live[5:]))
    assert ran.code == 2
    assert_one_line(ran, "did you mean BTCUSDT")
    ran = finish(start("watch", "--connect", "unix:m.sock", "--json", "--duration", "1s"))
    assert ran.code == 1
    assert_one_line(ran, "m.sock")
    assert not Path("m.sock").exists()


def test_wrong_symbols_of_a_store_and_wrong_topics(store: list[int]) -> None:
    history = ["serve", "--from-store", "parquet:data", "--listen", "unix:m.sock"]
    ran = finish(start(*history, "--symbols", "BTCUSTD"))
    assert ran.code == 2
    assert_one_line(ran, "did you mean BTCUSDT")
    ran = finish(start(*history, "--types", "candles"))
    assert ran.code == 1
    assert_one_line(ran, "the store has no candles")
    with serving(*history[1:]) as server:
        ran = finish(start("watch", "--connect", server.addresses[0], "--symbols", "a b", "--json", "--duration", "1s"))
        assert ran.code == 1
        assert_one_line(ran, "is no topic")

"""Addresses of the transport aeron, for both sides, and what is said where its package is missing."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import require

from cmd_common.errors import CmdError, UnknownNameError, UsageError
from cmd_server.aeron import FIRST_STREAM, SHARED_STREAM, TRANSPORT, Route, Settings, parse
from cmd_server.server import Server
from cmd_server.transport import Accompanied, Address, transport_of


@pytest.fixture(autouse=True)
def _present() -> None:
    require("aeron", find_spec("cmd_aeron") is not None, "pip install 'cmd-server[aeron]'")


def settings(text: str, side: str = "server") -> Settings:
    return parse(Address.parse(text), side)


def test_one_text_serves_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AERON_DIR", "/dev/shm/somewhere")
    for text in (
        "aeron:ipc",
        "aeron:ipc?shared=1",
        "aeron:ipc?dir=/dev/shm/x&liveness=2s",
        "aeron:ipc?control=tcp:127.0.0.1:9",
    ):
        server, client = settings(text), settings(text, "client")
        assert (server.directory, server.control, server.stream) == (client.directory, client.control, client.stream)
    found = settings("aeron:ipc")
    assert (found.directory, found.control) == ("/dev/shm/somewhere", "unix:/dev/shm/somewhere.control")
    assert (found.stream, settings("aeron:ipc?shared=1").stream) == (FIRST_STREAM, SHARED_STREAM)
    assert transport_of(Address.parse("aeron:ipc")) is TRANSPORT
    assert isinstance(TRANSPORT, Accompanied)


@pytest.mark.parametrize(
    ("text", "side", "field", "value"),
    [
        ("aeron:ipc?dir=/a/b", "server", "directory", "/a/b"),
        ("aeron:ipc?dir=/a/b", "client", "control", "unix:/a/b.control"),
        ("aeron:ipc?control=unix:/run/x?mode=660", "server", "control", "unix:/run/x?mode=660"),
        ("aeron:ipc?term-length=64k", "server", "term_length", 65536),
        ("aeron:ipc?term-length=1G", "server", "term_length", 1 << 30),
        ("aeron:ipc?term-length=131072", "server", "term_length", 131072),
        ("aeron:ipc?mtu=8k", "server", "mtu", 8192),
        ("aeron:ipc?window=256k", "server", "window", 262144),
        ("aeron:ipc?liveness=1500ms", "client", "liveness", 1_500_000_000),
        ("aeron:ipc?liveness=20s", "server", "liveness", 20_000_000_000),
        ("aeron:ipc?driver=external", "server", "driver", "external"),
        ("aeron:ipc?idle=spin", "client", "idle", "spin"),
        ("aeron:ipc", "client", "idle", "balanced"),
        ("aeron:ipc?stream=5", "server", "stream", 5),
        ("aeron:ipc?shared=1&topics=trades *, book *", "server", "topics", ("trades *", "book *")),
        ("aeron:ipc?shared=1&heartbeat=50", "server", "heartbeat", 50_000_000),
        ("aeron:udp?control=tcp:127.0.0.1:9", "client", "endpoint", "127.0.0.1:0"),
        ("aeron:udp?control=unix:@x", "client", "endpoint", "127.0.0.1:0"),
        ("aeron:udp?control=tcp:10.1.2.3:9", "client", "endpoint", ""),  # found out when it connects
        ("aeron:udp?control=unix:@x", "client", "directory", ""),
        ("aeron:udp?control=tcp:10.0.0.5:9&endpoint=10.0.0.7:0", "client", "endpoint", "10.0.0.7:0"),
        ("aeron:udp?interface=10.0.0.0/24", "server", "interface", "10.0.0.0/24"),
        ("aeron:udp?endpoint=[::1]:4000", "server", "endpoint", "[::1]:4000"),
    ],
)
def test_options(text: str, side: str, field: str, value: object) -> None:
    assert getattr(settings(text, side), field) == value


@pytest.mark.parametrize(
    ("text", "side", "words"),
    [
        ("aeron:tcp", "server", "'aeron:tcp' is no address; write it as aeron:ipc or aeron:udp"),
        ("aeron:ipc?idle=spin", "server", "idle in 'aeron:ipc.idle=spin' is an option for the client's side"),
        ("aeron:ipc?term-length=1m", "client", "term-length in .* is an option for the server's side"),
        ("aeron:ipc?terms=1m", "server", "option of aeron addresses"),
        ("aeron:ipc?term-length=3m", "server", "term-length=3m .* is no power of two; such as 1m"),
        ("aeron:ipc?term-length=32k", "server", "is no size from 64k to 1g"),
        ("aeron:ipc?term-length=", "server", "is no size from 64k to 1g"),
        ("aeron:ipc?term-length=-1m", "server", "is no size from 64k to 1g"),
        ("aeron:ipc?mtu=1000", "server", "no multiple of 32"),
        ("aeron:ipc?mtu=1m", "server", "is no size from 256 to 65504"),
        ("aeron:ipc?term-length=64k&window=64k", "server", "window=64k .* is no size from 2k to 32k"),
        ("aeron:ipc?liveness=3", "server", "is no time from 1500 ms to 600 s; write it as 3s or 2500ms"),
        ("aeron:ipc?liveness=1ms", "client", "is no time from 1500 ms"),
        ("aeron:ipc?driver=none", "server", "driver=none .* one of auto, embedded, external"),
        ("aeron:ipc?driver=embedded", "client", "driver of .* is for servers, whose driver a client on IPC uses only"),
        ("aeron:ipc?idle=slow", "client", "one of low-cpu, balanced, spin"),
        ("aeron:ipc?endpoint=1.2.3.4:5", "server", "endpoint of .* is for aeron:udp only"),
        ("aeron:ipc?topics=trades *", "server", "topics of .* is for shared=1 only"),
        ("aeron:ipc?shared=yes", "server", "neither 0 nor 1"),
        ("aeron:ipc?shared=1&topics=,", "server", "names no topics"),
        ("aeron:ipc?shared=1&topics=nothing *", "server", "nothing"),
        ("aeron:ipc?stream=0", "server", "no number from 1"),
        ("aeron:ipc?dir=", "server", "names no directory"),
        ("aeron:ipc?dir=/a|b", "server", "is no directory"),
        ("aeron:ipc?control=multicast:239.1.2.3:9", "server", "is no stream connection, which control must be"),
        ("aeron:ipc?control=aeron:ipc", "client", "is no stream connection"),
        ("aeron:udp", "client", "names no control address; add control=tcp:HOST:PORT"),
        ("aeron:udp?endpoint=host:9", "server", "endpoint=host:9 .* is none; write it as endpoint=ADDRESS:PORT"),
        ("aeron:udp?endpoint=1.2.3.4", "server", "is none"),
        ("aeron:udp?shared=1", "server", "names no endpoint; add endpoint=ADDRESS:PORT, a multicast group"),
        ("aeron:udp?shared=1&endpoint=1.2.3.4:0", "server", "is none"),
        ("aeron:udp?interface=eth0", "server", "interface=eth0 .* is none"),
        ("aeron:udp?interface=127.0.0.1/8|mtu=64", "server", "interface=127.0.0.1/8.mtu=64 .* is none"),
        ("aeron:udp?interface=127.0.0.1/33", "server", "is none"),
        ("aeron:udp?interface=fe80::1%25a|ttl=9", "server", "is none"),
        ("aeron:udp?endpoint=[::1%25a|endpoint=10.1.2.3:9]:9", "server", "is none"),
    ],
)
def test_what_is_no_address_is_one_clear_line(text: str, side: str, words: str) -> None:
    with pytest.raises((UsageError, UnknownNameError), match=words) as caught:
        settings(text, side)
    assert "\n" not in str(caught.value)


@given(
    st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), max_size=12),
    st.sampled_from(("server", "client")),
)
def test_any_value_of_any_option_is_read_or_refused(value: str, side: str) -> None:
    for key in (
        "term-length",
        "mtu",
        "window",
        "liveness",
        "stream",
        "endpoint",
        "interface",
        "driver",
        "idle",
        "topics",
    ):
        for medium in ("ipc", "udp"):
            address = Address("aeron", medium, {key: value, "control": "unix:@x"})
            with contextlib.suppress(CmdError):
                assert parse(address, side).side == side


def test_channels() -> None:
    found = settings("aeron:ipc?term-length=64k&mtu=8k&window=16k")
    assert found.publication() == "aeron:ipc?term-length=65536|mtu=8192|pub-wnd=16384"
    assert settings("aeron:ipc", "client").subscription(session=-5) == "aeron:ipc?session-id=-5"
    found = settings("aeron:udp?interface=127.0.0.1")
    assert (
        found.publication("127.0.0.1:5", linger=0)
        == "aeron:udp?endpoint=127.0.0.1:5|interface=127.0.0.1|term-length=1048576|linger=0"
    )
    found = settings("aeron:udp?control=unix:@x&window=128k", "client")
    assert found.subscription(tether="false") == "aeron:udp?endpoint=127.0.0.1:0|rcv-wnd=131072|tether=false"


@given(
    st.sampled_from(("", "127.0.0.1:4000", "[::1]:1")),
    st.integers(-(1 << 31), (1 << 31) - 1),
    st.none() | st.integers(-(1 << 31), (1 << 31) - 1),
)
def test_routes_are_read_as_they_were_written(endpoint: str, stream: int, session: int | None) -> None:
    route = Route(medium="udp" if endpoint else "ipc", endpoint=endpoint, stream=stream, session=session)
    assert Route.parse(str(route)) == route


@pytest.mark.parametrize(
    "text",
    ["", "aeron", "tcp:127.0.0.1:9", "aeron:ipc?endpoint=127.0.0.1:4000", "aeron:udp", "aeron:udp?endpoint=127.0.0.1:0",
     "aeron:udp?endpoint=x:1", "aeron:ipc?stream=x", "aeron:ipc?stream=9999999999", "aeron:ipc?term-length=1g", "aeron:ipc?stream=1|dir=x",
     "aeron:udp?endpoint=[::1%25a|endpoint=10.1.2.3:9|x=]:9&stream=5", "aeron:udp?endpoint=[::1%25a|term-length=1g]:9&stream=5",
     "aeron:udp?endpoint=127.0.0.1:9|mtu=8k&stream=5"],
)  # fmt: skip
def test_what_is_no_route_is_refused(text: str) -> None:
    with pytest.raises((UsageError, UnknownNameError)):
        Route.parse(text)


def test_which_companion_a_server_needs() -> None:
    def companion(text: str, *others: str) -> str:
        return str(TRANSPORT.companion(Address.parse(text), [Address.parse(other) for other in others]))

    assert companion("aeron:ipc?dir=/a/b") == "unix:/a/b.control"
    assert companion("aeron:ipc?dir=/a/b", "tcp:127.0.0.1:9") == "unix:/a/b.control"  # where clients look for it
    assert companion("aeron:ipc?control=unix:/x?mode=660") == "unix:/x?mode=660"
    assert companion("aeron:udp?control=tcp:0.0.0.0:9") == "tcp:0.0.0.0:9"
    assert companion("aeron:udp", "multicast:239.1.2.3:9", "unix:/x") == "None"
    with pytest.raises(UsageError, match="aeron:udp has no control connection; add control=tcp:HOST:PORT"):
        companion("aeron:udp", "multicast:239.1.2.3:9")


async def test_what_others_can_reach_needs_a_token(tmp_path: Any) -> None:
    server = Server()
    for text in (
        f"aeron:ipc?dir={tmp_path}/a&control=tcp:0.0.0.0:0",
        "aeron:udp?control=tcp:0.0.0.0:0",
        "aeron:udp?control=tcp:127.0.0.1:0&endpoint=10.1.2.3:4000",
        "aeron:udp?control=tcp:127.0.0.1:0&shared=1&endpoint=239.1.2.3:4000",
    ):
        with pytest.raises(UsageError, match="can be reached from other machines"):
            await server.listen(text)
    await server.close()
    assert TRANSPORT.local(Address.parse("aeron:udp?endpoint=127.0.0.1:4000"))
    assert not (tmp_path / "a").exists()


_HIDDEN = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "cmd_aeron":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hide())
from cmd_cli.main import main
sys.exit(main())
"""


@pytest.mark.parametrize("text", ["aeron:ipc", "aeron:udp?control=unix:@x", "aeron:ipc?shared=1"])
def test_without_the_package_one_line_names_the_extra(text: str) -> None:
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            _HIDDEN,
            "serve",
            "--exchange",
            "binance-spot",
            "--symbols",
            "BTCUSDT",
            "--listen",
            text,
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = found.stderr.strip().splitlines()
    assert len(lines) == 1, found
    assert "aeron needs the package cmd-aeron" in lines[0]
    assert "pip install 'cmd-server[aeron]'" in lines[0]
    assert found.stdout == ""
    assert found.returncode == 2

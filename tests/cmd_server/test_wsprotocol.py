"""Both ends of WebSocket as bytes: any cut of any message gives the same message, and rules that are broken end it."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_server.errors import ConnectionBrokenError, RefusedError
from cmd_server.wsprotocol import JSON_PROTOCOL, SBE_PROTOCOL, ClientPeer, Message, ServerPeer, header


def connected(
    *, limit: int = 1 << 20, protocol: str = SBE_PROTOCOL, path: str = "/", token: str = "", query: str = ""
) -> tuple[ClientPeer, ServerPeer]:
    client = ClientPeer(f"ws://127.0.0.1:1{path}{query}", token=token, protocol=protocol)
    server = ServerPeer(path=path, limit=limit)
    client.start()
    for data in client.outgoing():
        server.receive(data)
    for data in server.outgoing():
        client.receive(data)
    return client, server


def request(*lines: str, path: str = "/") -> bytes:
    fixed = [
        f"GET {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    ]
    return "\r\n".join([*fixed, *lines, "", ""]).encode()


def answer(server: ServerPeer, data: bytes) -> str:
    server.receive(data)
    return b"".join(server.outgoing()).decode()


def masked(opcode: int, data: bytes, *, fin: bool = True) -> bytes:
    mask = b"\x12\x34\x56\x78"
    length = len(data)
    head = bytes([opcode | 0x80 * fin])
    if length < 126:
        head += bytes([0x80 | length])
    elif length < 65536:
        head += struct.pack(">BH", 0x80 | 126, length)
    else:
        head += struct.pack(">BQ", 0x80 | 127, length)
    return head + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data))


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65535, 65536, 70000])
@pytest.mark.parametrize("text", [False, True])
def test_a_server_s_header_makes_a_message(length: int, text: bool) -> None:
    client, _ = connected()
    data = b"x" * length
    assert client.receive(header(length, text=text) + data) == [Message(text, data)]


@given(
    st.lists(st.tuples(st.booleans(), st.text(max_size=300)), min_size=1, max_size=6),
    st.integers(0, 1 << 32),
)
def test_a_message_is_the_same_however_it_is_cut(messages: list[tuple[bool, str]], seed: int) -> None:
    rng = random.Random(seed)
    _, server = connected()
    wire = b""
    expected = []
    for text, content in messages:
        data = content.encode()
        expected.append(Message(text, data))
        cuts = sorted(rng.randint(0, len(data)) for _ in range(rng.randint(0, 4)))
        pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        for i, piece in enumerate(pieces):
            opcode = (1 if text else 2) if i == 0 else 0
            wire += masked(opcode, piece, fin=i == len(pieces) - 1)
            if rng.random() < 0.3:
                wire += masked(9, b"ping")  # control frames may stand between the pieces
    got: list[Message] = []
    while wire:
        n = rng.randint(1, 40)
        got += server.receive(wire[:n])
        wire = wire[n:]
    assert got == expected
    assert server.open


@given(st.binary(max_size=400))
def test_garbage_after_the_handshake_never_raises(data: bytes) -> None:
    _, server = connected(limit=1000)
    server.receive(data)
    server.receive_eof()
    assert server.finished


@given(st.binary(max_size=400))
def test_garbage_instead_of_a_handshake_never_raises(data: bytes) -> None:
    server = ServerPeer()
    server.receive(data)
    server.outgoing()
    server.receive_eof()
    assert server.finished
    assert not server.accepted


def close_code_of(server: ServerPeer) -> int:
    wire = b"".join(server.outgoing())
    assert wire[0] == 0x88
    return int.from_bytes(wire[2:4], "big")


def test_text_that_is_not_utf8_is_refused_as_soon_as_it_is_seen() -> None:
    _, server = connected()
    server.receive(masked(1, b"\xce\xba\xff", fin=False))
    assert close_code_of(server) == 1007
    assert server.finished


def test_a_message_over_the_limit_is_refused_before_it_is_kept() -> None:
    _, server = connected(limit=100)
    assert server.receive(masked(2, b"x" * 100)) == [Message(False, b"x" * 100)]
    server.receive(masked(2, b"x" * 60, fin=False) + masked(0, b"x" * 60)[:8])
    assert close_code_of(server) == 1009


def test_empty_fragments_take_no_memory() -> None:
    _, server = connected(limit=100)
    server.receive(masked(2, b"a", fin=False))
    for _ in range(2000):
        server.receive(masked(0, b"", fin=False))
    assert server.receive(masked(0, b"b")) == [Message(False, b"ab")]
    assert server.outgoing() == []


def test_a_close_between_fragments_is_answered() -> None:
    _, server = connected()
    server.receive(masked(1, b"a", fin=False) + masked(8, struct.pack(">H", 1000)))
    assert close_code_of(server) == 1000
    assert (server.finished, server.close_code) == (True, 1000)


def test_what_bye_says_is_told_in_the_close_frame() -> None:
    client, server = connected()
    server.close("slow", "x" * 200)
    for data in server.outgoing():
        client.receive(data)
    assert (client.close_code, client.close_reason) == (1008, "x" * 123)
    with pytest.raises(ConnectionBrokenError):
        client.send(b"late")


def test_the_form_is_chosen_by_subprotocol_path_or_query() -> None:
    assert connected()[1].form == "sbe"
    assert connected(protocol="")[1].form == "sbe"
    assert connected(protocol=JSON_PROTOCOL)[1].form == "json"
    assert connected(protocol="", query="?form=json")[1].form == "json"
    server = ServerPeer(path="/feed")
    assert answer(server, request(path="/feed/json")).startswith("HTTP/1.1 101")
    assert server.form == "json"
    assert answer(ServerPeer(), request(path="/?form=xml")).startswith("HTTP/1.1 400")
    both = request("Sec-WebSocket-Protocol: cmd.sbe", path="/?form=json")
    assert answer(ServerPeer(), both).startswith("HTTP/1.1 400")
    assert answer(ServerPeer(), request("Sec-WebSocket-Protocol: chat")).startswith("HTTP/1.1 400")


def test_other_paths_and_plain_http_are_refused_in_words() -> None:
    assert answer(ServerPeer(path="/feed"), request()).startswith("HTTP/1.1 404")
    server = ServerPeer()
    said = answer(server, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert said.startswith("HTTP/1.1 426")
    assert server.finished


@pytest.mark.parametrize(
    ("origins", "origin", "status"),
    [
        ((), "", "101"),
        ((), "https://example.org", "403"),
        ((), "http://127.0.0.1:8000", "403"),
        (("https://example.org",), "https://example.org", "101"),
        (("https://example.org",), "https://example.org.evil.net", "403"),
        (("https://example.org",), "", "101"),
        (("https://example.org",), "null", "403"),
        (("*",), "https://anything.net", "101"),
    ],
)
def test_pages_connect_only_from_listed_origins(origins: tuple[str, ...], origin: str, status: str) -> None:
    lines = [f"Origin: {origin}"] if origin else []
    server = ServerPeer(origins=origins)
    assert answer(server, request(*lines)).startswith(f"HTTP/1.1 {status}")
    assert server.accepted is (status == "101")


def test_a_bearer_token_is_read() -> None:
    assert connected(token="secret")[1].bearer == "secret"
    assert connected()[1].bearer == ""
    server = ServerPeer()
    answer(server, request("Authorization: Basic abc"))
    assert server.bearer == ""


def test_a_client_says_what_refused_it() -> None:
    client = ClientPeer("ws://127.0.0.1:1/other")
    server = ServerPeer(path="/feed")
    client.start()
    said = answer(server, b"".join(client.outgoing()))
    with pytest.raises(RefusedError, match="404: Nothing is served here; connect to /feed"):
        client.receive(said.encode())
    client = ClientPeer("ws://127.0.0.1:1/")
    client.start()
    with pytest.raises(RefusedError, match="does not speak WebSocket"):
        client.receive(b"SSH-2.0-OpenSSH\r\n\r\n")

"""TCP and TLS, and the links of clients: for asyncio and for threads, over every stream transport."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme
from raw_client import DEADLINE, LOOPS, big_book, run, trade, until

from cmd_common.errors import CmdError, UsageError
from cmd_server import codec
from cmd_server.errors import ConnectionBrokenError, ServerError
from cmd_server.framing import Splitter
from cmd_server.limits import Limits
from cmd_server.links import BlockingSocketLink
from cmd_server.messages import Login, Policy, Subscribe, Template
from cmd_server.security import authorizer, loopback
from cmd_server.server import Server
from cmd_server.tcp import TRANSPORT
from cmd_server.transport import Address, LinkOptions, ListenOptions, transport_of

SECOND = 1_000_000_000
ASK = codec.encode_request(Login()) + codec.encode_request(
    Subscribe(1, ("trades *", "book *"), Policy.DROP_OLDEST, 100_000)
)


class Certificates(NamedTuple):
    ca: str
    cert: str
    key: str
    other_ca: str
    other_key: str


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    ca, other = trustme.CA(), trustme.CA()
    server = ca.issue_cert("127.0.0.1", "localhost")
    stranger = other.issue_cert("127.0.0.1")
    names = Certificates(*(str(folder / n) for n in ("ca.pem", "cert.pem", "key.pem", "other_ca.pem", "other_key.pem")))
    ca.cert_pem.write_to_path(names.ca)
    server.cert_chain_pems[0].write_to_path(names.cert)
    server.private_key_pem.write_to_path(names.key)
    other.cert_pem.write_to_path(names.other_ca)
    stranger.private_key_pem.write_to_path(names.other_key)
    return names


def place(kind: str, tmp_path: Path, c: Certificates) -> tuple[str, Callable[[Address], Address]]:
    """Return where to listen, and how clients name it."""
    if kind == "tls":
        text = f"tcp:127.0.0.1:0?tls_cert={c.cert}&tls_key={c.key}"
        return text, lambda bound: Address("tcp", bound.target, {"ca": c.ca})
    if kind == "unix":
        return f"unix:{tmp_path}/s?mode=600", lambda bound: Address("unix", bound.target)
    return "tcp:127.0.0.1:0", lambda bound: bound


KINDS = ("tcp", "tls", "unix")


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_link_carries_everything_in_both_directions(
    loop: str, kind: str, tmp_path: Path, certificates: Certificates
) -> None:
    async def main() -> None:
        text, client = place(kind, tmp_path, certificates)
        async with Server(options=ListenOptions(low_water=10_000)) as server:
            address = client((await server.listen(text)).address)
            link = await transport_of(address).connect(address, LinkOptions(receive_buffer=10_000))
            await link.send(ASK)
            await until(lambda: any(s.client.topics for s in server.sessions))
            splitter, frames = Splitter(), []
            buffer = memoryview(bytearray(50_000))

            async def publish() -> None:
                for n in range(40):
                    server.publish([big_book(n), *(trade(25 * n + i) for i in range(25))])
                    await asyncio.sleep(0)

            publishing = asyncio.create_task(publish())
            while sum(codec.head(f).template == Template.TRADE for f in frames) < 1_000:
                size = await asyncio.wait_for(link.receive_into(buffer), DEADLINE)
                assert size
                frames += [bytes(f) for f in splitter.feed(bytes(buffer[:size]))]
            await publishing
            trades = [codec.decode(f, "v", "A") for f in frames if codec.head(f).template == Template.TRADE]
            books = [codec.decode(f, "v", "B") for f in frames if codec.head(f).template == Template.BOOK_SNAPSHOT]
            assert trades == [trade(n) for n in range(1_000)]
            assert books == [big_book(n) for n in range(40)]
            await link.close()
            await until(lambda: not server.sessions)
            with pytest.raises(ConnectionBrokenError, match="closed"):
                await link.send(ASK)

    run(loop, main())


@pytest.mark.parametrize("kind", KINDS)
async def test_a_blocking_link_does_the_same_in_a_thread(kind: str, tmp_path: Path, certificates: Certificates) -> None:
    text, client = place(kind, tmp_path, certificates)
    async with Server() as server:
        address = client((await server.listen(text)).address)
        frames: list[bytes] = []
        failures: list[BaseException] = []
        quiet = threading.Event()

        def read() -> None:
            try:
                link = transport_of(address).open(address, LinkOptions())
                link.send(ASK)
                splitter, buffer = Splitter(), memoryview(bytearray(50_000))
                while sum(codec.head(f).template == Template.TRADE for f in frames) < 500:
                    size = link.receive_into(buffer, DEADLINE)
                    assert size
                    frames.extend(bytes(f) for f in splitter.feed(bytes(buffer[:size])))
                with pytest.raises(TimeoutError):
                    link.receive_into(buffer, 0.01)
                quiet.set()
                assert link.receive_into(buffer, DEADLINE)  # Bye
                assert link.receive_into(buffer, DEADLINE) == 0
                link.close()
                link.close()
                assert link.receive_into(buffer) == 0
                with pytest.raises(ConnectionBrokenError):
                    link.send(ASK)
            except BaseException as error:
                failures.append(error)

        reading = threading.Thread(target=read)
        reading.start()
        await until(lambda: any(s.client.topics for s in server.sessions) or failures)
        for n in range(20):
            server.publish([big_book(n), *(trade(25 * n + i) for i in range(25))])
            await asyncio.sleep(0)
        await until(lambda: quiet.is_set() or failures)
        await server.close(drain=30)
        await asyncio.to_thread(reading.join, DEADLINE)
        assert not failures, failures
        assert [codec.decode(f, "v", "A") for f in frames if codec.head(f).template == Template.TRADE] == [
            trade(n) for n in range(500)
        ]


@pytest.mark.parametrize("kind", KINDS)
async def test_close_wakes_a_thread_that_waits(kind: str, tmp_path: Path, certificates: Certificates) -> None:
    text, client = place(kind, tmp_path, certificates)
    async with Server() as server:
        address = client((await server.listen(text)).address)
        link = await asyncio.to_thread(transport_of(address).open, address, LinkOptions())
        buffer = memoryview(bytearray(1_000))
        assert await asyncio.to_thread(link.receive_into, buffer, DEADLINE)  # Hello
        waiting = asyncio.create_task(asyncio.to_thread(link.receive_into, buffer))
        await asyncio.sleep(0.05)
        link.close()
        assert await asyncio.wait_for(waiting, DEADLINE) == 0
        await until(lambda: not server.sessions)


@pytest.mark.parametrize("kind", KINDS)
async def test_close_wakes_a_task_that_waits_and_a_cancelled_wait_loses_nothing(
    kind: str, tmp_path: Path, certificates: Certificates
) -> None:
    text, client = place(kind, tmp_path, certificates)
    async with Server() as server:
        address = client((await server.listen(text)).address)
        link = await transport_of(address).connect(address, LinkOptions())
        await link.send(ASK)
        splitter, buffer, got = Splitter(), memoryview(bytearray(1_000)), 0
        await until(lambda: any(s.client.topics for s in server.sessions))
        for n in range(200):
            server.publish([trade(n)])
            reading = asyncio.create_task(link.receive_into(buffer))
            await asyncio.sleep(0)
            if n % 3 == 0:
                await asyncio.sleep(0)
            if reading.done() or not reading.cancel():
                got += sum(
                    codec.head(f).template == Template.TRADE for f in splitter.feed(bytes(buffer[: await reading]))
                )
            else:
                with pytest.raises(asyncio.CancelledError):
                    await reading
        while got < 200:
            size = await asyncio.wait_for(link.receive_into(buffer), DEADLINE)
            got += sum(codec.head(f).template == Template.TRADE for f in splitter.feed(bytes(buffer[:size])))
        waiting = asyncio.create_task(link.receive_into(buffer))
        await asyncio.sleep(0.01)
        await link.close()
        await link.close()
        assert await asyncio.wait_for(waiting, DEADLINE) == 0
        await until(lambda: not server.sessions)


async def opening(kind: str, address: Address, options: LinkOptions) -> Any:
    if kind == "aio":
        return await TRANSPORT.connect(address, options)
    return await asyncio.to_thread(TRANSPORT.open, address, options)


@pytest.mark.parametrize("kind", ["aio", "sync"])
async def test_what_clients_are_told_when_there_is_no_connection(kind: str, certificates: Certificates) -> None:
    c = certificates
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        cases: list[tuple[str, type[CmdError], str]] = [
            ("tcp:none.invalid:1", ConnectionBrokenError, "tcp:none.invalid:1: "),
            (f"tcp:127.0.0.1:{port}?ca={c.ca}", ConnectionBrokenError, "no answer in time"),  # TLS with one who is mute
            (f"tcp:127.0.0.1:{port}?ca=/none.pem", UsageError, "cannot read ca /none.pem: No such file"),
            (f"tcp:127.0.0.1:{port}?ca={c.key}", UsageError, "holds no PEM certificates"),
            (f"tcp:127.0.0.1:{port}?tls_key=a", UsageError, "option for the server's side"),
            (f"tcp:127.0.0.1:{port}?tls=yes", UsageError, "neither 0 nor 1"),
            ("tcp:127.0.0.1", UsageError, "write it as tcp:HOST:PORT"),
        ]
        for text, error, part in cases:
            with pytest.raises(error) as caught:
                await opening(kind, Address.parse(text), LinkOptions(timeout=300_000_000))
            assert part in str(caught.value), text
            assert "\n" not in str(caught.value)
    with pytest.raises(ConnectionBrokenError, match="nobody listens there; is the server running"):
        await opening(kind, Address.parse(f"tcp:127.0.0.1:{port}"), LinkOptions())


@pytest.mark.parametrize("kind", ["aio", "sync"])
async def test_certificates_and_names_are_checked(kind: str, certificates: Certificates) -> None:
    c = certificates
    async with Server() as server:
        text = f"tcp:127.0.0.1:0?tls_cert={c.cert}&tls_key={c.key}"
        port = (await server.listen(text)).address.target.rpartition(":")[2]
        for options in (f"ca={c.other_ca}", "tls=1"):
            with pytest.raises(ConnectionBrokenError, match=r"certificate was not accepted.*ca=FILE"):
                await opening(kind, Address.parse(f"tcp:127.0.0.1:{port}?{options}"), LinkOptions())
        other = (await server.listen(text.replace("127.0.0.1", "127.0.0.2"))).address.target  # not in the certificate
        with pytest.raises(ConnectionBrokenError, match="certificate was not accepted"):
            await opening(kind, Address.parse(f"tcp:{other}?ca={c.ca}"), LinkOptions())
        await until(lambda: not server.sessions)


async def test_plain_clients_and_garbage_at_a_tls_port_never_become_sessions(certificates: Certificates) -> None:
    c = certificates
    async with Server(options=ListenOptions(handshake=3 * SECOND, pending=8)) as server:
        text = f"tcp:127.0.0.1:0?tls_cert={c.cert}&tls_key={c.key}"
        bound = (await server.listen(text)).address
        host, port, _ = bound.host_port()
        sockets = []
        loop = asyncio.get_running_loop()
        for n in range(30):  # mute, garbage, a plain client; more than may be in the handshake
            sock = socket.socket()
            sock.setblocking(False)
            await loop.sock_connect(sock, (host, port))
            await loop.sock_sendall(sock, [b"", b"\x16\x03\x01", ASK][n % 3])
            sockets.append(sock)
        address = Address("tcp", bound.target, {"ca": c.ca})
        link = await TRANSPORT.connect(address, LinkOptions())
        await link.send(ASK)
        await until(lambda: any(s.client.topics for s in server.sessions))
        for sock in sockets:  # each is closed at the end of its time at the latest
            data = b"x"
            while data:
                try:
                    data = await asyncio.wait_for(loop.sock_recv(sock, 1_000), DEADLINE)
                except ConnectionError:
                    data = b""
            sock.close()
        assert len(server.sessions) == server.accepted == 1
        await link.close()


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ("tls_cert={cert}", "names only one of tls_cert and tls_key; TLS needs both"),
        ("tls_key={key}", "names only one of tls_cert and tls_key"),
        ("tls_cert=/none.pem&tls_key={key}", "cannot read tls_cert /none.pem: No such file"),
        ("tls_cert={cert}&tls_key=/none.pem", "cannot read tls_key /none.pem: No such file"),
        ("tls_cert={cert}&tls_key={other_key}", "does not belong to the certificate"),
        ("tls_cert={key}&tls_key={key}", "are no PEM certificate and key"),
        ("tls_cert={cert}&tls_key={cert}", "are no PEM certificate and key"),
    ],
)
async def test_wrong_certificates_of_a_server(options: str, part: str, certificates: Certificates) -> None:
    async with Server() as server:
        with pytest.raises(UsageError) as caught:
            await server.listen("tcp:127.0.0.1:0?" + options.format(**certificates._asdict()))
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_where_a_server_cannot_listen() -> None:
    async with Server(token="t") as server:
        for text, part in (
            ("tcp:192.0.2.1:0", "cannot listen at tcp:192.0.2.1:0: .*choose an address of this machine"),
            ("tcp:none.invalid:0", "no address is known for 'none.invalid'"),
        ):
            with pytest.raises(ServerError, match=part):
                await server.listen(text)
        listener = await server.listen("tcp:localhost:0")
        link = await TRANSPORT.connect(listener.address, LinkOptions())
        await link.close()


@pytest.mark.parametrize(
    ("host", "only_here"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("LOCALHOST", True),
        ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("example.org", False), ("localhost.example.org", False),
        ("fe80::1%lo", False), ("", False),
    ],
)  # fmt: skip
def test_what_counts_as_this_machine(host: str, only_here: bool) -> None:
    assert loopback(host) is only_here


def test_tokens_are_compared_whole() -> None:
    assert authorizer("") is None
    judge = authorizer("sécret")
    assert judge is not None
    assert judge("sécret")
    for wrong in ("", "s", "secret", "sécret ", "sécretx", "\udcff", "x" * 100_000):
        assert not judge(wrong)


async def test_tls_carries_an_end_in_the_middle_of_a_burst(certificates: Certificates) -> None:
    """A server that closes while much is unsent: the client gets all of it, then the end, over TLS too."""
    c = certificates
    server = Server(limits=Limits(queue=200_000, queue_max=200_000))
    bound = (await server.listen(f"tcp:127.0.0.1:0?tls_cert={c.cert}&tls_key={c.key}")).address
    link = await TRANSPORT.connect(Address("tcp", bound.target, {"ca": c.ca}), LinkOptions(receive_buffer=4_096))
    await link.send(ASK)
    await until(lambda: any(s.client.topics for s in server.sessions))
    for n in range(50):
        server.publish([big_book(n)])
    server.publish([trade(n) for n in range(5_000)])
    closing = asyncio.create_task(server.close(drain=30))
    splitter, buffer, templates = Splitter(), memoryview(bytearray(30_000)), []
    while size := await asyncio.wait_for(link.receive_into(buffer), DEADLINE):
        templates += [codec.head(f).template for f in splitter.feed(bytes(buffer[:size]))]
    assert templates.count(Template.TRADE) == 5_000
    assert templates[-1] == Template.BYE
    await link.close()
    await closing


async def test_a_lost_connection_is_a_typed_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = Address("tcp", f"127.0.0.1:{server.getsockname()[1]}")
        link = await TRANSPORT.connect(address, LinkOptions())
        blocking = await asyncio.to_thread(TRANSPORT.open, address, LinkOptions())
        for _ in range(2):
            sock, _name = server.accept()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()
        buffer = memoryview(bytearray(100))
        with pytest.raises(ConnectionBrokenError, match="reset by peer"):
            await asyncio.wait_for(link.receive_into(buffer), DEADLINE)
        with pytest.raises(ConnectionBrokenError, match="reset by peer"):
            await asyncio.to_thread(blocking.receive_into, buffer, DEADLINE)
        with pytest.raises(ConnectionBrokenError):
            await link.send(ASK)
        await link.close()
        blocking.close()


def test_the_link_of_a_closed_descriptor_never_touches_anothers() -> None:
    """After close the number of the descriptor may belong to somebody else: nothing is registered for it any more."""

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = Address("tcp", f"127.0.0.1:{server.getsockname()[1]}")
            link = await TRANSPORT.connect(address, LinkOptions())
            fd = link._fd
            waiting = asyncio.create_task(link.receive_into(memoryview(bytearray(10))))
            await asyncio.sleep(0)
            await link.close()
            read, write = os.pipe()
            try:
                if read == fd:
                    seen = asyncio.Event()
                    asyncio.get_running_loop().add_reader(read, seen.set)
                    assert await waiting == 0
                    os.write(write, b"x")
                    await asyncio.wait_for(seen.wait(), DEADLINE)
                    asyncio.get_running_loop().remove_reader(read)
                else:
                    assert await waiting == 0
            finally:
                os.close(read)
                os.close(write)

    run("asyncio", main())


@pytest.mark.parametrize("left", [True, False])
def test_a_blocking_link_waits_as_long_as_it_is_told(left: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a second object that waits, and where the system has no descriptor left for it."""
    near, far = socket.socketpair()
    if not left:
        monkeypatch.setattr(socket.socket, "dup", lambda _: (_ for _ in ()).throw(OSError(errno.EMFILE, "none left")))
    link = BlockingSocketLink(near, "test")
    monkeypatch.undo()
    buffer = memoryview(bytearray(10))
    for seconds in (0.0, 0.01, 0.0, 0.02):
        with pytest.raises(TimeoutError):
            link.receive_into(buffer, seconds)
    monkeypatch.setattr("cmd_server.links._LONG", 0.01)  # so that it has to wait again and again
    later = threading.Timer(0.1, far.send, (b"abc",))
    later.start()
    assert link.receive_into(buffer) == 3
    link.send(b"x" * 10)
    assert far.recv(20) == b"x" * 10
    far.send(b"de")
    assert link.receive_into(buffer, 0.0) == 2
    later.join()
    later = threading.Timer(0.1, link.close)
    later.start()
    assert link.receive_into(buffer) == 0
    later.join()
    assert near.fileno() == -1
    assert far.recv(1) == b""  # no other descriptor keeps it open
    assert link.receive_into(buffer, 0.0) == 0
    far.close()


def test_a_connection_that_times_out_is_broken() -> None:
    near, far = socket.socketpair()
    link = BlockingSocketLink(near, "test")

    class Gone:
        def settimeout(self, seconds: float) -> None:
            pass

        def recv_into(self, buffer: memoryview) -> int:
            raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")

        close = near.close

    assert link._waiting is not None
    link._waiting.close()
    link._waiting = Gone()  # type: ignore[assignment]
    with pytest.raises(ConnectionBrokenError, match="test: no answer in time"):
        link.receive_into(memoryview(bytearray(1)), 1.0)
    link.close()
    far.close()

"""Unix sockets: modes, files that were left behind, and files that are not ours."""

# ruff: noqa: ASYNC240  one look at a small file

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from raw_client import DEADLINE, Raw

from cmd_common.errors import UsageError
from cmd_server.errors import ConnectionBrokenError, ServerError
from cmd_server.messages import Template
from cmd_server.server import Server
from cmd_server.transport import Address, LinkOptions, ListenOptions
from cmd_server.unix import TRANSPORT, _bind


@pytest.mark.parametrize(("option", "mode"), [("", 0o600), ("?mode=660", 0o660), ("?mode=0777", 0o777)])
@pytest.mark.parametrize("umask", [0o022, 0o077, 0])
async def test_the_file_has_the_mode_that_was_asked_for(tmp_path: Path, option: str, mode: int, umask: int) -> None:
    old = os.umask(umask)
    try:
        async with Server() as server:
            await server.listen(f"unix:{tmp_path}/s{option}")
            found = os.stat(tmp_path / "s")
            assert stat.S_ISSOCK(found.st_mode)
            assert stat.S_IMODE(found.st_mode) == mode
        assert not os.path.lexists(tmp_path / "s")
    finally:
        os.umask(old)


async def test_a_file_that_a_dead_server_left_is_replaced(tmp_path: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "s"))
    left.listen()
    left.close()
    address = Address.parse(f"unix:{tmp_path}/s")
    with pytest.raises(ConnectionBrokenError, match="nobody listens there; is the server running"):
        await TRANSPORT.connect(address, LinkOptions())
    async with Server() as server:
        await server.listen(address)
        client = await Raw.connect(address)
        await client.messages(Template.HELLO)
        client.close()


_CHILD = """
import asyncio, sys
from cmd_server.server import Server
async def main():
    server = Server()
    await server.listen("unix:" + sys.argv[1])
    print("ready", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


def test_a_killed_server_starts_again_at_the_same_path(tmp_path: Path) -> None:
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", _CHILD, str(tmp_path / "s")], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            TRANSPORT.open(Address.parse(f"unix:{tmp_path}/s"), LinkOptions()).close()
            child.send_signal(signal.SIGKILL)
        assert (tmp_path / "s").exists()  # nobody has removed it


async def test_a_server_that_listens_there_is_left_alone(tmp_path: Path) -> None:
    async with Server() as first, Server() as second:
        listener = await first.listen(f"unix:{tmp_path}/s")
        with pytest.raises(ServerError, match="another server listens there; stop it or choose another path"):
            await second.listen(f"unix:{tmp_path}/s")
        client = await Raw.connect(listener.address)
        await client.messages(Template.HELLO)
        client.close()


async def test_one_with_a_full_backlog_counts_as_listening(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(tmp_path / "s"))
        busy.listen(0)
        waiting.connect(str(tmp_path / "s"))
        async with Server() as server:
            with pytest.raises(ServerError, match="another server listens there"):
                await server.listen(f"unix:{tmp_path}/s")
        options = LinkOptions(timeout=50_000_000)
        for opening in (TRANSPORT.connect, lambda *a: asyncio.to_thread(TRANSPORT.open, *a)):
            with pytest.raises(ConnectionBrokenError, match="no answer in time"):
                await opening(Address.parse(f"unix:{tmp_path}/s"), options)


async def test_who_keeps_the_lock_of_the_directory_does_not_stop_the_server_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmd_server.unix._TURN", 0.05)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        async with Server() as server:
            with pytest.raises(ServerError, match="another program holds the lock of"):
                await server.listen(f"unix:{tmp_path}/s")
    finally:
        os.close(fd)
    async with Server() as server:
        await server.listen(f"unix:{tmp_path}/s")


async def test_a_stale_file_of_another_user_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "s"))

    def refuse(path: str) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("cmd_server.unix.os.unlink", refuse)
    async with Server() as server:
        with pytest.raises(ServerError, match="cannot be removed: Operation not permitted; it may be another user's"):
            await server.listen(f"unix:{tmp_path}/s")
    monkeypatch.undo()


async def test_what_is_no_socket_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to("file")
    async with Server() as server:
        for name in ("file", "link"):
            with pytest.raises(ServerError, match="a file that is no socket is there; choose another path"):
                await server.listen(f"unix:{tmp_path}/{name}")
    assert (tmp_path / "file").read_text() == "precious"
    assert (tmp_path / "link").is_symlink()


async def test_only_our_own_file_is_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with Server() as server:
        await server.listen(f"unix:{path}")
        path.unlink()
        other = socket.socket(socket.AF_UNIX)
        other.bind(str(path))
    assert path.exists()
    other.close()
    async with Server() as server:
        await server.listen(f"unix:{path}")
        path.unlink()  # gone already: no reason to fail


async def test_a_relative_path_is_removed_wherever_the_process_is_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    async with Server() as server:
        await server.listen("unix:s")
        assert (tmp_path / "s").exists()
        monkeypatch.chdir(tmp_path / "elsewhere")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("unix:" + "/a" * 60, "107 bytes at most; choose a shorter one"),
        ("unix:@", "names no socket"),
        ("unix:/tmp/", "names no socket"),
        ("unix:/none/such/dir/s", "/none/such/dir: No such file or directory; create it first"),
        ("unix:/a?mode=888", "no number from 0 to 777"),
        ("unix:@x?mode=600", "has no file, hence no mode"),
        ("unix:/a?mod=600", "did you mean mode"),
    ],
)
async def test_wrong_addresses_are_one_clear_line(text: str, part: str) -> None:
    async with Server() as server:
        with pytest.raises((UsageError, ServerError)) as caught:
            await server.listen(text)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_clients_are_told_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConnectionBrokenError, match=r"No such file.*is this its path"):
        await TRANSPORT.connect(Address.parse(f"unix:{tmp_path}/none"), LinkOptions())
    with pytest.raises(ConnectionBrokenError, match=r"No such file.*is this its path"):
        await asyncio.to_thread(TRANSPORT.open, Address.parse(f"unix:{tmp_path}/none"), LinkOptions())
    with pytest.raises(ConnectionBrokenError, match="nobody listens"):
        await TRANSPORT.connect(Address.parse(f"unix:@none-{os.getpid()}"), LinkOptions())
    with pytest.raises(UsageError, match="option for the server's side"):
        await TRANSPORT.connect(Address.parse(f"unix:{tmp_path}/s?mode=600"), LinkOptions())


async def test_an_abstract_name_leaves_no_file_and_is_taken_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"unix:@cmd-abstract-{os.getpid()}"
    async with Server() as first, Server() as second:
        await first.listen(name)
        with pytest.raises(ServerError, match="in use"):
            await second.listen(name)
        client = await Raw.connect(Address.parse(name))
        await client.messages(Template.HELLO)
        client.close()
    assert not list(tmp_path.iterdir())
    async with Server() as third:
        await third.listen(name)  # free again


def test_of_servers_that_find_a_stale_file_at_once_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "s"
    address = Address.parse(f"unix:{path}")
    for _ in range(30):
        with socket.socket(socket.AF_UNIX) as stale:
            path.unlink(missing_ok=True)
            stale.bind(str(path))
        won: list[socket.socket] = []
        lost: list[ServerError] = []
        start = threading.Barrier(4)

        def race(
            start: threading.Barrier = start, won: list[socket.socket] = won, lost: list[ServerError] = lost
        ) -> None:
            start.wait(DEADLINE)
            try:
                won.append(_bind(address, ListenOptions(), 0o600)[0])
            except ServerError as error:
                lost.append(error)

        threads = [threading.Thread(target=race) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert (len(won), len(lost)) == (1, 3)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))  # the winner is who is reached
            won[0].accept()[0].close()
        won[0].close()

"""What happens over Aeron when something breaks: servers, drivers and clients are processes that die, stand still, or
find no room. Every number of a client comes once or is told to be lost, or the client ends with one clear line."""

from __future__ import annotations

import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aeron_fault_parts import DEADLINE, Part, Parts, beside, driver, hearts, roomy, until
from aeron_raw import folder, present, publications
from tests.conftest import require


@pytest.fixture(autouse=True)
def _present() -> None:
    present()


@pytest.fixture
def place() -> Iterator[Path]:
    with folder() as path:
        yield path / "d"


@pytest.fixture
def parts() -> Iterator[Parts]:
    with Parts() as found:
        yield found


def at(place: Path, more: str = "", medium: str = "ipc") -> str:
    """A server's address."""
    return f"aeron:{medium}?dir={place}&term-length=64k&liveness=1500ms" + (f"&{more}" if more else "")


def of(place: Path) -> str:
    """The same for its clients."""
    return f"aeron:ipc?dir={place}"


def joined(server: Part, clients: list[Part]) -> None:
    """Wait until all clients will get what is published from now on."""
    server.until(lambda s: s["ports"] == s["subscribed"] == len(clients))


def nothing_left(place: Path) -> None:
    until(lambda: list(place.parent.iterdir()) == [])


# -- drivers


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_driver_that_ends_and_runs_again(place: Path, parts: Parts, how: signal.Signals) -> None:
    with driver(place) as first:
        server = parts.server(at(place, "driver=external"))
        clients = parts.clients(of(place))
        joined(server, clients)
        server.ask("publish 300")
        for client in clients:
            client.reaches(300)
        first.send_signal(how)
        first.wait(DEADLINE)
    for client in clients:
        client.until(lambda c: not c["connected"])
    late = parts.client("threads", of(place))
    assert late.first["error"] == "ConnectionBrokenError"
    assert f"no media driver runs in {place}" in late.first["text"] or "cannot send by Aeron now" in late.first["text"]
    server.until(lambda s: s["ports"] == 0)
    server.ask("publish 200")
    with driver(place):
        for client in clients:
            client.until(lambda c: c["connected"])
        joined(server, clients)
        assert server.ask("publish 100")["rebuilt"] >= 1
        for client in clients:
            found = client.reaches(600)
            assert (found["first"], found["received"], found["told"]) == (1, 600, 0)
        assert server.said().count("is gone") == 1


def test_a_server_that_may_takes_the_place_of_a_killed_driver(place: Path, parts: Parts) -> None:
    with driver(place) as first:
        server = parts.server(at(place))
        clients = parts.clients(of(place))
        joined(server, clients)
        server.ask("publish 10")
        for client in clients:
            client.reaches(10)
        first.kill()
        first.wait(DEADLINE)
        server.until(lambda s: s["rebuilt"] == 1)
        joined(server, clients)
        server.ask("publish 10")
        for client in clients:
            assert client.reaches(20)["told"] == 0


def test_a_directory_that_is_deleted_under_a_running_driver(place: Path, parts: Parts) -> None:
    with driver(place) as first:
        server = parts.server(at(place, "driver=external"))
        clients = parts.clients(of(place))
        joined(server, clients)
        server.ask("publish 10")
        for client in clients:
            client.reaches(10)
        shutil.rmtree(place)
        assert first.wait(DEADLINE) == 1
        assert first.stderr is not None
        (line,) = first.stderr.read().splitlines()
        assert f"the directory {place} was deleted under the running driver" in line
    with driver(place):
        server.until(lambda s: s["rebuilt"] == 1)
        joined(server, clients)
        server.ask("publish 10")
        for client in clients:
            assert client.reaches(20)["told"] == 0


def test_a_directory_that_is_deleted_under_a_serving_server(place: Path, parts: Parts) -> None:
    server = parts.server(at(place))
    clients = parts.clients(of(place))
    joined(server, clients)
    server.ask("publish 10")
    for client in clients:
        client.reaches(10)
    shutil.rmtree(place)
    server.until(lambda s: s["rebuilt"] == 1)
    assert place.is_dir()
    clients += parts.clients(of(place))
    joined(server, clients)
    server.ask("publish 10")
    for client in clients:
        assert client.reaches(20)["told"] == 0


def test_a_directory_that_is_deleted_under_a_shared_stream(place: Path, parts: Parts) -> None:
    server = parts.server(at(place, "shared=1"))
    clients = parts.clients(f"{of(place)}&shared=1")
    server.until(lambda s: s["subscribed"] == 3)  # the stream itself is one
    server.ask("publish 10")
    for client in clients:
        client.reaches(10)
    shutil.rmtree(place)
    server.until(lambda s: s["rebuilt"] == 1)
    assert place.is_dir()
    # Control carries everything meanwhile; when it is over the stream does again.
    before = server.ask()["packets"]
    total = server.until(lambda s: s["packets"] > before, "publish 5")["published"]
    for client in clients:
        found = client.reaches(total)
        assert (found["received"], found["told"], found["connects"]) == (total, 0, 1)


def test_files_of_another_version_are_one_line_for_both_sides(place: Path, parts: Parts) -> None:
    server = parts.server(at(place))
    other = place.parent / "other"
    other.mkdir()
    shutil.copy(place / "cnc.dat", other)
    with (other / "cnc.dat").open("r+b") as file:
        file.write(struct.pack("<i", 2 << 16))
    control = f"control=unix:{place}.control"
    for failed in (
        *(parts.client(kind, f"{of(other)}&{control}") for kind in ("threads", "asyncio")),
        *(parts.server(at(other, f"driver={choice}")) for choice in ("auto", "embedded", "external")),
    ):
        assert "2.0.0" in failed.first["text"], failed.first
        assert "\n" not in failed.first["text"]
        assert failed.process.wait(DEADLINE) == 1
    (client,) = [parts.client("asyncio", of(place))]
    joined(server, [client])
    server.ask("publish 1")
    client.reaches(1)


def test_a_driver_that_another_version_follows(place: Path, parts: Parts) -> None:
    """A running server meets files that it cannot read: it says so once, and goes on when it can."""
    with driver(place) as first:
        server = parts.server(at(place, "driver=external"))
        (client,) = [parts.client("threads", of(place))]
        joined(server, [client])
        first.kill()
        first.wait(DEADLINE)
        with (place / "cnc.dat").open("r+b") as file:
            file.write(struct.pack("<i", 2 << 16))
        client.until(lambda c: not c["connected"] and any("2.0.0" in reason for reason in c["reasons"]))
        server.until(lambda s: s["ports"] == 0)
        shutil.rmtree(place)
    with driver(place):
        joined(server, [client])
        server.ask("publish 5")
        client.reaches(5)
        assert server.said().count("is gone") == 1


@pytest.mark.parametrize("more", ["", "&shared=1"])
def test_a_server_that_ends_while_it_looks_for_a_driver(place: Path, parts: Parts, more: str) -> None:
    with driver(place) as first:
        server = parts.server(at(place, "driver=external") + more)
        first.kill()
        first.wait(DEADLINE)
        until(lambda: "is gone" in server.said() or "is lost" in server.said())
    server.close()  # looking takes over a second where a driver was killed: nearly always in the middle of it
    assert server.process.returncode == 0


# -- clients


def test_clients_that_are_killed_leave_nothing_and_hold_up_nobody(place: Path, parts: Parts) -> None:
    server = parts.server(at(place))
    clients = parts.clients(of(place), "drop-oldest", 50)
    (other,) = [parts.client("asyncio", of(place), "disconnect", 100_000)]
    joined(server, [*clients, other])
    server.ask("publish 20")
    for client in clients:
        client.stop()  # so that they are back-pressured when they die
    server.until(lambda s: s["blocked"] == 2, "publish 100")
    for client in clients:
        client.kill()
    total = server.until(lambda s: s["ports"] == s["sessions"] == 1, "publish 10")["published"]
    found = other.reaches(total)
    assert (found["received"], found["connects"], found["told"]) == (total, 1, 0)
    until(lambda: publications(str(place)) == 1)
    clients = parts.clients(of(place))
    joined(server, [*clients, other])
    server.ask("publish 5")
    for client in (*clients, other):
        client.reaches(total + 5)


def test_clients_that_stood_still_for_longer_than_they_may(place: Path, parts: Parts) -> None:
    server = parts.server(at(place))
    clients = parts.clients(of(place))
    joined(server, clients)
    server.ask("publish 30")
    for client in clients:
        client.reaches(30)
    assert hearts(place) == 3
    for client in clients:
        client.stop()
    server.ask("publish 500")
    until(lambda: hearts(place) == 1)
    server.until(lambda s: s["ports"] == 0)
    server.ask("publish 100")
    for client in clients:
        client.go_on()
    joined(server, clients)
    server.ask("publish 10")
    for client in clients:
        found = client.reaches(640)
        assert found["received"] + found["told"] == 640
        assert found["connects"] > 1


@pytest.mark.parametrize("policy", ["conflate", "drop-oldest", "disconnect"])
def test_clients_that_stand_still_meet_their_policy_alone(place: Path, parts: Parts, policy: str) -> None:
    server = parts.server(at(place).replace("1500ms", "600s"))
    clients = parts.clients(of(place), policy, 400)
    (other,) = [parts.client("threads", of(place), "disconnect", 100_000)]
    joined(server, [*clients, other])
    server.ask("publish 20")
    for client in (*clients, other):
        client.reaches(20)
    for client in clients:
        client.stop()
    for _ in range(12):
        total = server.ask("publish 500")["published"]
    assert other.reaches(total)["received"] == total
    if policy == "drop-oldest":
        assert server.ask()["clients"] == 3
    else:
        server.until(lambda s: s["byes"].get("slow", 0) == 2)
    for client in clients:
        client.go_on()
    joined(server, [*clients, other])
    total = server.ask("publish 10")["published"]
    for client in clients:
        found = client.reaches(total)
        assert found["told"] > 0
        assert found["received"] + found["told"] == total
        # Trades cannot be conflated: who does not take them is let go.
        assert ("slow" in found["codes"]) == (policy != "drop-oldest"), found
    found = other.reaches(total)
    assert (found["received"], found["connects"]) == (total, 1)


# -- servers


def test_a_publisher_that_is_killed_and_starts_again_at_the_same_driver(place: Path, parts: Parts) -> None:
    """The driver lives on, and with it the images of the old publications for a while."""
    with driver(place):
        clients: list[Part] = []
        first = 1
        for run in range(3):
            server = parts.server(at(place, "driver=external"), first=first)
            clients = clients or parts.clients(of(place))
            joined(server, clients)
            total = server.ask("publish 200")["published"]
            for client in clients:
                found = client.reaches(total)
                assert (found["received"], found["told"], found["restarts"]) == (total, 0, run)
            server.kill()
            first = total + 1


def test_a_server_that_stood_still_for_longer_than_it_may(place: Path, parts: Parts) -> None:
    with driver(place):
        server = parts.server(at(place, "driver=external"))
        clients = parts.clients(of(place))
        joined(server, clients)
        server.ask("publish 50")
        for client in clients:
            client.reaches(50)
        server.stop()
        until(lambda: hearts(place) == 2)
        server.go_on()
        server.until(lambda s: s["rebuilt"] >= 1)
        joined(server, clients)
        server.ask("publish 50")
        for client in clients:
            found = client.reaches(100)
            assert (found["received"], found["told"]) == (100, 0)


def test_a_server_that_stood_still_with_its_driver(place: Path, parts: Parts) -> None:
    server = parts.server(at(place))
    clients = parts.clients(of(place))
    joined(server, clients)
    server.ask("publish 50")
    for client in clients:
        client.reaches(50)
    server.stop()
    time.sleep(2.5)  # longer than its liveness; nothing is expected of these seconds
    server.go_on()
    total = server.ask("publish 50")["published"]
    joined(server, clients)
    total = server.ask("publish 50")["published"]
    for client in clients:
        found = client.reaches(total)
        assert (found["received"], found["told"]) == (total, 0)


# -- UDP


def test_an_endpoint_that_is_closing(place: Path, parts: Parts) -> None:
    """A client that comes back receives where it received before: Aeron refuses that for a moment (-10)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    control = f"unix:{place.parent}/s"
    with driver(place):
        server = parts.server(at(place, f"control={control}", "udp"))
        address = f"aeron:udp?dir={place}&control={control}&endpoint=127.0.0.1:{port}"
        for kind in ("threads", "asyncio"):
            total = server.ask()["published"]
            client = parts.client(kind, address)
            joined(server, [client])
            for n in range(1, 5):
                total = server.ask("publish 25")["published"]
                client.reaches(total)
                server.ask("drop")
                server.until(lambda s: not s["sessions"])
                client.until(lambda c, n=n: c["connects"] > n)
                joined(server, [client])
            total = server.ask("publish 25")["published"]
            found = client.reaches(total)
            assert found["told"] == 0
            assert not [reason for reason in found["reasons"] if "closed a moment ago" in reason], found
            client.close()
            server.until(lambda s: not s["sessions"])


# -- no room


def _needs_room(place: Path) -> None:
    place.mkdir(exist_ok=True)
    able = all(map(shutil.which, ("unshare", "nsenter", "mount")))
    able = able and not subprocess.run([*roomy("1m", place), "true"], capture_output=True, check=False).returncode
    require("mount namespaces", able, "this test mounts a small tmpfs (unshare -m, nsenter)")


def test_a_server_without_room_for_its_driver_says_one_line(place: Path, parts: Parts) -> None:
    room = place.parent
    _needs_room(room)
    failed = parts.server(at(place), prefix=roomy("4m", room))
    assert failed.first["error"] == "ServerError"
    assert "no room" in failed.first["text"]
    assert "\n" not in failed.first["text"]
    assert failed.process.wait(DEADLINE) == 1


def test_clients_without_room_wait_while_the_others_go_on(place: Path, parts: Parts) -> None:
    """Room for the driver (12 MB) and two publications (12 MB each) of 40 MB."""
    room = place.parent
    _needs_room(room)
    control = f"unix:{room}/s"
    server = parts.server(at(place, f"control={control}").replace("64k", "4m"), prefix=roomy("40m", room))
    there = beside(server.pid)
    address = f"{of(place)}&control={control}"
    clients: list[Part] = []
    for kind in ("threads", "asyncio"):
        clients.append(parts.client(kind, address, prefix=there))
        joined(server, clients)
    late = [parts.client(kind, address, prefix=there) for kind in ("threads", "asyncio")]
    for client in late:
        found = client.until(lambda c: c["reasons"])
        for reason in found["reasons"]:
            assert reason.startswith("the server does not send by Aeron: no room for the exclusive publication")
            assert "\n" not in reason
    server.ask("publish 100")
    for client in clients:
        found = client.reaches(100)
        assert (found["received"], found["connects"]) == (100, 1)
    # Whoever leaves makes room.
    clients[0].close()
    clients[1].kill()
    for client in late:

        def served(_: object, client: Part = client) -> bool:
            return bool(client.ask()["received"])

        server.until(served, "publish 1")
    total = server.ask("publish 100")["published"]
    for client in late:
        assert client.reaches(total)["told"] == 0


def test_a_client_without_room_for_its_own_driver_says_one_line(place: Path, parts: Parts) -> None:
    room = place.parent
    _needs_room(room)
    with folder() as other:
        control = "tcp:127.0.0.1:0"
        server = parts.server(f"aeron:udp?dir={other}/d&term-length=64k&control={control}", control)
        address = f"aeron:udp?driver=embedded&dir={place}&control={server.first['addresses'][1]}"
        for kind in ("threads", "asyncio"):
            failed = parts.client(kind, address, prefix=roomy("4m", room))
            assert failed.first["error"] == "ConnectionBrokenError"
            assert "no room" in failed.first["text"]
            assert failed.process.wait(DEADLINE) == 1
        server.close()

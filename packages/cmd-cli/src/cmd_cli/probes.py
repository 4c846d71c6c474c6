"""Gathering the facts of ``cmd-cli doctor``: thin, and each thing looked at once. What cannot be found is a fact."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from cmd_common.errors import CmdError
from cmd_common.http import HttpRequest

from . import doctor
from .doctor import Line

if TYPE_CHECKING:
    from cmd_common.exchange import Endpoints, Exchange

__all__ = ["datagrams", "listeners", "machine", "network", "stored"]

_SAMPLE = 8 << 20  # bytes written to measure a disk


def machine() -> Iterator[Line]:
    """Python, packages, native core, Aeron and the limit of open files."""
    from importlib import import_module, metadata
    from importlib.util import find_spec

    yield doctor.python(sys.version_info[:3])
    members = {d.name: d.version for d in metadata.distributions() if d.name.startswith("cmd-") and _ours(d)}
    yield doctor.packages(members)
    error = ""
    core, media = "cmd_native", "cmd_aeron"  # optional: nothing here declares them
    installed = find_spec(core) is not None
    if installed:
        try:
            import_module(core)
        except Exception as failure:
            error = " ".join(str(failure).split())
    yield doctor.native(installed, os.environ.get("CMD_PURE", "") not in ("", "0"), error)
    if find_spec(media) is not None:
        try:
            version = import_module(media).version()
            yield Line("aeron", "ok", f"driver {version}")
        except Exception as failure:
            words = " ".join(str(failure).split())
            yield Line("aeron", "fail", f"cmd-aeron does not load: {words}", "reinstall cmd-aeron")
    try:
        import resource
    except ModuleNotFoundError:  # not on Windows, which has no such limit
        return
    yield doctor.files_limit(*resource.getrlimit(resource.RLIMIT_NOFILE))


def _ours(distribution: object) -> bool:
    """Whether a distribution is a member: one of ours has a package of its name, with ``_``."""
    from importlib.util import find_spec

    name = str(getattr(distribution, "name", "")).replace("-", "_")
    return find_spec(name) is not None


def stored(url: str) -> Iterator[Line]:
    """Space and speed of the disk of a store in a folder, version and schema of any store."""
    from cmd_common.config import mask
    from cmd_common.io import open_admin

    scheme, _, location = url.partition(":")
    absent = False
    if scheme == "parquet":
        import shutil

        folder = Path(location)
        absent = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
        while not folder.exists() and folder != folder.parent:  # a store to be made: its nearest folder
            folder = folder.parent
        usage = shutil.disk_usage(folder)
        yield doctor.disk(str(folder), usage.free, usage.total)
        yield _speed(folder)
    shown = str(mask(url))
    if absent:
        yield doctor.store(shown, None, absent=True)
        return
    try:
        with open_admin(url) as admin:
            status = admin.status()
    except (CmdError, OSError) as error:
        yield doctor.store(shown, None, str(mask(str(error))))
    else:
        yield doctor.store(shown, status)


def _speed(folder: Path) -> Line:
    import tempfile

    block = os.urandom(1 << 20)
    try:
        with tempfile.TemporaryFile(dir=folder) as f:  # leaves nothing, even if killed
            began = time.monotonic_ns()
            for _ in range(_SAMPLE // len(block)):
                f.write(block)
            f.flush()
            os.fsync(f.fileno())
            return doctor.speed(str(folder), _SAMPLE, time.monotonic_ns() - began)
    except OSError as error:
        return doctor.speed(str(folder), 0, 0, error.strerror or str(error))


def network(venues: Sequence[str], endpoints: Mapping[str, str], proxy: str) -> Iterator[Line]:
    """Each venue's REST address, clock, rate budget, stream, and the host of its bulk files.

    One request an address, and one WebSocket that is opened and closed.
    """
    from cmd_common import registry
    from cmd_common.exchange import server_time

    exchanges = {venue: registry.exchange(venue) for venue in venues}
    places = {}
    for venue, exchange in exchanges.items():
        url = endpoints.get(venue) or endpoints.get("")
        places[venue] = exchange.endpoints.override(url) if url else exchange.endpoints
    asked = {}
    for venue, exchange in exchanges.items():
        at, time_at = places[venue], server_time(exchange)
        first = HttpRequest(at.rest + time_at.path) if time_at else exchange.instruments_request(at)
        bulk = [HttpRequest(f"{at.archive}/?delimiter=/&prefix=")] if at.archive else []
        asked[venue] = [first, *bulk]
    streams = {venue: stream for venue in venues if (stream := _stream(exchanges[venue], places[venue]))}
    answers = registry.command("probe")(asked, proxy, streams)
    for venue, exchange in exchanges.items():
        answer = answers[venue][0]
        yield doctor.endpoint(venue, _host(asked[venue][0].url), answer.response, answer.kind, answer.error)
        if answer.response is not None and answer.response.status < 400:
            offset = doctor.offset(server_time(exchange), answer.response, answer.sent, answer.received)
            yield doctor.clock(venue, offset, local=_loopback(urlsplit(asked[venue][0].url).hostname or ""))
            used = exchange.used_weight(answer.response)
            yield doctor.budget(venue, used, exchange.limits.weight_per_minute)
        more = ["archive"] * (len(asked[venue]) - 1) + ["stream"] * (venue in streams)
        where = [_host(r.url) for r in asked[venue][1:]] + ([_host(streams[venue])] if venue in streams else [])
        for what, host, found in zip(more, where, answers[venue][1:], strict=True):
            yield doctor.endpoint(venue, host, found.response, found.kind, found.error, what=what)


def _stream(exchange: Exchange, at: Endpoints) -> str:
    """The WebSocket URL that a recorder of this exchange would open; empty where it cannot be told."""
    from decimal import Decimal

    from cmd_common.feed import Subscription
    from cmd_common.instruments import Instrument

    some = Instrument(exchange.venue, "BTCUSDT", "BTC", "USDT", "spot", Decimal("0.01"), Decimal("0.01"))
    try:
        feeds = exchange.feeds(Subscription((some.symbol,), exchange.types[:1]), {some.symbol: some}, at)
    except CmdError:
        return ""
    return feeds[0].url if feeds else ""


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _loopback(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def listeners(addresses: Mapping[str, str]) -> Iterator[Line]:
    """Whether the ports of listeners, name to ``HOST:PORT``, are free; port 0 is always."""
    for name, address in addresses.items():
        host, _, number = address.rpartition(":")
        host = host.strip("[]")
        if not number.isdigit() or int(number) == 0:
            continue
        error = ""
        try:
            family, kind, _, _, at = socket.getaddrinfo(host, int(number), type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind) as s:
                if os.name == "posix":
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                s.bind(at)
        except (OSError, OverflowError) as failure:
            error = getattr(failure, "strerror", None) or str(failure)
        yield doctor.port(name, address, error.lower(), _owner(int(number)) if error else "")


def datagrams(addresses: Mapping[str, str]) -> Iterator[Line]:
    """Multicast groups and Aeron's directory of listeners, name to address without its scheme's colon parted off."""
    for name, address in addresses.items():
        scheme, _, rest = address.partition(":")
        target, _, query = rest.partition("?")
        options = {key: values[-1] for key, values in parse_qs(query).items()}
        if scheme == "multicast":
            yield doctor.multicast(name, target, _group_error(target, options.get("interface", "")))
        elif scheme == "aeron":
            yield _shared_memory(options.get("dir", ""))


def _group_error(target: str, interface: str) -> str:
    """Why datagrams cannot be sent to a group; empty where they can. Nothing is sent."""
    import ipaddress

    host, _, number = target.rpartition(":")
    try:
        group = ipaddress.ip_address(host.strip("[]"))
        if not group.is_multicast or not number.isdigit():
            return "not a multicast group and a port"
        family = socket.AF_INET if group.version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            if interface and group.version == 4:
                s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(interface))
            s.connect((str(group), int(number)))
    except ValueError:
        return "not a multicast group and a port"
    except (OSError, OverflowError) as failure:
        return (getattr(failure, "strerror", None) or str(failure)).lower()
    return ""


def _shared_memory(folder: str) -> Line:
    import shutil

    folder = folder or ("/dev/shm" if os.path.isdir("/dev/shm") else "")
    place = Path(folder or ".")
    while not place.exists() and place != place.parent:
        place = place.parent
    if not os.access(place, os.W_OK):
        return doctor.shared_memory(folder, None, "cannot be written")
    return doctor.shared_memory(folder or str(place.resolve()), shutil.disk_usage(place).free)


def _owner(number: int) -> str:
    """The program that listens on a TCP port, as Linux tells its own user; empty if it cannot be found."""
    wanted = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            cells = row.split()
            if cells[3] == "0A" and int(cells[1].rpartition(":")[2], 16) == number:
                wanted.add(f"socket:[{cells[9]}]")
    if not wanted:
        return ""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(fd) in wanted for fd in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:
            continue
    return ""

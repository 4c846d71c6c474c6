"""The checks of ``cmd-cli doctor``: pure functions from facts to lines; ``probes`` gathers the facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from cmd_common.exchange import ServerTime
from cmd_common.http import HttpResponse

__all__ = [
    "Line",
    "budget",
    "clock",
    "disk",
    "endpoint",
    "files_limit",
    "multicast",
    "native",
    "offset",
    "packages",
    "port",
    "python",
    "shared_memory",
    "speed",
    "store",
    "worst",
]

State = Literal["ok", "warn", "fail"]
_MS: Final = 1_000_000
_SECOND: Final = 1_000_000_000
_MIB: Final = 1 << 20
_GIB: Final = 1 << 30


class Line(Struct, frozen=True):
    """One line of the doctor: what was looked at, its state, what was found, and what to do (empty if ok)."""

    check: str
    state: State
    found: str
    todo: str = ""


def python(version: tuple[int, int, int]) -> Line:
    """Python 3.11 to 3.13 is tested; an older one fails, a newer one is a warning."""
    text = ".".join(map(str, version))
    if version < (3, 11, 0):
        return Line("python", "fail", text, "install Python 3.11, 3.12 or 3.13")
    if version >= (3, 14, 0):
        return Line("python", "warn", f"{text}, which is not tested", "use Python 3.11, 3.12 or 3.13")
    return Line("python", "ok", text)


def packages(versions: Mapping[str, str]) -> Line:
    """All distributions of the project must have one version."""
    if not versions:
        return Line("packages", "fail", "none of the project is installed", "pip install cmd-cli")
    distinct = sorted(set(versions.values()))
    if len(distinct) == 1:
        return Line("packages", "ok", f"{len(versions)} of version {distinct[0]}")
    words = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return Line("packages", "fail", f"versions differ: {words}", "upgrade all of them together")


def native(installed: bool, pure: bool, error: str) -> Line:
    """Whether the parts in Rust run; without them all works, only slower."""
    if error:
        return Line("native core", "fail", f"installed, but does not load: {error}", "reinstall cmd-native")
    if not installed:
        return Line("native core", "warn", "not installed: Python's parts run, slower", "pip install cmd-native")
    if pure:
        return Line("native core", "warn", "switched off by CMD_PURE", "unset CMD_PURE")
    return Line("native core", "ok", "loaded")


_KINDS: Final[Mapping[str, tuple[str, str]]] = {
    "dns": ("the name is not found", "check the name and this machine's DNS (resolv.conf)"),
    "tls": ("TLS failed", "check the certificates, the clock, and for a proxy that opens TLS"),
    "refused": ("the connection was refused", "check the endpoint's port, the firewall, and that it runs"),
    "timeout": ("no answer in time", "check the network and the firewall; a proxy may be needed (--proxy)"),
    "proxy": ("the proxy failed", "check --proxy, HTTPS_PROXY and that the proxy runs"),
}


def endpoint(
    venue: str, host: str, response: HttpResponse | None, kind: str, error: str, *, what: str = "endpoint"
) -> Line:
    """Whether an address of a venue answers; ``kind`` and ``error`` tell why there is no response.

    ``what`` names it: ``endpoint`` (REST), ``stream`` (WebSocket) or ``archive`` (bulk files).
    """
    check = f"{venue} {what}"
    if response is None:
        words, todo = _KINDS.get(kind, ("no answer", "check the network"))
        return Line(check, "fail", f"{host}: {words} ({error})", todo)
    status = response.status
    if status in (403, 451):
        todo = "the exchange refuses this location or address: use --proxy or --endpoint where its terms allow it"
        return Line(check, "fail", f"{host}: HTTP {status}, restricted", todo)
    if status == 407:
        return Line(check, "fail", f"{host}: HTTP 407, the proxy asks for a login", "put user and password into proxy")
    if status in (418, 429):
        wait = f" for {response.retry_after // _SECOND} s" if response.retry_after else ""
        return Line(check, "fail", f"{host}: HTTP {status}, too many requests", f"make no requests{wait}; then again")
    if status >= 400:
        who = "the exchange has a problem: try later" if status >= 500 else "check --endpoint"
        if what == "archive" and status < 500:  # its root need not be a page
            return Line(check, "ok", f"{host}: HTTP {status}, it answers")
        return Line(check, "fail", f"{host}: HTTP {status}", who)
    if what == "stream":
        if status == 101:
            return Line(check, "ok", f"{host}: a WebSocket opens")
        return Line(
            check, "fail", f"{host}: HTTP {status} and no WebSocket", "check --endpoint, and for a proxy in between"
        )
    return Line(check, "ok", f"{host}: HTTP {status}")


def offset(at: ServerTime | None, response: HttpResponse, sent: int, received: int) -> tuple[int, int] | None:
    """This clock minus the server's and its uncertainty, both ns; None where the answer tells no time (at ``at``, or as Date).

    The server's time is taken to be that of the middle of the round trip, so half of it is the uncertainty;
    for a time in whole seconds half a second is added.
    """
    middle, half = (sent + received) // 2, abs(received - sent) // 2
    if at is not None and response.status < 400:
        unit = at.unit
        try:
            found: Any = msgspec.json.decode(response.body)
            for step in at.fields:
                found = found[step]
            server = int(found) * unit if unit < _SECOND else round(float(found) * 1000) * _MS
        except (msgspec.DecodeError, LookupError, TypeError, ValueError, OverflowError):
            return None
        coarse = unit == _SECOND and server % _SECOND == 0
    else:
        try:
            when = parsedate_to_datetime(response.header("date"))
            server = int(when.replace(tzinfo=when.tzinfo or UTC).timestamp()) * _SECOND
        except (TypeError, ValueError, OverflowError):
            return None
        coarse = True
    if coarse:  # cut off: half a second later on average
        server, half = server + _SECOND // 2, half + _SECOND // 2
    return middle - server, half


def clock(venue: str, found: tuple[int, int] | None, *, local: bool = False) -> Line:
    """The clock against a server's: ok below 250 ms, a warning below 1 s, else a failure.

    What lies within the uncertainty is not held against the clock. A server of this machine (``local``) has the
    same clock: if it tells another time it is a replay or a tunnel, so that is a warning at most.
    """
    check = f"{venue} clock"
    if found is None:
        return Line(check, "warn", "the exchange's answer tells no time", "check the clock by timedatectl")
    away, uncertain = found
    words = f"{away / _MS:+,.0f} ms (+-{uncertain / _MS:,.0f} ms)"
    sure = max(0, abs(away) - uncertain)
    todo = "set the clock by NTP: timedatectl set-ntp true, or chrony"
    if sure >= 250 * _MS and local:
        todo = "a replay has a clock of its own; if this is a tunnel to the exchange, set the clock by NTP"
        return Line(check, "warn", words, todo)
    if sure >= _SECOND:
        return Line(check, "fail", words, todo)
    return Line(check, "warn", words, todo) if sure >= 250 * _MS else Line(check, "ok", words)


def budget(venue: str, used: int | None, limit: int) -> Line:
    """The part of a minute's request weight that this address has used, as the exchange counts it."""
    check = f"{venue} rate budget"
    if used is None or not limit:
        return Line(check, "ok", "the exchange does not tell what is used")
    words = f"{used:,} of {limit:,} a minute are used"
    if used >= limit:
        return Line(check, "fail", words, "stop other programs of this address, wait a minute")
    if used * 5 >= limit * 4:
        return Line(check, "warn", words, "another program of this address makes many requests")
    return Line(check, "ok", words)


def disk(path: str, free: int, total: int) -> Line:
    """Free space where a store lies, bytes: below 1 GiB fails, below 10 GiB or 5 % warns."""
    words = f"{path}: {free / _GIB:,.1f} of {total / _GIB:,.1f} GiB are free"
    if free < _GIB:
        return Line("disk space", "fail", words, "free space, or move the store")
    if free < 10 * _GIB or free * 20 < total:
        return Line("disk space", "warn", words, "watch it; cmd-cli store size says what a day needs")
    return Line("disk space", "ok", words)


def speed(path: str, written: int, elapsed: int, error: str = "") -> Line:
    """Speed of writing with fsync, of ``written`` bytes in ``elapsed`` ns; below 10 MiB/s warns."""
    if error:
        return Line("disk speed", "fail", f"{path}: cannot be written: {error}", "check owner, mode and free space")
    rate = written * _SECOND / max(elapsed, 1) / _MIB
    words = f"{path}: {rate:,.0f} MiB/s"
    if rate < 10:
        return Line("disk speed", "warn", words, "the disk is slow or busy; full books of many symbols may not fit")
    return Line("disk speed", "ok", words)


def store(url: str, status: Mapping[str, Any] | None, error: str = "", absent: bool = False) -> Line:
    """Version and schema of a store, from its ``status``."""
    if absent:
        return Line("store", "ok", f"{url}: not there yet; the first writer makes it")
    if status is None:
        return Line("store", "fail", f"{url}: {error}", "check the address, and cmd-cli store status")
    schema, ours = status.get("schema"), status.get("schema_of_program")
    version = f", server {status['version']}" if status.get("version") else ""
    if schema == "none":
        return Line("store", "ok", f"{url}: no tables yet{version}; the first writer makes them")
    if schema != ours:
        newer = isinstance(schema, int) and isinstance(ours, int) and schema > ours
        todo = "upgrade this program" if newer else "cmd-cli store migrate"
        return Line("store", "fail", f"{url}: schema {schema}, this program has {ours}{version}", todo)
    if problems := status.get("problems"):
        return Line("store", "fail", f"{url}: {problems[0]} ({len(problems)} in all)", "cmd-cli store check --repair")
    return Line("store", "ok", f"{url}: schema {schema}{version}")


def files_limit(soft: int, hard: int) -> Line:
    """The limit of open files; -1 is none. Below 1024 warns, below 256 fails."""
    words = "no limit" if soft < 0 else f"{soft:,} (at most {'any' if hard < 0 else format(hard, ',')})"
    todo = "raise it: ulimit -n 65536, or LimitNOFILE=65536 in the unit"
    if 0 <= soft < 256:
        return Line("open files", "fail", words, todo)
    return Line("open files", "warn", words, todo) if 0 <= soft < 1024 else Line("open files", "ok", words)


def port(name: str, address: str, error: str, owner: str) -> Line:
    """Whether a configured listener's port is free; a port in use is a warning: it may be our own server."""
    check = f"port of {name}"
    if not error:
        return Line(check, "ok", f"{address} is free")
    if owner or "in use" in error:
        who = f" by {owner}" if owner else ""
        return Line(check, "warn", f"{address} is in use{who}", "fine if it is this server; else choose another port")
    return Line(check, "fail", f"{address}: {error}", "listen at an address that this machine has")


def multicast(name: str, address: str, error: str) -> Line:
    """Whether datagrams can be sent to a configured group over its interface."""
    check = f"group of {name}"
    if error:
        todo = "give a group of 224.0.0.0/4 or ff00::/8, and ?interface=ADDRESS of this machine"
        return Line(check, "fail", f"{address}: {error}", todo)
    return Line(check, "ok", f"{address} can be sent to")


def shared_memory(folder: str, free: int | None, error: str = "") -> Line:
    """Room for Aeron's term buffers where a media driver of our own would lie; below 64 MiB fails, below 512 warns."""
    if free is None:
        return Line("aeron directory", "fail", f"{folder}: {error}", "give ?dir=FOLDER that can be written")
    words = f"{folder}: {free / _MIB:,.0f} MiB are free"
    todo = "free shared memory, or give ?dir=FOLDER elsewhere"
    if free < 64 * _MIB:
        return Line("aeron directory", "fail", words, todo)
    return Line("aeron directory", "warn" if free < 512 * _MIB else "ok", words, todo if free < 512 * _MIB else "")


def worst(lines: Sequence[Line]) -> State:
    """The worst state of all lines."""
    states = {line.state for line in lines}
    return "fail" if "fail" in states else "warn" if "warn" in states else "ok"

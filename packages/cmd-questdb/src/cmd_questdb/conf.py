"""The settings of a QuestDB store: everything after ``questdb:`` in its URL.

    http::addr=127.0.0.1:9000;username=cmd;password=...;spill=/var/spool/cmd;ttl_book_deltas=7d;

The form is the one of QuestDB's own clients: a scheme, ``::`` and ``key=value`` pairs; ``;;`` is a ``;`` inside a
value. Keys that are unknown are refused with the nearest known one. Secrets never appear in ``repr`` or errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, Literal, cast

import msgspec

from cmd_common.errors import UnknownNameError, UsageError
from cmd_common.schema import TABLES
from cmd_common.secrets import resolve
from cmd_common.symbols import nearest

__all__ = ["DEFAULT_PORT", "KEYS", "Conf", "parse_ttl", "ttl_text"]

DEFAULT_PORT: Final = 9000
_EXAMPLE: Final = "questdb:http::addr=127.0.0.1:9000;username=USER;password=PASSWORD;"
_SECRET: Final = ("password", "token")
_DAY_UNITS: Final = {"h": 3_600, "d": 86_400, "w": 7 * 86_400, "M": 30 * 86_400, "y": 365 * 86_400}
_BYTES: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_PREFIX: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")

KEYS: Final[dict[str, str]] = {
    "addr": "HOST:PORT of the server's HTTP port; several with commas are tried in order",
    "username": "user for HTTP basic authentication",
    "password": "its password; env:NAME or file:PATH names it",
    "token": "bearer token instead of user and password (Enterprise, or a reverse proxy); env:NAME or file:PATH names it",
    "tls_verify": "on, or unsafe_off to accept any certificate",
    "tls_ca": "file with the certificates to trust instead of the system's",
    "request_timeout": "milliseconds until a request counts as failed",
    "retry_timeout": "milliseconds during which a writer tries again before it spills or fails",
    "spill": "folder in which rows wait while the server is away; none: they wait in memory only",
    "spill_limit": "bytes that may wait there, such as 2g",
    "chunk_rows": "rows sent in one transaction",
    "import_dir": "the server's import folder, where this process can write to it: fast bulk loads",
    "root": "the server's root folder, where this process can read it: backups and disk checks",
    "table_prefix": "put before every table's name, for several data sets in one server",
    "create": "on: a writer creates the schema in an empty database; off: only cmd-cli store migrate does",
    "ttl_TABLE": "how long rows of a table are kept, such as ttl_book_deltas=7d; default: for ever",
}


class Conf(msgspec.Struct, frozen=True, kw_only=True):
    """Parsed settings; ``Conf.parse`` makes one."""

    scheme: Literal["http", "https"]
    addrs: tuple[tuple[str, int], ...]
    username: str = ""
    password: str = ""
    token: str = ""
    tls_verify: bool = True
    tls_ca: str = ""
    request_timeout: int = 30_000  # ms
    retry_timeout: int = 60_000  # ms
    spill: str = ""
    spill_limit: int = 2 << 30  # bytes
    chunk_rows: int = 20_000
    import_dir: str = ""
    root: str = ""
    table_prefix: str = ""
    create: bool = True
    ttl: Mapping[str, int] = msgspec.field(default_factory=dict)  # seconds by table

    @classmethod
    def parse(cls, text: str) -> Conf:
        """Parse ``http::addr=HOST:PORT;key=value;``; raises UsageError that never repeats a secret."""
        scheme, double, rest = text.partition("::")
        if scheme in ("tcp", "tcps", "udp"):
            raise UsageError(
                f"QuestDB over {scheme} is not used: it acknowledges nothing", hint=f"write the store as {_EXAMPLE}"
            )
        if not double or scheme not in ("http", "https"):
            raise UsageError(
                f"QuestDB store begins with {_start(text)!r}, not with http:: or https::",
                hint=f"write it as {_EXAMPLE}",
            )
        given: dict[str, str] = {}
        for key, value in _pairs(rest):
            _check_key(key)
            if key in given:
                raise UsageError(f"{key} is given twice in the QuestDB store")
            given[key] = value
        if "addr" not in given:
            raise UsageError("the QuestDB store has no addr", hint=f"write it as {_EXAMPLE}")
        if given.get("token") and (given.get("username") or given.get("password")):
            raise UsageError("the QuestDB store has a token and a user", hint="give one of them")
        if bool(given.get("username")) != bool(given.get("password")):
            raise UsageError("username and password of the QuestDB store belong together", hint="give both or none")
        defaults = {f.name: f.default for f in msgspec.structs.fields(cls)}

        def number(name: str, least: int) -> int:
            return _int(name, given[name], least) if name in given else cast("int", defaults[name])

        prefix = given.get("table_prefix", "")
        if prefix and not _PREFIX.fullmatch(prefix):
            raise UsageError(f"table_prefix {prefix!r} is not a name", hint="letters, digits and _ only")
        return cls(
            scheme=cast("Literal['http', 'https']", scheme),
            addrs=tuple(_addr(part, scheme) for part in given["addr"].split(",")),
            username=given.get("username", ""),
            password=resolve(given.get("password", ""), "the password of the QuestDB store"),
            token=resolve(given.get("token", ""), "the token of the QuestDB store"),
            tls_verify=_word("tls_verify", given.get("tls_verify", "on"), {"on": True, "unsafe_off": False}),
            tls_ca=given.get("tls_ca", ""),
            request_timeout=number("request_timeout", 1),
            retry_timeout=number("retry_timeout", 0),
            spill=given.get("spill", ""),
            spill_limit=_size("spill_limit", given["spill_limit"]) if "spill_limit" in given else 2 << 30,
            chunk_rows=number("chunk_rows", 1),
            import_dir=given.get("import_dir", ""),
            root=given.get("root", ""),
            table_prefix=prefix,
            create=_word("create", given.get("create", "on"), {"on": True, "off": False}),
            ttl={k.removeprefix("ttl_"): parse_ttl(k, v) for k, v in given.items() if k.startswith("ttl_")},
        )

    def client_conf(self, address: int = 0, **extra: object) -> str:
        """The configuration string for ``questdb.Sender.from_conf``; it holds the password."""
        host, port = self.addrs[address]
        parts: dict[str, object] = {"addr": f"{host}:{port}"}
        for key in ("username", "password", "token"):
            if value := getattr(self, key):
                parts[key] = value
        if self.scheme == "https":
            if not self.tls_verify:
                parts["tls_verify"] = "unsafe_off"
            if self.tls_ca:
                parts["tls_roots"] = self.tls_ca
        parts["request_timeout"] = self.request_timeout
        parts |= extra
        return f"{self.scheme}::" + "".join(f"{k}={str(v).replace(';', ';;')};" for k, v in parts.items())

    def table(self, name: str) -> str:
        """The name of a table of the schema in this database."""
        return self.table_prefix + name

    @property
    def shown(self) -> str:
        """Where the server is, without secrets: for messages."""
        return f"{self.scheme}://" + ",".join(f"{host}:{port}" for host, port in self.addrs)

    def __repr__(self) -> str:
        return f"Conf({self.shown}, user={self.username or None!r})"


def _start(text: str) -> str:
    """The beginning of a location, up to where a secret could be."""
    return text.partition(";")[0].partition("=")[0][:40]


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    marked = text.replace(";;", "\0")
    for part in marked.split(";"):
        if not part.strip():
            continue
        key, equals, value = part.partition("=")
        if not equals:
            raise UsageError(
                f"{_start(part)!r} in the QuestDB store has no =", hint=f"write it as {_EXAMPLE}, with ;; for a ;"
            )
        yield key.strip(), value.replace("\0", ";")


def _check_key(key: str) -> None:
    if key.startswith("ttl_"):
        name = key.removeprefix("ttl_")
        if name not in TABLES:
            raise UnknownNameError("table in setting", key, [f"ttl_{n}" for n in nearest(name, TABLES)])
    elif key not in KEYS or key == "ttl_TABLE":
        known = [k for k in KEYS if k != "ttl_TABLE"] + [f"ttl_{t}" for t in TABLES]
        near = nearest(key, known)
        hint = "" if near else f"settings are: {', '.join(KEYS)}"
        raise UnknownNameError("setting of the QuestDB store", key, near, hint=hint)


def _addr(text: str, scheme: str) -> tuple[str, int]:
    text = text.strip()
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):  # a name alone, or [::1] without a port
        host, port = text, str(DEFAULT_PORT if scheme == "http" else 443)
    host = host.strip("[]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise UsageError(f"addr {text!r} of the QuestDB store is not HOST:PORT", hint="for example 127.0.0.1:9000")
    return host, int(port)


def _int(name: str, text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise UsageError(f"{name} {text!r} of the QuestDB store is not a whole number from {least} on")
    return int(text)


def _size(name: str, text: str) -> int:
    match = re.fullmatch(r"(\d+)([kmgt]?)(?:i?b)?", text.strip().lower())
    if not match or not int(match[1]):
        raise UsageError(f"{name} {text!r} of the QuestDB store is not a size", hint="write it as 500m or 2g")
    return int(match[1]) * _BYTES[match[2]]


def _word(name: str, text: str, words: Mapping[str, bool]) -> bool:
    if text not in words:
        raise UsageError(f"{name} {text!r} of the QuestDB store is not {' or '.join(words)}")
    return words[text]


def parse_ttl(name: str, text: str) -> int:
    """Parse ``36h``, ``7d``, ``4w``, ``3M`` or ``1y`` to seconds (a month is 30 days, a year 365)."""
    match = re.fullmatch(r"(\d+)([hdwMy])", text)
    if not match or not int(match[1]):
        raise UsageError(f"{name} {text!r} is not a time to keep", hint="write it as 36h, 7d, 4w, 3M or 1y")
    return int(match[1]) * _DAY_UNITS[match[2]]


def ttl_text(seconds: int, partition: str) -> str:
    """The TTL clause for a table: whole partitions, so that nothing is dropped too early."""
    unit, name = {
        "HOUR": (3_600, "HOURS"),
        "DAY": (86_400, "DAYS"),
        "MONTH": (30 * 86_400, "MONTHS"),
        "YEAR": (365 * 86_400, "YEARS"),
    }[partition]
    return f"{-(-seconds // unit)} {name}"

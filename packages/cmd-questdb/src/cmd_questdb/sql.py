"""SQL over the server's HTTP port: ``/exec`` for rows and statements, ``/exp`` for Arrow.

Every failure is one of the errors below, so that callers choose what to do by type:

    StoreError
    +-- ServerAway         refused, reset, timed out, 5xx: the same request may work later
    +-- AuthError          user, password or token are wrong
    +-- SqlError           the server refused the statement; its words are in the message
        +-- MissingTable   the table or view is not there
        +-- TableSuspended the server stopped applying writes to the table
"""

from __future__ import annotations

import base64
import http.client
import re
import select
import socket
import ssl
import tempfile
import time
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, cast
from urllib.parse import urlencode

import msgspec

from cmd_common.errors import StoreError

from .conf import Conf

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "AuthError",
    "MissingTable",
    "Rows",
    "ServerAway",
    "SqlClient",
    "SqlError",
    "TableSuspended",
    "identifier",
    "literal",
    "suspended_error",
    "timestamp",
]

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.~-]*")
_MISSING: Final = re.compile(
    r"(?:table|view|materialized view)(?: and| or)? (?:does not exist|doesn't exist)|table not found", re.I
)
_MISSING_NAME: Final = re.compile(r"\[(?:table|view|tableName)=([^\],]+)")
_SUSPENDED: Final = re.compile(r"\bsuspended\b", re.I)
_MAX_URL: Final = 60_000  # the server reads request lines of up to 64 KiB
_CHUNK: Final = 1 << 20
_ALL: Final = 1 << 62  # rows
_POLL: Final = 0.02  # s between two looks at the WAL


class ServerAway(StoreError):
    """The server could not be reached or failed by itself: the same request may work later."""


class AuthError(StoreError):
    """The server refused user, password or token."""


class SqlError(StoreError):
    """The server refused a statement; ``text`` is what it said, ``position`` the character it points at."""

    def __init__(self, message: str, *, text: str = "", position: int = -1, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.text = text
        self.position = position


class MissingTable(SqlError):
    """A table or view is not there."""


class TableSuspended(SqlError):
    """The server stopped applying writes to a table."""


class Rows(msgspec.Struct, frozen=True):
    """An answer of ``/exec``: names, QuestDB types and rows; all empty for a statement that is no query."""

    columns: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    rows: list[list[Any]] = []

    def dicts(self) -> list[dict[str, Any]]:
        """Rows as mappings."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def column(self, name: str) -> list[Any]:
        """The values of one column."""
        at = self.columns.index(name)
        return [row[at] for row in self.rows]

    def value(self) -> Any:
        """The only value of a query with one row, None without rows."""
        return self.rows[0][0] if self.rows else None


def literal(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """A name in double quotes; raises StoreError for one that no table of ours can have."""
    if not _NAME.fullmatch(name):
        raise StoreError(f"{name!r} is not a name of a table or column")
    return f'"{name}"'


def timestamp(ns: int) -> str:
    """A moment as an SQL literal of TIMESTAMP_NS, exact to the ns."""
    seconds, rest = divmod(ns, 1_000_000_000)
    parts = time.gmtime(seconds)
    return f"'{parts.tm_year:04d}-{time.strftime('%m-%dT%H:%M:%S', parts)}.{rest:09d}Z'::TIMESTAMP_NS"


class SqlClient:
    """One keep-alive connection to the server. Not thread-safe: each thread has its own.

    Several addresses are tried in their order when one does not answer. Reading statements are sent again once on a
    connection that broke; others are not, since the server may have run them.
    """

    def __init__(self, conf: Conf, *, timeout: float | None = None) -> None:
        self.conf = conf
        self._timeout = conf.request_timeout / 1000 if timeout is None else timeout
        self._address = 0
        self._connection: http.client.HTTPConnection | None = None
        self._headers = {"Accept-Encoding": "identity", "User-Agent": "cmd-questdb", **_authorization(conf)}

    # Statements

    def exec(self, sql: str, *, timeout: float | None = None) -> Rows:
        """Run one statement and return its rows.

        Raises ServerAway, AuthError, MissingTable, TableSuspended or SqlError. int64 keep all digits, times are text
        with ns, float64 are the shortest text that reads back the same.
        """
        reads = sql.lstrip("( \n").partition(" ")[0].lower() in ("select", "show", "with", "explain")
        body = self._get("/exec", {"query": sql}, sql, timeout, again=reads)
        try:
            answer = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ServerAway(f"{self.conf.shown} answered no JSON: {_words(body)}", hint="is it QuestDB?") from None
        if "error" in answer:  # a failure after the first rows were sent
            raise self._refused(answer, sql)
        columns = answer.get("columns", ())
        return Rows(tuple(c["name"] for c in columns), tuple(c["type"] for c in columns), answer.get("dataset", []))

    def value(self, sql: str) -> Any:
        """The first value of a query, None without rows."""
        return self.exec(sql).value()

    def arrow(self, sql: str, *, timeout: float | None = None) -> pa.Table:
        """The rows of a query as an Arrow table, through a temporary Parquet file.

        The query is put into a ``SELECT * FROM (...) LIMIT n``: where 9.3.4 exports the columns of a table as they
        are stored, VARCHAR becomes NULL and SYMBOL of partitions in Parquet form fails ("column_top"); over a limit
        it goes row by row, and everything is right.
        """
        import pyarrow.parquet as pq

        with tempfile.TemporaryFile(prefix="cmd-questdb-") as file:
            query = f"SELECT * FROM ({sql.rstrip().rstrip(';')}) LIMIT {_ALL}"
            self._stream("/exp", {"query": query, "fmt": "parquet"}, sql, cast("Any", file), timeout)
            if not file.tell():
                raise ServerAway(f"{self.conf.shown} sent no Parquet file", hint="see the server's log")
            file.seek(0)
            try:
                return pq.read_table(file)
            except Exception as error:
                raise ServerAway(f"{self.conf.shown} sent a broken Parquet file: {error}") from error

    # The server

    def ping(self) -> None:
        """Raise ServerAway where nothing answers; credentials are not checked."""
        self._get("/ping", {}, "", None, again=True)

    def settings(self) -> dict[str, Any]:
        """What the server tells about itself; it needs no credentials."""
        body = self._get("/settings", {}, "", None, again=True)
        try:
            return cast("dict[str, Any]", msgspec.json.decode(body))
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ServerAway(f"{self.conf.shown} answered no JSON: {_words(body)}", hint="is it QuestDB?") from None

    def version(self) -> str:
        """The version of the server, such as ``9.3.4``."""
        config = self.settings().get("config", {})
        return str(config.get("release.version", "unknown"))

    def tables(self) -> list[str]:
        """Names of the tables and materialized views that are ours: with the prefix, which is left out."""
        prefix = self.conf.table_prefix
        names = self.exec("SELECT table_name FROM tables()").column("table_name")
        return sorted(n.removeprefix(prefix) for n in names if n.startswith(prefix))

    def wait_applied(self, tables: Iterable[str] | None = None, *, timeout: float = 60.0) -> None:
        """Return when everything that was committed to the tables (with prefix; default: all) can be read.

        Raises TableSuspended, and ServerAway when it takes longer than ``timeout`` seconds.
        """
        wanted = None if tables is None else set(tables)
        end = time.monotonic() + timeout
        aims: dict[str, int] = {}  # what was committed at the first look: writers may go on
        while True:
            late = []
            for row in self.exec("SELECT name, suspended, writerTxn, sequencerTxn FROM wal_tables()").rows:
                name, suspended, written, sequenced = row
                if wanted is not None and name not in wanted:
                    continue
                if suspended:
                    raise suspended_error(name)
                aim = aims.setdefault(name, sequenced)
                if written < aim:
                    late.append(f"{name} ({aim - written} transactions behind)")
            if not late:
                return
            if time.monotonic() > end:
                raise ServerAway(
                    f"{self.conf.shown} has not applied everything within {timeout:g} s: {', '.join(late)}",
                    hint="see cmd-cli store check",
                )
            time.sleep(_POLL)

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # HTTP

    def _get(self, path: str, query: dict[str, str], sql: str, timeout: float | None, *, again: bool) -> bytes:
        import io

        sink = io.BytesIO()
        self._stream(path, query, sql, sink, timeout, again=again)
        return sink.getvalue()

    def _stream(
        self, path: str, query: dict[str, str], sql: str, sink: Any, timeout: float | None, *, again: bool = True
    ) -> None:
        url = f"{path}?{urlencode(query)}" if query else path
        if len(url) > _MAX_URL:
            raise SqlError(f"the statement has {len(sql)} characters, more than the server reads", text="too long")
        limit = self._timeout if timeout is None else timeout
        for last in (False, True):
            try:
                response = self._request(url, limit)
                if response.status == 200 or response.status == 204:
                    while chunk := response.read(_CHUNK):
                        sink.write(chunk)
                    return
                body = response.read()
            except TimeoutError:
                self.close()
                raise ServerAway(
                    f"{self.conf.shown} did not answer within {limit:g} s", hint="raise request_timeout or try later"
                ) from None
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if last or not again or isinstance(error, ssl.SSLCertVerificationError | socket.gaierror):
                    raise self._away(error) from error
                sink.seek(0)
                sink.truncate()
                continue
            raise self._failed(response.status, body, sql)

    def _request(self, url: str, timeout: float) -> http.client.HTTPResponse:
        connection = self._connection
        if connection is not None and _stale(connection):
            self.close()
            connection = None
        if connection is None:
            connection = self._connect(timeout)
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        connection.request("GET", url, headers=self._headers)
        return connection.getresponse()

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        problem: OSError | None = None
        for n in range(len(self.conf.addrs)):
            at = (self._address + n) % len(self.conf.addrs)
            connection = _connection(self.conf, at, timeout)
            try:
                connection.connect()
            except OSError as error:
                connection.close()
                problem = error
                continue
            self._address = at
            self._connection = connection
            return connection
        assert problem is not None  # there is at least one address
        raise problem

    def _away(self, error: Exception) -> ServerAway:
        hint = "is the server running, and are host and port right?"
        if isinstance(error, ssl.SSLError):
            hint = "set tls_ca to the certificate's issuer, or use http:: where no TLS proxy is in front"
        words = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return ServerAway(f"cannot reach QuestDB at {self.conf.shown}: {words}", hint=hint)

    def _failed(self, status: int, body: bytes, sql: str) -> StoreError:
        if status in (401, 403):
            who = f"user {self.conf.username}" if self.conf.username else "token" if self.conf.token else "no user"
            return AuthError(
                f"QuestDB at {self.conf.shown} refuses {who} (HTTP {status})",
                hint="check username and password of the store",
            )
        try:
            answer = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            answer = None
        if isinstance(answer, dict) and "error" in answer:
            if status >= 500 and "query" not in answer:
                return ServerAway(f"QuestDB at {self.conf.shown} failed: {answer['error']}")
            return self._refused(answer, sql)
        words = _words(body) or "no words"
        kind = ServerAway if status >= 500 or status in (421, 429) else SqlError
        hint = "is it QuestDB's HTTP port?" if status == 404 else ""
        return kind(f"{self.conf.shown} answered HTTP {status}: {words}", hint=hint)

    def _refused(self, answer: dict[str, Any], sql: str) -> SqlError:
        text = str(answer["error"])
        position = answer.get("position", -1)
        if _MISSING.search(text):
            name = _MISSING_NAME.search(text)
            return MissingTable(
                f"QuestDB has no table {name[1]}" if name is not None else f"QuestDB: {text}",
                text=text,
                position=position,
                hint="create the schema with cmd-cli store migrate",
            )
        if _SUSPENDED.search(text):
            return TableSuspended(f"QuestDB: {text}", text=text, hint="see cmd-cli store check")
        near = f" near {sql[position : position + 20]!r}" if 0 < position < len(sql) else ""
        return SqlError(f"QuestDB: {text}{near}", text=text, position=position)


def suspended_error(name: str) -> TableSuspended:
    """What is raised for a suspended table."""
    return TableSuspended(
        f"table {name} is suspended: the server no longer applies what is written to it",
        text="suspended",
        hint="see the server's log, then cmd-cli store check --repair",
    )


def _authorization(conf: Conf) -> dict[str, str]:
    if conf.token:
        return {"Authorization": f"Bearer {conf.token}"}
    if conf.username:
        pair = base64.b64encode(f"{conf.username}:{conf.password}".encode()).decode()
        return {"Authorization": f"Basic {pair}"}
    return {}


def _connection(conf: Conf, at: int, timeout: float) -> http.client.HTTPConnection:
    host, port = conf.addrs[at]
    if conf.scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        context = ssl.create_default_context(cafile=conf.tls_ca or None)
    except OSError as error:
        raise StoreError(f"cannot read tls_ca {conf.tls_ca}: {error.strerror or error}") from error
    if not conf.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(host, port, timeout=timeout, context=context)


def _stale(connection: http.client.HTTPConnection) -> bool:
    """Whether the server has closed a connection that waits for its next request."""
    sock = connection.sock
    if sock is None:
        return True
    try:
        return bool(select.select([sock], [], [], 0)[0])
    except (OSError, ValueError):
        return True


def _words(body: bytes) -> str:
    return " ".join(body.decode("utf-8", "replace").split())[:200]

"""Rows of the server's own SQL, and what a reader lets through: one statement that only reads."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from datetime import date
from typing import TYPE_CHECKING, Any, Final

from cmd_common.errors import UsageError
from cmd_common.symbols import nearest

from .schema import LONG_NULL
from .sql import Rows, literal

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SqlResult", "bind", "check_reads", "names_in"]

_READS: Final = frozenset({"select", "with", "show", "explain"})
_AFTER_WITH: Final = ("select", "insert", "update", "alter", "create", "drop", "truncate", "copy")
_SIDE_EFFECTS: Final = frozenset(
    {
        "flush_query_cache",
        "reload_config",
        "reload_tls",
        "simulate_crash",
        "simulate_warnings",
        "hydrate_table_metadata",
    }
)
"""Functions of SELECT that do something to the server."""
_TOKEN: Final = re.compile(
    r"""(?P<space>\s+|--[^\n]*|/\*.*?(?:\*/|\Z))
      | (?P<text>'(?:[^']|'')*(?:'|\Z))
      | (?P<quoted>"[^"]*(?:"|\Z))
      | (?P<name>\$?[A-Za-z_][A-Za-z0-9_]*)
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)


def _tokens(query: str) -> Iterator[tuple[str, str]]:
    """Kind and text of every piece of a statement; put together they are the statement."""
    for match in _TOKEN.finditer(query):
        yield match.lastgroup or "other", match[0]


def check_reads(query: str) -> str:
    """Return the one reading statement without a final ``;``; raises UsageError for anything else."""
    kept: list[str] = []
    words: list[tuple[str, int]] = []  # words outside quotes, in lower case, with the depth of parentheses
    depth = 0
    ended = False
    previous = ""
    for kind, text in _tokens(query):
        if kind == "space":
            kept.append(" " if text.startswith(("--", "/*")) else text)
            continue
        if ended:
            raise UsageError("the query has several statements", hint="run one SELECT at a time")
        if text == ";":
            ended = True
            continue
        if (kind == "text" and (len(text) < 2 or text[-1] != "'")) or (kind == "quoted" and text[-1:] != '"'):
            raise UsageError(f"a quote is not closed in the query: {text[:30]}")
        if text == "(":
            depth += 1
            if previous in _SIDE_EFFECTS:
                raise UsageError(f"{previous}() is not run in a query", hint="the store is read-only here")
        elif text == ")":
            depth -= 1
        previous = text.strip('"').lower()
        if kind == "name":
            words.append((previous, depth))
        kept.append(text)
    if not words:
        raise UsageError("the query is empty", hint="write for example SELECT count(*) FROM trades")
    while len(words) > 1 and words[0][0] == "explain":
        del words[0]
    first = words[0][0]
    if first in ("with", "declare"):  # what they stand before may be an INSERT or UPDATE
        first = next((w for w, at in words[1:] if at == 0 and w in _AFTER_WITH), first)
    if first not in _READS:
        raise UsageError(
            f"{first.upper()} is not a query", hint="the store is read-only here; write SELECT ... FROM ..."
        )
    return "".join(kept).strip()


def names_in(query: str) -> set[str]:
    """Words of a query that may be names of tables, in lower case."""
    return {t.strip("\"'").lower() for kind, t in _tokens(query) if kind in ("name", "quoted", "text")}


def _bound(name: str, value: object) -> str:
    """A value as an SQL literal."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        if not LONG_NULL < value < 2**63:
            raise UsageError(f"parameter ${name} is {value}, which no LONG holds")
        return str(value) if value >= 0 else f"({value})"
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UsageError(f"parameter ${name} is {value}, which QuestDB takes for NULL")
        return f"({value!r})" if "e" in repr(value) or "." in repr(value) else f"({value!r}.0)"
    if isinstance(value, str):
        if "\0" in value:
            raise UsageError(f"parameter ${name} holds a zero character")
        return literal(value)
    raise UsageError(
        f"parameter ${name} is a {type(value).__name__}", hint="give text, a number, a truth value or None; times in ns"
    )


def bind(query: str, parameters: Mapping[str, object] | None) -> str:
    """Put values in the place of ``$name`` outside of quotes and comments; text is quoted.

    Raises UsageError for a name that is not given, one that is not used, and values that QuestDB has no literal for.
    """
    given = dict(parameters or {})
    used: set[str] = set()
    out: list[str] = []
    for kind, text in _tokens(query):
        if kind == "name" and text.startswith("$"):
            name = text[1:]
            if name not in given:
                near = nearest(name, tuple(given))
                raise UsageError(
                    f"parameter {text} of the query is not given",
                    hint=f"did you mean ${near[0]}?" if near else "",
                )
            used.add(name)
            text = _bound(name, given[name])
        out.append(text)
    if unused := sorted(set(given) - used):
        raise UsageError(f"the query has no parameter ${unused[0]}")
    return "".join(out)


_UNITS: Final = frozenset({"TIMESTAMP_NS", "TIMESTAMP", "DATE"})
_EPOCH: Final = date(1970, 1, 1).toordinal()
_INTEGERS: Final = {"BYTE": 8, "SHORT": 16, "INT": 32, "LONG": 64}


class SqlResult:
    """Rows of a query, held in memory. Times are int64 ns, as in every store; arrays are lists of lists."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._data: pa.Table | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names."""
        return self._rows.columns

    def __len__(self) -> int:
        return len(self._rows.rows)

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Rows as tuples of Python values."""
        makers = [_nanoseconds if t in _UNITS else _text if t == "STRING" else None for t in self._rows.types]
        if not any(makers):
            yield from map(tuple, self._rows.rows)
            return
        for row in self._rows.rows:
            yield tuple(v if m is None or v is None else m(v) for m, v in zip(makers, row, strict=True))

    def to_arrow(self) -> pa.Table:
        """The whole result as a pyarrow Table."""
        if self._data is None:
            import pyarrow as pa

            columns = list(zip(*self.rows(), strict=True)) or [() for _ in self.columns]
            arrays = [_array(t, values) for t, values in zip(self._rows.types, columns, strict=True)]
            self._data = pa.Table.from_arrays(arrays, names=list(self.columns))
        return self._data

    def to_polars(self) -> Any:
        """The whole result as a polars DataFrame; raises UsageError where polars is not installed."""
        try:
            import polars
        except ModuleNotFoundError:
            raise UsageError("polars is not installed", hint="pip install polars") from None
        return polars.from_arrow(self.to_arrow())

    def to_pandas(self) -> Any:
        """The whole result as a pandas DataFrame."""
        return self.to_arrow().to_pandas()


def _nanoseconds(text: str) -> int:
    """``2024-08-08T00:00:00.000000001Z`` as ns."""
    head, _, rest = text.rstrip("Z").partition(".")
    days = date(int(head[:4]), int(head[5:7]), int(head[8:10])).toordinal() - _EPOCH
    seconds = days * 86_400 + int(head[11:13]) * 3_600 + int(head[14:16]) * 60 + int(head[17:19])
    return seconds * 1_000_000_000 + int(rest.ljust(9, "0"))


def _text(value: str) -> str:
    """Plans of EXPLAIN come indented for a browser."""
    return value.replace("&nbsp;", " ") if value.startswith("&nbsp;") else value


def _array(kind: str, values: Any) -> Any:
    import pyarrow as pa

    if kind in _UNITS:
        return pa.array(values, pa.int64())
    if kind in _INTEGERS:
        return pa.array(values, {8: pa.int8(), 16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[_INTEGERS[kind]])
    if kind in ("DOUBLE", "FLOAT"):
        return pa.array(values, pa.float64())
    if kind == "BOOLEAN":
        return pa.array(values, pa.bool_())
    if kind == "ARRAY" or kind.endswith("]"):
        return pa.array(values)
    return pa.array([v if v is None or isinstance(v, str) else str(v) for v in values], pa.string())

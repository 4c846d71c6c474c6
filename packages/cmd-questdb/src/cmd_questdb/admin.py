"""Looking after a QuestDB store: ``cmd-cli store``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from cmd_common.errors import UsageError
from cmd_common.io import Finding, TableSize
from cmd_common.schema import SCHEMA, TABLES

from . import backup, check, convert, migrations
from .conf import Conf
from .merge import present
from .schema import VERSION
from .sql import SqlClient

if TYPE_CHECKING:
    from cmd_common.commands import Reporter

__all__ = ["QuestDBAdmin"]


class QuestDBAdmin:
    """``StoreAdmin`` of a QuestDB server; connects when something is asked."""

    def __init__(self, conf: Conf) -> None:
        self._conf = conf
        self._client = SqlClient(conf)

    def status(self) -> Mapping[str, Any]:
        """Server, schema, tables and views; raises StoreError where the server cannot be asked."""
        client = self._client
        found = migrations.state(client)
        current = found.version == VERSION
        views = client.exec("SELECT view_name, view_status FROM materialized_views()").rows
        return {
            "server": self._conf.shown,
            "version": client.version(),
            "schema": "none" if found.version is None else found.version,
            "schema_of_program": VERSION,
            "tables": {
                t: {"rows": s.rows, "bytes": s.bytes, "partitions": len(p), "parquet": sum(x.parquet for x in p)}
                for t, s in self.sizes().items()
                for p in [convert.partitions(client, t)]
            },
            "views": dict(sorted(views)),
            "history": [dict(r) for r in migrations.applied(client)] if found.version is not None else [],
            "problems": [str(d) for d in migrations.differences(client)] if current else [],
        }

    def check(self, *, repair: bool, full: bool, reporter: Reporter) -> Sequence[Finding]:
        """See ``check.check``; ``repair`` mends first and checks then."""
        if repair:
            for words in check.repair(self._client):
                reporter.info(words)
        return check.check(self._client, full=full)

    def migrate(self, *, dry_run: bool, reporter: Reporter) -> Mapping[str, Any]:
        """Create or migrate the schema; a dry run says the statements."""
        say = reporter.info
        done = migrations.plan(self._client) if dry_run else migrations.migrate(self._client, say=say)
        if dry_run:
            for statement in done.statements:
                say(statement)
        return {
            "server": self._conf.shown,
            "before": "none" if done.before is None else done.before,
            "after": done.after,
            "statements": list(done.statements) if dry_run else len(done.statements),
            "dry_run": dry_run,
        }

    def backup(self, target: str, *, keep: int | None, reporter: Reporter) -> Mapping[str, Any]:
        """Copy the server's root, which ``root=DIR`` of the store names."""
        made = backup.backup(
            self._client, target, keep=keep, progress=lambda done, total: reporter.progress("backup", done, total)
        )
        return {
            "backup": made.path,
            "server": made.server,
            "schema": made.schema,
            "files": made.files,
            "bytes": made.bytes,
            "rows": made.rows,
        }

    def restore(self, source: str, target: str, *, force: bool, reporter: Reporter) -> Mapping[str, Any]:
        """Make a root from a copy, for a server that is stopped."""
        target = target or self._conf.root
        if not target:
            raise UsageError("no root folder to restore to is given", hint="add --to DIR, or root=DIR; to the store")
        done = backup.restore(
            source, target, force=force, progress=lambda at, total: reporter.progress("restore", at, total)
        )
        reporter.info(f"start the server on {target} now, then run cmd-cli store check")
        return done

    def convert(
        self, tables: Sequence[str], *, older: int, back: bool, dry_run: bool, reporter: Reporter
    ) -> Mapping[str, Any]:
        """Old partitions to Parquet form, or back."""
        migrations.ensure(self._client, create=False)
        plans = [convert.plan(self._client, t, older=older, back=back) for t in tables or TABLES]
        saved = 0
        for todo in plans:
            if todo.todo and not dry_run:
                task = f"convert {todo.table}"

                def progress(at: int, of: int, task: str = task) -> None:
                    reporter.progress(task, at, of, unit="partitions")

                saved += convert.convert(self._client, todo, back=back, progress=progress)
        return {
            "converted": {p.table: [x.name for x in p.todo] for p in plans if p.todo},
            "left": {p.table: p.left for p in plans if p.left},
            "bytes_saved": saved,
            "dry_run": dry_run,
        }

    def sizes(self) -> Mapping[str, TableSize]:
        """Rows, bytes and streams of each table that is there."""
        client = self._client
        there = set(migrations.state(client).tables)
        found = {}
        for name in TABLES:
            if name not in there:
                continue
            table = SCHEMA[name]
            full = self._conf.table(name)
            streams = [c for c in ("venue", "symbol", "instrument", "interval") if c in table.names]
            query = (
                f"SELECT count(), min({table.time})::LONG, max({table.time})::LONG FROM {full} WHERE {present(name)}"
            )
            rows, start, end = client.exec(query).rows[0]
            many = (
                client.value(f"SELECT count() FROM (SELECT DISTINCT {', '.join(streams)} FROM {full})") if rows else 0
            )
            size = sum(p.bytes for p in convert.partitions(client, name))
            found[name] = TableSize(rows, size, start or 0, end or 0, many)
        return found

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

"""What the writer's tests share: locations, quick options, and reading back without the code under test."""

from __future__ import annotations

from typing import Any

from qdb_kit import conf_of, location_of
from questdb_server import QuestDBServer

from cmd_questdb.conf import Conf
from cmd_questdb.reader import QuestDBReader
from cmd_questdb.writer import QuestDBWriter, WriterOptions

QUICK = WriterOptions(patience=0.3, drain=5.0, away=0.2, close=20.0, connect_timeout=2.0)


def conf_for(server: QuestDBServer, **more: object) -> Conf:
    """A configuration with tables of one's own."""
    return conf_of(location_of(server, **({"retry_timeout": 10_000} | more)))


def through(conf: Conf, port: int, **more: Any) -> Conf:
    """The same tables, reached through another port."""
    from msgspec import structs

    return structs.replace(conf, addrs=(("127.0.0.1", port),), **more)


def writer_of(conf: Conf, options: WriterOptions = QUICK, **more: Any) -> QuestDBWriter:
    return QuestDBWriter(conf, options=options, **more)


def reader_of(conf: Conf) -> QuestDBReader:
    return QuestDBReader(conf)


def ids(server: QuestDBServer, conf: Conf, table: str = "trades") -> list[int]:
    """All stored trade ids as numbers, sorted, repeated ones included."""
    name = conf.table(table)
    server.wait_applied(name)
    return sorted(int(r[0]) for r in server.sql(f'SELECT trade_id FROM "{name}"'))

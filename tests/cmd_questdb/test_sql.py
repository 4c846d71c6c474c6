"""SQL over HTTP against the real server: values to the last digit, and every failure by its type."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pyarrow as pa
import pytest
from questdb_server import QuestDBServer

from cmd_common.errors import StoreError
from cmd_common.testing.ports import free_ports
from cmd_questdb.conf import Conf
from cmd_questdb.migrations import migrate
from cmd_questdb.schema import VIEWS, column_types
from cmd_questdb.sql import (
    AuthError,
    MissingTable,
    ServerAway,
    SqlClient,
    SqlError,
    TableSuspended,
    identifier,
    literal,
    timestamp,
)

NS = 1_735_689_600_123_456_789  # 2025-01-01T00:00:00.123456789Z


@pytest.fixture
def client(questdb: QuestDBServer) -> Iterator[SqlClient]:
    with SqlClient(Conf.parse(questdb.conf())) as client:
        yield client


def test_values_keep_every_digit(client: SqlClient) -> None:
    rows = client.exec(
        f"SELECT {timestamp(NS)} t, {2**62 + 1} n, 0.1 + 0.2 x, 'it''s ''' s, NULL::VARCHAR v, '' e, true b"
    )
    assert rows.columns == ("t", "n", "x", "s", "v", "e", "b")
    assert rows.types[:3] == ("TIMESTAMP_NS", "LONG", "DOUBLE")
    assert rows.rows == [["2025-01-01T00:00:00.123456789Z", 2**62 + 1, 0.1 + 0.2, "it's '", None, "", True]]
    assert rows.dicts()[0]["n"] == 2**62 + 1
    assert rows.column("x") == [0.1 + 0.2]
    assert client.value(f"SELECT {literal(chr(39) + ';é')}") == "';é"
    assert client.value("SELECT 1 FROM long_sequence(0)") is None


def test_statements_have_no_rows(client: SqlClient) -> None:
    assert client.exec("CREATE TABLE t (ts TIMESTAMP_NS, n LONG) TIMESTAMP(ts) PARTITION BY DAY WAL").rows == []
    assert client.exec(f"INSERT INTO t VALUES ({timestamp(NS)}, 1)").rows == []
    client.wait_applied(["t"])
    assert client.value("SELECT ts FROM t") == "2025-01-01T00:00:00.123456789Z"


def test_an_export_has_every_value_also_of_texts_and_mixed_partitions(
    questdb: QuestDBServer, client: SqlClient
) -> None:
    """What the server exports as it is stored loses texts, and fails over partitions in Parquet form."""
    migrate(client)
    for day in (1, 2, 3):
        for n, (text, symbol) in enumerate((("", ""), ("short", "A"), ("a text longer than nine bytes, é", "B"))):
            questdb.sql(
                f"INSERT INTO trades VALUES ('2025-01-0{day}T00:00:00.00000000{n}Z', NULL, 'v', '{symbol}', '{text}',"
                f" {2**53 + 1 + n}, 0.1, 1e-8, 'buy', 0)"
            )
    client.wait_applied()
    questdb.sql("ALTER TABLE trades CONVERT PARTITION TO PARQUET LIST '2025-01-01'")
    client.wait_applied()
    for query in (
        "SELECT * FROM trades",
        f"SELECT {', '.join(column_types('trades'))} FROM trades ORDER BY ts_event",
        "SELECT * FROM trades WHERE ts_event < '2025-01-02' ORDER BY ts_event;",
        "SELECT * FROM trades LIMIT 4",
    ):
        rows = client.exec(query.rstrip(";"))
        table = client.arrow(query)
        assert table.column_names == list(rows.columns)
        for name in ("symbol", "trade_id", "trade_seq", "price", "quantity", "ts_recv"):
            assert table.column(name).to_pylist() == rows.column(name), (query, name)
        times = table.column("ts_event").cast(pa.int64()).to_pylist()
        assert [t % 86_400_000_000_000 for t in times] == [t % 3 for t in range(len(times))]


def test_an_export_of_nothing_and_of_arrays(questdb: QuestDBServer, client: SqlClient) -> None:
    migrate(client)
    assert client.arrow("SELECT * FROM gaps").num_rows == 0
    questdb.sql(
        "INSERT INTO book_deltas VALUES ('2025-01-01', NULL, 'v', 'S', 1, 1, 1,"
        " ARRAY[[1.5, 1.0], [2.0, 0.0]], ARRAY[[2.5], [0.1]], 0)"
    )
    client.wait_applied()
    table = client.arrow("SELECT bids, asks FROM book_deltas")
    assert table.to_pylist() == [{"bids": [[1.5, 1.0], [2.0, 0.0]], "asks": [[2.5], [0.1]]}]


@pytest.mark.parametrize(
    ("sql", "kind", "words"),
    [
        ("SELECT * FROM nothing_here", MissingTable, "no table nothing_here; create the schema"),
        ("INSERT INTO nothing_here VALUES (1)", MissingTable, "nothing_here"),
        ("SELECT 1 +", SqlError, "QuestDB: "),
        ("SELECT nope FROM long_sequence(1)", SqlError, "Invalid column: nope near 'nope FROM"),
        ("SELECT '" + "x" * 70_000 + "'", SqlError, "more than the server reads"),
    ],
)
def test_a_refused_statement_says_why(client: SqlClient, sql: str, kind: type[StoreError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        client.exec(sql)
    assert "\n" not in str(caught.value)
    if kind is not MissingTable:
        assert not isinstance(caught.value, MissingTable)
    assert client.value("SELECT 1") == 1  # the connection can be used


def test_wrong_and_no_credentials(questdb_auth: QuestDBServer) -> None:
    with SqlClient(Conf.parse(questdb_auth.conf())) as client:
        assert client.value("SELECT 1") == 1
    host = f"http::addr=127.0.0.1:{questdb_auth.http};"
    for more, who in (
        ("username=cmd_ingest;password=wrong-one;", "user cmd_ingest"),
        ("", "no user"),
        ("token=bad;", "token"),
    ):
        with SqlClient(Conf.parse(host + more)) as client:
            with pytest.raises(AuthError, match=rf"refuses {who} \(HTTP 401\); check username and password"):
                client.exec("SELECT 1")
            client.ping()  # needs none
            assert client.version() == "9.3.4"


def test_a_server_that_is_not_there(questdb: QuestDBServer) -> None:
    (port,) = free_ports()
    with (
        SqlClient(Conf.parse(f"http::addr=127.0.0.1:{port};")) as client,
        pytest.raises(ServerAway, match=r"cannot reach QuestDB at http://127.0.0.1:\d+: Connection refused; is the"),
    ):
        client.exec("SELECT 1")
    with SqlClient(Conf.parse("http::addr=no-such-host.invalid:9000;")) as client, pytest.raises(ServerAway):
        client.ping()
    # the second address answers
    with SqlClient(Conf.parse(f"http::addr=127.0.0.1:{port},127.0.0.1:{questdb.http};")) as client:
        assert client.value("SELECT 1") == 1


def test_something_else_on_the_port(questdb: QuestDBServer) -> None:
    location = f"http::addr=127.0.0.1:{questdb.min};"
    with SqlClient(Conf.parse(location)) as client, pytest.raises(ServerAway, match="no JSON.*is it QuestDB"):  # noqa: RUF043
        client.exec("SELECT 1")


def test_a_server_that_does_not_answer(questdb: QuestDBServer) -> None:
    with SqlClient(Conf.parse(questdb.conf(request_timeout=300))) as client:
        assert client.value("SELECT 1") == 1
        questdb.pause()
        time.sleep(0.2)  # until its last thread has stopped
        try:
            with pytest.raises(ServerAway, match=r"did not answer within 0.3 s; raise request_timeout"):
                client.exec("SELECT 1")
        finally:
            questdb.resume()
        assert (
            client.value(
                "SELECT 2",
            )
            == 2
        )


def test_a_restart_between_two_requests_is_not_noticed(questdb: QuestDBServer, client: SqlClient) -> None:
    assert client.value("SELECT 1") == 1
    questdb.restart()
    assert client.value("SELECT 1") == 1
    assert client.exec("CREATE TABLE t (ts TIMESTAMP) TIMESTAMP(ts) PARTITION BY DAY WAL").rows == []


def test_a_statement_that_writes_is_never_sent_twice() -> None:
    """The server takes the request and goes: whether it ran is not known."""
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in range(3):
                connection, _address = server.accept()
                with connection:
                    seen.append(connection.recv(65_536))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with SqlClient(Conf.parse(f"http::addr=127.0.0.1:{server.getsockname()[1]};")) as client:
            with pytest.raises(ServerAway):
                client.exec("INSERT INTO t VALUES (1)")
            assert len(seen) == 1
            with pytest.raises(ServerAway):
                client.exec("SELECT 1")
            assert len(seen) == 3
        thread.join(10)


def test_waiting_for_what_is_suspended_says_so(questdb: QuestDBServer, client: SqlClient) -> None:
    migrate(client)
    for day in (1, 2):
        questdb.sql(f"INSERT INTO trades VALUES ('2025-01-0{day}', NULL, 'v', 'S', '1', 1, 1.0, 1.0, 'buy', 0)")
    questdb.sql("ALTER TABLE trades CONVERT PARTITION TO PARQUET LIST '2025-01-01'")
    questdb.sql("UPDATE trades SET price = 2.0")
    with pytest.raises(TableSuspended, match="table trades is suspended.*store check --repair"):  # noqa: RUF043
        client.wait_applied(["trades"], timeout=20)
    client.wait_applied(["gaps"])


def test_views_take_open_and_close_by_the_exchanges_sequence(questdb: QuestDBServer, client: SqlClient) -> None:
    """Trades of one stamp, written out of order, with ids that sort otherwise as text."""
    migrate(client)
    order = [9, 10, 100, 11, 8, 101]
    for seq in order:
        questdb.sql(
            f"INSERT INTO trades VALUES ('2025-01-01T00:00:30.000000001Z', NULL, 'v', 'S', '{seq}', {seq}, {seq}.5, 2.0,"
            f" '{'buy' if seq % 2 else 'sell'}', 0)"
        )
    for n, text in enumerate(("uuid-b", "uuid-a")):  # no number: the stamp decides
        questdb.sql(
            f"INSERT INTO trades VALUES ('2025-01-01T00:00:40.00000000{n}Z', NULL, 'w', 'U', '{text}', NULL, {n}.5, 1.0, 'buy', 0)"
        )
    questdb.wait_for(lambda: questdb.count("candles_1d") == 2, "the views are built")
    for view in VIEWS:
        questdb.wait_for(lambda v=view: questdb.value(f"SELECT sum(trades) FROM {v}") == 8, f"{view} has all trades")  # type: ignore[misc]
        rows = client.exec(
            f"SELECT open, high, low, close, volume, trades, taker_buy_volume FROM {view} ORDER BY venue"
        ).rows
        assert rows == [[8.5, 101.5, 8.5, 101.5, 12.0, 6, 6.0], [0.5, 1.5, 0.5, 1.5, 2.0, 2, 2.0]], view


def test_names_and_texts_cannot_break_out() -> None:
    assert literal("a'b''c") == "'a''b''''c'"
    assert identifier("trades") == '"trades"'
    for bad in ("a b", 'a"b', "", "a;b"):
        with pytest.raises(StoreError, match="not a name"):
            identifier(bad)
    assert timestamp(0) == "'1970-01-01T00:00:00.000000000Z'::TIMESTAMP_NS"
    assert timestamp(NS) == "'2025-01-01T00:00:00.123456789Z'::TIMESTAMP_NS"

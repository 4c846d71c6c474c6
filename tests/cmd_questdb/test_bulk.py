"""Bulk loads into a real server: exact counts, live rows kept, proof of every day, closed partitions, many symbols."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from qdb_kit import DAY, T0, VENUE, conf_of, location_of, model, random_records, stored, to_batches, trade

from cmd_common import open_reader, open_writer
from cmd_common.errors import StoreError
from cmd_common.records import Record, Trade
from cmd_common.schema import TABLES
from cmd_questdb import bulk
from cmd_questdb.frames import check_batch
from cmd_questdb.sql import SqlClient, TableSuspended
from cmd_questdb.staging import Staged


class Store:
    """One schema for all tests of a module; each uses symbols of its own."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.location = location_of(server, import_dir=server.import_dir)
        self.conf = conf_of(self.location)
        self.client = SqlClient(self.conf)
        with open_writer(self.url(by_file=True)):
            pass

    def url(self, *, by_file: bool) -> str:
        return "questdb:" + (self.location if by_file else self.location.partition("import_dir")[0])

    def count(self, table: str, where: str) -> int:
        return int(self.client.value(f"SELECT count() FROM {self.conf.table(table)} WHERE {where}"))


@pytest.fixture(scope="module")
def store(questdb_server: Any) -> Iterator[Store]:
    found = Store(questdb_server.empty())
    yield found
    found.client.close()


@pytest.fixture(params=["by_file", "by_frames"])
def url(request: pytest.FixtureRequest, store: Store, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways into the same tables."""
    monkeypatch.setattr(bulk, "_FEW", 0)
    return store.url(by_file=request.param == "by_file")


def staged(table: str, records: Sequence[Record], pieces: int = 1) -> Staged:
    data = check_batch(table, to_batches(records)[table])
    found = Staged(table, 1 << 30)
    step = -(-data.num_rows // pieces)
    for start in range(0, data.num_rows, step):
        found.add(data.slice(start, step))
    return found


def archive(url: str, records: Sequence[Record]) -> Any:
    with open_writer(url) as writer:
        for table, batch in to_batches(records).items():
            writer.write_batch(table, batch)
        writer.flush()
        return writer.counters


def read(url: str, symbol: str, table: str = "trades") -> list[Any]:
    with open_reader(url) as reader:
        return list(reader.records(table, symbols=[symbol]))


def test_the_same_day_twice_and_shuffled_is_there_once(url: str, store: Store) -> None:
    symbol = f"TWICE{len(url)}"
    rows = [trade(i, symbol=symbol, live=False, at=T0 + DAY - 2_000 + i // 3) for i in range(5_000)]
    counters = archive(url, rows)
    assert counters.files == ("import_dir" in url)
    archive(url, rows)
    archive(url, random.Random(1).sample(rows, len(rows)))
    archive(url, rows + rows[:100])
    assert store.count("trades", f"symbol = '{symbol}'") == 5_000
    assert read(url, symbol) == rows
    assert list(store.server.import_dir.glob("cmd-bulk-*")) == []


def test_live_rows_stay_and_archived_ones_fill_the_holes(url: str, store: Store) -> None:
    symbol = f"LIVE{len(url)}"
    live = [trade(i, symbol=symbol, at=T0 + i) for i in range(0, 3_000, 2)]
    with open_writer(url) as writer:
        writer.write(live)
    archive(url, [trade(i, symbol=symbol, live=False, price=9.0, at=T0 + i) for i in range(3_000)])
    found = read(url, symbol)
    assert [r.trade_seq for r in found] == list(range(3_000))
    assert found[::2] == live
    assert all(r.price == 9.0 and not r.ts_recv for r in found[1::2])
    corrected = [trade(i, symbol=symbol, live=False, price=8.0, at=T0 + i) for i in range(3_000)]
    archive(url, corrected)  # a file that was published again
    found = read(url, symbol)
    assert found[::2] == live
    assert found[1::2] == corrected[1::2]


def test_what_stays_is_what_the_schema_prefers(questdb_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "_FEW", 0)
    rng = random.Random(8)
    for more in ({"import_dir": questdb_server.import_dir}, {}):
        url = "questdb:" + location_of(questdb_server, **more)
        written: list[Record] = []
        for _ in range(4):
            rows = random_records(rng, 300)
            if rng.random() < 0.3:
                with open_writer(url) as writer:
                    writer.write(rows)
            else:
                archive(url, rows)
            written += rows
        with open_reader(url) as reader:
            assert stored(reader) == model(written)


def test_lost_rows_are_noticed(store: Store) -> None:
    rows = [trade(i, symbol="LOST", live=False, at=T0 + i) for i in range(100)]
    conf = conf_of(store.url(by_file=False))
    name = conf.table("trades")
    with SqlClient(conf) as client:
        with pytest.raises(StoreError, match=rf"{name} holds only 0 of 100 rows of {VENUE}:LOST on 2024-08-08 after"):
            bulk.load(client, "trades", staged("trades", rows), lambda pieces: 0)
        archive(store.url(by_file=False), rows[:60])
        with pytest.raises(StoreError, match="holds only 60 of 100 rows of"):
            bulk.load(client, "trades", staged("trades", rows), lambda pieces: 0)
        mixed = random.Random(2).sample(rows, 100)  # not in the order of keys: every key is looked for
        with pytest.raises(StoreError, match=r"holds only 60 of 100 rows after loading; see cmd-cli store check"):
            bulk.load(client, "trades", staged("trades", mixed, pieces=7), lambda pieces: 0)
        bulk.load(client, "trades", staged("trades", mixed), lambda pieces: 40)  # which were put into the quarantine
        others = [trade(i, symbol="LOST", live=False, at=T0 + i) for i in range(100, 160)]
        with pytest.raises(StoreError, match="holds only 0 of 60 rows after loading"):  # as many rows, other keys
            bulk.load(client, "trades", staged("trades", others), lambda pieces: 0)


def test_a_table_with_a_ttl_is_named_as_the_cause(questdb_server: Any) -> None:
    url = "questdb:" + location_of(questdb_server, ttl_quotes="2d")
    from cmd_common.records import Quote

    def quote(day: int) -> Quote:
        return Quote(T0 + day * DAY, 0, VENUE, "TTL", day, 1.0, 1.0, 2.0, 1.0)

    archive(url, [quote(100)])
    with pytest.raises(StoreError, match="the table has a TTL: rows older than it are dropped"):
        archive(url, [quote(1)])


def test_partitions_in_parquet_form_are_made_native_before(url: str, store: Store) -> None:
    """9.3.4 stores duplicates there, one for each stamp over the edge of a row group."""
    symbol = f"CLOSED{len(url)}"
    day = T0 - (5 if "import_dir" in url else 6) * DAY
    rows = [trade(i, symbol=symbol, live=False, at=day + i // 1_000) for i in range(12_000)]
    archive(url, rows)
    table = store.conf.table("trades")
    name = store.client.value(f"SELECT min(name) FROM table_partitions('{table}')")
    store.client.exec(f"ALTER TABLE {table} CONVERT PARTITION TO PARQUET LIST '{name}'")
    store.client.wait_applied([table])
    form = f"SELECT isParquet FROM table_partitions('{table}') WHERE name = '{name}'"
    store.server.wait_for(lambda: store.client.value(form) is True, "the partition is converted")
    archive(url, rows)
    assert store.client.value(form) is False
    assert store.count("trades", f"symbol = '{symbol}'") == 12_000
    assert read(url, symbol) == rows


def test_a_folder_that_is_not_the_servers_is_refused(store: Store, tmp_path: Path) -> None:
    rows = [trade(i, symbol="FOLDER", live=False) for i in range(bulk._FEW + 1)]
    for folder, words in (
        (tmp_path, rf"the server does not find what is written to {tmp_path}.*cairo.sql.copy.root"),
        (tmp_path / "none", f"there is no folder {tmp_path}/none"),
    ):
        url = store.url(by_file=False) + f"import_dir={folder};"
        with pytest.raises(StoreError, match=words):
            archive(url, rows)
        assert list(tmp_path.iterdir()) == []
    assert store.count("trades", "symbol = 'FOLDER'") == 0


def test_what_a_killed_process_left_in_the_folder_is_removed(store: Store) -> None:
    left = store.server.import_dir / "cmd-bulk-left"
    left.mkdir()
    (left / "trades.parquet").write_bytes(b"half")
    busy = store.server.import_dir / "cmd-bulk-busy"
    busy.mkdir()
    from cmd_common.filelock import give_back, take

    lock = take(str(busy / ".lock"))
    assert lock is not None
    archive(store.url(by_file=True), [trade(i, symbol="LEFT", live=False) for i in range(bulk._FEW + 1)])
    assert sorted(p.name for p in store.server.import_dir.glob("cmd-bulk-*")) == ["cmd-bulk-busy"]
    give_back(lock, str(busy / ".lock"))
    busy.rmdir()


def test_a_suspended_table_takes_no_load(questdb_server: Any) -> None:
    location = location_of(questdb_server)
    with SqlClient(conf_of(location)) as client:
        archive(f"questdb:{location}", [trade(1, live=False), trade(1, live=False, at=T0 + 2 * DAY)])
        table = client.conf.table("trades")
        client.exec(f"ALTER TABLE {table} CONVERT PARTITION TO PARQUET LIST '2024-08-08'")
        client.wait_applied([table])
        client.exec(f"UPDATE {table} SET price = 2.0")  # 9.3.4 cannot do it on such a partition
        state = f"SELECT suspended FROM wal_tables() WHERE name = '{table}'"
        questdb_server.wait_for(lambda: client.value(state) is True, "the table is suspended")
        with pytest.raises(TableSuspended, match=f"table {table} is suspended"):
            archive(f"questdb:{location}", [trade(2, live=False)])


def files_and_bytes(folder: Path) -> tuple[int, int]:
    """Files below a folder, and what they take on disk."""
    found = [p.stat() for p in folder.rglob("*") if p.is_file()]
    return len(found), sum(s.st_blocks * 512 for s in found)


def test_200_symbols_are_neither_200_tables_nor_200_times_the_files(questdb_server: Any) -> None:
    """What 200 symbols take is compared with what one symbol with as many rows takes."""
    used: dict[str, tuple[int, int]] = {}
    for name, symbols in (("one", 1), ("many", 200)):
        before = set(questdb_server.tables())
        url = "questdb:" + location_of(questdb_server, import_dir=questdb_server.import_dir)
        rows: list[Record] = [
            Trade(T0 + i * 1_000_000, 0, VENUE, f"SYM{i % symbols}", str(i), i, 1.5, 2.5, "buy") for i in range(40_000)
        ]
        archive(url, rows)
        with open_writer(url) as writer:
            writer.write([trade(i, symbol=f"SYM{i % symbols}", at=T0 + DAY + i) for i in range(2_000)])
        made = set(questdb_server.tables()) - before
        assert len(made) <= len(TABLES) + 5  # four views and the version of the schema
        folders = [p for p in (questdb_server.root / "db").iterdir() if p.name.startswith(conf_of(url).table_prefix)]
        counts = [files_and_bytes(p) for p in folders]
        used[name] = sum(c for c, _ in counts), sum(b for _, b in counts)
    assert used["many"][0] <= used["one"][0] + 20, used
    assert used["many"][1] <= 3 * used["one"][1], used  # candles of 200 symbols are more than those of one
    assert used["many"][1] < 64 << 20, used


def test_the_archiver_keeps_one_manifest_for_one_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cmd_archiver.command import state_folder

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    base = "questdb:http::addr=db:9000;"
    folder = state_folder(base)
    assert tmp_path in folder.parents
    assert state_folder(base + "username=u;password=secret;import_dir=/import;") == folder
    assert state_folder(base + "table_prefix=other_;") != folder
    assert state_folder("questdb:http::addr=db:9001;") != folder

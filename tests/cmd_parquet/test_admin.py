"""A Parquet store is looked after through the same door as a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmd_common.commands import LogReporter
from cmd_common.errors import StoreError, UsageError
from cmd_common.io import StoreAdmin, open_admin, open_reader, open_writer
from cmd_common.records import Trade

DAY = 86_400_000_000_000
START = 1_735_689_600_000_000_000


def trades(count: int, symbol: str = "BTCUSDT") -> list[Trade]:
    return [
        Trade(START + n * 1_000_000, START + n, "binance-spot", symbol, str(n), n, 1.5, 2.0, "buy")
        for n in range(count)
    ]


@pytest.fixture
def store(tmp_path: Path) -> str:
    url = f"parquet:{tmp_path / 'data'}"
    with open_writer(url) as writer:
        writer.write([*trades(100), *trades(50, "ETHUSDT")])
    return url


def test_status_and_sizes_count_what_is_there(store: str) -> None:
    with open_admin(store) as admin:
        status = admin.status()
        sizes = admin.sizes()
    assert status["tables"]["trades"]["rows"] == 150
    assert status["tables"]["trades"]["files"] == 2
    assert status["problems"] == []
    assert (sizes["trades"].rows, sizes["trades"].streams) == (150, 2)
    assert (sizes["trades"].start, sizes["trades"].end) == (START, START + 99_000_000)
    assert sizes["trades"].bytes == status["tables"]["trades"]["bytes"] > 0


def test_a_sound_store_has_no_findings_and_a_damaged_one_has(store: str, tmp_path: Path) -> None:
    with open_admin(store) as admin:
        assert admin.check(repair=False, full=False, reporter=LogReporter()) == []
        file = next((tmp_path / "data").rglob("*.parquet"))
        data = bytearray(file.read_bytes())
        data[10] ^= 1
        file.write_bytes(data)
        (file.parent / "9-w9-9.parquet").write_bytes(b"left")
        found = admin.check(repair=False, full=False, reporter=LogReporter())
    assert sorted((f.severity, f.kind) for f in found) == [("error", "file"), ("warning", "leftover")]
    assert "checksum" in str(found[0])
    assert "--force" in found[0].hint


def test_repair_makes_a_lost_manifest_again(store: str, tmp_path: Path) -> None:
    manifest = tmp_path / "data" / "_store" / "manifest.sqlite"
    manifest.write_bytes(b"no database" * 1000)
    with open_admin(store) as admin:
        found = admin.check(repair=False, full=False, reporter=LogReporter())
        assert {f.kind for f in found} == {"manifest"}
        assert "--repair" in found[0].hint
        assert admin.check(repair=True, full=False, reporter=LogReporter()) == []
    with open_reader(store) as reader:
        assert len(list(reader.records("trades"))) == 150


def test_what_a_folder_does_not_need_says_what_to_do_instead(store: str, tmp_path: Path) -> None:
    reporter = LogReporter()
    with open_admin(store) as admin:
        assert admin.migrate(dry_run=False, reporter=reporter)["statements"] == 0
        with pytest.raises(UsageError, match="dense already"):
            admin.convert((), older=DAY, back=False, dry_run=False, reporter=reporter)


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    def all_of(admin: StoreAdmin) -> list[object]:
        return [admin.status, admin.sizes, lambda: admin.check(repair=False, full=False, reporter=LogReporter())]

    with open_admin(f"parquet:{tmp_path / 'no'}") as admin:
        for ask in all_of(admin):
            with pytest.raises(StoreError, match="there is no store at"):
                ask()  # type: ignore[operator]
    assert not (tmp_path / "no").exists()

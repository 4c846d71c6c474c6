"""Names, listings and layouts of the bulk files; a day of both markets through the archiver."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_bybit import LINEAR, SPOT, BybitExchange
from cmd_common.archive import ArchiveSource
from cmd_common.errors import ProtocolError, UsageError

DAY = date(2026, 8, 24)
LINEAR_HEADER = "timestamp,symbol,side,size,price,tickDirection,trdMatchID,grossValue,homeNotional,foreignNotional"


def source(exchange: BybitExchange) -> ArchiveSource:
    archive = exchange.archive
    assert archive is not None
    return archive


@pytest.mark.parametrize(
    ("exchange", "key"),
    [
        (SPOT, "spot/BTCUSDT/BTCUSDT_2026-08-24.csv.gz"),
        (LINEAR, "trading/BTCUSDT/BTCUSDT2026-08-24.csv.gz"),
    ],
)
def test_names(exchange: BybitExchange, key: str) -> None:
    file = source(exchange).file("trades", "BTCUSDT", DAY, exchange.endpoints)
    assert (file.key, file.url, file.checksum_url) == (key, f"https://public.bybit.com/{key}", "")
    assert (file.name, file.first_day, file.last_day, file.offset) == (key.rpartition("/")[2], DAY, DAY, 0)
    prefix = source(exchange).listing_prefix("trades", "BTCUSDT")
    for asked in (prefix, file.key[:-12]):
        request = source(exchange).listing_request(asked, "", exchange.endpoints)
        assert request is not None
        assert request.url == f"https://public.bybit.com/{prefix}"


@pytest.mark.parametrize("symbol", ["", "..", "a/b", "a b", "a?b"])
def test_what_is_not_published(symbol: str) -> None:
    with pytest.raises(UsageError):
        source(SPOT).file("trades", symbol, DAY, SPOT.endpoints)
    with pytest.raises(UsageError, match="candles come by REST"):
        source(SPOT).file("candles", "BTCUSDT", DAY, SPOT.endpoints, interval="1m")
    with pytest.raises(UsageError, match="daily"):
        source(SPOT).listing_prefix("trades", "BTCUSDT", period="monthly")


PAGE = """<!DOCTYPE html>
<html><head><title>x</title><link href="style.css"></head><body><a href="../">up</a>
<a href="BTCUSDT2026-08-23.csv.gz">BTCUSDT2026-08-23.csv.gz</a> <A class='x' HREF='BTCUSDT2026-08-24.csv.gz'>y</A>
<a href="/trading/BTCUSDT/BTCUSDT2026-08-25.csv.gz">z</a><a href="https://example.org/x.gz">e</a><a href="old/">o</a>
<a href="BTCUSDT2026-08-24.csv.gz">again</a><a href="%2Fetc%2Fpasswd">no</a><a href="/elsewhere/a.gz">no</a>
</body></html>"""


def test_a_listing_is_the_links_of_its_page() -> None:
    page = source(LINEAR).parse_listing(PAGE.encode(), "trading/BTCUSDT/")
    days = ("2026-08-23", "2026-08-24", "2026-08-25")
    assert page.keys == tuple((f"trading/BTCUSDT/BTCUSDT{day}.csv.gz", 0) for day in days)
    assert (page.marker, page.prefixes) == ("", ("trading/BTCUSDT/old/",))
    part = source(LINEAR).parse_listing(PAGE.encode(), "trading/BTCUSDT/BTCUSDT2026-08-24")
    assert [key for key, _ in part.keys] == ["trading/BTCUSDT/BTCUSDT2026-08-24.csv.gz"]


@pytest.mark.parametrize("body", [b"", b"{}", b"\xff\xfe", b"<Error>", b"<html>" + b" " * (17 << 20)])
def test_damaged_listings(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        source(SPOT).parse_listing(body, "spot/BTCUSDT/")


@given(st.text(max_size=200))
def test_no_page_raises_or_leaves_its_folder(text: str) -> None:
    page = source(SPOT).parse_listing(f'<html><a href="{text}">'.encode("utf-8", "replace"), "spot/BTCUSDT/")
    for key, _ in page.keys:
        assert key.startswith("spot/BTCUSDT/")
        assert "/" not in key.removeprefix("spot/BTCUSDT/")


# Layouts


@pytest.mark.parametrize("extra", ["", ",RPI"])
@pytest.mark.parametrize("headed", [True, False])
def test_linear_layout(extra: str, headed: bool) -> None:
    header = (LINEAR_HEADER + extra).split(",")
    layout = source(LINEAR).layout("trades", header if headed else None, len(header))
    assert [c.name for c in layout.columns] == header
    assert {d.target: d.source for d in layout.derive if d.source} == {
        "ts_event": "timestamp", "trade_id": "trdMatchID", "price": "price", "quantity": "size", "side": "side",
    }  # fmt: skip
    assert (layout.id_column, layout.notional_column) == ("", "foreignNotional")


@pytest.mark.parametrize("extra", ["", ",rpi"])
def test_spot_layout(extra: str) -> None:
    header = f"id,timestamp,price,volume,side{extra}".split(",")
    layout = source(SPOT).layout("trades", header, len(header))
    assert [c.name for c in layout.columns] == header
    assert layout.id_column == ""  # a number of rows, that begins anew every day
    reordered = source(SPOT).layout("trades", list(reversed(header)), len(header))
    assert [c.name for c in reordered.columns] == list(reversed(header))


@pytest.mark.parametrize(
    ("header", "width"),
    [("id,timestamp,price,volume", 4), ("id,timestamp,price,volume,side,more", 6), ("id,id,price,volume,side", 5), (None, 4)],
)  # fmt: skip
def test_unknown_layouts(header: str | None, width: int) -> None:
    with pytest.raises(ProtocolError):
        source(SPOT).layout("trades", header.split(",") if header else None, width)


def test_live_and_archived_trades_of_linear_have_one_key() -> None:
    """What the file's time becomes is what the live trade's time is: whole ms."""
    import pyarrow as pa

    from cmd_archiver.parse import derive

    archive = source(LINEAR)
    file = archive.file("trades", "BTCUSDT", DAY, LINEAR.endpoints)
    layout = archive.layout("trades", LINEAR_HEADER.split(","), 10)
    row = [
        "1787529600.1239",
        "BTCUSDT",
        "Sell",
        0.5,
        100.25,
        "PlusTick",
        "f7496ecb-19b5-5d3b-8a48-cb4a4a0ec2a5",
        1e9,
        0.5,
        50.125,
    ]
    types = {"string": pa.string(), "float64": pa.float64()}
    arrays = [pa.array([cell], types[c.type]) for cell, c in zip(row, layout.columns, strict=True)]
    batch = derive(pa.RecordBatch.from_arrays(arrays, names=[c.name for c in layout.columns]), layout, file)
    (made,) = batch.to_pylist()
    assert made["ts_event"] == 1_787_529_600_123_000_000
    assert (made["trade_id"], made["trade_seq"], made["side"]) == (row[6], None, "sell")
    assert (made["price"], made["quantity"], made["symbol"]) == (100.25, 0.5, "BTCUSDT")

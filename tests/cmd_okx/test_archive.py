"""Bulk files: names, days of UTC+8, headers of all times."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from cmd_common.errors import ProtocolError, UsageError
from cmd_common.exchange import Endpoints
from cmd_okx.archive import OkxArchive

ENDPOINTS = Endpoints(ws="ws://h", rest="http://h", archive="http://h")
ARCHIVE = OkxArchive()


def test_names_and_spans() -> None:
    file = ARCHIVE.file("trades", "BTC-USDT-SWAP", date(2026, 3, 1), ENDPOINTS)
    key = "cdn/okex/traderecords/trades/daily/20260301/BTC-USDT-SWAP-trades-2026-03-01.zip"
    assert (file.key, file.url) == (key, f"http://h/{key}")
    assert file.checksum_url == ""
    assert file.start_ns == int(datetime(2026, 2, 28, 16, tzinfo=UTC).timestamp()) * 10**9
    assert file.end_ns == int(datetime(2026, 3, 1, 16, tzinfo=UTC).timestamp()) * 10**9
    assert ARCHIVE.listing_request("x", "", ENDPOINTS) is None
    assert ARCHIVE.member(["__MACOSX/x.csv", "BTC-USDT-SWAP-trades-2026-03-01.csv"], file) == (
        "BTC-USDT-SWAP-trades-2026-03-01.csv"
    )


@pytest.mark.parametrize(
    ("table", "symbol", "day", "period"),
    [
        ("candles", "BTC-USDT", date(2026, 3, 1), "daily"),
        ("trades", "BTC-USDT", date(2026, 3, 1), "monthly"),
        ("trades", "../etc", date(2026, 3, 1), "daily"),
        ("trades", "", date(2026, 3, 1), "daily"),
        ("trades", "BTC-USDT", date(2020, 3, 1), "daily"),
    ],
)
def test_what_is_never_published(table: str, symbol: str, day: date, period: str) -> None:
    with pytest.raises(UsageError):
        ARCHIVE.file(table, symbol, day, ENDPOINTS, period=period)


@pytest.mark.parametrize(
    "header",
    [
        "instrument_name,trade_id,side,price,size,created_time",
        "instrument_name,trade_id,side,price,size,created_time,source",
        "instrument_name,trade_id,side,price,size,created_time,source,brand_new",
        "trade_id/撮合id,side/交易方向,size/数量,price/价格,created_time/成交时间",
        "\ufeffTRADE_ID , side,size,price,created_time",
    ],
)
def test_columns_are_found_by_the_part_before_the_slash(header: str) -> None:
    cells = header.split(",")
    layout = ARCHIVE.layout("trades", cells, len(cells))
    names = [c.name for c in layout.columns]
    assert len(names) == len(cells)
    assert {d.source for d in layout.derive} <= set(names)
    assert names.index("size") - names.index("price") == (-1 if len(cells) == 5 else 1)
    assert layout.id_column == "trade_id"
    assert {d.target for d in layout.derive} == {"ts_event", "trade_id", "trade_seq", "price", "quantity", "side"}


def test_both_headers_survive_their_encodings() -> None:
    text = "trade_id/撮合id,side/交易方向,size/数量,price/价格,created_time/成交时间"
    raw = text.encode("gbk")
    with pytest.raises(UnicodeDecodeError):
        raw.decode(ARCHIVE.encodings[0])
    assert raw.decode(ARCHIVE.encodings[1]) == text


@pytest.mark.parametrize("width", [5, 6, 7])
def test_files_without_a_header(width: int) -> None:
    assert len(ARCHIVE.layout("trades", None, width).columns) == width


@pytest.mark.parametrize(
    ("table", "header", "width"),
    [
        ("trades", None, 4),
        ("candles", None, 6),
        ("trades", ["trade_id", "side", "price", "size"], 4),
        ("trades", ["trade_id", "trade_id", "side", "price", "size", "created_time"], 6),
        ("trades", ["trade_id", "side", "price", "size", "created_time"], 6),
    ],
)
def test_other_layouts_are_protocol_errors(table: str, header: list[str] | None, width: int) -> None:
    with pytest.raises(ProtocolError):
        ARCHIVE.layout(table, header, width)

from __future__ import annotations

import csv
import io
import zipfile
from datetime import date
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_binance.archive import BinanceArchive
from cmd_binance.instruments import COINM, SPOT, USDM
from cmd_common.errors import ProtocolError, UsageError
from cmd_common.exchange import Endpoints
from cmd_common.schema import SCHEMA

DAY = date(2024, 8, 8)
REAL = Endpoints(
    ws="wss://stream.binance.com:9443",
    rest="https://api.binance.com",
    archive="https://data.binance.vision",
    listing="https://s3-ap-northeast-1.amazonaws.com/data.binance.vision",
)
MARKETS = {m.name: BinanceArchive(m) for m in (SPOT, USDM, COINM)}
S3 = "http://s3.amazonaws.com/doc/2006-03-01/"


@pytest.mark.parametrize(
    ("market", "table", "symbol", "interval", "period", "key"),
    [
        ("spot", "trades", "BTCUSDT", "", "daily", "data/spot/daily/trades/BTCUSDT/BTCUSDT-trades-2024-08-08.zip"),
        ("spot", "trades", "BTCUSDT", "", "monthly", "data/spot/monthly/trades/BTCUSDT/BTCUSDT-trades-2024-08.zip"),
        (
            "usdm", "agg_trades", "ETHUSDT", "", "daily",
            "data/futures/um/daily/aggTrades/ETHUSDT/ETHUSDT-aggTrades-2024-08-08.zip",
        ),
        (
            "coinm", "candles", "BTCUSD_PERP", "1m", "daily",
            "data/futures/cm/daily/klines/BTCUSD_PERP/1m/BTCUSD_PERP-1m-2024-08-08.zip",
        ),
        (
            "spot", "candles", "BTCUSDT", "1M", "monthly",
            "data/spot/monthly/klines/BTCUSDT/1mo/BTCUSDT-1mo-2024-08.zip",
        ),
        ("spot", "candles", "BTCUSDT", "1s", "daily", "data/spot/daily/klines/BTCUSDT/1s/BTCUSDT-1s-2024-08-08.zip"),
    ],
)  # fmt: skip
def test_keys_are_those_of_the_public_archive(market, table, symbol, interval, period, key):
    source = MARKETS[market]
    file = source.file(table, symbol, DAY, REAL, interval=interval, period=period)
    assert file.key == key
    assert file.url == f"https://data.binance.vision/{key}"
    assert file.checksum_url == file.url + ".CHECKSUM"
    assert file.key.startswith(source.listing_prefix(table, symbol, interval=interval, period=period))
    assert (file.first_day, file.last_day) == (
        (DAY, DAY) if period == "daily" else (date(2024, 8, 1), date(2024, 8, 31))
    )


def test_symbols_that_are_not_ascii_are_quoted_in_the_url():
    file = MARKETS["spot"].file("trades", "币安USDT", DAY, REAL)
    assert "币安USDT-trades" in file.key
    assert file.url.isascii()


@pytest.mark.parametrize(
    ("market", "table", "symbol", "interval", "period", "words"),
    [
        ("spot", "quotes", "BTCUSDT", "", "daily", "publishes no files of 'quotes'"),
        ("spot", "candles", "BTCUSDT", "7m", "daily", "no candles of interval '7m'"),
        ("usdm", "candles", "BTCUSDT", "1s", "daily", "no candles of interval '1s'"),
        ("spot", "candles", "BTCUSDT", "1M", "daily", "by month only"),
        ("spot", "candles", "BTCUSDT", "3d", "daily", "by month only"),
        ("spot", "trades", "BTCUSDT", "", "weekly", "unknown period"),
        ("spot", "trades", "../BTC", "", "daily", "not a symbol"),
        ("spot", "trades", "", "", "daily", "not a symbol"),
    ],
)
def test_what_is_never_published_is_a_usage_error(market, table, symbol, interval, period, words):
    with pytest.raises(UsageError, match=words):
        MARKETS[market].file(table, symbol, DAY, REAL, interval=interval, period=period)


def page(keys=(), prefixes=(), *, truncated=False, next_marker="", namespace=S3) -> bytes:
    contents = "".join(
        f"<Contents><Key>{escape(k)}</Key><LastModified>2024-08-09T02:00:00.000Z</LastModified>"
        f'<ETag>"x"</ETag><Size>{n}</Size><StorageClass>STANDARD</StorageClass></Contents>'
        for k, n in keys
    )
    folders = "".join(f"<CommonPrefixes><Prefix>{escape(p)}</Prefix></CommonPrefixes>" for p in prefixes)
    marker = f"<NextMarker>{escape(next_marker)}</NextMarker>" if next_marker else ""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="{namespace}"><Name>data.binance.vision</Name>'
        f"<Prefix>data/</Prefix><Marker></Marker>{marker}<MaxKeys>1000</MaxKeys>"
        f"<IsTruncated>{str(truncated).lower()}</IsTruncated>{contents}{folders}</ListBucketResult>"
    ).encode()


def test_listing_pages():
    source = MARKETS["spot"]
    parsed = source.parse_listing(page([("a.zip", 10), ("a.zip.CHECKSUM", 90)], ["data/x/"]))
    assert parsed.keys == (("a.zip", 10), ("a.zip.CHECKSUM", 90))
    assert parsed.prefixes == ("data/x/",)
    assert parsed.marker == ""
    assert source.parse_listing(page([("a", 1)], truncated=True, next_marker="m&m")).marker == "m&m"
    assert source.parse_listing(page([("a", 1), ("b", 2)], truncated=True)).marker == "b"
    assert source.parse_listing(page([], ["d/", "e/"], truncated=True)).marker == "e/"


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1).filter(str.strip),
            st.integers(0, 10**12),
        ),
        max_size=20,
    )
)
def test_a_listing_is_read_back(keys):
    keys = [(k.strip(), n) for k, n in keys if k.strip().isprintable()]
    assert MARKETS["spot"].parse_listing(page(keys)).keys == tuple(keys)


BOMB = (
    b'<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    b"<ListBucketResult>&b;</ListBucketResult>"
)


@pytest.mark.parametrize(
    "body",
    [
        BOMB,
        BOMB.decode().encode("utf-16"),
        b"",
        b"not xml",
        b"<html></html>",
        page(truncated=True),
        page([("a", 1)])[:-20],
        page([("a", 1)]).replace(b"<Size>1</Size>", b""),
        page([("a", 1)]).replace(b"<Size>1</Size>", b"<Size>-1</Size>"),
        page([("a", 1)]).replace(b"<Key>a</Key>", b""),
        b" " * (5 << 20),
        b'<?xml version="1.0" encoding="nonsense"?><ListBucketResult/>',
    ],
)
def test_hostile_listings_are_refused(body):
    with pytest.raises(ProtocolError):
        MARKETS["spot"].parse_listing(body)


@given(st.binary(max_size=300))
def test_any_listing_bytes_end_in_a_page_or_a_protocol_error(body):
    try:
        MARKETS["spot"].parse_listing(body)
    except ProtocolError:
        pass


def test_listing_requests_carry_prefix_delimiter_and_marker():
    request = MARKETS["spot"].listing_request("data/spot/daily/", "data/spot/daily/x&y", REAL)
    assert request.url.startswith(REAL.listing + "?")
    assert parse_qs(urlsplit(request.url).query) == {
        "prefix": ["data/spot/daily/"],
        "delimiter": ["/"],
        "marker": ["data/spot/daily/x&y"],
    }
    here = REAL.override("http://127.0.0.1:8000")
    assert MARKETS["spot"].listing_request("data/", "", here).url.startswith("http://127.0.0.1:8000/?prefix=")


def test_the_real_checksum_sample(recordings):
    body = (recordings / "archives/binance/BTCUSDT-trades-2025-01-01.zip.CHECKSUM_sample").read_bytes()
    digest = MARKETS["spot"].parse_checksum(body, "BTCUSDT-trades-2025-01-01.zip")
    assert digest == "088c0401c491b235bf33ef5884633b2f080c9ba6afb8231f11fd71cea6e2d93c"
    with pytest.raises(ProtocolError, match="names another file"):
        MARKETS["spot"].parse_checksum(body, "BTCUSDT-trades-2025-01-02.zip")


def test_all_real_checksum_lines_of_replaced_files(recordings):
    folder = recordings / "archives/binance"
    texts = [(folder / "updates_2022-10-04_aggregate_trade_updates.csv").read_text()]
    with zipfile.ZipFile(folder / "updates_2022-04-21_aggregate_trade_updates.zip") as archive:
        texts.append(archive.read("2022-04-21_aggregate_trade_updates.csv").decode())
    seen = 0
    for text in texts:
        for row in list(csv.reader(io.StringIO(text)))[1:]:
            old, new = row[1], row[2]
            name = new.split()[-1]
            digests = {MARKETS["spot"].parse_checksum(line.encode(), name) for line in (old, new) if line.strip()}
            assert len(digests) == 2
            assert all(len(d) == 64 for d in digests)
            seen += 1
    assert seen > 300


@pytest.mark.parametrize(
    "body", [b"", b"abc  x.zip", b"\xff" * 70, b"0" * 64, b"0" * 63 + b"  x.zip", b"0" * 64 + b"  x.zip\n" * 2]
)
def test_malformed_checksums_are_refused(body):
    with pytest.raises(ProtocolError):
        MARKETS["spot"].parse_checksum(body, "x.zip")


def test_the_member_is_the_one_named_like_the_zip():
    source = MARKETS["spot"]
    file = source.file("trades", "BTCUSDT", DAY, REAL)
    csv_name = "BTCUSDT-trades-2024-08-08.csv"
    assert source.member(["__MACOSX/._" + csv_name, csv_name], file) == csv_name
    assert source.member(["a/" + csv_name, "__MACOSX/a/" + csv_name], file) == "a/" + csv_name
    for names in ([], ["other.csv"], ["__MACOSX/" + csv_name], ["a/" + csv_name, "b/" + csv_name]):
        with pytest.raises(ProtocolError, match="holds no"):
            source.member(names, file)


HEADERS = {
    ("spot", "trades"): "id,price,qty,quoteQty,time,isBuyerMaker,isBestMatch",
    ("usdm", "trades"): "id,price,qty,quote_qty,time,is_buyer_maker",
    ("coinm", "trades"): "id,price,qty,base_qty,time,is_buyer_maker",
    ("spot", "agg_trades"): "a,p,q,f,l,T,m,M",
    ("usdm", "agg_trades"): "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker",
    ("coinm", "agg_trades"): "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker",
    ("usdm", "candles"): (
        "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
    ),
    ("spot", "candles"): (
        "open_time,open,high,low,close,volume,close_time,quote_asset_volume,number_of_trades,"
        "taker_buy_base_asset_volume,taker_buy_quote_asset_volume,ignore"
    ),
}


@pytest.mark.parametrize(("market", "table"), list(HEADERS))
def test_layouts_with_and_without_header_are_the_same(market, table):
    source = MARKETS[market]
    header = HEADERS[market, table].split(",")
    if (market, table) == ("spot", "agg_trades"):
        header[5:] = ["transact_time", "is_buyer_maker", "is_best_match"]
    with_header = source.layout(table, header, len(header))
    assert with_header == source.layout(table, None, len(header))
    names = [c.name for c in with_header.columns]
    filled = {d.target for d in with_header.derive}
    assert filled | {"venue", "symbol", "interval", "ts_recv", "flags"} >= set(SCHEMA[table].names)
    assert all(d.source in names for d in with_header.derive if d.how != "const")
    for name in (with_header.id_column, with_header.notional_column):
        assert not name or name in names


@pytest.mark.parametrize(("market", "table"), list(HEADERS))
def test_columns_follow_the_header_s_order(market, table):
    header = HEADERS[market, table].split(",")
    if (market, table) == ("spot", "agg_trades"):
        header[5:] = ["transact_time", "is_buyer_maker", "is_best_match"]
    plain = MARKETS[market].layout(table, None, len(header))
    turned = MARKETS[market].layout(table, header[::-1], len(header))
    assert turned.columns == plain.columns[::-1]


def test_wrong_columns_are_refused():
    source = MARKETS["spot"]
    header = HEADERS["spot", "trades"].split(",")
    with pytest.raises(ProtocolError, match="have 7 columns, this file has 6"):
        source.layout("trades", None, 6)
    with pytest.raises(ProtocolError, match="unknown columns side"):
        source.layout("trades", [*header[:-1], "side"], 7)
    with pytest.raises(ProtocolError, match="a column twice"):
        source.layout("trades", [*header[:-1], "id"], 7)

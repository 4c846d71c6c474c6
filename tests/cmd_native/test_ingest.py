"""Archives go the native way and the pure one with the same rows, to the bit, and the same words for what is wrong."""

from __future__ import annotations

import gzip
import os
import random
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from datetime import date
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.cmd_native.ingest_kit import AnySource, forged, native, outcome, same, way, zip64, zipped
from tests.conftest import require

from cmd_archiver.parse import CsvFile, derive
from cmd_binance.archive import BinanceArchive
from cmd_binance.instruments import COINM, SPOT, USDM
from cmd_common.exchange import Endpoints

HOW = "install cmd-native, which deploy/test.sh builds where a Rust toolchain is"
HERE = Endpoints(ws="ws://x", rest="http://x", archive="http://x", listing="http://x")
MARKETS = {m.name: BinanceArchive(m) for m in (SPOT, USDM, COINM)}
DAY = date(2024, 8, 8)


@pytest.fixture(autouse=True)
def _native() -> None:
    require("native", find_spec("cmd_native") is not None, HOW)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ingest")


@pytest.fixture
def only_native(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing may go the pure way, neither a file nor a line."""
    import cmd_native

    def never(*arguments: object) -> None:
        raise AssertionError("the pure way")

    monkeypatch.setattr(CsvFile, "_pure", never)
    monkeypatch.setattr(CsvFile, "_parse", never)
    with way(cmd_native.CsvReader):
        yield


def put(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


# The layouts that are published

TRADES = b"4,60000.10000000,0.00100000,60.00010000,%d,True,True\n5,60000.2,10,600002,%d,False,False\n"
FUTURES = b"4,60000.1,0.001,60.0001,%d,true\n5,60000.2,10,600002.0,%d,false\n"
FUTURES_NAMES = b"id,price,qty,quote_qty,time,is_buyer_maker\n"
AGG = b"7,0.00000310,1234567.00000000,4,5,%d,True,True\n8,0.00000311,1.5,6,6,%d,False,True\n"
AGG_FUTURES = b"7,60000.1,1.5,4,5,%d,true\n8,60000.2,1,6,6,%d,false\n"
AGG_NAMES = b"agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker\n"
KLINES = b"%d,60000.1,60010,59990.5,60001,12.5,%d,750000.125,321,6.25,375000.5,0\n"
KLINE_NAMES = (
    b"open_time,open,high,low,close,volume,close_time,quote_volume,count,"
    b"taker_buy_volume,taker_buy_quote_volume,ignore\n"
)
MS, US = 1_723_075_200_000, 1_723_075_200_000_000
PUBLISHED = [
    ("spot", "trades", b"", TRADES),
    ("usdm", "trades", b"", FUTURES),
    ("usdm", "trades", FUTURES_NAMES, FUTURES),
    ("coinm", "trades", FUTURES_NAMES.replace(b"quote", b"base"), FUTURES),
    ("spot", "agg_trades", b"", AGG),
    ("usdm", "agg_trades", AGG_NAMES, AGG_FUTURES),
    ("coinm", "agg_trades", b"", AGG_FUTURES),
    ("spot", "candles", b"", KLINES),
    ("usdm", "candles", KLINE_NAMES, KLINES),
    ("coinm", "candles", KLINE_NAMES, KLINES),
]


@pytest.mark.parametrize(("market", "table", "names", "rows"), PUBLISHED)
@pytest.mark.parametrize("time", [MS, US])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_every_published_layout_goes_the_native_way(
    folder: Path, market: str, table: str, names: bytes, rows: bytes, time: int, end: bytes,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    source = MARKETS[market]
    file = source.file(table, "BTCUSDT", DAY, HERE, interval="1m" if table == "candles" else "")
    text = (names + rows % (time, time + 5)).replace(b"\n", end)
    path = put(folder, file.name, zipped(text, name=file.name.replace(".zip", ".csv")))
    pure = outcome(None, path, source, file)
    assert isinstance(pure, pa.Table)
    request.getfixturevalue("only_native")
    csv = CsvFile(path, file, source)
    (batch,) = csv.batches()
    assert csv.layout is not None
    assert pa.Table.from_batches([batch]).equals(pure)
    assert derive(batch, csv.layout, file).equals(derive(pure.to_batches()[0], csv.layout, file))


def test_other_venues_files_go_the_native_way(folder: Path, only_native: None) -> None:
    import cmd_native
    from cmd_bybit.archive import BybitArchive
    from cmd_bybit.instruments import LINEAR
    from cmd_okx.archive import OkxArchive

    bybit = (
        b"timestamp,symbol,side,size,price,tickDirection,trdMatchID,grossValue,homeNotional,foreignNotional\n"
        b"1787529600.1239,BTCUSDT,Sell,0.5,100.25,PlusTick,f7496ecb-19b5,5.0125e+09,0.5,50.125\n"
    )
    okx = "trade_id/成交id,side/交易方向,size/数量,price/价格,created_time/成交时间\n".encode("gbk")
    okx += b"1,BUY,0.5,100.25,1787529600123\n"
    kraken = b"1787529600,1.5,2\n1787529601.25,1.25,3e-05\n"
    for data, name, source, rows in [
        (gzip.compress(bybit), "x.csv.gz", BybitArchive(LINEAR), 1),
        (zipped(okx), "x.zip", OkxArchive(), 1),
        (kraken, "x.csv", AnySource("sff"), 2),
    ]:
        table = outcome(cmd_native.CsvReader, put(folder, name, data), source)
        assert isinstance(table, pa.Table)
        assert table.num_rows == rows


def test_too_many_digits_are_flagged_the_same_way(folder: Path) -> None:
    source = MARKETS["spot"]
    file = source.file("trades", "BTCUSDT", DAY, HERE)
    rows = [
        b"%d,%s,%s,1,%d,True,True\n" % (n, price, quantity, MS + n)
        for n, (price, quantity) in enumerate(
            [
                (b"0.00000100", b"12345678901.12345678"),
                (b"12345678.5", b"1"),
                (b"98765432100.00000000", b"2"),
                (b"12345678901234567890.5", b"3"),
                (b"9007199254740993", b"4"),
                (b"123456789.123456789012345678", b"1e-7"),
            ]
        )
    ]
    path = put(folder, file.name, zipped(b"".join(rows), name=file.name.replace(".zip", ".csv")))
    flags = []
    for reader in (None, native()):
        csv = CsvFile(path, file, source)
        with way(reader):
            batches = list(csv.batches())
        assert csv.layout is not None
        made = pa.Table.from_batches([derive(batch, csv.layout, file) for batch in batches])
        flags.append(made["flags"].to_pylist())
    assert flags[0] == flags[1]
    assert flags[0][:3] == [2, 0, 0]


# Numbers


def test_numbers_are_exactly_those_of_python(folder: Path, only_native: None) -> None:
    rng = random.Random(7)
    texts = ["0", "-0.0", "0.1", "9007199254740993", "9007199254740992.5", "1" * 300, "0." + "0" * 200 + "1"]
    for _ in range(60_000):
        digits = str(rng.getrandbits(rng.randrange(1, 80)))
        place = rng.randrange(len(digits) + 1)
        text = f"{digits[:place] or '0'}.{digits[place:]}" if place < len(digits) else digits
        text += f"e{rng.randrange(-250, 200)}" if rng.random() < 0.1 else ""
        texts.append("-" * (rng.random() < 0.2) + text)
    path = put(folder, "numbers.csv", "".join(f"{t},{i}\n" for i, t in enumerate(texts)).encode())
    import cmd_native

    table = outcome(cmd_native.CsvReader, path, AnySource("fi"))
    assert isinstance(table, pa.Table)
    assert [v.hex() for v in table["f0"].to_pylist()] == [float(t).hex() for t in texts]
    assert table["i1"].to_pylist() == list(range(len(texts)))


# Any text at all

ODD = [
    "", " 1", "1 ", "+1", "-1", "-", "--1", "1.", ".5", "0x1F", "1e5", "1E+05", "1e400", "1e-400", "4.9e-324", "nan", "NaN", "inf",
    "-inf", "Infinity", "NULL", "null", "None", "12345678901234567890", "999999999999999999", "9223372036854775807",
    "9223372036854775808", "-9223372036854775808", "00012", "1_000", "1.2.3", "true", "True", "TRUE", "tRUE", "0", "1", '"1"',
    '"a', "a\0b", "\0", "é", "\ufeff1", "日", "1\r", "\r", "a\rb", "\t1", "-0", "-0.0", "0.00000000", "1e", "1e+", "\u00a01", "f",
]  # fmt: skip
CELLS = {
    "i": st.integers(-(10**18), 10**18).map(str),
    "f": st.decimals(allow_nan=False, allow_infinity=False, places=8, min_value=-(10**12), max_value=10**12).map(str)
    | st.floats(allow_nan=False, allow_infinity=False).map(repr),
    "b": st.sampled_from(["true", "True", "TRUE", "false", "False", "FALSE"]),
    "s": st.text("abcXYZ0123456789-._ ", max_size=12),
}
ENDS = st.sampled_from(["\n"] * 6 + ["\r\n", "\n\n", "\r", ""])


@st.composite
def texts(draw: st.DrawFn) -> tuple[str, str, bytes]:
    """Kinds of columns, a delimiter, and lines of which most are as they should be."""
    kinds = draw(st.text("ifbs", min_size=1, max_size=5))
    delimiter = draw(st.sampled_from([",", ",", ";", "|", "\t", "!"]))
    oddity = draw(st.sampled_from([0, 0, 1, 3]))
    lines = []
    if draw(st.booleans()):
        lines.append(delimiter.join("name" for _ in kinds) + "\n")
    for _ in range(draw(st.integers(0, 30))):
        row = [
            draw(st.sampled_from(ODD)) if oddity and draw(st.integers(0, 40)) < oddity else draw(CELLS[kind])
            for kind in kinds
        ]
        if oddity and not draw(st.integers(0, 30)):
            row = row[:-1] if draw(st.booleans()) else [*row, "1"]
        end = draw(ENDS) if oddity else draw(st.sampled_from(["\n", "\n", "\r\n"]))
        lines.append(delimiter.join(row) + end)
    text = "".join(lines).encode()
    if draw(st.booleans()):
        text = text[:-1]  # the last line ends without an end, or with half of one
    if oddity == 3 and text and draw(st.booleans()):
        at = draw(st.integers(0, len(text) - 1))
        text = (
            text[:at] + draw(st.sampled_from([b"\xff", b"\0", b"\r", b"\n", b"\xc3", b"\xef\xbb\xbf"])) + text[at + 1 :]
        )
    return kinds, delimiter, text


@given(texts(), st.sampled_from([1, 2, 3, 7, 16, 61, 200, 0]), st.sampled_from([1, 100, 0]), st.integers(0, 3))
@example(("s", ",", b"\n\n"), 0, 0, 0)
@example(("s", ",", b"name\n\r\n"), 0, 0, 0)
@example(("sf", ",", b"name,\n1,2\n\r"), 0, 0, 0)
@example(("is", ",", b"\xef\xbb\xbf1,a\n2,b\n"), 0, 0, 0)
@example(("si", ",", b"a,1\n\xef\xbb\xbfb,2\n"), 4, 1, 0)
@example(("f", ",", b"1.5\r\n2.5\r"), 3, 0, 1)
def test_any_text_has_one_outcome(
    folder: Path, case: tuple[str, str, bytes], piece: int, batch: int, packing: int
) -> None:
    kinds, delimiter, text = case
    name, pack = [
        ("x.zip", zipped),
        ("x.csv", bytes),
        ("x.csv.gz", gzip.compress),
        ("y.zip", lambda text: zipped(text, method=zipfile.ZIP_STORED)),
    ][packing]
    same(native(piece, batch), put(folder, name, pack(text)), AnySource(kinds, delimiter))


@given(st.binary(max_size=300), st.text("ifbs", min_size=1, max_size=3), st.sampled_from([1, 5, 64, 0]))
def test_any_bytes_have_one_outcome(folder: Path, text: bytes, kinds: str, piece: int) -> None:
    same(native(piece), put(folder, "bytes.csv", text), AnySource(kinds))


LINES = b"".join(
    b"%d,%d.%08d,%s,text %d\r\n" % (n * n * 10**9, n, n * 7, b"True" if n % 3 else b"false", n) for n in range(40)
)


def test_a_piece_may_end_anywhere(folder: Path, only_native: None) -> None:
    path = put(folder, "pieces.zip", zipped(b"a,b,c,d\r\n" + LINES))
    source = AnySource("ifbs")
    whole = outcome(native(), path, source)
    assert isinstance(whole, pa.Table)
    assert whole.num_rows == 40
    assert whole["i0"][39].as_py() == 39 * 39 * 10**9
    for piece in range(1, 400):
        cut = outcome(native(piece, piece % 50 + 1), path, source)
        assert isinstance(cut, pa.Table)
        assert cut.equals(whole), piece


@pytest.mark.parametrize(
    "line", [b"x,1,True,a", b"1,1.,True,a", b"1,+1,True,a", b"1,1,True", b"1,1,maybe,a", b" 1 , 2 ,True,\xff"]
)
def test_an_odd_line_anywhere_spoils_nothing_else(folder: Path, line: bytes) -> None:
    lines = LINES.splitlines(keepends=True)
    for at in (0, 1, 20, 39, 40):
        text = b"".join([*lines[:at], line + b"\n", *lines[at:]])
        path = put(folder, "odd.zip", zipped(text))
        for piece in (30, 100, 0):
            same(native(piece, 60), path, AnySource("ifbs"))


@pytest.mark.parametrize("length", [65_000, 65_535, 65_536, 65_537, 70_000, 200_000, 5_000_000])
def test_long_lines(folder: Path, length: int) -> None:
    for text in (
        b"1,%s\n" % (b"a" * length),
        b"1,a\n" * 40_000 + b"2,%s" % (b"a" * length) + b"\n3,b\n",
        b"a" * length,
    ):
        same(native(), put(folder, "long.csv", text), AnySource("is"))


# Damage


def test_a_zip_that_is_cut_off_or_damaged_anywhere(folder: Path) -> None:
    source = AnySource("ifbs")
    for data in (zipped(LINES[:700]), zipped(LINES[:300], method=zipfile.ZIP_STORED)):
        for cut in range(0, len(data), 3):
            found = same(native(), put(folder, "cut.zip", data[:cut]), source)
            assert isinstance(found, str)
        for at in range(len(data)):
            same(native(), put(folder, "bad.zip", data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :]), source)


def test_a_gzip_that_is_cut_off_or_damaged_anywhere(folder: Path) -> None:
    source = AnySource("ifbs")
    data = gzip.compress(LINES[:500], mtime=0)
    for cut in range(len(data)):
        same(native(), put(folder, "cut.csv.gz", data[:cut]), source)
        same(native(), put(folder, "bad.csv.gz", data[:cut] + bytes([data[cut] ^ 0x21]) + data[cut + 1 :]), source)
    half = gzip.compress(LINES[:250]) + gzip.compress(LINES[250:500])
    for tail in (b"", b"\0" * 700, b"garbage", b"\0garbage", data[:9], b"\0" * 300_000, b"\0" * 300_000 + b"x"):
        found = same(native(), put(folder, "more.csv.gz", half + tail), source)
        assert isinstance(found, pa.Table) == (not tail.strip(b"\0"))


@pytest.mark.parametrize(
    ("promises", "words"),
    [
        ({"crc": 1}, "has CRC"),
        ({"size": 10}, "larger than the 10 bytes"),
        ({"size": 10_000}, "bytes, the zip says"),
        ({"length": 50}, "ends after"),
        ({"length": 10**6}, None),  # where the text ends is known without it
        ({"flags": 1}, "is encrypted"),
        ({"method": 12}, "packed by method 12"),
        ({"method": 0}, ""),
        ({}, None),
    ],
)
def test_what_a_zip_promises_is_checked(folder: Path, promises: dict[str, int], words: str | None) -> None:
    found = same(native(), put(folder, "forged.zip", forged(LINES, **promises)), AnySource("ifbs"))
    if words is None:
        assert isinstance(found, pa.Table)
    else:
        assert isinstance(found, str)
        assert words in found


def test_a_zip64_is_read(folder: Path, only_native: None) -> None:
    found = outcome(native(), put(folder, "64.zip", zip64(LINES)), AnySource("ifbs"))
    assert isinstance(found, pa.Table)
    assert found.num_rows == 40


@given(st.binary(max_size=200), st.integers(0, 300), st.integers(1, 300))
def test_no_packed_bytes_crash_the_reader(folder: Path, noise: bytes, at: int, length: int) -> None:
    """Deflate streams with a part replaced: an error, or text that the CRC would refuse."""
    import cmd_native

    whole = gzip.compress(LINES[:600], mtime=0)
    data = whole[:at] + noise + whole[at + length :]
    path = put(folder, "noise", data)
    for how in ("gzip", "deflate", "stored", "plain"):
        reader = cmd_native.CsvReader(path, how, 10 if how == "deflate" else 0, len(data), 10**6, 1, piece=50)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r".") if how in ("deflate", "stored") else way(None):
            try:
                reader.head()
                reader.start(False, ord(","), [("a", "int64"), ("b", "float64"), ("c", "bool"), ("d", "string")])
                while reader.next() is not None:
                    pass
            except ValueError:
                if how in ("deflate", "stored"):
                    raise


# The reader itself


def test_a_reader_refuses_what_makes_no_sense(folder: Path) -> None:
    import cmd_native

    path = put(folder, "few.csv", b"1,2\n")
    with pytest.raises(ValueError, match="not a packing"):
        cmd_native.CsvReader(path, "rar")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="No such file"):
        cmd_native.CsvReader(folder / "absent", "plain")
    for columns in ([], [("a", "date")], [("a\0", "int64")]):
        with pytest.raises(ValueError, match=r"."):
            cmd_native.CsvReader(path, "plain").start(False, ord(","), columns)
    reader = cmd_native.CsvReader(path, "plain")
    with pytest.raises(ValueError, match="not known yet"):
        reader.next()
    with pytest.raises(ValueError, match="closed"):
        reader.next()
    reader = cmd_native.CsvReader(path, "plain")
    assert reader.head() == b"1,2"
    reader.start(False, ord(","), [("a", "int64"), ("b", "int64")])
    batch = reader.next()
    assert pa.record_batch(batch).to_pydict() == {"a": [1], "b": [2]}
    with pytest.raises(ValueError, match="taken already"):
        pa.record_batch(batch)
    assert reader.next() is None
    assert reader.next() is None
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        reader.next()


def test_rows_outlive_their_reader_and_leave_nothing_behind(folder: Path) -> None:
    path = put(folder, "many.zip", zipped(LINES * 500))
    source = AnySource("ifbs")
    first = outcome(native(), path, source)
    kept = [outcome(native(1000, 1000), path, source) for _ in range(3)]
    assert all(table == first for table in kept)
    import cmd_native

    reader = cmd_native.CsvReader(path, "plain")
    reader.head()
    del reader, first
    batch_of = cmd_native.CsvReader(put(folder, "one.csv", b"1,one\n2,two\n"), "plain")
    batch_of.start(False, ord(","), [("a", "int64"), ("b", "string")])
    rows = pa.record_batch(batch_of.next())
    column = rows.column(1)
    del rows, batch_of
    assert column.to_pylist() == ["one", "two"]


RUN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from ingest_kit import AnySource, file_named
from cmd_archiver import parse
assert (parse.READER is None) == (sys.argv[3] == "pure")
def memory(which):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which + ":"))
path = Path(sys.argv[2])
csv = parse.CsvFile(path, file_named(path.name), AnySource("ifffibb"), lambda names: names[0])
before = memory("VmRSS")
rows = sum(batch.num_rows for batch in csv.batches())
print(rows, (memory("VmHWM") - before) / 1024)
"""


@pytest.mark.parametrize(("how", "mib"), [("native", 64), ("pure", 100)])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, how: str, mib: float) -> None:
    line = b"3735683259,61837.63000000,0.00123000,76.06028490,1723075200000,True,True\n"
    text = line * 10_000
    path = tmp_path / "large.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("large.csv", "w") as member,
    ):
        for _ in range(103):
            member.write(text)
    env = {**os.environ, "CMD_PURE": "1" if how == "pure" else "0"}
    command = [sys.executable, "-c", RUN, str(Path(__file__).parent), str(path), how]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=120)
    rows, peak = ran.stdout.split()
    assert int(rows) == 1_030_000
    assert float(peak) <= mib


WAITS = """
import sys, threading
from cmd_native import CsvReader
path = sys.argv[1]
read = []
thread = threading.Thread(target=lambda: read.append(CsvReader(path, "plain").head()))
thread.start()
with open(path, "wb") as pipe:  # a reader that held the interpreter's lock would wait for this, and this for it
    pipe.write(b"a line\\n")
thread.join()
assert read == [b"a line"], read
"""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_reading_lets_other_threads_run(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    subprocess.run([sys.executable, "-c", WAITS, str(tmp_path / "pipe")], check=True, timeout=60)

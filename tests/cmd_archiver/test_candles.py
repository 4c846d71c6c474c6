from __future__ import annotations

from datetime import date

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_archiver.candles import CandleMaker, compare
from cmd_archiver.parse import CsvFile, arrow_schema, derive
from cmd_archiver.spool import Spool, read_file
from cmd_binance.archive import BinanceArchive
from cmd_binance.instruments import SPOT
from cmd_common.exchange import Endpoints

pytestmark = pytest.mark.usefixtures("way")

SOURCE = BinanceArchive(SPOT)
HERE = Endpoints(ws="ws://x", rest="http://x", archive="http://x", listing="http://x")
DAY = date(2024, 8, 8)
MINUTE = 60_000_000_000
BASE = 1_723_075_200_000_000_000


def batch(rows):
    """Rows of (ts, price, quantity, side) in id order."""
    return pa.RecordBatch.from_pylist(
        [
            {
                "ts_event": ts, "ts_recv": None, "venue": "v", "symbol": "S", "trade_id": str(n), "trade_seq": n,
                "price": price, "quantity": quantity, "side": side, "flags": 0,
            }
            for n, (ts, price, quantity, side) in enumerate(rows)
        ],
        schema=arrow_schema("trades"),
    )  # fmt: skip


def own_candles(tmp_path, kit, rows):
    file = SOURCE.file("candles", "BTCUSDT", DAY, HERE, interval="1m")
    path = tmp_path / file.name
    path.write_bytes(kit.zip(file.name.removesuffix(".zip"), kit.klines_csv(rows)))
    csv = CsvFile(path, file, SOURCE)
    return pa.Table.from_batches([derive(b, csv.layout, file) for b in csv.batches()])


def built_candles(tmp_path, kit, rows):
    file = SOURCE.file("trades", "BTCUSDT", DAY, HERE)
    path = tmp_path / file.name
    path.write_bytes(kit.zip(file.name.removesuffix(".zip"), kit.trades_csv(rows)))
    spool = Spool(read_file(path, file, SOURCE), file, tmp_path / "spool")
    maker = CandleMaker("1m")
    for rows_, notional in spool.batches():
        maker.feed(rows_, notional)
    spool.close()
    return pa.Table.from_batches([maker.finish("binance-spot", "BTCUSDT")])


def test_built_candles_equal_the_exchange_s_over_recorded_trades(tmp_path, kit, recorded):
    theirs = own_candles(tmp_path, kit, recorded[DAY])
    ours = built_candles(tmp_path, kit, recorded[DAY])
    result = compare(theirs, ours)
    assert (result.equal, result.different, result.only_exchange, result.only_built) == (theirs.num_rows, 0, 0, 0)
    assert theirs.num_rows == 6
    assert set(ours["source"].to_pylist()) == {"built"}
    assert ours["ts_event"].to_pylist()[-1] == recorded[DAY][-1][3] * 1_000_000


def test_differences_are_counted_and_named(tmp_path, kit, recorded):
    rows = recorded[DAY]
    theirs = own_candles(tmp_path, kit, rows)
    cut = [r for r in rows if r[3] * 1_000_000 // MINUTE != theirs["open_time"][2].as_py() // MINUTE]
    ours = built_candles(tmp_path, kit, cut)
    result = compare(theirs, ours)  # the emptied minute is there, with nothing in it
    assert (result.equal, result.different) == (5, 1)
    assert result.examples[0]["open_time"] == theirs["open_time"][2].as_py()
    assert result.examples[0]["trades"][1] == 0
    assert compare(theirs, ours.slice(0, 2)).only_exchange == 4
    assert compare(theirs.slice(0, 2), ours).only_built == 4


def test_open_and_close_are_first_and_last_by_id_and_empty_minutes_carry_the_close():
    maker = CandleMaker("1m")
    maker.feed(batch([(BASE + 5, 10.0, 1.0, "buy"), (BASE + 3, 12.0, 2.0, "sell")]), None)
    maker.feed(batch([(BASE + 4, 8.0, 1.0, "buy"), (BASE + 3 * MINUTE, 9.0, 1.0, "sell")]), None)
    rows = maker.finish("v", "S").to_pylist()
    assert [r["open_time"] - BASE for r in rows] == [0, MINUTE, 2 * MINUTE, 3 * MINUTE]
    first = rows[0]
    assert [first[k] for k in ("open", "high", "low", "close")] == [10.0, 12.0, 8.0, 8.0]
    assert (first["trades"], first["volume"], first["quote_volume"]) == (3, 4.0, 42.0)
    assert (first["taker_buy_volume"], first["taker_buy_quote_volume"]) == (2.0, 18.0)
    assert first["ts_event"] == BASE + 4
    assert first["close_time"] == BASE + MINUTE
    for empty in rows[1:3]:
        assert [empty[k] for k in ("open", "high", "low", "close")] == [8.0] * 4
        assert (empty["trades"], empty["volume"], empty["taker_buy_quote_volume"]) == (0, 0.0, 0.0)


def test_no_trades_no_candles():
    made = CandleMaker("1m").finish("v", "S")
    assert made.num_rows == 0
    assert made.schema == arrow_schema("candles")


@given(
    st.lists(
        st.tuples(
            st.integers(0, 10 * MINUTE), st.integers(1, 999), st.integers(1, 99), st.sampled_from(["buy", "sell"])
        ),
        min_size=1,
        max_size=120,
    ),
    st.integers(1, 40),
)
def test_any_split_into_batches_gives_the_plain_definition(rows, size):
    # Quarters are exact in binary, so sums do not depend on their order.
    rows = [(BASE + ts, price / 4, quantity / 4, side) for ts, price, quantity, side in sorted(rows)]
    maker = CandleMaker("1m")
    for start in range(0, len(rows), size):
        maker.feed(batch(rows[start : start + size]), None)
    made = {r["open_time"]: r for r in maker.finish("v", "S").to_pylist() if r["trades"]}
    assert set(made) == {r[0] // MINUTE * MINUTE for r in rows}
    for open_time, candle in made.items():
        mine = [r for r in rows if r[0] // MINUTE * MINUTE == open_time]
        prices = [r[1] for r in mine]
        assert [candle[k] for k in ("open", "high", "low", "close")] == [
            prices[0],
            max(prices),
            min(prices),
            prices[-1],
        ]
        assert candle["trades"] == len(mine)
        assert candle["volume"] == sum(r[2] for r in mine)
        assert candle["quote_volume"] == sum(r[1] * r[2] for r in mine)
        assert candle["taker_buy_volume"] == sum(r[2] for r in mine if r[3] == "buy")


def test_calendar_months_are_refused():
    with pytest.raises(ValueError, match="1M"):
        CandleMaker("1M")

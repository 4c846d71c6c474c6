from __future__ import annotations

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parquet_models import T0, VENUE, one_of_each, to_batches, trade

from cmd_common.errors import StoreError
from cmd_common.records import RECORD_TYPES, TABLE_OF, BookDelta, Trade, pack_levels
from cmd_common.schema import LEVEL_WIDTH, SCHEMA
from cmd_parquet.columns import (
    arrow_schema,
    check_batch,
    check_schema,
    file_schema,
    row_getter,
    rows_to_arrow,
    to_records,
)


def test_arrow_schema_has_the_columns_of_the_schema_module() -> None:
    types = {
        "int64": pa.int64(),
        "int32": pa.int32(),
        "float64": pa.float64(),
        "string": pa.string(),
        "bool": pa.bool_(),
    }
    for name, table in SCHEMA.items():
        schema = arrow_schema(name)
        assert tuple(schema.names) == table.names == tuple(file_schema(name).names)
        for column in table.columns:
            field = schema.field(column.name)
            assert field.nullable == column.nullable
            if column.type in LEVEL_WIDTH:
                assert field.type.value_type == pa.float64()
            else:
                assert field.type == types[column.type]


@pytest.mark.parametrize("record", one_of_each(), ids=lambda r: type(r).__name__)
def test_rows_to_arrow_and_back_keeps_every_bit(record: object) -> None:
    name = TABLE_OF[type(record)]
    data = rows_to_arrow(name, [row_getter(name)(record)] * 3, range(3))
    assert list(to_records(name, data)) == [record] * 3
    assert list(to_records(name, data.slice(1, 1))) == [record]
    assert list(to_records(name, data.slice(2).combine_chunks().to_batches()[0])) == [record]


finite = st.floats(allow_nan=False)


@given(
    st.lists(
        st.builds(
            BookDelta,
            ts_event=st.integers(0, 2**63 - 1), ts_recv=st.integers(1, 2**63 - 1), venue=st.text(), symbol=st.text(),
            epoch=st.integers(-(2**63), 2**63 - 1), seq=st.integers(0, 2**63 - 1), first_seq=st.integers(0, 9),
            bids=st.lists(st.tuples(finite, finite), max_size=4).map(pack_levels),
            asks=st.lists(st.tuples(finite, finite), max_size=4).map(pack_levels),
            flags=st.integers(-(2**31), 2**31 - 1),
        ),
        max_size=5,
    )
)  # fmt: skip
def test_any_delta_survives_arrow(records: list[BookDelta]) -> None:
    data = rows_to_arrow("book_deltas", [row_getter("book_deltas")(r) for r in records], range(len(records)))
    assert list(to_records("book_deltas", data)) == records


def test_receive_time_zero_is_null() -> None:
    data = rows_to_arrow("trades", [msgspec.structs.astuple(trade(1, live=False))], [0])
    assert data.column("ts_recv").to_pylist() == [None]
    assert next(to_records("trades", data)).ts_recv == 0  # type: ignore[union-attr]


def test_batches_of_other_encodings_are_accepted() -> None:
    data = to_batches([trade(i) for i in range(3)])["trades"]
    large = data.set_column(2, "venue", data.column("venue").cast(pa.large_string()))
    coded = large.set_column(3, "symbol", large.column("symbol").dictionary_encode())
    shuffled = coded.select(list(reversed(coded.column_names)))
    check_schema("trades", shuffled.schema)
    assert check_batch("trades", shuffled).to_pylist() == data.to_pylist()


def test_wrong_batches_are_named() -> None:
    data = to_batches([trade(1)])["trades"]
    with pytest.raises(StoreError, match="lacks price"):
        check_schema("trades", data.drop_columns(["price"]).schema)
    with pytest.raises(StoreError, match="unknown pric"):
        check_schema("trades", data.rename_columns([*data.column_names[:-1], "pric"]).schema)
    with pytest.raises(StoreError, match=r"column price .* is string, not double"):
        check_schema("trades", data.set_column(6, "price", pa.array(["1"])).schema)
    with pytest.raises(StoreError, match=r"column ts_event .* is int32"):
        check_schema("trades", data.set_column(0, "ts_event", pa.array([1], pa.int32())).schema)
    with pytest.raises(StoreError, match=r"column price .* holds nulls"):
        check_batch("trades", data.set_column(6, "price", pa.array([None], pa.float64())))
    book = to_batches([r for r in one_of_each() if isinstance(r, BookDelta)])["book_deltas"]
    odd = book.set_column(7, "bids", pa.array([[1.0]], pa.list_(pa.float64())))
    with pytest.raises(StoreError, match="side that is not whole levels"):
        check_batch("book_deltas", odd)


def test_records_and_columns_have_one_order() -> None:
    for name, cls in RECORD_TYPES.items():
        assert set(cls.__struct_fields__) == set(SCHEMA[name].names)
    t = Trade(T0, T0, VENUE, "A", "1", 1, 1.0, 2.0, "buy", 0)
    assert row_getter("trades")(t) == (T0, T0, VENUE, "A", "1", 1, 1.0, 2.0, "buy", 0)

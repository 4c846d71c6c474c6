"""The schema agrees with the records and with its published form."""

from __future__ import annotations

from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from cmd_common import records, schema
from cmd_common.errors import StoreError, UnknownNameError
from cmd_common.schema import SCHEMA, TABLES, check_columns, markdown, table

DOCS = Path(__file__).parents[2] / "docs" / "schema.md"
PYTHON = {
    "int64": int,
    "int32": int,
    "float64": float,
    "string": str,
    "bool": bool,
    "levels": bytes,
    "venue_levels": bytes,
}


def test_the_published_document_is_the_schema() -> None:
    assert DOCS.read_text(encoding="utf-8") == markdown(), "run: python -m cmd_common.schema > docs/schema.md"


@pytest.mark.parametrize("name", TABLES)
def test_every_column_is_a_field_of_the_record_with_its_type(name: str) -> None:
    record = records.RECORD_TYPES[name]
    hints = get_type_hints(record)
    assert list(hints) != []
    assert set(SCHEMA[name].names) == set(record.__struct_fields__)
    for column in SCHEMA[name].columns:
        hint = hints[column.name]
        kinds = get_args(hint) or (hint,)
        allowed = {PYTHON[column.type]}
        words = {type(k) if isinstance(k, str) else k for k in kinds}
        assert words - {type(None)} == allowed, column.name
        nullable = type(None) in kinds
        assert nullable == column.nullable or column.name == "ts_recv", column.name


@pytest.mark.parametrize("name", TABLES)
def test_keys_and_times_are_columns(name: str) -> None:
    t = table(name)
    assert set(t.key) <= set(t.names)
    assert t.time in t.key
    assert len(set(t.names)) == len(t.names)
    times = [c for c in t.columns if c.name.startswith("ts_") or c.name.endswith("_time")]
    assert all(c.type == "int64" and c.unit == "ns" for c in times)
    assert not any(c.nullable for c in t.columns if c.name in t.key)
    if t.prefer:
        assert t.prefer[0] in t.names


def test_columns_are_checked_by_name_and_type() -> None:
    good = {c.name: c.type for c in SCHEMA["trades"].columns}
    check_columns("trades", good)
    check_columns("trades", list(good))
    with pytest.raises(StoreError, match="columns of table trades do not fit the schema: missing price"):
        check_columns("trades", [n for n in good if n != "price"])
    with pytest.raises(StoreError, match="unknown extra"):
        check_columns("trades", [*good, "extra"])
    with pytest.raises(StoreError, match="twice"):
        check_columns("trades", [*good, "price"])
    with pytest.raises(StoreError, match="price is string instead of float64"):
        check_columns("trades", {**good, "price": "string"})


def test_an_unknown_table_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown table 'trade'; did you mean trades"):
        table("trade")


def test_the_version_is_published() -> None:
    assert f"Schema version {schema.SCHEMA_VERSION}." in DOCS.read_text(encoding="utf-8")

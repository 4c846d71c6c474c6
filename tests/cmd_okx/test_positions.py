"""Where messages stand in their streams."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_common.handover import Position
from cmd_okx._positions import confirms, position


def frame(channel: str, rows: list[Any], **more: object) -> str:
    return json.dumps({"arg": {"channel": channel, "instId": "BTC-USDT"}, **more, "data": rows})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (frame("books", [{"seqId": 7, "prevSeqId": -1}], action="snapshot"), Position("books BTC-USDT", 7, 7)),
        (frame("books", [{"seqId": 9, "prevSeqId": 7}], action="update"), Position("books BTC-USDT", 7, 9)),
        (frame("trades", [{"tradeId": "130", "count": "3"}]), Position("trades BTC-USDT", 127, 130)),
        (frame("trades-all", [{"tradeId": "130"}, {"tradeId": "131"}]), Position("trades-all BTC-USDT", 129, 131)),
        (frame("bbo-tbt", [{"seqId": 4, "ts": "5"}]), Position("bbo-tbt BTC-USDT", 4, 4)),
        (frame("tickers", [{"ts": "1700"}]), Position("tickers BTC-USDT", 1700, 1700, exact=False)),
        (frame("candle1m", [["60", *"1" * 7, "0"]]), Position("candle1m BTC-USDT", 120, 120, exact=False)),
        (frame("candle1m", [["60", *"1" * 7, "1"]]), Position("candle1m BTC-USDT", 121, 121, exact=False)),
        (frame("books", [{"asks": []}]), None),  # traffic of 2022 has no ids
        (frame("books", []), None),
        ('{"event":"subscribe"}', None),
        ("pong", None),
    ],
)
def test_positions(text: str, found: Position | None) -> None:
    assert position(text) == found
    assert position(text.encode()) == found


def test_confirmations() -> None:
    assert confirms('{"event":"subscribe","arg":{"channel":"books","instId":"BTC-USDT"},"connId":"a"}')
    assert not confirms('{"event":"error","code":"60012"}')
    assert not confirms(frame("books", [{"seqId": 9, "prevSeqId": 7}], action="update"))
    assert not confirms("pong")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["arg", "data", "seqId", "ts", "channel"]), inner)
    ),
    max_leaves=8,
)


@given(st.text(max_size=50) | st.binary(max_size=50) | json_values.map(json.dumps))
def test_nothing_breaks_it(text: str | bytes) -> None:
    position(text)
    confirms(text)


@given(st.sampled_from(["books", "trades", "candle1m", "bbo-tbt", "tickers"]), st.lists(json_values, max_size=3))
def test_no_rows_break_it(channel: str, rows: list[Any]) -> None:
    position(frame(channel, rows))

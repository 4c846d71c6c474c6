"""Whatever comes in the place of a message: no exception, sound books, rows only of what is sound."""

from __future__ import annotations

import gemini_wire as w
import pytest
from gemini_wire import NOW, A, B
from hypothesis import given, settings
from hypothesis import strategies as st
from json_damage import changed

from cmd_common.feed import Subscription
from cmd_common.records import Quote, Trade
from cmd_gemini import GEMINI

KNOWN = {i.symbol: i for i in GEMINI.parse_instruments(w.DETAILS)}
FRAMES = {
    "current": [
        w.depth(A, 1),
        w.snapshot(B, 2),
        w.trade(A, 1),
        w.text({"u": 400, "E": w.ns(1), "s": "btcusd", "b": "99.50", "B": "1.5", "a": "100.50", "A": "2"}),
        '{"id":1,"status":200}',
        '{"id":1,"status":400,"error":{"code":-1013,"msg":"Invalid stream name: btcusd@trade"}}',
    ],
    "v2": [
        w.v2_snapshot(A, 1),
        w.v2_depth(A, 2),
        w.v2_trade(B, 1, tid=5),
        w.text({"type": "candles_1m_updates", "symbol": A, "changes": [[NOW // 10**6, 1, 2, 1, 2, 3.5]]}),
        '{"result":"error","reason":"InvalidSymbol","message":"BTCUSD"}',
    ],
}


@pytest.mark.parametrize("api", ["current", "v2"])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_changed_messages(api: str, data: st.DataObject) -> None:
    types = ("trades", "quotes", "book", "candles") if api == "v2" else ("trades", "quotes", "book")
    (feed,) = GEMINI.feeds(Subscription((A, B), types, options={"api": api}), KNOWN, GEMINI.endpoints)
    feed.connected(NOW)
    now = NOW
    for _ in range(data.draw(st.integers(1, 6))):
        frame = data.draw(st.sampled_from(FRAMES[api]))
        if data.draw(st.booleans()):
            frame = changed(frame, data)
        now += 10**9
        for record in [*feed.receive(frame, now).records, *feed.tick(now).records]:
            if isinstance(record, Trade):
                assert 0 < record.price < 1e24
                assert 0 <= record.quantity < 1e24
            elif isinstance(record, Quote):
                assert record.bid_price >= 0
        for builder in feed.books.values():
            builder.check()
    feed.close(now)

"""Whatever comes in the place of a message: no exception, sound books, rows only of what is sound."""

from __future__ import annotations

import bitstamp_wire as w
from bitstamp_wire import NOW, A, B
from hypothesis import given, settings
from hypothesis import strategies as st
from json_damage import changed

from cmd_bitstamp import BITSTAMP
from cmd_common.feed import FetchSnapshot, Subscription
from cmd_common.records import Quote, Trade

KNOWN = {i.symbol: i for i in BITSTAMP.parse_instruments(w.PAIRS)}
FRAMES = [
    w.depth(A, 1),
    w.depth(B, 2),
    w.trade(A, 1),
    w.order(A, 1),
    '{"event":"bts:subscription_succeeded","channel":"live_trades_btcusd","data":{}}',
    '{"event":"bts:error","channel":"","data":{"code":null,"message":"live_trades_btcusd"}}',
    '{"event":"bts:request_reconnect","channel":"","data":""}',
]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_changed_messages_and_bodies(data: st.DataObject) -> None:
    subscription = Subscription((A, B), ("trades", "quotes", "book"), options={"live_orders": "on", "reseed": "1"})
    (feed,) = BITSTAMP.feeds(subscription, KNOWN, BITSTAMP.endpoints)
    feed.connected(NOW)
    now = NOW
    wanted: list[str] = []
    for _ in range(data.draw(st.integers(1, 8))):
        now += 10**9
        frame = data.draw(st.sampled_from(FRAMES))
        if data.draw(st.booleans()):
            frame = changed(frame, data)
        outputs = [feed.receive(frame, now), feed.tick(now)]
        wanted += [a.symbol for out in outputs for a in out.actions if isinstance(a, FetchSnapshot)]
        if wanted and data.draw(st.booleans()):
            body = w.snapshot(wanted[0], data.draw(st.integers(0, 3)))
            if data.draw(st.integers(0, 3)) == 0:
                body = changed(body, data)
            outputs.append(feed.snapshot(wanted.pop(0), body.encode(), now))
        for record in [r for out in outputs for r in out.records]:
            if isinstance(record, Trade):
                assert 0 < record.price < 1e24
                assert 0 <= record.quantity < 1e24
            elif isinstance(record, Quote):
                assert 0 < record.bid_price < record.ask_price
        for builder in feed.books.values():
            builder.check()
    feed.close(now)

"""OKX's depth messages natively and in Python: the same frames, and everything that comes out is the same."""

from __future__ import annotations

import json
import random
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cmd_native.depth_twins import Twins
from tests.conftest import require

from cmd_common import native
from cmd_common.feed import Send, Subscription
from cmd_common.instruments import Instrument
from cmd_common.recording import read
from cmd_common.records import BookDelta, BookSnapshot, FeedStatus, Gap, Quote
from cmd_okx import OKX
from cmd_okx.sync import checksum


@pytest.fixture(scope="module", autouse=True)
def native_runs() -> None:
    require("native", find_spec("cmd_native") is not None, "install cmd-native")
    require("native", native, "leave CMD_PURE alone")


SECOND = 1_000_000_000
NOW = 1_767_225_600 * SECOND
MS = NOW // 1_000_000
BTC, ETH = "BTC-USDT", "ETH-USDT"


def twins(symbols: tuple[str, ...] = (BTC,), types: tuple[str, ...] = ("book",), **options: Any) -> Twins:
    instruments = {s: Instrument("okx", s, "B", "Q", "spot", Decimal("0.01"), Decimal("0.001")) for s in symbols}
    subscription = Subscription(symbols, types, **options)

    def reply(action: Send) -> str | None:
        if action.frame == "ping":
            return "pong"
        asked = json.loads(action.frame)
        return json.dumps({"event": asked["op"], "arg": asked["args"][0], "connId": "a4d3ae55"})

    return Twins(lambda: OKX.feeds(subscription, instruments, OKX.endpoints), NOW, reply)


def rows(levels: Any) -> list[list[str]]:
    return [[*level, "0", "0" if level[1] == "0" else "3"] for level in levels]


def book(action: str, seq: int, prev: int, bids: Any = (), asks: Any = (), **changes: Any) -> dict[str, Any]:
    symbol, channel = changes.pop("symbol", BTC), changes.pop("channel", "books")
    data = {"asks": rows(asks), "bids": rows(bids), "ts": str(MS + seq), "checksum": 0, "seqId": seq, "prevSeqId": prev}
    return {"arg": {"channel": channel, "instId": symbol}, "action": action, "data": [data | changes]}


def frame(message: object) -> str:
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False)


BIDS = [[f"{100 - i * 0.5:.2f}", "1"] for i in range(20)]
ASKS = [[f"{101 + i * 0.5:.2f}", "1"] for i in range(20)]


def snapshot(seq: int, **changes: Any) -> str:
    return frame(book("snapshot", seq, -1, BIDS, ASKS, **changes))


def delta(seq: int, prev: int, bids: Any = (), asks: Any = (), **changes: Any) -> str:
    return frame(book("update", seq, prev, bids, asks, **changes))


def synced(**options: Any) -> Twins:
    made = twins(**options)
    made.receive(snapshot(100))
    made.receive(delta(107, 100, [["99.50", "3"]]))
    assert made.taken == 1
    return made


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_the_recording_gives_the_same(recordings: Path, seed: int | None) -> None:
    made = twins()
    rng = random.Random(seed)
    texts = [line.text for line in read(recordings / "okx/tickvault_books_btcusdt_20260824.ndjson") if line.src == "ws"]
    for n, text in enumerate(texts):
        draw = rng.random() if seed is not None and n > 2 else 0.5
        if draw < 0.1:
            continue
        made.receive(text[: int(draw * 1e6) % len(text)] if draw < 0.2 else text if n % 2 else text.encode())
        if draw > 0.9:
            made.receive(text)
    made.end()
    assert made.taken == 6 if seed is None else made.taken > 0
    assert any(isinstance(r, BookDelta) for r in made.records)


def test_samples_of_2022_give_the_same(recordings: Path) -> None:
    texts = [line.text for line in read(recordings / "okx/crypto_msg_parser_samples.ndjson")]
    symbols = {m["arg"]["instId"] for m in map(json.loads, texts) if "instId" in m.get("arg", ())} | {BTC}
    made = twins(tuple(sorted(symbols)), ("trades", "quotes", "book"))
    for text in texts:
        made.receive(text)
    made.end()


def test_usual_messages_of_several_symbols_go_natively() -> None:
    symbols = (BTC, ETH, "\u5e01-USDT")
    made = twins(symbols, ("book", "quotes"), snapshot_every=SECOND, options={"deltas": "off"})
    for symbol in symbols:
        made.receive(snapshot(100, symbol=symbol))
    for n in range(101, 400):
        for symbol in (*symbols, "XRP-USDT"):
            made.receive(delta(n, n - 1, [["99", f"{n}"]], [["102.5", f"{n}.5"]], symbol=symbol, ts=str(MS + 100 * n)))
        quote = book("", n, n - 1, [["99", f"{n}"]], [["101", "1"]], channel="bbo-tbt")
        del quote["action"]
        made.receive(frame(quote))
        made.receive(delta(n, n - 1, [["99", f"{n}"]], channel="books5"))
    assert made.taken == 299 * 3
    assert any(isinstance(r, BookSnapshot) for r in made.records)
    assert any(isinstance(r, Quote) for r in made.records)
    for index in range(len(made.native)):
        made.call(index, "remove", [ETH], NOW)
    made.receive(delta(400, 399, [["98", "2"]], symbol=ETH))
    made.receive(delta(400, 399, [["98", "2"]]))
    assert made.taken == 299 * 3 + 1
    made.end()


def test_a_message_cut_off_at_any_byte_and_damaged_at_any() -> None:
    made = synced()
    text = delta(110, 107, [["99.50", "3.00000000"], ["98", "0"]], [["101.00", "0.0"], ["101.50", "12345.678"]])
    rng = random.Random(1)
    for end in range(len(text)):
        made.receive(text[:end])
        made.receive(text[:end].encode())
        made.receive(text[:end] + rng.choice('0"\\ ,]}x\x00\u20ac') + text[end + 1 :])
        made.receive(text.encode()[:end] + bytes([rng.randrange(256)]) + text.encode()[end + 1 :])
    made.receive(snapshot(200))
    made.receive(delta(201, 200, [["99.50", "3.00000000"]]))
    made.end()
    assert made.taken >= 2


CHAINS = [
    [(110, 100), (120, 110), (120, 110), (130, 120)],
    [(110, 100), (130, 120), (140, 130)],
    [(110, 101)],
    [(100, 100), (110, 100), (110, 110)],  # keepalives
    [(110, 100), (50, 110), (60, 50), (40, 60)],  # the ids begin anew
    [(50, 100), (45, 50)],
    [(90, 80), (100, 90), (110, 100)],
    [(110, -1), (110, 100)],
]


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("empty", [False, True])
def test_the_rule_at_its_edges(chain: list[tuple[int, int]], empty: bool) -> None:
    made = twins()
    made.receive(delta(100, 99, [["99", "1"]]))  # before the snapshot
    made.receive(snapshot(100))
    for n, (seq, prev) in enumerate(chain):
        made.receive(delta(seq, prev, [] if empty else [["99", f"{n + 2}"]]))
    made.receive(snapshot(300))
    made.receive(delta(310, 300, [["99", "1"]]))
    assert made.taken >= 1
    made.end()


def test_snapshots_in_between_and_a_lost_connection() -> None:
    made = synced()
    for seq in (107, 150, 150, 1, 2):
        made.receive(snapshot(seq))
        made.receive(delta(seq + 5, seq, [["99", "1"]]))
    taken = made.taken
    assert taken > 3
    made.call(0, "disconnected", NOW + SECOND, "test")
    made.receive(delta(9, 7, [["99", "1"]]))
    made.call(0, "connected", NOW + 2 * SECOND)
    made.receive(delta(10, 9, [["99", "1"]]))
    made.receive(snapshot(300))
    made.receive(delta(301, 300, [["99", "1"]]))
    assert made.taken == taken + 1
    made.end()


def sum_of(levels: list[list[str]]) -> int:
    bids = [(p, q) for p, q in levels + BIDS[1:] if q != "0"]
    return checksum(bids, [(p, q) for p, q in ASKS])


@pytest.mark.parametrize("wrong", [0, 1])
def test_books_with_a_checksum_are_followed_in_python(wrong: int) -> None:
    made = twins()
    made.receive(snapshot(100, checksum=sum_of(BIDS[:1])))
    made.receive(delta(110, 100, [["100.00", "2.0"]]))  # says nothing, and its texts count all the same
    made.receive(delta(120, 110, [["100.00", "2.50"]], checksum=sum_of([["100.00", "2.50"]])))
    assert made.taken == 0
    made.receive(delta(130, 120, [], [], checksum=sum_of([["100.00", "2.50"]]) + wrong))
    made.receive(delta(140, 130, [["100.00", "0.10"]]))
    made.receive(delta(150, 140, [], [], checksum=sum_of([["100.00", "0.10"]])))
    lost = [r for r in made.records if isinstance(r, FeedStatus) and r.state == "STALE"]
    assert bool(lost) == bool(wrong)
    # A snapshot without one ends it, and one sum in between is judged by the numbers' plain texts.
    made.receive(snapshot(200))
    made.receive(delta(210, 200, [["100.00", "3"]]))
    made.receive(delta(220, 210, [["100.00", "4"]]))
    assert made.taken == 2
    made.receive(delta(230, 220, [["100.00", "5"]], checksum=5))
    made.receive(delta(240, 230, [["100.00", "5"]]))
    assert made.taken == 2
    assert [r for r in made.records if isinstance(r, FeedStatus) and r.state == "STALE"] != lost
    made.end()


def test_books_without_ids_are_counted_in_python() -> None:
    made = twins()
    for n in range(30):
        message = book(
            "update" if n % 10 else "snapshot", n, n - 1, *((BIDS, ASKS) if n % 10 == 0 else ([["99", "2"]],))
        )
        del message["data"][0]["seqId"], message["data"][0]["prevSeqId"]
        made.receive(frame(message))
    assert made.taken == 0
    assert any(isinstance(r, BookDelta) for r in made.records)
    made.end()


def test_books_that_are_crossed_or_empty() -> None:
    for bids, asks in [
        ([["101", "1"]], []),
        ([[p, "0"] for p, _ in BIDS], []),
        ([], [[p, "0"] for p, _ in ASKS]),
        ([["1e2", "1"]], [["101.0", "5"]]),
    ]:
        made = synced()
        made.receive(delta(110, 107, bids, asks))
        made.receive(delta(120, 110, [["99", "1"]]))
        made.receive(snapshot(130))
        made.receive(delta(140, 130, [["99", "1"]]))
        made.end()


def test_the_thousandth_message_is_looked_at() -> None:
    made = synced()
    for n in range(108, 2300):
        made.receive(delta(n, n - 1, [["99", f"{n}"]], [["102", f"{n}.5"]]))
    assert made.taken == 2193
    assert not [r for r in made.records if isinstance(r, Gap)]
    made.end()


def test_keys_that_are_new_are_counted_and_then_passed_over() -> None:
    made = synced()
    for n in range(108, 320):
        message = book("update", n, n - 1, [["99", str(n)]])
        place = (message, message["arg"], message["data"][0])[n % 3]
        place["zz"] = {"e": [n, None, 1.5e3, True]}
        made.receive(frame(message))
    assert 100 < made.taken < 120
    # Python would take the first of these for the channel.
    made.receive(frame({"zz": {"channel": "trades"}} | book("update", 320, 319, [["99", "7"]])))
    made.receive(delta(321, 319, [["99", "7"]]))
    made.end()


def test_other_forms_of_the_same_message() -> None:
    made = synced()
    good = json.loads(delta(110, 107, [["99", "1"]], [["101.5", "2"]]))
    keys = list(good)
    last = 107
    for order in [keys[::-1], keys[1:] + keys[:1], keys[2:] + keys[:2]]:
        data = good["data"][0] | {"seqId": last + 3, "prevSeqId": last}
        made.receive(frame({k: good[k] for k in order} | {"data": [dict(reversed(data.items()))]}))
        last += 3
    for levels in [
        [["99", "2"]],
        [["99", "3", "0"]],
        [["99", "4", 0, {"x": None}, []]],
        [["99", "5", "0", "123456789"]],
    ]:
        data = good["data"][0] | {"seqId": last + 3, "prevSeqId": last, "bids": levels, "ts": MS + last}
        made.receive(frame(good | {"data": [data]}))
        last += 3
    assert made.taken == 8
    data = good["data"][0] | {"prevSeqId": last}
    odd: list[dict[str, object]] = [
        *({"ts": "0"}, {"ts": " 1"}, {"ts": "9200000000000"}, {"ts": None}, {"checksum": "0"}, {"instId": BTC}),
        *({"instId": ETH}, {"seqId": str(last + 20)}, {"seqId": 1 << 62}, {"bids": [["1"]]}, {"asks": None}),
    ]
    for n, inner in enumerate(odd):
        made.receive(frame(good | {"data": [data | {"seqId": last + n + 1} | inner]}))
    made.receive(snapshot(500))
    for n, arg in enumerate([{"instType": "SPOT"}, {"uid": "x"}, {"instFamily": 1}, {"instId": ETH}, {"channel": 1}]):
        message = book("update", 501 + n, 500 + n)
        made.receive(frame(message | {"arg": message["arg"] | arg}))
    made.receive(snapshot(600))
    two = json.loads(delta(601, 600))["data"] + json.loads(delta(602, 601))["data"]
    made.receive(frame(good | {"data": two}))
    made.receive(frame(good | {"data": []}))
    for key in keys:
        made.receive(frame({k: v for k, v in good.items() if k != key}))
    for key in good["data"][0]:
        made.receive(frame(good | {"data": [{k: v for k, v in good["data"][0].items() if k != key}]}))
    made.receive(snapshot(700))
    made.receive(json.dumps(json.loads(delta(701, 700))))  # Python does not find a channel behind white space
    made.receive(delta(701, 700))
    made.end()


PRICES = st.one_of(
    st.integers(8_000, 12_000).map(lambda n: f"{n / 100:.2f}"),
    st.sampled_from(["99.005", "100.0000000000000001", "0.00000001", "99999999999999.99", "123456789012345678901"]),
    st.decimals(Decimal("0.01"), 1000, places=8).map(str),
)
QUANTITIES = st.one_of(
    st.just("0"),
    st.integers(0, 10**12).map(lambda n: f"{n / 1e8:.8f}"),
    st.sampled_from(["1", "1e3", "-1", "nan", "00", "1.", ".5", "12345678901234567.123", "1E-7", "", "\u0661"]),
)
REST = st.sampled_from(
    [["0", "3"], ["0", "3"], ["0", "3"], [], ["0"], [0, 3], ["1", "2"], ["0", "12345678"], [None, {}]]
)
SIDE = st.lists(st.tuples(PRICES, QUANTITIES, REST).map(lambda level: [*level[:2], *level[2]]), max_size=6)
HOW = st.fixed_dictionaries(
    {
        "outer": st.permutations(range(3)),
        "inner": st.permutations(range(6)),
        "space": st.sampled_from(["", "", "", " ", "\n\t "]),
        "colon": st.sampled_from([":", ":", ":", ":", ": ", " :"]),
        "bytes": st.booleans(),
        "odd": st.sampled_from([*[""] * 8, "unknown", "twice", "escape", "exponent", "null", "float", "inside"]),
    }
)


def written(message: dict[str, Any], how: dict[str, Any]) -> str | bytes:
    """A message as JSON in one of many ways."""
    s, colon = how["space"], how["colon"]

    def joined(parts: list[tuple[str, str]], colon: str) -> str:
        return "{" + s + f",{s}".join(f'"{k}"{colon}{v}' for k, v in parts) + s + "}"

    def parts_of(value: dict[str, Any], order: list[int]) -> list[tuple[str, str]]:
        keys = list(value)
        return [(keys[i], json.dumps(value[keys[i]], separators=("," + s, ":"))) for i in order]

    inner = parts_of(message["data"][0], how["inner"])
    match how["odd"]:
        case "inside":
            inner.insert(2, ("instId", '"BTC-USDT"'))
        case "unknown":
            inner.insert(3, ("zz", '[1,{"b":"x"}]'))
        case "twice":
            inner.insert(4, inner[1])
        case "exponent":
            inner = [(k, f"{v}e0" if k == "seqId" else v) for k, v in inner]
        case "null":
            inner = [(k, "null" if k == "prevSeqId" else v) for k, v in inner]
        case "float":
            inner = [(k, f"{v}.0" if k == "seqId" else v) for k, v in inner]
    outer = parts_of(message, how["outer"])
    outer = [(k, f"[{s}{joined(inner, colon)}{s}]" if k == "data" else v) for k, v in outer]
    if how["odd"] == "escape":
        outer = [(k, v.replace("BTC", "B\\u0054C")) for k, v in outer]
    text = joined(outer, ":" if how["space"] else colon)
    return text.encode() if how["bytes"] else text


@settings(max_examples=120)
@given(st.data())
def test_any_message_gives_the_same(data: st.DataObject) -> None:
    made = synced()
    for _ in range(data.draw(st.integers(1, 6))):
        last = made.native[0].books[BTC].last_id
        prev = max(-1, last + data.draw(st.sampled_from([0, 0, 0, 0, 5, -3])))
        seq = max(0, prev + data.draw(st.sampled_from([1, 1, 7, 7, 0, -20])))
        message = book("update", seq, prev)
        message["data"][0] |= {"bids": data.draw(SIDE), "asks": data.draw(SIDE)}
        made.receive(written(message, data.draw(HOW)))
        if made.native[0].books[BTC].needs_snapshot or data.draw(st.integers(0, 5)) == 0:
            made.receive(snapshot(seq + 10))
    made.end()


@settings(max_examples=60)
@given(st.binary(max_size=300), st.text(max_size=100), st.integers(0, 400), st.integers(0, 200))
def test_any_bytes_give_the_same(junk: bytes, text: str, at: int, length: int) -> None:
    made = synced()
    good = delta(110, 107, [["99.50", "3.00000000"], ["98", "0"]], [["101.00", "0.5"]]).encode()
    made.receive(junk)
    made.receive(text)
    made.receive(good[:at] + junk + good[at + length :])
    made.receive(good.decode()[:at] + text + good.decode()[at + length :])
    made.receive(good)
    made.end()

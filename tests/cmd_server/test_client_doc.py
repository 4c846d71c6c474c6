"""The recipes of docs/client.md run as they stand there, against a server in this process."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from client_children import ThreadedServer
from hub_world import T0, delta, snapshot, trade

from cmd_common.records import InstrumentRecord, Record
from cmd_server.messages import KINDS
from cmd_server.topics import Topic

TEXT = (Path(__file__).parents[2] / "docs" / "client.md").read_text()
BLOCKS = re.findall(r"## ([^\n]+)\n(?:(?!\n## ).)*?```python\n(.*?)```", TEXT, re.DOTALL)
VENUE, SYMBOL = "binance-spot", "BTCUSDT"
INSTRUMENT = InstrumentRecord(
    T0, T0, VENUE, SYMBOL, "BTC", "USDT", "USDT", "spot", "0.01", "0.00001", "0", "0", "", False, None, "trading"
)  # fmt: skip


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = ThreadedServer()
    server.listen("tcp:127.0.0.1:0")
    server.publish(INSTRUMENT, snapshot(1, venue=VENUE, symbol=SYMBOL))
    stop = threading.Event()

    def market() -> None:
        n = 1
        while not stop.wait(0.002):
            n += 1
            records: list[Record] = [
                delta(n, [(99.0 + n % 2 / 2, 1.0 + n % 7)], (), VENUE, SYMBOL),
                trade(n, VENUE, SYMBOL),
            ]
            server.publish(*records)

    thread = threading.Thread(target=market)
    thread.start()
    yield server.address
    stop.set()
    thread.join()
    server.close()


def test_there_are_recipes_for_everything() -> None:
    assert len(BLOCKS) == TEXT.count("```python") == 10
    for kind in KINDS:
        assert f"`{kind}" in TEXT


@pytest.mark.parametrize(("title", "code"), BLOCKS, ids=[title for title, _ in BLOCKS])
def test_recipe(title: str, code: str, address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "tcp:127.0.0.1:9999" in code
    exec(compile(code.replace("tcp:127.0.0.1:9999", address), f"docs/client.md: {title}", "exec"), {"__name__": title})
    out = capsys.readouterr().out
    assert out.strip()
    assert "Traceback" not in out
    if title == "Errors":
        assert out.startswith("usage "), out
        assert "did you mean trades" in out


def test_topics_of_the_table_are_topics() -> None:
    rows = re.findall(r"^\| (`[^|]+) \|", TEXT, re.MULTILINE)
    topics = [t for row in rows for t in re.findall(r"`([a-z_]+(?:@\S+)? \S+)`", row)]
    assert len(topics) >= 10
    for topic in topics:
        Topic(topic)

"""Pages on disk, the pace of requests, and the manifest of an older program."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from pathlib import Path

import pytest
from history_venue import DAY, DAY_NS, SYMBOL, VENUE, History, MadeUp, start_of
from hypothesis import given, settings
from hypothesis import strategies as st

from cmd_archiver.manifest import Entry, Manifest
from cmd_archiver.parts import PagesFile
from cmd_archiver.plan import day_file, origin_of
from cmd_archiver.rest import Pools, RestClient
from cmd_common.errors import RateLimitError, VenueError
from cmd_common.history import HistoryPage, Walk
from cmd_common.http import HttpRequest, HttpResponse
from cmd_common.records import REST, Trade

WALK = Walk("trades", SYMBOL, start_of(DAY), start_of(DAY) + DAY_NS)


def page(n: int, last: bool = False) -> HistoryPage:
    trade = Trade(WALK.start + n, 5, VENUE, SYMBOL, str(n), n, 1.5, 0.25, "buy", REST)
    return HistoryPage((trade,) * (n % 3), None if last else f"c{n + 1}", lost="x" * (n % 2), lost_span=(1, n))


def write(path: Path, count: int, walk: Walk = WALK, *, whole: bool = False) -> list[int]:
    """Write pages; returns the size of the file after each."""
    file = PagesFile(path, walk)
    sizes = [path.stat().st_size]
    for n in range(file.pages, count):
        file.append(f"c{n}" if n else "", page(n, whole and n == count - 1))
        sizes.append(path.stat().st_size)
    file.close()
    return sizes


def test_a_complete_walk_is_known_as_such(tmp_path):
    write(tmp_path / "x", 4, whole=True)
    file = PagesFile(tmp_path / "x", WALK)
    assert (file.cursor, file.pages, file.asked) == (None, 4, {"", "c1", "c2", "c3"})
    assert [len(p.records) for p in file.read()] == [0, 1, 2, 0]
    assert [p.lost_span for p in file.read()] == [(1, n) for n in range(4)]
    file.close()


@given(cut=st.integers(0, 2000), flip=st.booleans())
@settings(max_examples=150, deadline=None)
def test_whatever_a_kill_leaves_whole_pages_stay_and_the_rest_is_asked_again(tmp_path_factory, cut, flip):
    path = tmp_path_factory.mktemp("pages") / "x"
    sizes = write(path, 6)
    cut = min(cut, sizes[-1])
    data = bytearray(path.read_bytes())
    if flip and cut < len(data):
        data[cut] ^= 0x55
    else:
        data = data[:cut]
    path.write_bytes(data)
    whole = max((n for n, size in enumerate(sizes) if size <= cut), default=-1)
    file = PagesFile(path, WALK)
    assert file.pages == max(whole, 0)
    assert file.cursor == (f"c{whole}" if whole > 0 else "")
    file.close()
    write(path, 6)
    file = PagesFile(path, WALK)
    assert [p.asked for p in file.read()] == ["", "c1", "c2", "c3", "c4", "c5"]
    file.close()


def test_pages_of_another_walk_are_not_gone_on_with(tmp_path):
    write(tmp_path / "x", 3)
    other = PagesFile(tmp_path / "x", Walk("trades", "OTHER", WALK.start, WALK.end))
    assert (other.pages, other.cursor) == (0, "")
    other.close()


class Time:
    """A clock that jumps."""

    def __init__(self) -> None:
        self.t = 0

    def now(self) -> int:
        return self.t

    def monotonic(self) -> int:
        return self.t

    async def sleep(self, ns: int) -> None:
        self.t += max(ns, 1)
        await asyncio.sleep(0)


class Wire:
    """A network that answers what it is told and keeps the times of requests."""

    def __init__(self, clock: Time, answers: list[HttpResponse] | None = None) -> None:
        self.clock = clock
        self.times: list[int] = []
        self.answers = answers or []

    async def request(self, request: HttpRequest) -> HttpResponse:
        self.times.append(self.clock.t)
        return self.answers.pop(0) if self.answers else HttpResponse(200, b"[]")


def client(exchange: MadeUp, wire: Wire, clock: Time, said: list[str] | None = None) -> RestClient:
    return RestClient(exchange, wire, clock, random.Random(1), Pools(), (said if said is not None else []).append)


def test_requests_are_spread_over_the_minute_and_heavy_ones_cost_more():
    clock = Time()
    wire = Wire(clock)
    made = client(MadeUp(History(), weight_per_minute=60), wire, clock)

    async def main() -> None:
        ask = [made.get(HttpRequest("http://x", weight=1 + n % 2), lambda r: r.status) for n in range(40)]
        assert set(await asyncio.gather(*ask)) == {200}

    asyncio.run(main())
    spent = 60  # weight of 40 requests: 1 and 2 in turn
    assert wire.times == sorted(wire.times)
    assert wire.times[-1] >= (spent - 2) * 60 * 10**9 // 54  # a tenth of the limit is left to others
    for t in wire.times:
        assert sum(1 + n % 2 for n, u in enumerate(wire.times) if t <= u < t + 60 * 10**9) <= 54


def test_what_the_exchange_counts_itself_is_believed():
    clock = Time()
    wire = Wire(clock, [HttpResponse(200, b"[]", {"x-used": "54"})])
    made = client(MadeUp(History(), weight_per_minute=60), wire, clock)

    async def main() -> None:
        for _ in range(2):
            await made.get(HttpRequest("http://x"), lambda r: r)

    asyncio.run(main())
    assert wire.times[1] - wire.times[0] >= 59 * 10**9


def test_a_pause_holds_for_everybody_and_attempts_are_limited():
    clock, said = Time(), []
    wire = Wire(clock, [HttpResponse(429, b"", {"retry-after": "7"})])
    made = client(MadeUp(History(), weight_per_minute=6000), wire, clock, said)

    async def two() -> None:
        await asyncio.gather(*(made.get(HttpRequest("http://x"), lambda r: r) for _ in range(2)))

    asyncio.run(two())
    assert [t >= 7 * 10**9 for t in wire.times] == [False, True, True]
    assert (made.counters.limited, made.counters.retries) == (1, 1)
    assert "going on in 7 s" in said[0]
    wire = Wire(clock, [HttpResponse(429)] * 50)
    with pytest.raises(RateLimitError):
        asyncio.run(client(MadeUp(History()), wire, clock).get(HttpRequest("http://x"), lambda r: r))
    assert len(wire.times) == 8
    wire = Wire(clock, [HttpResponse(404)])
    with pytest.raises(VenueError, match="404"):
        asyncio.run(client(MadeUp(History()), wire, clock).get(HttpRequest("http://x"), lambda r: r))


def test_a_manifest_of_the_first_version_is_taken_over(tmp_path):
    path = tmp_path / "m.sqlite"
    file = day_file("rest", VENUE, "trades", SYMBOL, DAY)
    manifest = Manifest(path)
    manifest.put(file, [Entry(file.key, "trades", "done", "abc", rows=3, last_day=DAY.isoformat())])
    manifest.close()
    with sqlite3.connect(path) as old:
        old.execute("ALTER TABLE files DROP COLUMN version")
        old.execute("PRAGMA user_version=1")
    old.close()
    looked = Manifest(path, read_only=True)
    assert [(e.rows, e.version) for e in looked.entries()] == [(3, "")]
    looked.close()
    with sqlite3.connect(path) as same:
        assert same.execute("PRAGMA user_version").fetchone() == (1,)
    same.close()
    manifest = Manifest(path)
    assert [(e.rows, e.version) for e in manifest.entries()] == [(3, "")]
    manifest.put(file, [Entry(file.key, "trades", "done", "abc", version="v2")])
    manifest.close()
    again = Manifest(path)
    assert again.entries()[0].version == "v2"
    again.close()


def test_days_of_all_origins_have_keys_of_their_own():
    files = [day_file(o, VENUE, "candles", "BTC/USD", DAY, "1m") for o in ("rest", "utc", "local")]
    assert [origin_of(f.key) for f in files] == ["rest", "utc", "local"]
    assert files[0].key == "rest/made-up/candles/BTC%2FUSD/1m/2025-06-01"
    assert origin_of("data/spot/daily/x.zip") == "file"

"""Several venues, symbols and consumers in one session; against the real emulators in cmd-replay."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cmd_common import registry
from cmd_common.commands import RecordOptions
from cmd_common.errors import UsageError, VenueError
from cmd_common.faults import parse_fault
from cmd_common.http import HttpRequest
from cmd_common.records import BookSnapshot, Candle, FeedStatus, Gap, Quote, Record, Trade
from cmd_feed.net import SystemNet
from cmd_feed.session import LiveSession, resolve_endpoints

SERVE = """
import json, sys
from cmd_common.commands import ReplayOptions
from cmd_common.emulation import Fault
from cmd_replay.command import run
class Words:
    def info(self, message): print(message, file=sys.stderr, flush=True)
    warn = info
    def ready(self, facts): print(json.dumps(dict(facts)), flush=True)
    def progress(self, *a, **k): pass
o = json.loads(sys.argv[1])
o["faults"] = [Fault(**f) for f in o.get("faults", ())]
sys.exit(run(ReplayOptions(**{k: tuple(v) if isinstance(v, list) else v for k, v in o.items()}), Words()).exit_code)
"""


@asynccontextmanager
async def replay(**settings: Any) -> AsyncIterator[dict[str, str]]:
    """Endpoints by venue of a real cmd-replay process."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVE, json.dumps(settings), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        endpoints: dict[str, str] = {}
        for _ in settings["exchanges"]:
            facts = json.loads(await asyncio.wait_for(process.stdout.readline(), 30))
            endpoints[facts["venue"]] = facts["endpoint"]
        yield endpoints
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


def options(endpoints: dict[str, str], **more: Any) -> RecordOptions:
    settings = {
        "exchanges": tuple(endpoints),
        "symbols": ("all",),
        "types": ("trades", "quotes", "book", "candles"),
        "store": "",
        "endpoints": endpoints,
        **more,
    }
    return RecordOptions(**settings)


async def truth(endpoint: str) -> dict[str, Any]:
    net = SystemNet()
    body = (await net.request(HttpRequest(f"{endpoint}/__replay/truth"))).body
    await net.close()
    found: dict[str, Any] = json.loads(body)
    return found


async def test_three_venues_at_once_end_with_the_exchanges_own_books(words: Any) -> None:
    venues = ["binance-spot", "binance-usdm", "binance-coinm"]
    async with replay(exchanges=venues, simulate=True, symbols=3, speed=0, duration=20_000_000_000) as endpoints:
        got: list[Record] = []
        async with LiveSession(options(endpoints, until_end=True), words) as session:
            source: Any = session

            async def read() -> None:
                async for records in source.subscribe(1_000_000):
                    got.extend(records)

            reader = asyncio.create_task(read())
            async with asyncio.timeout(60):
                await session.wait()
                await reader
            assert len(session.books) == 9
            assert {c.state for c in session.connections()} == {"ended"}
            assert len(session.connections()) == 4  # USD-M has two
            truths = {venue: await truth(endpoint) for venue, endpoint in endpoints.items()}
            for venue, facts in truths.items():
                for symbol, book in facts["books"].items():
                    mine = session.books[f"{venue}:{symbol}"]
                    state = session.book_states()[f"{venue}:{symbol}"]
                    assert state.state == "LIVE"
                    assert state.last_id == book["last_id"]
                    assert mine.bids(5) == [(float(p), float(q)) for p, q in book["bids"][:5]]
                    assert mine.asks(5) == [(float(p), float(q)) for p, q in book["asks"][:5]]
        for venue, facts in truths.items():
            for symbol, expected in facts["trades"].items():
                ids = [r.trade_seq for r in got if isinstance(r, Trade) and (r.venue, r.symbol) == (venue, symbol)]
                assert ids == list(range(ids[0] or 0, expected["last_id"] + 1))
        assert {type(r) for r in got} >= {Trade, Quote, BookSnapshot, Candle}
    assert session.ledger.gaps == 0


@pytest.mark.parametrize("kind", ["shutdown", "disconnect"])
async def test_a_connection_that_ends_just_before_the_end_still_hears_of_it(words: Any, kind: str) -> None:
    # About 20 trades in 5 simulated seconds; the fault strikes one of the last, at a finite speed, and the
    # replaying end goes away as soon as everybody has been told.
    fault = {"kind": kind, "parameters": {"stream": "trade", "at": "15", "symbol": "BTCUSDT", "ms": "200"}}
    async with replay(
        exchanges=["binance-usdm"],
        simulate=True,
        symbols=2,
        speed=5,
        duration=5_000_000_000,
        exit_at_end=True,
        faults=[fault],
    ) as endpoints:
        async with LiveSession(options(endpoints, until_end=True), words) as session:
            async with asyncio.timeout(60):
                await session.wait()
            assert {c.state for c in session.connections()} == {"ended"}
            states = [r.counters.disconnects for r in session.connections()]
            assert sum(states) == 1
        assert session.error is None


async def test_symbols_join_and_leave_a_running_session(words: Any, until: Any) -> None:
    async with (
        replay(exchanges=["binance-spot"], simulate=True, symbols=4, speed=5) as endpoints,
        LiveSession(options(endpoints, symbols=("BTCUSDT",)), words) as session,
    ):
        assert session.symbols == {"binance-spot": ["BTCUSDT"]}
        await until(lambda: session.book_states()["binance-spot:BTCUSDT"].state == "LIVE")
        other = next(s for s in session._venues["binance-spot"].instruments if s != "BTCUSDT")
        assert session.instrument("binance-spot", other) is not None
        seen: set[str] = set()
        session.on_records(lambda records: seen.update(r.symbol for r in records if isinstance(r, Quote)))
        session.add("binance-spot", [other, other, "BTCUSDT"])
        await until(lambda: other in seen)
        await until(lambda: session.book_states()[f"binance-spot:{other}"].state == "LIVE")
        assert set(session.books) == {"binance-spot:BTCUSDT", f"binance-spot:{other}"}
        session.remove("binance-spot", ["BTCUSDT"])
        assert set(session.books) == {f"binance-spot:{other}"}
        with pytest.raises(UsageError, match="unknown symbol 'NOPE'"):
            session.add("binance-spot", ["NOPE"])
        with pytest.raises(UsageError, match="not part of this session"):
            session.add("kraken", ["BTCUSDT"])
        assert session.failed_connections == 0


async def test_a_symbol_for_which_no_connection_has_room_gets_a_new_one(words: Any, until: Any) -> None:
    async with (
        replay(exchanges=["binance-spot"], simulate=True, symbols=4, speed=5) as endpoints,
        LiveSession(options(endpoints, symbols=("BTCUSDT",), types=("quotes",)), words) as session,
    ):
        first = session.connections()[0].name
        runner = session._runners[first]
        real = runner.feed.add

        def full(symbols: Any, now: int) -> Any:
            raise UsageError("cannot carry more than 1024 streams")

        runner.feed.add = full  # type: ignore[method-assign]
        other = next(s for s in session._venues["binance-spot"].instruments if s != "BTCUSDT")
        session.add("binance-spot", [other])
        runner.feed.add = real  # type: ignore[method-assign]
        assert [c.name for c in session.connections()] == [first, first[:-1] + "1"]
        seen: set[str] = set()
        session.on_records(lambda records: seen.update(r.symbol for r in records if isinstance(r, Quote)))
        await until(lambda: other in seen)
        assert runner.counters.defects == 0


async def test_hundreds_of_books_come_live_without_a_ban(words: Any, until: Any) -> None:
    async with (
        replay(exchanges=["binance-spot"], simulate=True, symbols=200, speed=1) as endpoints,
        LiveSession(options(endpoints, types=("book",)), words) as session,
    ):
        async with asyncio.timeout(90):
            # 5400 of weight a minute are about 100 books at 50; the rest follows in the next minutes
            await until(lambda: sum(b.state == "LIVE" for b in session.book_states().values()) >= 60)
        (budget,) = session.pools
        assert budget.bans == 0
        assert budget.used(session._clock.monotonic()) <= 5400
        assert len(session.book_states()) == 200
        assert session.ledger.gaps == 0
    assert words.steps[-1][0] == "books live"


async def test_a_venue_that_is_not_there_fails_with_one_clear_line(words: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("cmd_feed.instruments.ATTEMPTS", 2)
    session = LiveSession(options({"binance-spot": "http://127.0.0.1:1"}), words)
    with pytest.raises(VenueError, match=r"no answer from http://127\.0\.0\.1:1"):
        await session.start()
    assert len(words.warnings) == 1
    assert "next attempt in" in words.warnings[0]


def test_it_is_the_live_source_of_the_registry() -> None:
    assert registry.load("cmd.sources", "live") is LiveSession


def test_endpoints_of_one_venue_win_over_those_of_all() -> None:
    exchange = registry.exchange("binance-spot")
    both = {"": "http://127.0.0.1:1", "binance-spot": "http://127.0.0.1:2/"}
    assert resolve_endpoints(exchange, both).rest == "http://127.0.0.1:2"
    assert resolve_endpoints(exchange, {"": "http://127.0.0.1:1"}).ws == "ws://127.0.0.1:1"
    assert resolve_endpoints(exchange, {}) is exchange.endpoints


async def test_what_a_venue_does_not_stream_is_left_out_and_named(words: Any) -> None:
    venues = ["coinbase", "coinbase-advanced", "kraken"]
    async with replay(exchanges=venues, simulate=True, symbols=1) as endpoints:
        async with LiveSession(options(endpoints, intervals=("1m",)), words) as session:
            types = {name: venue.subscription.types for name, venue in session._venues.items()}
            assert types["kraken"] == ("trades", "quotes", "book", "candles")
            assert types["coinbase"] == types["coinbase-advanced"] == ("trades", "quotes", "book")
        async with LiveSession(options(endpoints, intervals=("1m", "5m")), words) as session:
            assert session._venues["coinbase-advanced"].subscription.intervals == ("5m",)
        one = {"coinbase-advanced": endpoints["coinbase-advanced"]}
        with pytest.raises(UsageError, match="no live candles of 1m"):
            async with LiveSession(options(one, types=("candles",)), words):
                pass
    said = " ".join(words.warnings)
    assert "coinbase has no live candles" in said
    assert "coinbase-advanced has no live candles of 1m; it has 5m" in said


async def test_an_option_that_nobody_reads_is_named(words: Any) -> None:
    given = {"quote_from": "book", "silence": "30", "live_orders": "on"}
    one = replay(exchanges=["coinbase"], simulate=True, symbols=1)
    async with one as endpoints, LiveSession(options(endpoints, options=given), words):
        pass
    said = [w for w in words.warnings if w.startswith("option ")]
    assert len(said) == 2
    assert said[0].startswith("option live_orders means nothing for coinbase and these types")
    assert said[1].endswith("did you mean quotes_from?")


@pytest.mark.parametrize("venue", ["binance-spot", "okx"])
async def test_a_shutdown_that_is_announced_costs_nothing(words: Any, until: Any, venue: str) -> None:
    fault = parse_fault("shutdown:at=150,ms=20000")
    settings = {k: getattr(fault, k) for k in fault.__struct_fields__}
    async with replay(exchanges=[venue], simulate=True, symbols=2, speed=1, faults=[settings]) as endpoints:
        got: list[Record] = []
        async with LiveSession(options(endpoints), words) as session:
            session.on_records(got.extend)
            connection = lambda: session.connections()[0]  # noqa: E731
            await until(lambda: connection().counters.handovers.done == 1)
            before = len(got)
            await until(lambda: sum(isinstance(r, Trade) for r in got[before:]) > 10)
            assert connection().counters.disconnects == 0
            assert {b.state for b in session.book_states().values()} == {"LIVE"}
    assert not any(isinstance(r, Gap) for r in got)
    assert [r.state for r in got if isinstance(r, FeedStatus) and r.state in ("handover", "disconnected")] == [
        "handover"
    ]
    for symbol in {r.symbol for r in got if isinstance(r, Trade)}:
        ids = [r.trade_seq for r in got if isinstance(r, Trade) and r.symbol == symbol]
        assert ids == list(range(ids[0] or 0, (ids[0] or 0) + len(ids)))


@pytest.mark.parametrize("wrong", [{"handover": "yes"}, {"connection_age": "5"}, {"connection_age": "1h"}])
async def test_wrong_settings_are_named(words: Any, wrong: dict[str, str]) -> None:
    async with replay(exchanges=["binance-spot"], simulate=True, symbols=1, speed=1) as endpoints:
        with pytest.raises(UsageError, match=next(iter(wrong))):
            async with asyncio.timeout(60):
                await LiveSession(options(endpoints, options=wrong), words).start()

"""A recorder whose connections reach the exchange's age limit or break, under virtual time: the real session, feeds, books and emulator."""

import asyncio
import json
import random
from collections import Counter

import sim_market
from sim_options import SECOND, Options
from sim_run import HOST, START

from cmd_common import registry
from cmd_common.commands import LogReporter, RecordOptions
from cmd_common.records import BookDelta, Candle, FeedStatus, Gap, Quote, Trade
from cmd_common.testing.simnet import SimNet
from cmd_common.testing.virtual import VirtualClock, VirtualLoop
from cmd_feed.session import LiveSession

AGE = 120


class World:
    """One recorder for five virtual minutes, in which its connection is replaced at least twice."""

    def __init__(self, seed: int, *, faults: bool, handover: str = "on", venue: str = "") -> None:
        self.rng = random.Random(f"handover {seed}")
        options = Options(seed=seed, market=("spot", "usdm")[seed // 2 % 2], rate=20.0)
        self.loop = VirtualLoop(limit=3600 * SECOND, steps=2_000_000)
        self.clock = VirtualClock(self.loop, START)
        exchange = registry.exchange(venue or f"binance-{options.market}")
        self.emulator = sim_market.make_emulator(exchange, options, START)
        self.emulator.lifetime = AGE * SECOND
        self.sent: dict[tuple[str, ...], set[tuple[int, ...]]] = {}  # quotes and candles that left the exchange
        self.broken: Counter[str] = Counter()
        self.net = SimNet(
            self.loop,
            self.clock,
            {HOST: self.emulator},
            random.Random(f"net {seed}"),
            max_latency=int(self.rng.choice((0.005, 0.05, 0.5)) * SECOND),
            sent=self._sent if exchange.venue.startswith("binance") else lambda text: None,
        )
        self.faults = faults
        self.records: list = []
        self.session = LiveSession(
            RecordOptions(
                exchanges=(exchange.venue,),
                symbols=tuple(str(s) for s in self.emulator.ready()["symbols"]),
                types=tuple(t for t in ("trades", "agg_trades", "quotes", "candles", "book") if t in exchange.types),
                store="",
                endpoints={"": f"http://{HOST}"},
                options={
                    **({} if venue else {"snapshot_limit": "100"}),
                    "connection_age": str(AGE),
                    "handover": handover,
                },
            ),
            LogReporter(),
            net=self.net,
            clock=self.clock,
            rng=random.Random(f"session {seed}"),
        )
        self.session.on_records(self.records.extend)

    def _sent(self, text: str) -> None:
        data = json.loads(text)
        data = data.get("data", data)
        if data.get("e", "bookTicker" if "A" in data else "") == "bookTicker":
            self.sent.setdefault(("quotes", data["s"]), set()).add((data["u"],))
        elif data.get("e") == "kline":
            k = data["k"]
            unit = 1_000 if data["E"] > 9_200_000_000_000_000 // 1_000 else 1_000_000
            at = (k["t"], k["x"], data["E"])
            self.sent.setdefault(("candles", data["s"], k["i"]), set()).add((at[0] * unit, at[1], at[2] * unit))

    async def _break(self) -> None:
        """Break one of both connections of a feed, at a random moment while both are open."""
        while True:
            await self.clock.sleep(SECOND // 10)
            pairs = sorted(self.net._sockets)
            if len(pairs) > len(self.session.connections()):
                await self.clock.sleep(int(self.rng.uniform(0, 7) * SECOND))
                sockets = sorted(self.net._sockets)
                if len(sockets) > len(self.session.connections()):
                    which = self.rng.choice(("old", "new"))
                    self.broken[which] += 1
                    self.net._sockets[sockets[0 if which == "old" else -1]]._end(1006, "broken", lose=True)
                    await self.clock.sleep(20 * SECOND)

    async def _main(self) -> None:
        async with self.session:
            breaker = asyncio.ensure_future(self._break()) if self.faults else None
            await self.clock.sleep(300 * SECOND)
            if breaker is not None:
                breaker.cancel()
                await asyncio.gather(breaker, return_exceptions=True)
            self.infos = self.session.connections()

    def run(self) -> "World":
        """Run it to its end."""
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._main())
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()
        return self

    def gaps(self) -> list[Gap]:
        """The gaps of the records."""
        return [r for r in self.records if isinstance(r, Gap)]

    def told(self, key: tuple[str, ...], first: int, last: int, low: int, high: int) -> bool:
        """Whether gaps tell of all ids from ``first`` to ``last``, which lie between two moments."""
        mine = [g for g in self.gaps() if (g.record_type, g.symbol) == key]
        if any(g.first_id is None and g.ts_from <= high and g.ts_to >= low for g in mine):
            return True
        ids = {
            n
            for g in mine
            if g.first_id is not None and g.last_id is not None
            for n in range(g.first_id, g.last_id + 1)
        }
        return ids.issuperset(range(first, last + 1))

    def check(self, seed: int) -> Counter[str]:
        """Nothing doubled, order kept, and every hole of ids or of the book's chain is a gap."""
        count: Counter[str] = Counter()
        last: dict[tuple[str, ...], tuple[int, ...]] = {}
        times: dict[tuple[str, ...], int] = {}
        got: dict[tuple[str, ...], list[tuple[int, ...]]] = {}
        known = {(g.record_type, g.symbol) for g in self.gaps()}
        for r in self.records:
            if isinstance(r, BookDelta):
                key, at = ("book_deltas", r.symbol), (r.seq,)
                if key in last and r.first_seq > last[key][0] + 1 and self.emulator.venue == "binance-spot":
                    count["holes"] += 1
                    assert self.told(key, last[key][0] + 1, r.first_seq - 1, times[key], r.ts_event), (
                        seed,
                        r.first_seq,
                    )
            elif isinstance(r, Candle):
                key = ("candles", r.symbol, r.interval)
                at = (r.open_time, r.state == "final", r.ts_event)
            elif isinstance(r, Quote):
                key, at = ("quotes", r.symbol), (r.seq,)
            elif isinstance(r, FeedStatus | Gap) or not hasattr(r, "trade_seq"):
                continue
            else:
                key, at = ("trades" if isinstance(r, Trade) else "agg_trades", r.symbol), (r.trade_seq,)
                if key in last and r.trade_seq != last[key][0] + 1:
                    count["holes"] += 1
                    hole = last[key][0] + 1, r.trade_seq - 1
                    assert self.told(key, *hole, times[key], r.ts_event), (seed, key, hole)
            assert key not in last or at > last[key], f"seed {seed}: {key} {at} after {last[key]}"
            last[key], times[key] = at, r.ts_event
            got.setdefault(key, []).append(at)
            count[key[0]] += 1
        for key, sent in self.sent.items():  # no id shows that one of these is missing
            rows = got[key]
            missing = {at for at in sent if rows[0] < at < rows[-1]} - set(rows)
            count["holes"] += len(missing)
            assert set(rows) <= sent, (seed, key)
            assert not missing or (key[0], key[1]) in known or key[0] == "candles", (seed, key, missing)
        return count

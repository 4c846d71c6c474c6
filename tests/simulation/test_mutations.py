"""The simulation can fail: each deliberately broken part is caught within a few seeds, by the right rule."""

import pytest
import sim_run
import sim_store
from sim_options import expand
from sim_run import LoggedDisk

from cmd_binance.feed import BinanceFeed
from cmd_binance.sync import FuturesRule, SpotRule
from cmd_common.builder import OrderBookBuilder
from cmd_common.continuity import IdTracker, Judgement
from cmd_common.records import BookDelta, BookSnapshot, Gap
from cmd_common.sequence import Verdict
from cmd_common.testing.simulation import Violation
from cmd_feed.resume import Resume
from cmd_parquet.writer import ParquetWriter

LIGHT = [s for s in range(1, 200) if s % 5]
PARQUET = range(0, 400, 5)


def failure(seed):
    try:
        sim_run.run_options(expand(seed))
    except Violation as error:
        return error
    return None


def caught(seeds, rules):
    """The number of seeds until the first failure, which must be by one of the rules."""
    for n, seed in enumerate(seeds, 1):
        error = failure(seed)
        if error is not None:
            assert error.rule in rules, f"seed {seed}: {error}"
            return n
    raise AssertionError(f"{len(seeds)} seeds did not notice")


@pytest.mark.parametrize("rule", [SpotRule, FuturesRule])
def test_a_rule_that_never_sees_a_gap(monkeypatch, rule):
    honest = rule.next
    monkeypatch.setattr(rule, "next", lambda *args: Verdict.APPLY if honest(*args) is Verdict.GAP else honest(*args))
    assert caught(LIGHT, {"book", "lost"}) <= 60


@pytest.mark.parametrize("rule", [SpotRule, FuturesRule])
def test_a_snapshot_that_leaves_a_hole_is_taken(monkeypatch, rule):
    honest = rule.first
    monkeypatch.setattr(rule, "too_old", lambda *args: False)
    monkeypatch.setattr(rule, "first", lambda *args: Verdict.APPLY if honest(*args) is Verdict.GAP else honest(*args))
    assert caught(LIGHT, {"book", "lost"}) <= 60


def test_trade_ids_that_are_jumped_over_in_silence(monkeypatch):
    def judge(self, id_, ts):
        accept = id_ > self.last
        if accept:
            self.last, self.ts = id_, ts
        return Judgement(accept=accept)

    monkeypatch.setattr(IdTracker, "judge", judge)
    assert caught(LIGHT, {"lost"}) <= 60


def test_a_store_without_deduplication(monkeypatch):
    """Each delivery makes a row of its own: what two connections or two runs both bring is there twice."""
    monkeypatch.setattr(IdTracker, "judge", lambda self, id_, ts: Judgement(accept=True))
    honest = sim_store.LightStore.records

    def records(self, table):
        rows = list(honest(self, table))
        return iter(rows + [r for r in rows if id(r) in self.twice])

    def settle(self, count):
        for record in self._pending[:count]:
            if sim_store.key_of(record) in self.rows:
                self.twice.add(id(record))
            self.rows[sim_store.key_of(record)] = record
        del self._pending[:count]

    monkeypatch.setattr(sim_store.LightStore, "twice", set(), raising=False)
    monkeypatch.setattr(sim_store.LightStore, "settle", settle)
    monkeypatch.setattr(sim_store.LightStore, "records", records)
    assert caught(LIGHT, {"unique"}) <= 60


def test_gaps_of_a_restart_are_not_written(monkeypatch):
    monkeypatch.setattr(Resume, "gaps", lambda self, records: [])
    assert caught(LIGHT, {"lost"}) <= 60


def test_gaps_are_never_written(monkeypatch):
    honest = BinanceFeed.receive

    def receive(self, frame, now):
        out = honest(self, frame, now)
        out.records = [r for r in out.records if not isinstance(r, Gap)]
        return out

    monkeypatch.setattr(BinanceFeed, "receive", receive)
    assert caught(LIGHT, {"lost"}) <= 30


def test_gaps_are_written_without_a_reason(monkeypatch):
    honest = BinanceFeed.receive

    def receive(self, frame, now):
        out = honest(self, frame, now)
        for record in list(out.records):
            if isinstance(record, BookSnapshot):
                out.records.append(Gap(now, now + 1, record.venue, record.symbol, "trades", "made up", "lost"))
        return out

    monkeypatch.setattr(BinanceFeed, "receive", receive)
    with pytest.raises(Violation, match="false gap"):
        sim_run.run_options(sim_run.fault_free(expand(1)))


def test_a_delta_that_is_not_recorded(monkeypatch):
    honest = BinanceFeed.receive

    def receive(self, frame, now):
        out = honest(self, frame, now)
        if self.counters.messages % 37 == 0:
            out.records = [r for r in out.records if not isinstance(r, BookDelta)]
        return out

    monkeypatch.setattr(BinanceFeed, "receive", receive)
    assert caught(LIGHT, {"book", "lost"}) <= 10


def test_a_feed_that_never_subscribes_again(monkeypatch):
    honest = BinanceFeed.connected

    def connected(self, now):
        out = honest(self, now)
        if self._next_request > 2:
            out.actions = []
            for stream in self._streams.values():
                stream.asked = 0
        return out

    monkeypatch.setattr(BinanceFeed, "connected", connected)
    assert caught(LIGHT, {"liveness"}) <= 30


@pytest.mark.parametrize("what", ["/journal/", "/tmp/", ""])
def test_a_writer_that_confirms_before_it_syncs(monkeypatch, what):
    """Journals, new files with the manifest, or everything is not synced before it is called durable."""
    honest = LoggedDisk.sync
    monkeypatch.setattr(LoggedDisk, "sync", lambda self, path: None if what in path else honest(self, path))
    assert caught(PARQUET, {"durable", "crash"}) <= 80


def test_a_writer_that_does_not_sync_folders(monkeypatch):
    monkeypatch.setattr(LoggedDisk, "sync_dir", lambda self, path: None)
    assert caught(PARQUET, {"durable", "crash"}) <= 80


def test_a_writer_that_confirms_before_it_writes(monkeypatch):
    monkeypatch.setattr(ParquetWriter, "flush", lambda self: None)
    assert caught(PARQUET, {"durable", "lost"}) <= 30


def test_rolling_that_loses_the_rows(monkeypatch):
    monkeypatch.setattr(ParquetWriter, "_stage_journal", lambda self, stage, path, data: None)
    assert caught(PARQUET, {"durable", "lost"}) <= 30


def test_a_clock_read_behind_the_seams_is_noticed(monkeypatch):
    from cmd_common import builder

    source = "import time\ndef start(self):\n    time.time_ns()\n    return honest(self)\n"
    space = {"__name__": builder.__name__, "honest": OrderBookBuilder.start}
    exec(source, space)
    monkeypatch.setattr(OrderBookBuilder, "start", space["start"])
    with pytest.raises(Violation, match="guard"):
        sim_run.run_options(expand(1))

"""What a seed expands to: market, faults and their rates, kills, jumps, and sizes of the store."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec
from msgspec import Struct, field

from cmd_common.testing.simnet import NetFaults

SECOND = 1_000_000_000
MARKETS = ("spot", "usdm", "coinm")


class DiskFaults(Struct, frozen=True):
    """Probability of each fault, per operation on the disk (or per write or flush of the light store)."""

    eio: float = 0.0
    enospc: float = 0.0
    torn: float = 0.0  # a write keeps a part and fails; of the light store: a crash keeps a first part
    kill: float = 0.0  # the process dies in the middle of an operation: what it wrote stays
    crash: float = 0.0  # the power fails in the middle of an operation: what was not synced is torn or lost


class Options(Struct, frozen=True):
    """Everything that a run depends on, besides the code."""

    seed: int
    market: str = "spot"
    symbols: int = 1
    types: tuple[str, ...] = ("trades", "book")
    store: str = "light"  # or "parquet": the whole store, over a disk that crashes
    faults_for: float = 20.0  # virtual seconds of the phase with faults
    net: NetFaults = field(default_factory=NetFaults)
    disk: DiskFaults = field(default_factory=DiskFaults)
    partitions: tuple[tuple[float, float], ...] = ()  # (at, duration) in seconds
    resets: tuple[float, ...] = ()  # every connection breaks
    bans: tuple[tuple[float, float], ...] = ()
    jumps: tuple[tuple[float, float], ...] = ()  # (at, seconds) of our wall clock
    kills: tuple[float, ...] = ()
    snapshot_every: float = 10.0
    roll_every: float = 300.0  # seconds after which the journal becomes Parquet
    roll_bytes: int = 128 << 20  # or earlier
    rate: float = 6.0  # steps a second of the market
    levels: int = 120  # a side
    snapshot_limit: int = 100  # levels a side that the recorder asks for
    max_latency: float = 0.02

    def describe(self) -> str:
        """The options that differ from the defaults, on one line."""
        plain = msgspec.to_builtins(self)
        default = msgspec.to_builtins(Options(seed=self.seed))
        parts = [f"seed={self.seed}"]
        for key, value in plain.items():
            if key == "seed" or value == default[key]:
                continue
            if isinstance(value, dict):
                value = {k: v for k, v in value.items() if v}
            parts.append(f"{key}={value}")
        return " ".join(parts)


def expand(seed: int) -> Options:
    """Expand a seed into options."""
    rng = random.Random(f"options {seed}")

    def rate(probability: float, low: float, high: float) -> float:
        """A rate between low and high in some of the seeds, else 0."""
        return round(rng.uniform(low, high), 4) if rng.random() < probability else 0.0

    def moments(probability: float, most: int) -> list[float]:
        if rng.random() >= probability:
            return []
        return sorted(round(rng.uniform(1.0, faults_for), 3) for _ in range(rng.randint(1, most)))

    parquet = seed % 5 == 0
    faults_for = round(rng.uniform(8.0, 25.0), 1)
    net = NetFaults(
        drop=rate(0.5, 0.005, 0.08),
        duplicate=rate(0.4, 0.005, 0.1),
        reorder=rate(0.4, 0.005, 0.08),
        split=rate(0.3, 0.002, 0.04),
        malformed=rate(0.3, 0.002, 0.04),
        stall=rate(0.3, 0.002, 0.02),
        reset=rate(0.3, 0.001, 0.02),
        refuse=rate(0.3, 0.05, 0.5),
        rate_limit=rate(0.3, 0.05, 0.4),
        ban=rate(0.1, 0.05, 0.2),
        request=rate(0.3, 0.05, 0.4),
    )
    types = ["trades", "book"]
    types += [extra for extra in ("quotes", "candles", "agg_trades") if rng.random() < 0.25]
    return Options(
        seed=seed,
        market=rng.choice(MARKETS),
        symbols=rng.choice((1, 1, 2, 3)),
        types=tuple(types),
        store="parquet" if parquet else "light",
        faults_for=faults_for,
        net=net,
        disk=DiskFaults(
            eio=rate(0.3, 0.002, 0.03),
            enospc=rate(0.2, 0.002, 0.03),
            torn=rate(0.3, 0.002, 0.03) if parquet else rate(0.6, 0.3, 1.0),
            kill=rate(0.3, 0.002, 0.02) if parquet else 0.0,
            crash=rate(0.4, 0.002, 0.02) if parquet else 0.0,
        ),
        partitions=tuple((at, round(rng.uniform(0.5, 60.0), 1)) for at in moments(0.2, 2)),
        resets=tuple(moments(0.2, 2)),
        bans=tuple((at, round(rng.uniform(1.0, 90.0), 1)) for at in moments(0.1, 1)),
        jumps=tuple((at, round(rng.choice((-1, 1)) * 10 ** rng.uniform(-1, 5), 3)) for at in moments(0.25, 3)),
        kills=tuple(moments(0.7 if parquet else 0.25, 3 if parquet else 2)),
        snapshot_every=round(rng.choice((1.0, 5.0, 10.0, 60.0)), 1),
        roll_every=rng.choice((2.0, 5.0, 20.0, 300.0)),
        roll_bytes=rng.choice((10_000, 100_000, 128 << 20)),
        rate=rng.choice((2.0, 5.0, 10.0)),
        levels=rng.choice((30, 60, 150)),
        snapshot_limit=rng.choice((20, 50, 100)),
        max_latency=rng.choice((0.001, 0.02, 0.2, 1.0)),
    )


def simpler(options: Options) -> Iterator[Options]:
    """Yield options that differ by one simplification, the boldest first."""

    def change(**values: object) -> Options:
        return msgspec.structs.replace(options, **values)

    for name in ("partitions", "resets", "bans", "jumps", "kills"):
        value: tuple[object, ...] = getattr(options, name)
        if value:
            yield change(**{name: ()})
    for name in ("net", "disk"):
        faults = getattr(options, name)
        if faults != type(faults)():
            yield change(**{name: type(faults)()})
    if options.symbols > 1:
        yield change(symbols=1)
    if options.store == "parquet":
        yield change(store="light")
    for extra in options.types[2:]:
        yield change(types=tuple(t for t in options.types if t != extra))
    for name in ("net", "disk"):
        faults = getattr(options, name)
        for kind in faults.__struct_fields__:
            if getattr(faults, kind):
                yield change(**{name: msgspec.structs.replace(faults, **{kind: 0.0})})
    for name in ("partitions", "resets", "bans", "jumps", "kills"):
        value = getattr(options, name)
        if len(value) > 1:
            for at in range(len(value)):
                yield change(**{name: value[:at] + value[at + 1 :]})
    if options.faults_for > 2.0:
        yield change(faults_for=round(options.faults_for / 2, 1))
        yield change(faults_for=round(options.faults_for * 0.8, 1))
    if options.max_latency > 0.001:
        yield change(max_latency=0.001)
    for name in ("net", "disk"):
        faults = getattr(options, name)
        for kind in faults.__struct_fields__:
            if getattr(faults, kind) > 0.004:
                yield change(**{name: msgspec.structs.replace(faults, **{kind: round(getattr(faults, kind) / 2, 4)})})

"""A seeded stream of depth messages in Binance's format, made up but shaped like a liquid pair's.

The mid price walks in ticks; about twenty levels change a message, four fifths of them within twenty
ticks of the touch, the rest up to a thousand ticks away; a third of the touched levels is deleted;
levels that the mid walks over are deleted explicitly, as an exchange does; some deletions name levels
that nobody has. Ids satisfy the spot rule (U == previous u + 1) and the futures rule (pu == previous u).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

TICK = 0.01


@dataclass(frozen=True)
class Stream:
    snapshot: bytes
    deltas: list[bytes]
    tops: list[tuple[float, float]]  # best bid and best ask after each delta, from the generator's own book


def _price(ticks: int) -> str:
    return f"{ticks // 100}.{ticks % 100:02d}"


def _quantity(rng: random.Random) -> str:
    units = int(rng.expovariate(1 / 60_000)) + 1
    return f"{units // 100_000}.{units % 100_000:05d}"


def depth_stream(messages: int, seed: int = 1, levels: int = 1000, mid: int = 6_000_000) -> Stream:
    """Make a snapshot of ``levels`` a side and ``messages`` deltas; the same seed gives the same bytes."""
    rng = random.Random(seed)
    sides = {side: {mid + side * i: _quantity(rng) for i in range(1, levels + 1)} for side in (-1, 1)}
    bids, asks = (",".join(f'["{_price(p)}","{q}"]' for p, q in sides[side].items()) for side in (-1, 1))
    snapshot = f'{{"lastUpdateId":1000,"bids":[{bids}],"asks":[{asks}]}}'
    best = {-1: mid - 1, 1: mid + 1}
    deltas, tops, last = [], [], 1000
    for number in range(messages):
        draw = rng.random()
        if draw < 0.13:
            step = 1 if draw < 0.12 else rng.randint(2, 6)
            mid += step if rng.random() < 0.5 else -step
        changes: dict[int, dict[int, str]] = {-1: {}, 1: {}}
        for side in (-1, 1):
            while (best[side] - mid) * side <= 0:  # walked over
                if sides[side].pop(best[side], None) is not None:
                    changes[side][best[side]] = "0.00000"
                best[side] += side
        wanted = rng.randint(14, 26)
        while len(changes[-1]) + len(changes[1]) < wanted:
            near = rng.random() < 0.8
            side = -1 if rng.random() < 0.5 else 1
            price = mid + side * (rng.randint(1, 20) if near else rng.randint(21, 1000))
            book, change = sides[side], changes[side]
            if price in change:
                continue
            if price in book and rng.random() < (0.3 if near else 0.5):
                del book[price]
                change[price] = "0.00000"
            elif price not in book and not near and rng.random() < 0.02:
                change[price] = "0.00000"
            else:
                book[price] = change[price] = _quantity(rng)
        for side in (-1, 1):
            added = [p * side for p, q in changes[side].items() if q != "0.00000"]
            best[side] = min([best[side] * side, *added]) * side
            while best[side] not in sides[side]:
                best[side] += side
        first, last, previous = last + 1, last + rng.randint(20, 60), last
        time = 1_700_000_000_000 + number * 100
        bids = ",".join(f'["{_price(p)}","{q}"]' for p, q in sorted(changes[-1].items(), reverse=True))
        asks = ",".join(f'["{_price(p)}","{q}"]' for p, q in sorted(changes[1].items()))
        deltas.append(
            f'{{"e":"depthUpdate","E":{time + 5},"T":{time},"s":"BTCUSDT","U":{first},"u":{last},"pu":{previous},'
            f'"b":[{bids}],"a":[{asks}]}}'.encode()
        )
        tops.append((float(_price(best[-1])), float(_price(best[1]))))
    return Stream(snapshot.encode(), deltas, tops)

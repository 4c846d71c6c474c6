"""One way of book.py in a process of its own: ``book_run.py WAY FOLDER``; the last line printed is JSON.

Runs with a peer's own interpreter, so it imports what the way needs and nothing else.
"""

from __future__ import annotations

import json
import sys
import time
from array import array
from collections import deque
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import book_peers
import book_stream


def check(way: str, answers: list[Any], folder: str, frames: book_stream.Frames) -> None:
    """Compare every answer with the oracle's."""
    if "top20" in way:
        right = [a if isinstance(a, bytes) else book_peers.twenty(a) for a in answers]
        wanted: list[Any] = book_stream.top20(folder)
    elif "snapshot" in way:
        right = [book_peers.best(a) for a in answers]
        bids, asks = book_stream.floats(frames.snapshot)
        wanted = [(max(bids)[0], min(asks)[0])] * book_peers.SNAPSHOTS
    elif way.startswith("round_robin"):
        symbols = int(way.rpartition("_")[2])
        right = [book_peers.best(a) for a in answers]
        wanted = [top for top in frames.tops[: max(1, len(frames.deltas) // symbols)] for _ in range(symbols)]
    else:
        right, wanted = [book_peers.best(a) for a in answers], frames.tops
    if right != wanted:
        at = next((n for n, pair in enumerate(zip(right, wanted, strict=False)) if pair[0] != pair[1]), "the end")
        raise SystemExit(f"{way}: wrong results, first at {at} of {len(wanted)}")


def make(way: str, frames: book_stream.Frames) -> book_peers.Run:
    if hasattr(book_peers, way):
        return getattr(book_peers, way)(frames)  # type: ignore[no-any-return]
    import book_ours

    if way.startswith("round_robin"):
        return book_ours.round_robin(frames, int(way.rpartition("_")[2]))
    return getattr(book_ours, way)(frames)  # type: ignore[no-any-return]


def main() -> None:
    way, folder = sys.argv[1:3]
    frames = book_stream.read(folder)
    if way == "allocations":
        import book_ours

        print(json.dumps(book_ours.allocations(frames)))
        return
    run = make(way, frames)
    last: deque[Any] = deque(maxlen=1)
    start = time.process_time_ns()
    run(last.append)
    used = time.process_time_ns() - start
    answers: list[Any] = []
    make(way, frames)(lambda answer: answers.append(answer.tobytes() if isinstance(answer, array) else answer))
    check(way, answers, folder, frames)
    kept = last[0].tobytes() if isinstance(last[0], array) else last[0]
    if str(kept) != str(answers[-1]) and "nautilus_top20" not in way:  # whose levels have no text of their own
        raise SystemExit(f"{way}: the timed loop ended with {kept}, the other with {answers[-1]}")
    print(json.dumps({"us": used / 1000 / len(answers)}))


if __name__ == "__main__":
    main()

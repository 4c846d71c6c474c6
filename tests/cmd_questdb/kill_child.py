"""Writers to be killed: imports once, then forks one for each line that it reads, so that each starts in no time.

A line is the JSON of a job: the location, the first number, a log of what is confirmed, and a seed. The child
writes trades and candles with rising numbers, and notes the last number after every flush.
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy  # noqa: F401
import pandas  # noqa: F401
import pyarrow.compute  # noqa: F401
import questdb  # noqa: F401
from msgspec import structs
from qdb_kit import candle, trade

from cmd_questdb.conf import Conf
from cmd_questdb.writer import QuestDBWriter, WriterOptions

OPTIONS = WriterOptions(patience=0.1, drain=0.5, away=0.2, close=1.0, connect_timeout=1.0)


def work(location: str, number: int, log: str, seed: int) -> None:
    rng = random.Random(seed)
    writer = QuestDBWriter(Conf.parse(location), options=OPTIONS)
    with open(log, "ab", buffering=0) as confirmed:
        while True:
            count = rng.randrange(1, 120)
            writer.write([trade(i) for i in range(number, number + count)])
            if rng.random() < 0.05:
                state = "final" if rng.random() < 0.5 else "provisional"
                writer.write([structs.replace(candle(number % 50, state), close=float(number))])
            number += count
            writer.flush()
            os.write(confirmed.fileno(), f"{number}\n".encode())
            time.sleep(0.01)


def main() -> None:
    gc.freeze()
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            try:
                work(**job)
            except BaseException as error:
                os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.WTERMSIG(status) if os.WIFSIGNALED(status) else -1, flush=True)


if __name__ == "__main__":
    main()

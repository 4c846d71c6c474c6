"""A process that logs until it is killed: log_child.py LOG PROGRESS POLICY THREAD.

After every call the number of the record goes into a mapped file: what is written there was logged.
"""

from __future__ import annotations

import mmap
import sys

from cmd_common.log import Logger


def main(path: str, progress: str, policy: str, thread: str) -> None:
    logger = Logger()
    one = logger.event("one", "{n:i8} {twice:i8} {half:f8}")
    note = logger.event("note", "{n:i8} {text:s100}")
    with open(progress, "r+b") as f:
        memory = mmap.mmap(f.fileno(), 8)
    count = memoryview(memory).cast("Q")
    logger.open(path, full=policy, thread=thread == "thread", slots=1024, large_slots=64, interval=0.002)
    n = 0
    while True:
        n += 1
        if n % 10:
            one(n, 2 * n, n / 2)
        else:
            note(n, f"number {n} of many")
        count[0] = n


if __name__ == "__main__":
    main(*sys.argv[1:])

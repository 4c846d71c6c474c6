"""Publishes prices over Aeron's shared memory, with a media driver inside where none runs yet.

python examples/aeron/publish.py [--dir DIR] [--count N]; subscribe.py reads them in another terminal.
"""

from __future__ import annotations

import argparse
import struct
import sys
import time
from contextlib import ExitStack

import cmd_aeron

STREAM = 1001
PRICE = struct.Struct("<qqd")  # number, ns since 1970, price


def wait(publication: cmd_aeron.ExclusivePublication, *, connected: bool) -> None:
    while publication.connected != connected:
        time.sleep(0.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", default=cmd_aeron.default_directory(), help="the driver's directory")
    parser.add_argument("--count", type=int, default=100_000, help="how many prices")
    options = parser.parse_args()
    with ExitStack() as stack:
        if not cmd_aeron.driver_status(options.dir).running:
            stack.enter_context(cmd_aeron.MediaDriver(options.dir))
        client = stack.enter_context(cmd_aeron.Client(options.dir, name="publish.py"))
        publication = client.add_exclusive_publication("aeron:ipc?term-length=1m", STREAM)
        print("waiting for a subscriber in", options.dir, file=sys.stderr, flush=True)
        wait(publication, connected=True)
        waits = 0
        for number in range(options.count):
            # Written in place: the subscriber reads the very bytes that pack_into writes.
            while isinstance(claim := publication.try_claim(PRICE.size), int):
                if claim != cmd_aeron.BACK_PRESSURED:
                    raise SystemExit(f"the subscriber is gone (result {claim})")
                waits += 1
                time.sleep(0.0001)
            with claim:
                PRICE.pack_into(claim, 0, number, time.time_ns(), 100 + number % 50 / 10)
        end = publication.position
        wait(publication, connected=False)  # it has read all and left
        print(f"{options.count} prices, {end} bytes, {waits} waits for the subscriber")


if __name__ == "__main__":
    try:
        main()
    except cmd_aeron.AeronError as error:
        sys.exit(f"publish.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)

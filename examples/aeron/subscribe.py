"""Reads the prices of publish.py, many at a time: one buffer, no Python object a message.

python examples/aeron/subscribe.py [--dir DIR] [--count N] [--idle low-cpu|balanced|spin]
"""

from __future__ import annotations

import argparse
import struct
import sys
import time

import cmd_aeron

STREAM = 1001
PRICE = struct.Struct("<qqd")  # number, ns since 1970, price
SECOND = 1_000_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", default=cmd_aeron.default_directory(), help="the driver's directory")
    parser.add_argument("--count", type=int, default=100_000, help="how many prices")
    parser.add_argument("--idle", choices=cmd_aeron.IDLE, default="balanced", help="what waiting does")
    options = parser.parse_args()
    end = time.monotonic() + 30
    while not cmd_aeron.driver_status(options.dir).running and time.monotonic() < end:
        time.sleep(0.1)
    buffer = bytearray(1 << 16)
    expected = lost = 0
    latencies = []
    with (
        cmd_aeron.Client(options.dir, name="subscribe.py") as client,
        client.add_subscription("aeron:ipc", STREAM) as subscription,
    ):
        while expected < options.count:
            length = subscription.poll_into(buffer, 30 * SECOND, options.idle)
            if not length:
                raise SystemExit("no prices for 30 s")
            now = time.time_ns()
            for number, sent, _price in PRICE.iter_unpack(memoryview(buffer)[:length]):
                lost += number - expected
                expected = number + 1
                latencies.append(now - sent)
    latencies.sort()
    print(f"{len(latencies)} prices, {lost} lost, half of them within {latencies[len(latencies) // 2] / 1000:.0f} us")


if __name__ == "__main__":
    try:
        main()
    except cmd_aeron.AeronError as error:
        sys.exit(f"subscribe.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)

"""The media driver as a process of its own: ``python -m cmd_aeron.driver --dir DIR``.

One line on standard output says that it is ready. SIGINT and SIGTERM end it in order, with exit code 0.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from . import AeronError, MediaDriver, default_directory, version

__all__ = ["main"]

_SIZES: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_TIMES: Final = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_LOOK: Final = 1.0  # s between looks whether the directory is still there


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d{1,12})([kmg]?)", text.lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; as 65536, 64k, 1m")
    return int(match[1]) * _SIZES[match[2]]


def _time(text: str) -> int:
    match = re.fullmatch(r"(\d{1,12})(ns|us|ms|s)", text.lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; as 500ms, 3s")
    return int(match[1]) * _TIMES[match[2]]


def _file(directory: str) -> tuple[int, int] | None:
    try:
        found = Path(directory, "cnc.dat").stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _say(line: str) -> None:
    """Write a line for whoever may read it: a driver runs whether anybody does or not."""
    with contextlib.suppress(AttributeError, OSError, ValueError):  # None, full or gone, closed
        sys.stdout.write(line)
        sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cmd_aeron.driver",
        description=f"Run Aeron's media driver ({version()}) until SIGINT or SIGTERM. Sizes as 64k, 1m; times as 500ms, 3s.",
    )
    parser.add_argument("--dir", default=default_directory(), help=f"its directory; default {default_directory()}")
    parser.add_argument("--threading", default="shared", choices=("shared", "shared-network", "dedicated"))
    parser.add_argument("--idle", default="backoff", choices=("backoff", "sleep", "yield", "spin", "noop"))
    for name, what in (
        ("term-length", "length of a term of UDP streams; each takes 3 of them in the directory"),
        ("ipc-term-length", "length of a term of IPC streams"),
        ("mtu", "longest frame of UDP streams"),
        ("ipc-mtu", "longest frame of IPC streams"),
        ("window", "what a UDP receiver lets its sender be ahead"),
    ):
        parser.add_argument(f"--{name}", type=_size, default=0, metavar="SIZE", help=what)
    for name, what in (
        ("client-liveness", "a client without a sign of life for so long is dropped; default 3s"),
        ("driver-timeout", "a driver without a sign of life for so long counts as gone"),
        ("untethered-window-limit", "an untethered subscriber that is behind for so long is left behind"),
        ("untethered-resting", "and may come back after so long"),
        ("publication-linger", "how long a closed publication can still be read"),
        ("image-liveness", "how long a silent UDP publisher counts as there"),
    ):
        parser.add_argument(f"--{name}", type=_time, default=0, metavar="TIME", help=what)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a driver until a signal ends it: 0; 1 after one line of error, 2 on wrong arguments."""
    options = vars(_parser().parse_args(arguments))
    directory = options.pop("dir")
    if directory == "":  # of a variable that is not set, rather than the default
        sys.stderr.write("cmd_aeron.driver: --dir names no directory (name one, or leave it out)\n")
        return 2
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with MediaDriver(directory, **options) as driver:
            _say(f"Aeron media driver {version()} ready in {driver.directory} (process {os.getpid()})\n")
            file = _file(driver.directory)
            while not ended.wait(_LOOK):
                if _file(driver.directory) != file:
                    raise AeronError(
                        f"the directory {driver.directory} was deleted under the running driver",
                        "start it again; clients must connect anew",
                    )
    except (AeronError, ValueError) as error:
        sys.stderr.write(f"cmd_aeron.driver: {error}\n")
        return 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


if __name__ == "__main__":
    sys.exit(main())

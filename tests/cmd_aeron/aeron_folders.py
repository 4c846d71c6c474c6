"""Directories, waiting, and programs that are run as processes of their own."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SECOND = 1_000_000_000
LONG = 60  # s: how long anything may take on a machine that is busy


@contextmanager
def fresh() -> Iterator[str]:
    """A path for an Aeron directory in a folder of its own."""
    shared = Path("/dev/shm")
    folder = tempfile.mkdtemp(prefix="cmd-aeron-test-", dir=shared if shared.is_dir() else None)
    try:
        yield f"{folder}/aeron"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def until(what: Callable[[], object]) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + LONG
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)


streams = itertools.count(1)  # a closed publication lingers: each test has streams of its own


def pair(client, channel: str = "aeron:ipc", exclusive: bool = True):
    """A publication and a subscription that see each other."""
    stream = next(streams)
    subscription = client.add_subscription(channel, stream)
    add = client.add_exclusive_publication if exclusive else client.add_publication
    publication = add(channel, stream)
    until(lambda: publication.connected and subscription.connected)
    return publication, subscription


@contextmanager
def driver_process(directory: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The driver as a process, ready; killed at the end where it is still there."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cmd_aeron.driver", "--dir", directory, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        if not process.stdout.readline():
            raise AssertionError(process.stderr.read())
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.communicate(timeout=LONG)


def claimed(publication, length: int):
    """A claim, once the driver has seen how far subscribers are."""
    end = time.monotonic() + LONG
    while isinstance(claim := publication.try_claim(length), int):
        assert claim == -2
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.0001)
    return claim

"""The command ``replay``: serve recordings or a simulation as if by the exchange.

One port and one ready line a venue: ``{"venue": ..., "endpoint": "http://127.0.0.1:PORT", ...}``. With a
fixed port and several venues they get PORT, PORT+1 and so on. It listens on loopback unless another
address is given: nothing here asks who a client is. It ends on SIGINT or SIGTERM with exit code 0, or with
``exit_at_end`` once every venue has sent everything and its clients are gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cmd_common import registry
from cmd_common.commands import ReplayOptions, Reporter, Result
from cmd_common.emulation import Emulator, MarketSource
from cmd_common.errors import UsageError
from cmd_common.exchange import Exchange
from cmd_common.recording import read

from .host import Host

__all__ = ["assign", "make_emulators", "run", "serve"]

_GRACE = 10.0  # seconds that clients have to go once everything was sent


def run(options: ReplayOptions, reporter: Reporter) -> Result:
    """Serve until the end or a signal; raises UsageError before anything is served."""
    return asyncio.run(serve(options, reporter))


async def serve(options: ReplayOptions, reporter: Reporter) -> Result:
    """Serve in a running event loop; see ``run``."""
    address, port = _listen(options.listen)
    emulators = make_emulators(options)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, stop.set)
    hosts: list[Host] = []
    try:
        async with AsyncExitStack() as stack:
            for n, emulator in enumerate(emulators):
                host = Host(emulator, address, port + n if port else 0)
                hosts.append(await stack.enter_async_context(host))
            for host, emulator in zip(hosts, emulators, strict=True):
                facts = emulator.ready()
                for note in facts.pop("notes", ()):
                    reporter.warn(note)
                reporter.ready({"venue": emulator.venue, "endpoint": host.endpoint, "speed": options.speed, **facts})
            await _until_end(hosts, stop, exit_at_end=options.exit_at_end)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.remove_signal_handler(number)
    return Result(summary={"venues": {e.venue: _summary(e) for e in emulators}})


async def _until_end(hosts: Sequence[Host], stop: asyncio.Event, *, exit_at_end: bool) -> None:
    async def ended() -> None:
        for host in hosts:
            await host.done.wait()

    async def sent() -> None:
        # A client that does not go must not keep the process.
        for host in hosts:
            await host.finished.wait()
        await asyncio.sleep(_GRACE)

    work = [asyncio.create_task(stop.wait()), *(asyncio.create_task(h.failed()) for h in hosts)]
    if exit_at_end:
        work += [asyncio.create_task(ended()), asyncio.create_task(sent())]
    try:
        done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)


def _summary(emulator: Emulator) -> dict[str, Any]:
    truth = emulator.truth()
    return {
        "finished": truth["finished"],
        "messages": sum(truth["sent"].values()),
        "faults": truth["fault_counts"],
        "trades": truth["trades"],
    }


def _listen(text: str) -> tuple[str, int]:
    address, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or not 0 <= int(port) <= 65_535 or not address:
        raise UsageError(f"--listen {text!r} is not ADDRESS:PORT", hint="write for example 127.0.0.1:8080, or port 0")
    return address.strip("[]"), int(port)


def make_emulators(options: ReplayOptions) -> list[Emulator]:
    """Make one emulator a venue; raises UsageError for what cannot be served."""
    if not options.exchanges:
        raise UsageError("no exchange to serve", hint="give --exchange VENUE")
    if options.simulate and options.recordings:
        raise UsageError("recordings and a simulation exclude each other", hint="give one of them")
    if not options.simulate and not options.recordings:
        raise UsageError("nothing to serve", hint="give --recording FILE or --simulate")
    if options.speed < 0:
        raise UsageError(f"speed {options.speed} is negative", hint="give a number above 0, or max")
    venues = list(dict.fromkeys(options.exchanges))
    exchanges = {venue: registry.exchange(venue) for venue in venues}
    files = assign(options.recordings, exchanges)
    return [
        exchange.emulator(
            MarketSource(
                venue,
                recordings=tuple(files[venue]),
                simulate=options.simulate,
                symbols=options.symbols,
                symbol_names=options.symbol_names,
                seed=options.seed,
                start=options.start,
                duration=options.duration,
                faults=options.faults,
                exit_at_end=options.exit_at_end,
                speed=options.speed,
                instruments=options.instruments,
                history_days=options.history_days,
                history_trades=options.history_trades,
            )
        )
        for venue, exchange in exchanges.items()
    ]


def assign(recordings: Sequence[str], exchanges: Mapping[str, Exchange]) -> dict[str, list[str]]:
    """Say which file belongs to which venue.

    With one venue all do. With several, the host in the first URLs of a file decides, else the name of its
    folder or file (``binance_spot/...`` is binance-spot's). Raises UsageError where that says nothing.
    """
    result: dict[str, list[str]] = {venue: [] for venue in exchanges}
    for path in recordings:
        if not Path(path).is_file():
            raise UsageError(f"recording {path} does not exist", hint="give a file")
        if len(exchanges) == 1:
            result[next(iter(exchanges))].append(path)
            continue
        venue = _by_url(path, exchanges) or _by_name(path, list(exchanges))
        if venue is None:
            raise UsageError(
                f"cannot tell whether {path} is of {' or '.join(exchanges)}",
                hint="put it into a folder named like the venue, or serve one venue",
            )
        result[venue].append(path)
    for venue, files in result.items():
        if recordings and not files:
            raise UsageError(f"no recording of {venue}", hint="name one, or leave the venue out")
    return result


def _by_url(path: str, exchanges: Mapping[str, Exchange]) -> str | None:
    for line in islice(read(path), 2000):
        if not line.url:
            continue
        url = urlsplit(line.url)
        place = url.netloc + url.path  # some exchanges tell their markets apart by the path
        for venue, exchange in exchanges.items():
            # At the start of a label only: api.binance. is no part of fapi.binance.com.
            if any(place.startswith(part) or f".{part}" in place for part in exchange.recording_urls()):
                return venue
    return None


def _by_name(path: str, venues: list[str]) -> str | None:
    resolved = Path(path).resolve()
    for name in (resolved.parent.name, resolved.name):
        name = name.lower().replace("_", "-")
        found = [v for v in venues if name == v or name.startswith((f"{v}-", f"{v}."))]
        if found:
            return max(found, key=len)
    return None

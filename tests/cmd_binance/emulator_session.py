"""A client of the Binance emulator without sockets."""

from __future__ import annotations

import csv
import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec

from cmd_binance.emulator import BinanceEmulator
from cmd_binance.instruments import COINM, SPOT, USDM, Market
from cmd_common.emulation import Accept, Close, MarketSource, ServerFrame, Text
from cmd_common.faults import parse_fault
from cmd_common.http import HttpResponse

SECOND = 1_000_000_000
T0 = 1_900_000_000 * SECOND
MARKETS = (SPOT, USDM, COINM)
NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


def simulated(market: Market = SPOT, *faults: str, **options: Any) -> BinanceEmulator:
    options = {"symbols": 2, "seed": 4, "duration": 20 * SECOND, "speed": 0, **options}
    made = tuple(parse_fault(f) for f in faults)
    return BinanceEmulator(market, MarketSource(market.venue, simulate=True, faults=made, **options))


def recorded(market: Market, *paths: Path, **options: Any) -> BinanceEmulator:
    options = {"speed": 0, **options}
    return BinanceEmulator(market, MarketSource(market.venue, recordings=tuple(map(str, paths)), **options))


class Session:
    """Drives an emulator on a clock that jumps."""

    def __init__(self, emulator: BinanceEmulator, now: int = T0) -> None:
        self.emulator = emulator
        self.now = now
        self.responses: dict[int, HttpResponse] = {}
        self.frames: list[ServerFrame] = []

    def open(self, target: str, connection: int = 1) -> Accept | HttpResponse:
        return self.emulator.ws_open(connection, target, {}, self.now)

    def send(self, message: object, connection: int = 1) -> list[Any]:
        self.now += SECOND  # stay below the limit of messages
        text = message if isinstance(message, str) else msgspec.json.encode(message).decode()
        frames = self.emulator.ws_receive(connection, text, self.now)
        return [msgspec.json.decode(f.text) if isinstance(f, Text) else f for f in frames]

    def get(self, target: str, **headers: str) -> HttpResponse:
        result = self.emulator.http("GET", target, {k.replace("_", "-"): v for k, v in headers.items()}, self.now)
        assert isinstance(result, HttpResponse)
        return result

    def json(self, target: str, **headers: str) -> Any:
        response = self.get(target, **headers)
        assert response.status == 200, response.body
        return msgspec.json.decode(response.body)

    def error(self, target: str) -> tuple[int, int, str]:
        response = self.get(target)
        body = msgspec.json.decode(response.body)
        return response.status, body["code"], body["msg"]

    def run(self, *, until_position: int | None = None, limit: int = 256) -> list[ServerFrame]:
        frames: list[ServerFrame] = []
        while True:
            poll = self.emulator.poll(self.now, limit)
            frames += poll.frames
            self.responses.update(poll.responses)
            if poll.finished or poll.next_time is None:
                break
            if until_position is not None and self.emulator.world.position >= until_position:
                break
            self.now = max(self.now + 1, poll.next_time)
        self.frames += frames
        return frames


def texts(frames: list[ServerFrame], connection: int = 1) -> list[str]:
    return [f.text for f in frames if isinstance(f, Text) and f.connection == connection]


def events(frames: list[ServerFrame], connection: int = 1) -> list[Any]:
    return [msgspec.json.decode(t) for t in texts(frames, connection)]


def codes(frames: list[ServerFrame]) -> list[tuple[int, int]]:
    return [(f.connection, f.code) for f in frames if isinstance(f, Close)]


def prefix(market: Market) -> str:
    return "/public" if market is USDM else ""


def archive_file(s: Session, key: str) -> list[list[str]]:
    zipped, checksum = s.get(f"/{key}"), s.get(f"/{key}.CHECKSUM")
    assert (zipped.status, checksum.status) == (200, 200)
    name = key.rpartition("/")[2]
    assert checksum.body.decode() == f"{hashlib.sha256(zipped.body).hexdigest()}  {name}\n"
    with zipfile.ZipFile(io.BytesIO(zipped.body)) as archive:
        assert archive.namelist() == [name.replace(".zip", ".csv")]
        return list(csv.reader(io.StringIO(archive.read(archive.namelist()[0]).decode())))


def listing(s: Session, prefix: str, path: str = "/", **query: str) -> tuple[list[tuple[str, int]], list[str], str]:
    text = "&".join(f"{k.replace('_', '-')}={v}" for k, v in {"prefix": prefix, **query}.items())
    root = ElementTree.fromstring(s.get(f"{path}?{text}").body)
    keys = [
        (e.findtext(NAMESPACE + "Key") or "", int(e.findtext(NAMESPACE + "Size") or 0))
        for e in root.iter(NAMESPACE + "Contents")
    ]
    folders = [e.findtext(NAMESPACE + "Prefix") or "" for e in root.iter(NAMESPACE + "CommonPrefixes")]
    assert root.findtext(NAMESPACE + "IsTruncated") in ("true", "false")
    marker = root.findtext(NAMESPACE + "NextMarker") or root.findtext(NAMESPACE + "NextContinuationToken") or ""
    return keys, folders, marker if root.findtext(NAMESPACE + "IsTruncated") == "true" else ""

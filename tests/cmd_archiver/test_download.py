from __future__ import annotations

import hashlib
import random
from datetime import date

import pytest

from cmd_archiver.download import ATTEMPTS, Downloader, hash_file
from cmd_binance.archive import BinanceArchive
from cmd_binance.instruments import SPOT
from cmd_common.errors import BlockedError, ChecksumError, DisconnectedError, ProtocolError, RateLimitError, VenueError
from cmd_common.exchange import Endpoints
from cmd_common.http import HttpRequest
from cmd_feed.net import SystemNet

SOURCE = BinanceArchive(SPOT)
DAY = date(2024, 8, 8)


class FastClock:
    """Real time that does not wait, and notes how long it should have."""

    def __init__(self):
        self.waits = []
        self.time = 0

    def now(self):
        return self.time

    def monotonic(self):
        return self.time

    async def sleep(self, ns):
        self.waits.append(ns)
        self.time += ns


@pytest.fixture
async def net():
    made = SystemNet(proxy="")
    yield made
    await made.close()


@pytest.fixture
def clock():
    return FastClock()


@pytest.fixture
def loader(net, clock, tmp_path):
    return Downloader(net, clock, random.Random(1), tmp_path)


@pytest.fixture
def published(server):
    body = random.Random(2).randbytes(300_000)
    endpoints = Endpoints(ws="", rest="", archive=server.url, listing=server.url)
    file = SOURCE.file("trades", "BTCUSDT", DAY, endpoints)
    server.add(file.key, body)
    return file, body, hashlib.sha256(body).hexdigest()


async def test_a_file_arrives_whole(loader, published):
    file, body, digest = published
    assert await loader.checksum(SOURCE, file) == digest
    counts = []
    loader.received = counts.append
    path = await loader.fetch(file, digest)
    assert path.read_bytes() == body
    assert sum(counts) == len(body) == loader.counters.bytes
    assert [p.name for p in path.parent.iterdir()] == [file.name]


async def test_broken_downloads_go_on_where_they_stopped(loader, published, server, clock):
    file, body, digest = published
    server.cut[file.key] = [100_000, 70_000, 1]
    path = await loader.fetch(file, digest)
    assert path.read_bytes() == body
    ranges = [r for p, r in server.requests if p == file.key]
    assert ranges == ["", "bytes=100000-", "bytes=170000-", "bytes=170001-"]
    assert (loader.counters.retries, loader.counters.resumed) == (3, 3)
    assert len(clock.waits) == 3
    assert all(0 < w <= 500_000_000 for w in clock.waits)


async def test_a_part_of_an_earlier_run_is_used(loader, published, server):
    file, body, digest = published
    part = loader.path(file).with_name(file.name + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(body[:123_456])
    assert (await loader.fetch(file, digest)).read_bytes() == body
    assert loader.counters.bytes == len(body) - 123_456
    assert not part.exists()


async def test_a_whole_part_needs_no_byte(loader, published):
    file, body, digest = published
    part = loader.path(file).with_name(file.name + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(body)
    assert (await loader.fetch(file, digest)).read_bytes() == body
    assert loader.counters.bytes == 0


async def test_a_part_of_an_older_version_is_begun_again(loader, published):
    file, body, digest = published
    part = loader.path(file).with_name(file.name + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"older version" * 1000)
    assert (await loader.fetch(file, digest)).read_bytes() == body
    assert loader.counters.restarted == 1


async def test_a_server_without_ranges_is_noticed(loader, published, server):
    file, body, digest = published
    server.ranges = False
    server.cut[file.key] = [50_000]
    assert (await loader.fetch(file, digest)).read_bytes() == body
    assert loader.counters.restarted == 0


async def test_a_downloaded_file_is_not_asked_for_again(loader, published, server):
    file, body, digest = published
    await loader.fetch(file, digest)
    asked = len(server.requests)
    assert (await loader.fetch(file, digest)).read_bytes() == body
    assert len(server.requests) == asked
    loader.path(file).write_bytes(b"damaged")
    assert (await loader.fetch(file, digest)).read_bytes() == body


async def test_a_wrong_checksum_leaves_the_file_aside(loader, published):
    file, body, _ = published
    with pytest.raises(ChecksumError, match="published is 0000"):
        await loader.fetch(file, "0" * 64)
    left = list(loader.path(file).parent.iterdir())
    assert [p.name for p in left] == [file.name + ".bad"]
    assert hash_file(left[0]) == (hashlib.sha256(body).hexdigest(), len(body))


async def test_missing_files_are_no_error(loader, published, server):
    file, _, digest = published
    del server.files[file.key]
    assert await loader.checksum(SOURCE, file) is None
    assert await loader.fetch(file, digest) is None
    assert list(loader.path(file).parent.iterdir()) == []


async def test_retries_are_limited_and_jittered(loader, published, server, clock):
    file, _, digest = published
    server.status[file.key] = [503] * 50
    with pytest.raises(VenueError, match="503"):
        await loader.fetch(file, digest)
    assert len(server.downloads()) == ATTEMPTS
    assert clock.waits == sorted(clock.waits)
    assert len(set(clock.waits)) == ATTEMPTS - 1


async def test_a_short_outage_is_got_over(loader, published, server):
    file, body, digest = published
    server.status[file.key] = [500, 503]
    server.status[file.key + ".CHECKSUM"] = [502]
    assert await loader.checksum(SOURCE, file) == digest
    assert (await loader.fetch(file, digest)).read_bytes() == body
    assert loader.counters.retries == 3


@pytest.mark.parametrize(
    ("status", "kind", "asked"),
    [(403, BlockedError, 1), (451, BlockedError, 1), (400, VenueError, 1), (429, RateLimitError, 5)],
)
async def test_statuses_have_their_own_errors(loader, published, server, status, kind, asked):
    file, _, _ = published
    server.status[file.key + ".CHECKSUM"] = [status] * 9
    with pytest.raises(kind):
        await loader.checksum(SOURCE, file)
    assert len(server.requests) == asked


async def test_nobody_there(loader, tmp_path):
    with pytest.raises(DisconnectedError):
        await loader.get(HttpRequest("http://127.0.0.1:9/x"))


async def test_sizes_come_from_all_pages_of_the_listing(loader, server):
    endpoints = Endpoints(ws="", rest="", archive=server.url, listing=server.url)
    files = [SOURCE.file("trades", "BTCUSDT", date(2024, 8, d), endpoints) for d in range(5, 15)]
    for n, file in enumerate(files[:-1]):
        server.add(file.key, b"x" * (n + 1))
    server.page = 3
    sizes = await loader.sizes(SOURCE, endpoints, files)
    assert sizes == {f.key: n + 1 for n, f in enumerate(files[:-1])}
    assert len(server.requests) == 6
    assert await loader.sizes(SOURCE, endpoints, []) == {}


async def test_a_listing_that_goes_in_circles_ends(loader, server, monkeypatch):
    endpoints = Endpoints(ws="", rest="", archive=server.url, listing=server.url)
    file = SOURCE.file("trades", "BTCUSDT", DAY, endpoints)
    server.add(file.key, b"x")
    server.page = 1
    real = server._listing
    monkeypatch.setattr(server, "_listing", lambda query: real({**query, "marker": [""]}))
    with pytest.raises(ProtocolError, match="does not advance"):
        await loader.sizes(SOURCE, endpoints, [file])

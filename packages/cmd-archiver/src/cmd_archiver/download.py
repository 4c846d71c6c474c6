"""Fetching published files: listing, checksum, and a download that resumes and proves itself.

A file grows as ``NAME.part`` and is renamed when its SHA-256 is the published one, so a whole name
is always a whole file; where none is published, the size that the server says must do, and the packing's
own checks prove the rest. A server that ignores the byte range is noticed by the first bytes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from msgspec import Struct

from cmd_common.archive import ArchiveFile, ArchiveSource
from cmd_common.backoff import Backoff
from cmd_common.errors import (
    BlockedError,
    ChecksumError,
    CmdError,
    DisconnectedError,
    ProtocolError,
    RateLimitError,
    StoreError,
    VenueError,
)
from cmd_common.http import HttpRequest, HttpResponse
from cmd_common.seams import Clock, Net, Rng

if TYPE_CHECKING:
    from cmd_common.exchange import Endpoints

__all__ = ["Counters", "Downloader", "disk_error", "hash_file"]

ATTEMPTS: Final = 5  # in a row without a new byte
SECOND: Final = 1_000_000_000
_HEAD: Final = 64  # bytes that tell whether a body starts at the beginning of the file
_SMALL: Final = 1 << 20

T = TypeVar("T")


class Counters(Struct):
    """Counts since the downloader was made."""

    requests: int = 0
    retries: int = 0
    resumed: int = 0  # downloads that went on from a .part
    restarted: int = 0  # downloads begun again because the bytes did not fit
    bytes: int = 0  # received


def disk_error(error: OSError, what: str) -> StoreError:
    """Turn an OSError into one clear line."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(f"no space left on the disk while {what}", hint="free some space and run it again")
    return StoreError(f"{error.strerror or error} while {what}", hint="check the path and its permissions")


def hash_file(path: Path) -> tuple[str, int]:
    """SHA-256 in hex and size of a file."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest(), f.tell()


def _permanent(error: VenueError) -> bool:
    """Whether asking again cannot help: client errors but time-out, too early and too many."""
    return isinstance(error, BlockedError) or (400 <= error.status < 500 and error.status not in (408, 418, 425, 429))


class Downloader:
    """Requests with limited retries over the seams; ``folder`` keeps the files by their archive key."""

    def __init__(self, net: Net, clock: Clock, rng: Rng, folder: Path) -> None:
        self.counters = Counters()
        self.received: Callable[[int], None] = lambda count: None  # called with each piece's size
        self._net = net
        self._clock = clock
        self._rng = rng
        self._folder = folder

    async def _retry(self, what: Callable[[Backoff], Awaitable[T]], attempts: int = 0) -> T:
        backoff = Backoff(self._rng, base=SECOND // 2, cap=30 * SECOND, limit=attempts or ATTEMPTS)
        while True:
            try:
                return await what(backoff)
            except VenueError as error:
                wait = backoff.failed(self._clock.monotonic())
                if _permanent(error) or backoff.exhausted:
                    raise
                if isinstance(error, RateLimitError):
                    wait = max(wait, error.retry_after)
                self.counters.retries += 1
                await self._clock.sleep(wait)

    async def get(self, request: HttpRequest, *, attempts: int = 0, good: Collection[int] = (200, 404)) -> HttpResponse:
        """Get a small body. Statuses in ``good`` are returned, others raised after limited retries
        (``attempts`` where the answer is only a help, 0: the usual number).

        Raises BlockedError, RateLimitError, DisconnectedError or VenueError.
        """

        async def once(_: Backoff) -> HttpResponse:
            self.counters.requests += 1
            response = await self._net.request(request)
            where = request.url.partition("?")[0]
            if response.status in good:
                return response
            if response.status in (403, 451):
                raise BlockedError(
                    f"{where} refuses this address (HTTP {response.status})",
                    status=response.status,
                    hint="use a network, proxy or endpoint that the exchange serves",
                )
            if response.status in (418, 429):
                raise RateLimitError(
                    f"{where} asks for a pause (HTTP {response.status})",
                    status=response.status,
                    retry_after=min(response.retry_after, 600 * SECOND),
                )
            raise VenueError(f"{where} answered HTTP {response.status}", status=response.status)

        return await self._retry(once, attempts)

    async def checksum(self, source: ArchiveSource, file: ArchiveFile) -> str | None:
        """The published SHA-256 of a file; None where the file is not published."""
        response = await self.get(HttpRequest(file.checksum_url))
        if response.status == 404:
            return None
        if len(response.body) > _SMALL:
            raise ProtocolError(f"checksum of {file.name} is {len(response.body)} bytes long")
        return source.parse_checksum(response.body, file.name)

    async def version(self, file: ArchiveFile) -> str | None:
        """What the server says of a file without a published checksum: ETag, date and size, as far as it
        does; None where the file is not published.
        """
        # Not HEAD: it is refused by some servers, and a range of one byte costs the same.
        response = await self.get(HttpRequest(file.url, headers={"Range": "bytes=0-0"}), good=(200, 206, 404, 416))
        if response.status == 404:
            return None
        size = response.header("content-range").rpartition("/")[2]
        if response.status == 200:
            size = str(len(response.body))
        facts = {
            "etag": response.header("etag"),
            "modified": response.header("last-modified"),
            "size": size if size.isdigit() else "",
        }
        return " ".join(f"{name}={value}" for name, value in facts.items() if value)

    async def fetch_unchecked(self, file: ArchiveFile, version: str) -> tuple[Path, str] | None:
        """Download a file without a published checksum; returns its path and SHA-256, None where it is gone.

        Resumes what an earlier run left of the same ``version``. Raises ChecksumError, with the file left
        at ``path`` + ".bad", when it has not the size that the server said; else as ``fetch``.
        """
        target = self.path(file)
        part, tag = (target.with_name(target.name + suffix) for suffix in (".part", ".tag"))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if not version or not tag.exists() or tag.read_text() != version:
                part.unlink(missing_ok=True)
                target.unlink(missing_ok=True)
                tag.write_text(version)
            if target.exists():
                return target, hash_file(target)[0]
            try:
                digest = await self._retry(lambda backoff: self._receive(file, part, backoff))
            except VenueError as error:
                if error.status == 404:
                    part.unlink(missing_ok=True)
                    return None
                raise
            size = re.search(r"(?:^| )size=(\d+)$", version)
            have = part.stat().st_size
            if size is None or int(size[1]) == have:
                os.replace(part, target)
                return target, digest
            os.replace(part, target.with_name(target.name + ".bad"))
        except OSError as error:
            raise disk_error(error, f"downloading {file.name}") from None
        raise ChecksumError(f"{file.name} has {have} bytes, the server says {size[1]}", hint="run it again later")

    async def sizes(
        self, source: ArchiveSource, endpoints: Endpoints, files: Sequence[ArchiveFile], *, attempts: int = 0
    ) -> dict[str, int]:
        """Sizes of the listed ones of ``files`` (of one symbol and type) by key; a hint, never the truth."""
        if not files:
            return {}
        wanted = {f.key for f in files}
        # The common beginning of all names keeps the listing short; the marker is exclusive.
        prefix = _common_beginning(wanted)
        found: dict[str, int] = {}
        marker = ""
        for _ in range(1000):
            request = source.listing_request(prefix, marker, endpoints)
            if request is None:
                return found
            response = await self.get(request, attempts=attempts)
            if response.status == 404:
                return found
            page = source.parse_listing(response.body, prefix)
            found.update((key, size) for key, size in page.keys if key in wanted)
            if not page.marker:
                return found
            if page.marker <= marker:
                raise ProtocolError("archive listing does not advance")
            marker = page.marker
        raise ProtocolError("archive listing has no end")

    def path(self, file: ArchiveFile) -> Path:
        """Where the whole file lies once it was downloaded."""
        return self._folder / file.key

    async def fetch(self, file: ArchiveFile, sha256: str) -> Path | None:
        """Download a file that must have this SHA-256; None where it is not published.

        Resumes what an earlier run left. Raises ChecksumError, with the file left at ``path`` + ".bad",
        when a fresh download has another checksum; VenueError after limited retries; StoreError.
        """
        target = self.path(file)
        part = target.with_name(target.name + ".part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():  # an earlier run was stopped after the download
                if hash_file(target)[0] == sha256:
                    return target
                target.unlink()
            for attempt in range(2):
                fresh = not part.exists()
                try:
                    digest = await self._retry(lambda backoff: self._receive(file, part, backoff))
                except VenueError as error:
                    if error.status == 404:
                        part.unlink(missing_ok=True)
                        return None
                    raise
                if digest == sha256:
                    os.replace(part, target)
                    return target
                if fresh or attempt:
                    break
                self.counters.restarted += 1  # the older beginning may be of another version of the file
                part.unlink()
        except OSError as error:
            raise disk_error(error, f"downloading {file.name}") from None
        bad = target.with_name(target.name + ".bad")
        os.replace(part, bad)
        raise ChecksumError(f"{file.name} has SHA-256 {digest}, published is {sha256}", hint="run it again later")

    async def _receive(self, file: ArchiveFile, part: Path, backoff: Backoff) -> str:
        """Receive what is missing of ``part``; returns the SHA-256 of the whole."""
        digest = hashlib.sha256()
        have, head = 0, b""
        with part.open("ab+") as out:
            out.seek(0)
            while data := out.read(_SMALL):
                head = head or data[:_HEAD]
                digest.update(data)
                have += len(data)
            headers = {"Range": f"bytes={have}-"} if have else {}
            self.counters.requests += 1
            self.counters.resumed += bool(have)
            first = True
            try:
                async for chunk in self._net.stream(HttpRequest(file.url, headers=headers)):
                    if not chunk:
                        continue
                    if first and have and len(chunk) >= len(head) and chunk.startswith(head):
                        out.truncate(0)  # the server sent the file from its beginning
                        digest, have = hashlib.sha256(), 0
                    first = False
                    out.write(chunk)
                    digest.update(chunk)
                    have += len(chunk)
                    self.counters.bytes += len(chunk)
                    backoff.reset()  # bytes came: the limit counts attempts without any
                    self.received(len(chunk))
            except VenueError as error:
                if error.status != 416:  # 416: nothing is missing
                    raise
        return digest.hexdigest()


def _common_beginning(keys: Collection[str]) -> str:
    low, high = min(keys), max(keys)  # what these two share, all share
    for i, character in enumerate(low):
        if i >= len(high) or high[i] != character:
            return low[:i]
    return low


def is_outage(error: CmdError) -> bool:
    """Whether an error says that the archive cannot be reached at all, rather than one file."""
    return isinstance(error, BlockedError | DisconnectedError)

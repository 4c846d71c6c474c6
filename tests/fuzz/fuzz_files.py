"""Fuzz targets of what is read from files and sockets: journals, logs, recordings, published CSVs, configuration, the wire."""

from __future__ import annotations

import tempfile
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from fuzz_venues import one_line

from cmd_archiver.parse import CsvFile
from cmd_common import config, registry
from cmd_common.errors import CmdError
from cmd_common.log import Logger
from cmd_common.log import reader as log_reader
from cmd_common.recording import Recording
from cmd_common.records import Quote, Trade
from cmd_common.testing.simdisk import SimDisk
from cmd_parquet import ParquetWriter, journal
from cmd_server import codec
from cmd_server.client.core import ClientCore, ClientOptions
from cmd_server.framing import Splitter

DAY = date(2025, 5, 31)


@cache
def folder() -> Path:
    """A folder of this process, which ends with it."""
    kept = tempfile.TemporaryDirectory(prefix="cmd-fuzz-")
    _kept.append(kept)
    return Path(kept.name)


_kept: list[Any] = []


class JournalTarget:
    """Any bytes as a journal and as its notes of what is confirmed."""

    name = "journal"

    def __init__(self) -> None:
        self.before: list[bytes] = []  # it keeps nothing from one input to the next

    def seeds(self) -> list[bytes]:
        """A journal with three commits."""
        disk = SimDisk()
        writer = ParquetWriter("/store", disk=disk)
        for n in range(3):
            writer.write([Trade(10**18 + n, 10**18 + n, "v", "BTCUSDT", str(n), n, 1.5, 2.0, "buy")])
            writer.flush()
        return [data for path in list(disk._files) if "/journal/" in path for data in [disk.read(path)] if data]

    def __call__(self, data: bytes) -> None:
        try:
            found = journal.scan(data)
            assert 0 <= found.end <= len(data)
            assert list(journal.rows_in(data, "j")) is not None
            journal.first_order(data)
            assert journal.confirmed_length(data)[0] >= 0
        except CmdError as error:
            one_line(error)
        # What a frame says is read by itself, too: its sum protects it from damage, not from a writer that errs.
        try:
            journal.rows_of(data, "j")
        except CmdError as error:
            one_line(error)


class FileTarget:
    """Any bytes as a file of one kind."""

    def __init__(self, name: str, suffix: str) -> None:
        self.name = name
        self.before: list[bytes] = []
        self._suffix = suffix

    def seeds(self) -> list[bytes]:
        """Small files of that kind."""
        if self.name == "log":
            logger = Logger()
            event = logger.event("trade", "{symbol:sym} {price:f8} {n:i8} {what:s32}")
            logger.open(folder() / "seed.log", thread=False)
            symbol = logger.intern("BTCUSDT")
            for n in range(5):
                event(symbol, 1.5, n, "x" * n)
            logger.close()
            return [(folder() / "seed.log").read_bytes(), b"2025-01-01T00:00:00Z INFO x y\n"]
        if self.name == "recording":
            return [
                b'{"recv_ns":1,"src":"ws_open","url":"wss://a/b","msg":null}\n{"recv_ns":2,"src":"ws","msg":{"a":[1,"x"]}}\n',
                b'{"recv_ns":3,"src":"rest","url":"https://a/b","msg":[1.50]}\n{"recv_ns":null,"src":"ws_out","msg":"t\\u0041"}',
            ]
        return [
            b'[exchange]\nname="x"\n', b'[record]\nsymbols=["BTCUSDT"]\ntypes="trades"\n[archive]\nstart="2025-01-01"\n',
            config.template().encode(),
        ]  # fmt: skip

    def __call__(self, data: bytes) -> None:
        path = folder() / f"input{self._suffix}"
        path.write_bytes(data)
        try:
            if self.name == "log":
                for record in log_reader.read(path).records():
                    str(record)
            elif self.name == "recording":
                for line in Recording(path):
                    line.text.encode("utf-8", "surrogateescape")
            else:
                config.load(str(path), environ={})
        except CmdError as error:
            one_line(error)


class CsvTarget:
    """Any bytes as a published CSV: the first byte chooses the table."""

    name = "csv"

    def __init__(self) -> None:
        self.before: list[bytes] = []

    tables = (("trades", ""), ("agg_trades", ""), ("candles", "1m"))

    def seeds(self) -> list[bytes]:
        """Two rows of each table, in the exchange's form."""
        ms = 1_748_649_600_000_000
        return [
            b"\x00" + b"".join(b"%d,1.5%d,2.0,3.0,%d,True,True\n" % (n, n, ms + n) for n in range(3)),
            b"\x01" + b"".join(b"%d,1.5,2.0,%d,%d,%d,False,True\n" % (n, n, n, ms + n) for n in range(3)),
            b"\x02" + b"%d,1,2,0.5,1.5,10,%d,15,3,5,7,0\n" % (ms, ms + 59_999_999),
            b"\x00id,price,qty,quote_qty,time,is_buyer_maker\n1,2.5,3,7.5,1748649600000,true\n",
        ]

    def __call__(self, data: bytes) -> None:
        if not data:
            return
        table, interval = self.tables[data[0] % 3]
        exchange = registry.exchange("binance-spot" if data[0] < 128 else "binance-usdm")
        assert exchange.archive is not None
        file = exchange.archive.file(table, "BTCUSDT", DAY, exchange.endpoints, interval=interval)
        path = folder() / "input.csv"
        path.write_bytes(data[1:])
        try:
            rows = sum(batch.num_rows for batch in CsvFile(path, file, exchange.archive).batches())
            assert rows <= data.count(b"\n") + 1
        except CmdError as error:
            one_line(error)


class WireTarget:
    """Any bytes as what a server sends, and as what a client asks."""

    name = "wire"

    def __init__(self) -> None:
        self.before: list[bytes] = []

    def seeds(self) -> list[bytes]:
        """A conversation, as the frames of each side."""
        records: list[Any] = [
            Trade(1, 2, "v", "A", "7", 7, 1.0, 2.0, "buy"),
            Quote(1, 2, "v", "A", 5, 1.0, 2.0, 3.0, 4.0),
        ]
        frames = [bytes(codec.encode(record, 1, 1)) for record in records]
        core = ClientCore(ClientOptions(topics=("trades *",)))
        core.connected(1, "tcp:x:1")
        return [*frames, b"".join(frames), b"".join(core.outgoing(1))]

    def __call__(self, data: bytes) -> None:
        core = ClientCore(ClientOptions(topics=("trades *", "book *"), max_message=1 << 20))
        core.connected(1, "tcp:x:1")
        try:
            core.receive(data, 2)
        except CmdError as error:
            one_line(error)
        try:
            for frame in Splitter(1 << 20).feed(data):
                for decode in (codec.decode_request, codec.decode_service):
                    try:
                        decode(frame)
                    except CmdError as error:
                        one_line(error)
        except CmdError as error:
            one_line(error)

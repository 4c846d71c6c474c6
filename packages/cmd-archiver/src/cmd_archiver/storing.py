"""What the archiver does with the store: rows and gaps of a unit in one commit, in the one writer thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cmd_common.archive import ArchiveFile
from cmd_common.commands import Reporter
from cmd_common.errors import CmdError
from cmd_common.io import IWriter
from cmd_common.records import Gap

from .download import disk_error
from .plan import BUILT, Unit, day_start

if TYPE_CHECKING:
    import pyarrow as pa

    from .spool import Spool

__all__ = ["Storing"]


class Storing:
    """The open store of a run. Every method is called in the writer thread."""

    def __init__(self, open_store: Callable[[], IWriter], reporter: Reporter) -> None:
        self._open_store = open_store
        self._reporter = reporter
        self._writer: IWriter | None = None

    def _open(self) -> IWriter:
        if self._writer is None:
            self._writer = self._open_store()
        return self._writer

    def close(self, confirm: bool) -> None:
        """Close the store; without ``confirm`` what is not durable yet is dropped."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        if not confirm and (discard := getattr(writer, "discard", None)) is not None:
            discard()
        writer.close()

    def write_gaps(self, gaps: Sequence[Gap]) -> None:
        """Write gaps; durable on return."""
        writer = self._open()
        writer.write(gaps)
        writer.flush()

    def write(
        self,
        unit: Unit,
        products: Sequence[str],
        spool: Spool,
        replace: Sequence[str],
        gaps: Sequence[Gap],
        live: pa.Array[Any] | None = None,
    ) -> dict[str, int]:
        """Write the rows of a unit's products and its gaps in one commit; returns the rows by product.

        Archived rows of the products in ``replace`` are deleted first. Trades whose ids are in ``live`` are
        in the store already and are left out.
        """
        from ._arrow import pc
        from .candles import CandleMaker
        from .parse import gap_batch

        file = unit.file
        writer = self._open()
        makers = {p: CandleMaker(p.removeprefix(BUILT)) for p in products if p.startswith(BUILT)}
        counts = dict.fromkeys(products, 0)
        try:
            for product in replace:
                self._delete(writer, file, product)
            for batch, notional in spool.batches():
                if file.table in counts:
                    mine = batch if live is None else batch.filter(pc.invert(pc.is_in(batch["trade_id"], live)))
                    writer.write_batch(file.table, mine)
                    counts[file.table] += mine.num_rows
                for maker in makers.values():
                    maker.feed(batch, notional)
            for product, maker in makers.items():
                built = maker.finish(file.venue, file.symbol)
                writer.write_batch("candles", built)
                counts[product] = built.num_rows
            if gaps:  # as a batch, so that they become visible in the same commit as the rows
                writer.write_batch("gaps", gap_batch(gaps))
            writer.flush()
        except OSError as error:
            self._give_up()
            raise disk_error(error, f"writing {file.name}") from None
        except BaseException:
            self._give_up()
            raise
        return counts

    def _give_up(self) -> None:
        """Drop what the writer has not confirmed; a writer that cannot is left behind, not flushed."""
        writer, self._writer = self._writer, None
        discard = getattr(writer, "discard", None)
        if writer is not None and discard is not None:
            try:
                discard()
                writer.close()
            except (CmdError, OSError) as error:
                self._reporter.warn(f"closing the store after an error: {error}")

    @staticmethod
    def _delete(writer: IWriter, file: ArchiveFile, product: str) -> None:
        """Mark the archived rows of a file as deleted, where the store can; live rows stay."""
        delete = getattr(writer, "delete", None)
        if delete is None:
            return
        start, end = day_start(file.first_day), day_start(file.last_day) + 86_400_000_000_000
        if product.startswith(BUILT):
            interval = product.removeprefix(BUILT)
            delete(
                "candles", file.venue, file.symbol, start, end, archived_only=True, interval=interval, source="built"
            )
        elif product == "candles":
            interval = file.interval
            delete(
                "candles", file.venue, file.symbol, start, end, archived_only=True, interval=interval, source="exchange"
            )
        else:
            delete(product, file.venue, file.symbol, start, end, archived_only=True)

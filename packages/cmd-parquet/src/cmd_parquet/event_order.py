"""Messages with an exchange time and a receive time, led into an order that holds for both.

A backtest reads one file twice: as the exchange, by exchange time, and as the trader, by receive time. Where a message
overtook another one, its rows are there twice, once for each reader.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cmd_common.errors import DataError

__all__ = ["AT_EXCHANGE", "AT_LOCAL", "EventOrder"]

AT_EXCHANGE: Final = 2
AT_LOCAL: Final = 1
_BOTH: Final = AT_EXCHANGE | AT_LOCAL
_LOOK: Final = 2_048

_Emit = Callable[[int, int, int, bytes], None]


class EventOrder:
    """Takes messages by exchange time; calls ``emit(readers, exch_ts, local_ts, message)`` in the order of both times.

    ``readers`` has the bits AT_EXCHANGE and AT_LOCAL. A receive time before the exchange's own is raised to it and
    counted in ``raised``. Messages wait until no later one can be received before them; more than ``limit`` that wait
    raise DataError.
    """

    def __init__(self, emit: _Emit, *, limit: int = 1_000_000) -> None:
        self.raised = 0
        self.doubled = 0
        self._emit = emit
        self._limit = limit
        self._wait: list[tuple[int, int, bytes]] = []
        self._look = min(_LOOK, limit)

    def add(self, exch_ts: int, local_ts: int, message: bytes) -> None:
        """Add one message, not before the last one by ``exch_ts``."""
        if local_ts < exch_ts:
            local_ts = exch_ts
            self.raised += 1
        self._wait.append((exch_ts, local_ts, message))
        if len(self._wait) >= self._look:
            self._settle(exch_ts)
            if len(self._wait) >= self._limit:
                raise DataError(
                    f"{len(self._wait)} messages came while the one of exchange time {self._wait[0][0]} was on its way",
                    hint="its receive time is wrong: export without these minutes (--start, --end)",
                )
            self._look = min(max(_LOOK, 2 * len(self._wait)), self._limit)

    def close(self) -> None:
        """Emit what waits."""
        self._settle(None)

    def _settle(self, now: int | None) -> None:
        """Emit the messages that nothing received later can precede; ``now`` is the exchange time of the next one."""
        wait = self._wait
        ahead: list[int | None] = [now] * (len(wait) + 1)  # the first receive time among those behind a place
        for n in range(len(wait) - 1, -1, -1):
            later = ahead[n + 1]
            ahead[n] = wait[n][1] if later is None else min(wait[n][1], later)
        begin = 0
        newest = -(2**63)
        for n, (_, local_ts, _) in enumerate(wait):
            newest = max(newest, local_ts)
            later = ahead[n + 1]
            if later is None or newest <= later:
                self._group(begin, n + 1)
                begin = n + 1
        del wait[:begin]

    def _group(self, begin: int, end: int) -> None:
        """Emit messages that overtook each other, or a single one that did not."""
        group = self._wait[begin:end]
        if len(group) == 1:
            self._emit(_BOTH, *group[0])
            return
        self.doubled += len(group)
        for message in group:
            self._emit(AT_EXCHANGE, *message)
        for message in sorted(group, key=lambda m: m[1]):
            self._emit(AT_LOCAL, *message)

from collections.abc import Callable, Mapping, Sequence
from mmap import mmap
from typing import final

def allocations() -> int:
    """Allocations of the calling thread within the native part since it began."""

# Logger: see cmd_common.log

@final
class LogRing:
    def __new__(cls, buffer: memoryview | bytearray | mmap, slot: int, count: int) -> LogRing: ...
    def head(self) -> int: ...
    def free_to(self, limit: int) -> None: ...
    def close(self) -> None: ...

@final
class LogEmitter:
    def __new__(
        cls,
        number: int,
        fields: Sequence[tuple[str, int]],
        explain: Callable[[BaseException | None, tuple[object, ...]], object],
    ) -> LogEmitter: ...
    def function(self) -> Callable[..., None]: ...
    def bind(self, ring: LogRing | None, full: Callable[[], bool] | None) -> None: ...

@final
class LogTable:
    def __new__(
        cls,
        events: Sequence[tuple[int, str, str, Sequence[str], Sequence[tuple[str, str, int, int, int]]]],
        symbols: Mapping[int, str],
    ) -> LogTable: ...

def log_lines(
    json: bool, parts: Sequence[tuple[bytes, int]], line: tuple[int, int, int], table: LogTable
) -> tuple[bytes, int]: ...
def log_clock() -> tuple[str, int]: ...
def log_calibrate() -> tuple[int, int, int]: ...

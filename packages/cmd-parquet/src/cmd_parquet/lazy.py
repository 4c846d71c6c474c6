"""pyarrow on first use, so that importing this package costs nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    Array = pa.Array[Any]
    ChunkedArray = pa.ChunkedArray[Any]

__all__ = ["compute"]


def compute() -> Any:
    """``pyarrow.compute``; untyped, because its functions take and give scalars, arrays and chunks alike."""
    import pyarrow.compute

    return pyarrow.compute

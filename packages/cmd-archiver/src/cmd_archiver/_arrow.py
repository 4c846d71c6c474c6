"""Arrow functions whose stubs refuse what they take: Python scalars beside arrays."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.csv

__all__ = ["pc", "read_csv", "repeat"]

pc: Any = pyarrow.compute
read_csv: Any = pyarrow.csv.read_csv
repeat: Any = pa.repeat

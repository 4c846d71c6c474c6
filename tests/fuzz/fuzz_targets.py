"""All fuzz targets in Python by name; those in Rust are in ``packages/cmd-native/fuzz``."""

from __future__ import annotations

from typing import Any

from fuzz_files import CsvTarget, FileTarget, JournalTarget, WireTarget
from fuzz_venues import FeedTarget, RestTarget, name_of
from venue_chaos import VENUES

TARGETS: dict[str, Any] = {
    target.name: target
    for target in (
        *(FeedTarget(name) for name in dict.fromkeys(name_of(chaos) for chaos in VENUES)),
        RestTarget(),
        JournalTarget(),
        FileTarget("log", ".log"),
        FileTarget("recording", ".ndjson"),
        FileTarget("config", ".toml"),
        CsvTarget(),
        WireTarget(),
    )
}

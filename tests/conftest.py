"""Where the real recordings are, and what a missing part means."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# What processes of the tests tell of themselves is not for the cmd-cli status of who runs them.
os.environ["CMD_RUN_DIR"] = tempfile.mkdtemp(prefix="cmd-tests-run-")
atexit.register(shutil.rmtree, os.environ["CMD_RUN_DIR"], ignore_errors=True)

settings.register_profile(
    "default", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("default")


def require(part: str, present: bool, how: str) -> None:
    """Skip a test whose part is missing, or fail it where ``CMD_REQUIRE`` names the part or ``all``."""
    if present:
        return
    wanted = {w.strip() for w in os.environ.get("CMD_REQUIRE", "").split(",")}
    if "all" in wanted or part in wanted:
        pytest.fail(f"{part} is missing and CMD_REQUIRE asks for it; {how}")
    pytest.skip(f"{part} is missing; {how}")


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder of real recordings."""
    path = os.environ.get("CMD_RECORDINGS", "")
    require("recordings", bool(path) and Path(path).is_dir(), "set CMD_RECORDINGS to the folder of recordings")
    return Path(path).resolve()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where everything is required, a skipped test is a failed one: nothing may hide a missing part."""
    report = yield
    if report.skipped and os.environ.get("CMD_REQUIRE") == "all":
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, but CMD_REQUIRE=all asks for every part: {report.longrepr}"
    return report

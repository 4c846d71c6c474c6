"""Plug-ins by entry point, and what happens when one is missing or broken."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from cmd_common import registry
from cmd_common.errors import CmdError, UnknownNameError, UsageError
from cmd_common.io import open_reader, open_writer


class Kind:
    """A kind of store, registered as a class."""

    def writer(self, location: str) -> str:
        return f"writer of {location}"

    def reader(self, location: str) -> str:
        return f"reader of {location}"


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    points = {
        "cmd.stores": {"memory": EntryPoint("memory", f"{__name__}:Kind", "cmd.stores")},
        "cmd.exchanges": {
            "binance-spot": EntryPoint("binance-spot", "math:pi", "cmd.exchanges"),
            "broken": EntryPoint("broken", "cmd_no_such_module:X", "cmd.exchanges"),
        },
    }
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or sys.modules[Kind.__module__])
    monkeypatch.setattr(registry, "_points", lambda group: points.get(group, {}))


@pytest.mark.usefixtures("plugins")
def test_plugins_are_found_by_name() -> None:
    assert registry.names("cmd.exchanges") == ["binance-spot", "broken"]
    assert isinstance(registry.exchange("binance-spot"), float)
    assert isinstance(registry.store("memory"), Kind)
    assert open_writer("memory:a:b") == "writer of a:b"
    assert open_reader("memory:x") == "reader of x"


@pytest.mark.usefixtures("plugins")
def test_an_unknown_plugin_names_the_nearest_or_all() -> None:
    with pytest.raises(UnknownNameError, match="unknown exchange 'binance-sopt'; did you mean binance-spot"):
        registry.exchange("binance-sopt")
    with pytest.raises(UnknownNameError, match="unknown store 'xyz'; installed are: memory"):
        registry.store("xyz")
    with pytest.raises(UnknownNameError, match="unknown command 'fly'; installed are: none"):
        registry.command("fly")


@pytest.mark.usefixtures("plugins")
def test_a_plugin_that_does_not_load_is_one_line() -> None:
    with pytest.raises(CmdError, match=r"exchange 'broken' is installed but does not load: .*; reinstall") as caught:
        registry.exchange("broken")
    assert not isinstance(caught.value, UsageError)


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize("url", ["memory", "memory:", ":x", ""])
def test_malformed_store_urls_are_usage_errors(url: str) -> None:
    with pytest.raises(UsageError):
        open_writer(url)


def test_the_groups_are_the_documented_ones() -> None:
    assert registry.GROUPS == (
        "cmd.exchanges",
        "cmd.stores",
        "cmd.transports",
        "cmd.sources",
        "cmd.sinks",
        "cmd.metrics",
        "cmd.commands",
    )


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, cmd_common; "
        "bad = {'asyncio', 'pyarrow', 'duckdb', 'click', 'rich', 'textual', 'yaml', 'sortedcontainers', 'msgspec'};"
        "print(sorted(bad & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_public_name_of_the_package_exists() -> None:
    import cmd_common

    for name in cmd_common.__all__:
        assert getattr(cmd_common, name) is not None
    assert set(cmd_common.__all__) <= set(dir(cmd_common))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = cmd_common.nothing

"""Completion scripts, run by the real shells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cmd_cli.cache import cache_folder, remember_symbols
from cmd_cli.completion import SHELLS
from cmd_cli.main import COMMANDS

from .conftest import Ran

CASES = [
    ("rec", ["record"]),
    ("record --ex", ["--exchange"]),
    ("record --exchange binance-s", ["binance-spot"]),
    ("record --exchange binance-spot binance-u", ["binance-usdm"]),
    ("record --symbols BTC", ["BTCUSDC", "BTCUSDT"]),
    ("archive --candles b", ["built"]),
    ("archive --types ca", ["candles"]),
    ("config i", ["init"]),
    ("query --format nd", ["ndjson"]),
    ("log dec", ["decode"]),
    ("log --level w", ["warning"]),
    ("log --format j", ["json"]),
    ("record --log-level w", ["warning"]),
    ("serve --types ca", ["candles"]),
    ("serve --from-store pa", ["parquet:"]),
    ("serve --listen un", ["unix:"]),
    ("watch --connect tc", ["tcp:"]),
]


@pytest.fixture(autouse=True)
def symbols() -> None:
    remember_symbols([("binance-spot", s) for s in ("BTCUSDT", "BTCUSDC", "ETHUSDT")])


def script(run: Callable[..., Ran], shell: str, tmp_path: Path) -> Path:
    ran = run("completion", shell)
    assert (ran.code, ran.err) == (0, "")
    path = tmp_path / f"completion.{shell}"
    path.write_text(ran.out)
    return path


def shell(*args: str) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    program = shutil.which(args[0], path=path)
    if program is None:
        pytest.skip(f"{args[0]} is not installed")
    ran = subprocess.run([program, *args[1:]], capture_output=True, text=True, timeout=60, check=False)
    assert ran.stderr == ""
    return ran.stdout


def bash(path: Path, line: str) -> list[str]:
    words = ["cmd-cli", *line.split(" ")]
    quoted = " ".join(f"'{w}'" for w in words)
    code = f"source {path}; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _cmd_cli; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    return shell("bash", "--norc", "-c", code).split()


@pytest.mark.parametrize(("line", "expected"), CASES)
def test_bash(run: Callable[..., Ran], tmp_path: Path, line: str, expected: list[str]) -> None:
    assert bash(script(run, "bash", tmp_path), line) == expected


def test_bash_comma_lists(run: Callable[..., Ran], tmp_path: Path) -> None:
    path = script(run, "bash", tmp_path)
    assert bash(path, "record --types trades,bo") == ["trades,book"]
    assert bash(path, "record --store parquet:x --sy") == ["--symbols"]
    assert bash(path, "record --duration 5s --dep") == ["--depth"]
    assert bash(path, "") == [*COMMANDS, "--help", "--version"]


@pytest.mark.parametrize(("line", "expected"), CASES)
def test_fish(run: Callable[..., Ran], tmp_path: Path, line: str, expected: list[str]) -> None:
    if line.startswith("record --exchange binance-spot "):
        return  # fish completes the first value, and comma lists
    path = script(run, "fish", tmp_path)
    out = shell("fish", "--no-config", "-c", f"source {path}; complete -C 'cmd-cli {line}'")
    assert sorted(row.split("\t")[0] for row in out.splitlines()) == expected


@pytest.mark.parametrize(("line", "expected"), CASES)
def test_zsh(run: Callable[..., Ran], tmp_path: Path, line: str, expected: list[str]) -> None:
    path = script(run, "zsh", tmp_path)
    words = " ".join(f"'{w}'" for w in ["cmd-cli", *line.split(" ")])
    current = line.split(" ")[-1]
    code = f"""
    compdef() {{ }}; compset() {{ }}
    compadd() {{ shift 3; for word in "$@"; do [[ $word == '{current}'* ]] && print -r -- $word; done; true; }}
    _describe() {{ local entry; for entry in "${{(@P)2}}"; do [[ $entry == '{current}'* ]] && print -r -- ${{entry%%:*}}; done; true; }}
    source {path}; words=({words}); CURRENT=$#words; _cmd_cli_entry
    """
    assert sorted(shell("zsh", "-f", "-c", code).split()) == expected


@pytest.mark.parametrize("name", SHELLS)
def test_no_python_at_tab(run: Callable[..., Ran], tmp_path: Path, name: str) -> None:
    text = "\n".join(line for line in script(run, name, tmp_path).read_text().splitlines() if not line.startswith("#"))
    assert "python" not in text
    assert "$(cmd-cli" not in text


def test_bash_scripts_are_clean(run: Callable[..., Ran], tmp_path: Path) -> None:
    path = script(run, "bash", tmp_path)
    assert shell("shellcheck", "--shell=bash", str(path)) == ""


def test_the_cache_grows_and_a_broken_one_is_left_alone(tmp_path: Path) -> None:
    folder = Path(cache_folder())
    remember_symbols([("binance-spot", "XRPUSDT"), ("kraken", "XBT/USD")])
    assert (folder / "binance-spot").read_text().split() == ["BTCUSDC", "BTCUSDT", "ETHUSDT", "XRPUSDT"]
    assert sorted(os.listdir(folder)) == ["binance-spot", "kraken"]
    (tmp_path / "file").write_text("")
    remember_symbols([("a", "b")], str(tmp_path / "file"))
    assert cache_folder({}) == ""
    assert cache_folder({"HOME": "/h"}) == "/h/.cache/cryptomarketdata/symbols"

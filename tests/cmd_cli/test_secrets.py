"""Secrets of a configuration come out of no command: not shown, not in errors, not in units, logs or states."""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Ran

CONFIG = """
exchange = ["binance-spot", "coinbase"]
symbols = "BTCUSDT"
store = "questdb:http::addr=127.0.0.1:1;username=u;password={s};retry_timeout=10;request_timeout=100;"
endpoint = "http://127.0.0.1:1"
proxy = "http://user:{s}@127.0.0.1:1"
token = "{s}"
[record]
types = ["trades"]
options = {{ key = "{s}", secret = "{s}", passphrase = "{s}" }}
log-file = "record.log"
[serve]
listen = ["unix:{folder}/x.sock"]
[archive]
types = ["trades"]
start = "2025-03-01"
[repair]
[deploy]
webhook = "https://127.0.0.1:1/{s}"
"""
COMMANDS = [
    ["config", "show"],
    ["config", "show", "--json"],
    ["config", "show", "--origin"],
    ["doctor"],
    ["doctor", "--offline"],
    ["store", "status"],
    ["query", "SELECT 1"],
    ["verify"],
    ["archive"],
    ["record", "--duration", "1s", "--log-level", "debug"],
    ["deploy", "systemd", "show", "--user"],
    ["deploy", "cron", "show", "--user"],
    ["status"],
    ["status", "--all", "--json"],
]


def test_no_command_tells_a_secret(
    run: Callable[..., Ran],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rng = random.Random(1)
    secret = "q" + "".join(rng.choices(string.ascii_letters + string.digits, k=23)) + "=="
    Path("cmd.toml").write_text(CONFIG.format(s=secret, folder=tmp_path))
    monkeypatch.setenv("CMD_CONFIG", "cmd.toml")
    for words in COMMANDS:
        ran = run(*words)
        assert secret not in ran.out, words
        assert secret not in ran.err, words
        assert ran.out + ran.err, words
    for broken in ("[record]\ntypo = 1\n", "[serve]\nlisten = 7\n", "options = 1\n", "[record]\noptions = 5\n"):
        Path("cmd.toml").write_text(CONFIG.format(s=secret, folder=tmp_path).split("[record]")[0] + broken)
        ran = run("record")
        assert ran.code == 2
        assert secret not in ran.out + ran.err
    assert secret not in caplog.text
    for path in [*tmp_path.rglob("*")]:  # logs and states; but for the file that holds it
        if path.is_file() and path.name != "cmd.toml":
            assert secret.encode() not in path.read_bytes(), path


def test_words_about_a_store_hide_its_password(capsys: pytest.CaptureFixture[str]) -> None:
    from cmd_cli.output import Output

    with Output() as output:
        output.info("recording into questdb:http::addr=h:1;username=u;password=geheim;; Ctrl-C stops")
        output.warn("no answer through http://user:geheim@proxy:3128")
    said = capsys.readouterr().err
    assert "geheim" not in said
    assert "password=********" in said


def test_secrets_by_file_are_read_where_they_are_needed(run: Callable[..., Ran], tmp_path: Path) -> None:
    path = tmp_path / "password"
    store = f"questdb:http::addr=127.0.0.1:1;username=u;password=file:{path};retry_timeout=10;request_timeout=100;"
    ran = run("query", "SELECT 1", "--store", store)
    assert ran.code == 2
    assert f"cannot read the password of the QuestDB store from {path}: No such file" in ran.err
    path.write_text("geheim\n")
    path.chmod(0o600)
    ran = run("query", "SELECT 1", "--store", store)
    assert ran.code == 1
    assert "geheim" not in ran.err
    ran = run(
        "record",
        "--exchange",
        "coinbase",
        "--symbols",
        "BTC-USD",
        "--store",
        "parquet:data",
        "--options",
        f"secret=file:{path}x",
    )
    assert ran.code == 2
    assert f"cannot read option secret from {path}x" in ran.err

"""Exit codes, one-line errors, and what starts with what."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cmd_cli import document
from cmd_cli.main import COMMANDS
from cmd_common import registry
from cmd_common.errors import StoreError

from .conftest import Ran

DOCS = Path(__file__).parents[2] / "docs" / "cli.md"
RECORD = ["record", "--exchange", "binance-spot", "--symbols", "BTCUSDT", "--store", "parquet:data"]
ARCHIVE = ["archive", "--exchange", "binance-spot", "--symbols", "BTCUSDT", "--store", "parquet:data"]
WATCH = ["watch", "--exchange", "binance-spot"]
SERVE = ["serve", "--exchange", "binance-spot", "--symbols", "BTCUSDT", "--listen", "tcp:127.0.0.1:0"]
REPLAY = ["replay", "--exchange", "binance-spot", "--simulate"]
TOMORROW = (datetime.now(UTC).date() + timedelta(days=2)).isoformat()

EXCHANGES = ", ".join(registry.names("cmd.exchanges"))
BAD = [
    (["recrod"], "unknown command 'recrod'; did you mean record?"),
    (["zzzzzz"], "unknown command 'zzzzzz'; see cmd-cli --help"),
    (["record", "--exchnage", "x"], "unknown option '--exchnage'; did you mean --exchange?"),
    (["record", "--exchange"], "option '--exchange' requires an argument; see cmd-cli record --help"),
    (["record"], f"no exchange is given; add --exchange with any of: {EXCHANGES}"),
    (["record", "--exchange", "binance-sopt"], "unknown exchange 'binance-sopt'; did you mean binance-spot or binance-usdm or binance-coinm?"),
    (["record", "--exchange", "xyz"], f"unknown exchange 'xyz'; installed are: {EXCHANGES}"),
    (["record", "--exchange", "binance-spot"], "no symbols are given for binance-spot; add --symbols, such as --symbols BTCUSDT or all"),
    (["record", "--exchange", "binance-spot", "--symbols", "BTCUSDT"], "no store is given; add --store parquet:DIR, or store = ... in cmd.toml"),
    ([*RECORD, "--types", "trade"], "unknown type 'trade'; did you mean trades or agg_trades?"),
    ([*RECORD, "--types", "xyz"], "unknown type 'xyz'; types are: trades, agg_trades, quotes, candles, book, aggregate"),
    ([*RECORD, "--store", "parqet:x"], "unknown store 'parqet'; did you mean parquet?"),
    ([*RECORD, "--store", "data"], "store 'data' names no kind of store; write it as parquet:data"),
    ([*RECORD, "--store", "parquet:"], "store 'parquet:' has no location; write it as parquet:PATH"),
    ([*RECORD, "--interval", "1M,7m"], "unknown interval of binance-spot '7m'; intervals are: 1s, 1m, 3m, 5m, 15m, 30m, 1h, 2h, 4h, 6h, 8h, 12h, 1d, 3d, 1w, 1M"),
    ([*RECORD, "--duration", "30"], "--duration: duration '30' is not understood; write it as 30s, 5m, 1h30m or 500ms"),
    ([*RECORD, "--equivalent", "USD"], "'USD' names no equivalent assets; write them as USD=USDT=USDC"),
    ([*RECORD, "--stale-after", "0s"], "--stale-after: duration '0s' is zero; write it as 30s, 5m, 1h30m or 500ms"),
    ([*WATCH, "--aggregate", "BTC-USDT", "--fee", "binance-sopt=1"], "unknown exchange in fee 'binance-sopt'; did you mean binance-spot?"),
    ([*WATCH, "--aggregate", "BTC-USDT", "--fee", "binance-spot=x"], "fee 'x' of binance-spot is not a number of basis points; 0.26 % is 26"),
    ([*WATCH, "--aggregate", "BTC-USDT", "--fee", "binance-spot"], "--fee: 'binance-spot' is not k=v,...; for example { kraken = 26 }"),
    ([*RECORD, "--depth", "0"], "--depth: 0 is less than 1; for example 20"),
    ([*RECORD, "--endpoint", "nowhere"], "--endpoint: endpoint 'nowhere' is not a URL; for example \"http://127.0.0.1:9001\""),
    ([*RECORD, "--endpoint", "binance-sopt=http://h:1"], "unknown exchange in endpoint 'binance-sopt'; did you mean binance-spot or binance-usdm or binance-coinm?"),
    ([*RECORD, "--symbols", "kraken:BTCUSD"], "unknown exchange 'kraken'; selected are: binance-spot"),
    ([*RECORD, "--symbols", "@none.txt"], "cannot read symbols from none.txt: No such file or directory"),
    ([*RECORD, "--config", "none.toml"], "cannot read configuration none.toml: No such file or directory; create it with: cmd-cli config init"),
    ([*RECORD, "--log-level", "loud"], "--log-level: 'loud' is not known; choose one of debug, info, warning, error"),
    (ARCHIVE, "no start is given; add --start 2024-08-08 (and --end, inclusive)"),
    ([*ARCHIVE, "--start", "2024-08-09", "--end", "2024-08-08"], "end 2024-08-08 is before start 2024-08-09; both days are inclusive"),
    ([*ARCHIVE, "--start", "8.8.2024"], "start '8.8.2024' is not a date; write it as 2024-08-08"),
    ([*ARCHIVE, "--start", "2024-08-08", "--types", "book"], "unknown type 'book'; types are: trades, agg_trades, candles"),
    ([*ARCHIVE, "--start", "2024-08-08", "--candles", "bulit"], "--candles: 'bulit' is not known, built is near; choose one of exchange, built"),
    (["replay", "--exchange", "binance-spot"], "nothing to replay; add --recording FILE... or --simulate"),
    ([*REPLAY, "--speed", "fast"], "--speed: speed 'fast' is neither a positive number nor max; for example \"max\""),
    ([*REPLAY, "--listen", "9001"], "address '9001' is not HOST:PORT; for example 127.0.0.1:9001; port 0 is any free one"),
    ([*REPLAY, "--fault", "dorp"], "unknown fault 'dorp'; did you mean drop?"),
    ([*REPLAY, "--fault", "drop:rate=2"], "fault parameter rate=2 is not a number from 0 to 1"),
    ([*REPLAY, "--start", "soon"], "start 'soon' is not a time; write it as 2025-03-01 or 2025-03-01T23:59:00"),
    ([*REPLAY, "--recording", "none.ndjson"], "recording none.ndjson is not a file"),
    (["query", "SELECT 1"], "no store is given; add --store parquet:DIR, or store = ... in cmd.toml"),
    (["query", "SELECT 1", "--store", "xyz:data"], "unknown store 'xyz'; installed are: parquet, questdb"),
    (["query", " ", "--store", "parquet:data"], "the query is empty; for example \"SELECT count(*) FROM trades\""),
    (["query", "SELECT 1", "--store", "parquet:data", "--format", "xml"], "--format: 'xml' is not known; choose one of table, csv, ndjson, json"),
    (["query", "--store", "parquet:data"], "missing argument 'SQL'; see cmd-cli query --help"),
    (["completion", "tcsh"], "invalid value for '{bash|zsh|fish}': 'tcsh' is not one of 'bash', 'zsh', 'fish'; see cmd-cli completion --help"),
    (["watch", "--exchange", "binance-spot", "--symbols", "X", "--types", "books"], "unknown type 'books'; did you mean book?"),
    (["watch", "--connect", "tcp:127.0.0.1:9", "--types", "books"], "unknown type 'books'; did you mean book?"),
    (["watch", "--connect", "tcp:127.0.0.1:9", "--aggregate", "BTC-USDT"], "merged books cannot be shown from a server; leave out --connect, or --aggregate and watch its books"),
    (["watch", "--connect", "tcp:127.0.0.1:9", "--token-file", "none"], "cannot read the token from none: No such file or directory"),
    (["watch", "--connect", "tpc:127.0.0.1:9"], "unknown transport 'tpc'; did you mean tcp?"),
    (["watch", "--connect", "127.0.0.1"], "'127.0.0.1' is no address; write it as SCHEME:TARGET[?key=value&...], such as tcp:127.0.0.1:9999 or unix:/run/cmd.sock"),
    (["serve", "--exchange", "binance-spot", "--symbols", "BTCUSDT"], "no address is given; add --listen, such as --listen tcp:127.0.0.1:9999"),
    (["serve", "--listen", "tcp:127.0.0.1:0"], f"no exchange is given; add --exchange with any of: {EXCHANGES}"),
    ([*SERVE, "--types", "trade"], "unknown type 'trade'; did you mean trades or agg_trades?"),
    ([*SERVE, "--types", "aggregate"], "unknown type 'aggregate'; types are: trades, agg_trades, quotes, candles, book"),
    ([*SERVE, "--listen", "tpc:127.0.0.1:0"], "unknown transport 'tpc'; did you mean tcp?"),
    ([*SERVE, "--listen", "tcp:127.0.0.1:0?tls_crt=x"], "unknown option of tcp addresses 'tls_crt'; did you mean tls_cert or tls?"),
    ([*SERVE, "--listen", "tcp:127.0.0.1"], "'tcp:127.0.0.1' is no address; write it as tcp:HOST:PORT, such as tcp:127.0.0.1:9999"),
    ([*SERVE, "--listen", "tcp:0.0.0.0:0"], "tcp:0.0.0.0:0 can be reached from other machines, so clients must show a token and there is none; give one by CMD_TOKEN or a token file, or listen at 127.0.0.1 or a Unix socket; this makes one: python -c 'import secrets; print(secrets.token_urlsafe(32))'"),
    ([*SERVE, "--metrics", "9100"], "address '9100' is not HOST:PORT; for example 127.0.0.1:9001; port 0 is any free one"),
    ([*SERVE, "--metrics", "0.0.0.0:0"], "metrics at 0.0.0.0:0 can be read from elsewhere, and there is no token; give --token-file, or an address such as 127.0.0.1:9100"),
    ([*SERVE, "--start", "2025-01-01"], "--start is for history; add --from-store KIND:PATH"),
    ([*SERVE, "--from-store", "parquet:x", "--speed", "1"], "history at speed 1 never reaches the present; give a larger speed or max, or an end, after which no live data follows"),
    ([*SERVE, "--from-store", "parquet:x", "--start", "2025-01-02", "--end", "2025-01-01"], "the history ends before it starts; the end is exclusive"),
    ([*SERVE, "--from-store", "parquet:x", "--end", "2025-01-02", "--store", "parquet:y"], "nothing would be recorded: history is served, and no live data follows; leave out the store, or add exchanges whose live data follows"),
    ([*SERVE, "--from-store", "parqet:x"], "unknown store 'parqet'; did you mean parquet?"),
    ([*SERVE, "--queue", "1"], "--queue: 1 is less than 16; for example 10000"),
    (["log", "decode", "none.log"], "there is no log at none.log"),
    (["log", "stats", "none.log"], "there is no log at none.log"),
    (["log", "tail", "none.log"], "there is no log at none.log"),
    (["log", "decode"], "missing argument 'FILE'; see cmd-cli log --help"),
    (["log", "decode", "x", "--format", "xml"], "format 'xml' is not known; formats are text, json"),
    (["log", "decode", "x", "--level", "warnign"], "unknown level 'warnign'; did you mean warning?"),
    (["log", "decode", "x", "--start", "soon"], "start 'soon' is not a time; write it as 2025-03-01 or 2025-03-01T23:59:00"),
    (["log", "decode", "x", "--follow"], "log decode takes no --follow"),
    (["log", "stats", "x", "--lines", "3"], "log stats takes no --lines"),
    (["symbols", "--exchange", "binance-sopt"], "unknown exchange 'binance-sopt'; did you mean binance-spot or binance-usdm or binance-coinm?"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "message"), BAD, ids=[" ".join(a)[-60:] for a, _ in BAD])
def test_wrong_usage_is_one_line_and_exit_code_two(run: Callable[..., Ran], args: list[str], message: str) -> None:
    ran = run(*args)
    assert ran.err == f"cmd-cli: error: {message}\n"
    assert (ran.code, ran.out) == (2, "")
    assert list(Path.cwd().iterdir()) == []  # nothing was begun


@pytest.mark.parametrize(("option", "start"), [("end", "2024-08-08"), ("start", None)])
def test_future_dates_are_refused(run: Callable[..., Ran], option: str, start: str | None) -> None:
    extra = ["--start", start] if start else []
    ran = run(*ARCHIVE, *extra, f"--{option}", TOMORROW)
    assert ran.code == 2
    assert f"{option} {TOMORROW} is in the future; today is " in ran.err or (option == "start" and TOMORROW in ran.err)


def test_both_recording_and_simulation(run: Callable[..., Ran]) -> None:
    Path("a.ndjson").write_text("")
    assert run(*REPLAY, "--recording", "a.ndjson").err == (
        "cmd-cli: error: both --recording and --simulate are given; choose one\n"
    )


def test_configuration_errors_name_the_line(run: Callable[..., Ran]) -> None:
    Path("cmd.toml").write_text('[record]\n\ntype = "trades"\n')
    ran = run(*RECORD)
    assert ran == (2, "", "cmd-cli: error: cmd.toml:3: unknown key 'record.type'; did you mean record.types?\n")


def test_without_arguments_the_help_is_shown(run: Callable[..., Ran]) -> None:
    ran = run()
    assert ran.code == 2
    assert "Examples:" in ran.err


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_shows_examples_before_options(run: Callable[..., Ran], name: str) -> None:
    ran = run(*([name] if name else []), "--help")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.index("Examples:") < ran.out.index("Usage:") < ran.out.index("Options:")


def test_versions(run: Callable[..., Ran]) -> None:
    assert json.loads(run("version", "--json").out)["cmd-cli"]
    assert json.loads(run("--json", "version").out)["cmd-cli"]
    assert "cmd-common" in run("version").out
    assert run("--version").out.startswith("cmd-cli 0.")


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (StoreError("the store is full", hint="delete something"), 1, "the store is full; delete something"),
        (StoreError("Parser Error:\n  LINE 1: SELEC\n          ^"), 1, "Parser Error: LINE 1: SELEC ^"),
        (OSError(28, "No space left on device", "data/x"), 1, "No space left on device: data/x"),
        (KeyboardInterrupt(), 1, "interrupted"),
        (KeyError("x\ny"), 1, "internal error: KeyError: 'x\\ny'; run it again with --log-level debug to see where"),
    ],
)
def test_every_failure_is_one_line(
    run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, words: str
) -> None:
    def fail(options: object, reporter: object) -> None:
        raise error

    monkeypatch.setattr(registry, "command", lambda name: fail)
    ran = run(*RECORD)
    assert ran.err.strip().splitlines() == [f"cmd-cli: error: {words}"]
    assert (ran.code, ran.out) == (code, "")
    ran = run(*RECORD, "--log-level", "debug")
    assert ("Traceback" in ran.err) == isinstance(error, KeyError)


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    code = "import sys; from cmd_cli.main import main; sys.exit(main(['config', 'show', '--all']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(60), err) == (0, b"")


HEAVY = {
    "asyncio", "pyarrow", "duckdb", "textual", "rich", "httpx2", "websockets", "yaml", "ssl", "numpy",
    "cmd_feed", "cmd_binance", "cmd_parquet", "cmd_archiver", "cmd_replay", "cmd_server",
}  # fmt: skip


@pytest.mark.parametrize("args", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_help_loads_nothing_heavy(args: list[str]) -> None:
    code = (
        f"import sys; from cmd_cli.main import main; code = main({args!r}); "
        "print(chr(10) + ' '.join(sorted({m.partition('.')[0] for m in sys.modules}))); sys.exit(code)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = set(out.splitlines()[-1].split())
    assert "click" in loaded
    assert loaded & HEAVY == set()
    if args == ["--help"]:
        assert loaded & {"msgspec", "tomllib", "logging"} == set()


def test_the_reference_is_what_the_commands_say() -> None:
    assert DOCS.read_text(encoding="utf-8") == document.markdown(), "run: python -m cmd_cli.document > docs/cli.md"


class TestConfig:
    def test_show_tells_the_origin(self, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
        Path("cmd.toml").write_text('store = "parquet:x"\nproxy = "http://a:secret@h:1"\n')
        monkeypatch.setenv("CMD_RECORD_TYPES", "trades")
        out = run("config", "show", "--origin").out
        assert ["record.store", "parquet:x", "cmd.toml:1"] in [line.split() for line in out.splitlines()]
        assert "CMD_RECORD_TYPES" in out
        assert "secret" not in out
        shown = json.loads(run("config", "show", "--json").out)
        assert shown["record.types"] == {"value": ["trades"], "origin": "CMD_RECORD_TYPES"}
        assert "replay.seed" not in shown
        assert "replay.seed" in json.loads(run("config", "show", "--json", "--all").out)

    def test_nothing_configured(self, run: Callable[..., Ran]) -> None:
        ran = run("config", "show")
        assert (ran.code, ran.out) == (0, "")
        assert "nothing is configured" in ran.err

    def test_init_does_not_overwrite(self, run: Callable[..., Ran]) -> None:
        assert run("config", "init").code == 0
        text = Path("cmd.toml").read_text()
        assert "[record]" in text
        assert run("config", "init").err == "cmd-cli: error: cmd.toml exists; add --force to overwrite it\n"
        Path("cmd.toml").write_text("broken = [")
        assert run("config", "init", "--force").code == 0
        assert Path("cmd.toml").read_text() == text
        assert run("config", "show").code == 0

    def test_init_of_the_user(self, run: Callable[..., Ran]) -> None:
        assert run("config", "init", "--user").code == 0
        assert (Path(os.environ["XDG_CONFIG_HOME"]) / "cryptomarketdata" / "config.toml").is_file()

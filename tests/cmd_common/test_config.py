"""Layers, validation and origins of the configuration."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_common.config import (
    KEYS,
    SECTIONS,
    Settings,
    format_duration,
    load,
    markdown,
    mask,
    parse_duration,
    parse_speed,
    template,
)
from cmd_common.errors import UsageError
from cmd_common.toml_lines import key_lines

DOCS = Path(__file__).parents[2] / "docs" / "config.md"


def read(tmp_path: Path, project: str = "", user: str = "", **environ: str) -> Settings:
    (tmp_path / "cmd.toml").write_text(project, encoding="utf-8")
    folder = tmp_path / "home" / "cryptomarketdata"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(user, encoding="utf-8")
    return load(str(tmp_path / "cmd.toml"), environ={"XDG_CONFIG_HOME": str(tmp_path / "home"), **environ})


def test_the_strongest_layer_wins(tmp_path: Path) -> None:
    project, user = 'store = "parquet:project"', 'store = "parquet:user"\nproxy = "http://u"'
    settings = read(tmp_path, project, user, CMD_STORE="parquet:env")
    assert settings.find("record", "store", "parquet:flag").origin == "--store"
    assert settings.get("record", "store", "parquet:flag") == "parquet:flag"
    assert settings.find("record", "store").origin == "CMD_STORE"
    settings = read(tmp_path, project, user)
    found = settings.find("record", "store")
    assert (found.value, found.origin) == ("parquet:project", f"{tmp_path / 'cmd.toml'}:1")
    assert settings.find("record", "proxy").origin == f"{tmp_path / 'home/cryptomarketdata/config.toml'}:2"
    assert read(tmp_path, "", user).get("archive", "store") == "parquet:user"
    assert settings.find("record", "raw").origin == "default"
    assert len(settings.files) == 2


def test_a_section_wins_over_the_top_of_its_layer_only(tmp_path: Path) -> None:
    project = 'store = "parquet:all"\n[record]\nstore = "parquet:live"\n'
    settings = read(tmp_path, project, '[archive]\nstore = "parquet:user"\n')
    assert settings.get("record", "store") == "parquet:live"
    assert settings.get("query", "store") == "parquet:all"
    assert settings.get("archive", "store") == "parquet:all"  # the project is stronger than the user
    settings = read(tmp_path, project, "", CMD_STORE="parquet:e", CMD_RECORD_STORE="parquet:r")
    assert settings.get("record", "store") == "parquet:r"
    assert settings.get("query", "store") == "parquet:e"


def test_only_shared_keys_fall_back(tmp_path: Path) -> None:
    settings = read(tmp_path, 'symbols = "BTCUSDT"\n')
    assert settings.get("record", "symbols") == "BTCUSDT"
    assert settings.get("replay", "symbols") == "4"


def test_without_files_there_are_defaults(tmp_path: Path) -> None:
    settings = load(environ={}, folder=str(tmp_path))
    assert settings.files == ()
    assert {v.origin for v in settings.all()} == {"default"}
    assert settings.get("record", "types") == ("trades", "quotes", "book", "candles")
    assert settings.get("record", "snapshot-every") == 60_000_000_000
    assert settings.get("record", "duration") is None


def test_the_file_of_the_folder_is_read_without_being_named(tmp_path: Path) -> None:
    (tmp_path / "cmd.toml").write_text('store = "parquet:x"')
    assert load(environ={}, folder=str(tmp_path)).get("query", "store") == "parquet:x"
    (tmp_path / "other.toml").write_text('store = "parquet:y"')
    environ = {"CMD_CONFIG": str(tmp_path / "other.toml")}
    assert load(environ=environ, folder=str(tmp_path)).get("query", "store") == "parquet:y"


@pytest.mark.parametrize(
    ("section", "name", "toml", "value"),
    [
        ("record", "types", 'types = "trades, book"', ("trades", "book")),
        ("record", "types", 'types = ["trades", "book,trades"]', ("trades", "book")),
        ("record", "until-end", "until-end = true", True),
        ("record", "until-end", "until_end = true", True),
        ("record", "depth", "depth = 20", 20),
        ("record", "duration", 'duration = "1h30m"', 5_400_000_000_000),
        ("record", "options", "options = { a = 1, b = true }", {"a": "1", "b": "true"}),
        ("record", "endpoint", 'endpoint = "http://h:1"', {"": "http://h:1"}),
        ("record", "endpoint", '[record.endpoint]\nx = "http://h:1"\nall = "http://h:2"', {"x": "http://h:1", "": "http://h:2"}),
        ("record", "symbols", 'symbols = { a = ["X"] }', {"a": ["X"]}),
        ("archive", "start", "start = 2024-08-08", "2024-08-08"),
        ("replay", "symbols", "symbols = 7", "7"),
        ("replay", "symbols", 'symbols = ["A", "B"]', "A,B"),
        ("replay", "speed", 'speed = "max"', 0.0),
        ("replay", "speed", "speed = 10", 10.0),
        ("replay", "fault", 'fault = ["drop:rate=0.1,count=2", "tear"]', ("drop:rate=0.1,count=2", "tear")),
        ("replay", "recording", 'recording = ["a,b.ndjson"]', ("a,b.ndjson",)),
    ],
)  # fmt: skip
def test_values_have_their_form(tmp_path: Path, section: str, name: str, toml: str, value: Any) -> None:
    text = toml if toml.startswith("[") else f"[{section}]\n{toml}\n"
    assert read(tmp_path, text).get(section, name) == value


@pytest.mark.parametrize(
    ("variable", "text", "section", "name", "value"),
    [
        ("CMD_RECORD_UNTIL_END", "yes", "record", "until-end", True),
        ("CMD_RECORD_UNTIL_END", "0", "record", "until-end", False),
        ("CMD_RECORD_DEPTH", "20", "record", "depth", 20),
        ("CMD_RECORD_OPTIONS", "a=1, b=x=y", "record", "options", {"a": "1", "b": "x=y"}),
        ("CMD_ENDPOINT", "a=http://h:1,http://h:2", "watch", "endpoint", {"a": "http://h:1", "": "http://h:2"}),
        ("CMD_EXCHANGE", "a,b", "replay", "exchange", ("a", "b")),
        ("CMD_SYMBOLS", "", "record", "symbols", None),
    ],
)
def test_variables_are_text(
    tmp_path: Path, variable: str, text: str, section: str, name: str, value: Any
) -> None:  # fmt: skip
    assert read(tmp_path, **{variable: text}).get(section, name) == value


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("\nstroe = 'x'", "cmd.toml:2: unknown key 'stroe'; did you mean store or token?"),
        ("[record]\n\ntype = 'x'", "cmd.toml:3: unknown key 'record.type'; did you mean record.types?"),
        ("[recrod]\ntypes = 'x'", "cmd.toml:1: unknown key 'recrod'; did you mean record"),
        ("[query]\nparallel = 2", "cmd.toml:2: unknown key 'query.parallel'; did you mean archive.parallel?"),
        ("qqqqqq = 2", "cmd.toml:1: unknown key 'qqqqqq'; sections are: record, archive"),
        ("[record]\nduration = 30", "cmd.toml:2: record.duration: duration 30 is not text; write it as 30s"),
        ("[record]\nduration = '30 days'", "cmd.toml:2: record.duration: duration '30 days' is not understood"),
        ("[record]\ndepth = '20'", "cmd.toml:2: record.depth: '20' is not a whole number"),
        ("[record]\ndepth = 0", "cmd.toml:2: record.depth: 0 is less than 1"),
        ("[record]\nuntil-end = 'yes'", "cmd.toml:2: record.until-end: 'yes' is neither true nor false"),
        ("[record]\ntypes = [1]", "cmd.toml:2: record.types: [1] is not a list of text"),
        ("[record]\noptions = 'a'", "is not a table of plain values"),
        ("store = 5", "cmd.toml:1: store: 5 is not text"),
        ("symbols = { a = 5 }", "cmd.toml:1: symbols: 5 is not a list of symbols"),
        ("endpoint = 'nowhere'", "cmd.toml:1: endpoint: endpoint 'nowhere' is not a URL"),
        ("endpoint = { x = 5 }", "cmd.toml:1: endpoint: 5 is not a URL"),
        ("log-level = 'inf'", "cmd.toml:1: log-level: 'inf' is not known, info is near; choose one of debug"),
        ("[replay]\nspeed = 'fast'", "cmd.toml:2: replay.speed: speed 'fast' is neither a positive number nor max"),
        ("[record]\nuntil-end = true\nuntil_end = true", "cmd.toml:3: record.until-end is set twice"),
        ("store = 'a'\nstore = 'b'", "cmd.toml is not valid TOML"),
        ("x = [", "cmd.toml is not valid TOML"),
    ],
)  # fmt: skip
def test_errors_name_file_line_key_and_the_nearest(tmp_path: Path, toml: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, toml)
    assert message in str(caught.value)


def test_errors_of_other_layers_name_their_source(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="CMD_RECORD_DEPTH: 'x' is not a whole number"):
        read(tmp_path, CMD_RECORD_DEPTH="x")
    with pytest.raises(UsageError, match="CMD_RECORD_OPTIONS: 'x' is not k=v"):
        read(tmp_path, CMD_RECORD_OPTIONS="x")
    with pytest.raises(UsageError, match="--duration: duration '5' is not understood"):
        read(tmp_path).get("record", "duration", "5")
    with pytest.raises(UsageError, match="--endpoint: endpoint of all exchanges is given twice"):
        read(tmp_path).get("record", "endpoint", ("http://a:1", "http://b:1"))


def test_a_file_that_is_asked_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read configuration .*none.toml: No such file"):
        load(str(tmp_path / "none.toml"), environ={})
    (tmp_path / "bad.toml").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="not UTF-8"):
        load(str(tmp_path / "bad.toml"), environ={})


def test_passwords_are_not_shown(tmp_path: Path) -> None:
    settings = read(tmp_path, 'proxy = "http://me:hunter2@proxy:3128"\n[endpoint]\nx = "https://a:hunter2@h:1"\n')
    assert settings.find("", "proxy").shown() == "http://me:********@proxy:3128"
    assert not any("hunter2" in str(v.shown()) for v in settings.all())


def test_values_are_shown_as_one_would_write_them(tmp_path: Path) -> None:
    settings = read(tmp_path, 'endpoint = "http://h:1"\n[record]\nduration = "90s"\n[replay]\nspeed = "max"\n')
    assert settings.find("record", "duration").shown() == "1m30s"
    assert settings.find("replay", "speed").shown() == "max"
    assert settings.find("watch", "endpoint").shown() == "http://h:1"


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("30s", 30_000_000_000),
        ("1.5s", 1_500_000_000),
        ("0.000000001s", 1),
        ("500ms", 500_000_000),
        ("2m", 120_000_000_000),
        ("1h30m", 5_400_000_000_000),
        ("1d2h3m4s5ms", 93_784_005_000_000),
    ],
)
def test_durations(text: str, ns: int) -> None:
    assert parse_duration(text) == ns


@pytest.mark.parametrize("text", ["", "5", "s", "0s", "-1s", "1s1h", "1 s", "1.5m", "١s" * 2, "1e3s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError):
        parse_duration(text)


@given(st.integers(1, 10**18))
def test_a_duration_reads_back(ns: int) -> None:
    assert parse_duration(format_duration(ns)) == ns


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "", "x", "1e10"])
def test_what_is_no_speed(text: str) -> None:
    with pytest.raises(ValueError):
        parse_speed(text)


def test_the_template_names_every_key_and_its_examples_are_valid(tmp_path: Path) -> None:
    assert tomllib.loads(template()) == {section: {} for section in SECTIONS}
    active = "\n".join(line.removeprefix("#") for line in template().splitlines() if not line.startswith("# "))
    settings = read(tmp_path, active)
    unset = {v.key.path for v in settings.all() if v.origin == "default"}
    assert unset == set()


def test_every_key_is_documented_and_every_variable_is_its_own() -> None:
    variables = [k.variables[0] for k in KEYS.values()]
    assert len(set(variables)) == len(variables)
    text = DOCS.read_text(encoding="utf-8")
    assert text == markdown(), "run: python -m cmd_common.config > docs/config.md"
    assert [k.path for k in KEYS.values() if not k.shared and f"`{k.variables[0]}`" not in text] == []


def test_the_documented_example_is_valid(tmp_path: Path) -> None:
    example = markdown().partition("```toml\n")[2].partition("```")[0]
    settings = read(tmp_path, example)
    assert settings.get("record", "types") == ("trades", "book")
    assert set(settings.get("watch", "symbols")) == {"binance-spot", "binance-usdm"}


TOML = (
    '''
a = """
[not.a.table]
x = 1
"""   # [nor.this]
b."c d" = 'it'''
    + "'"
    + """
list = [
  "x = 1",  # y = 2
  [1,
   2],
]
inline = { p = 1, q = [1] }
["t.u" . v]  # w = 1
key = 1
"quoted = key" = 2
esc = "a\\"b # c"
lit = \'\'\'
[z]\'\'\'\'
last = 1
[[many]]
k = 1
"""
)


def test_lines_of_keys_in_awkward_toml() -> None:
    document = tomllib.loads(TOML)
    lines = key_lines(TOML)
    text = TOML.splitlines()

    def keys(table: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
        out = []
        for name, value in table.items():
            out.append((*path, name))
            if isinstance(value, dict) and name != "inline":
                out += keys(value, (*path, name))
        return out

    for path in keys(document):
        if path == ("t.u",):  # only implied by its table
            continue
        assert path[-1] in text[lines[path] - 1], path
    assert ("not", "a", "table") not in lines
    assert ("x",) not in lines


@given(st.dictionaries(st.from_regex(r"[A-Za-z_-]{1,8}", fullmatch=True), st.text("ab=#[]{}\"'\\\n", max_size=9)))
def test_lines_of_any_simple_document(values: dict[str, str]) -> None:
    out, expected = [], {}
    for n, (key, value) in enumerate(values.items(), 1):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        out.append(f'{key} = "{escaped}"')
        expected[(key,)] = n
    text = "\n".join(out)
    assert tomllib.loads(text) == values
    assert key_lines(text) == expected


@pytest.mark.parametrize(
    ("store", "shown"),
    [
        (
            "questdb:http::addr=h:9000;username=u;password=se;;cret;spill=/s;",
            "questdb:http::addr=h:9000;username=u;password=********;spill=/s;",
        ),
        ("questdb:http::addr=h:9000;token=secret", "questdb:http::addr=h:9000;token=********"),
        ("http://user:secret@proxy:3128", "http://user:********@proxy:3128"),
        ("parquet:data", "parquet:data"),
    ],
)
def test_secrets_of_a_store_are_not_shown(store: str, shown: str) -> None:
    assert mask(store) == shown
    assert mask({"store": [store]}) == {"store": [shown]}


@given(
    st.text("abcxyzQ0189@!$-_", min_size=1, max_size=20).map(lambda t: f"5ecret{t}"),
    st.sampled_from(["api-secret", "apiKey", "signing_key", "passphrase", "PASSWORD", "token"]),
)
def test_no_secret_is_in_what_is_shown(secret: str, name: str) -> None:
    hidden = mask({name: secret, "proxy": f"http://user:{secret}@proxy:3128", "other": [f"x::addr=h;token={secret};"]})
    assert "5ecret" not in str(hidden)
    assert "proxy:3128" in hidden["proxy"]
    assert mask({"depth": "20", "token-file": "/etc/token"}) == {"depth": "20", "token-file": "/etc/token"}

"""Configuration of all processes: one TOML file, layered and validated.

A value comes from, in this order: a flag, the environment (``CMD_RECORD_STORE``, then ``CMD_STORE`` where
a key is shared), the project file (``--config FILE``, ``CMD_CONFIG`` or ``./cmd.toml``), the user's file
(``$XDG_CONFIG_HOME/cryptomarketdata/config.toml``), the default. In a file a command's own section wins over
the shared keys at the top. Keys are spelled like the flags, ``-`` and ``_`` being the same.

Errors name the file, the line, the key and the nearest known key. ``Settings`` remembers the origin of
every value.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from .config_keys import KEYS, SECTIONS, Key
from .errors import UsageError
from .symbols import nearest
from .toml_lines import key_lines

__all__ = [
    "KEYS",
    "SECTIONS",
    "Key",
    "Settings",
    "Value",
    "format_duration",
    "load",
    "markdown",
    "mask",
    "parse_duration",
    "parse_speed",
    "template",
    "user_file",
]

_DURATION: Final = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+)(?:\.(\d{1,9}))?s)?(?:(\d+)ms)?")
_ADDRESSES: Final = re.compile(r",(?=[a-z][a-z0-9]*:)")  # between two addresses
_SECRET: Final = re.compile(r"(?i)secret|password|passphrase|token(?!.?file)|key$")  # names of settings of an exchange
_DURATION_HINT: Final = "write it as 30s, 5m, 1h30m or 500ms"


class Value(Struct, frozen=True):
    """A setting and where it comes from: ``--flag``, ``CMD_...``, ``FILE:LINE`` or ``default``."""

    key: Key
    value: Any
    origin: str

    def shown(self) -> Any:
        """The value as it may be printed: as one would write it, without passwords."""
        if self.value is not None and self.key.kind == "duration":
            return format_duration(self.value)
        if self.value is not None and self.key.kind == "speed":
            return "max" if self.value == 0 else f"{self.value:g}"
        if self.key.name in ("token", "webhook") and self.value:
            return "********"
        if self.key.kind == "endpoints" and self.value and set(self.value) == {""}:
            return mask(self.value[""])
        return mask(self.value)


class Settings:
    """The layers below the flags; ``get`` finds the strongest value of a key."""

    def __init__(self, layers: Sequence[Mapping[str, Value]] = (), files: Sequence[str] = ()) -> None:
        self._layers = tuple(layers)
        self.files = tuple(files)  # those that were read

    def find(self, section: str, name: str, flag: object = None) -> Value:
        """Return a value with its origin; ``flag`` is what the command line said, None if nothing.

        A default of None means that nothing is configured. Raises UsageError for a flag of a wrong kind.
        """
        key = KEYS[f"{section}.{name}" if section else name]
        if flag is not None and flag != ():
            origin = f"--{key.name}"
            return Value(key, _convert(key, list(flag) if isinstance(flag, tuple) else flag, origin, True), origin)
        for layer in self._layers:
            if value := layer.get(key.path):
                return Value(key, value.value, value.origin)
            if key.shared and (value := layer.get(key.name)):
                return Value(key, value.value, value.origin)
        return Value(key, _convert(key, key.default, "default", True), "default")

    def get(self, section: str, name: str, flag: object = None) -> Any:
        """Return only the value of ``find``."""
        return self.find(section, name, flag).value

    def all(self) -> list[Value]:
        """Every setting in the order of the documentation."""
        return [self.find(k.section, k.name) for k in KEYS.values()]


def load(path: str = "", *, environ: Mapping[str, str] | None = None, folder: str = ".") -> Settings:
    """Read the environment and the files; ``path`` is the value of ``--config``.

    Raises UsageError with file, line and key for a file that is absent, malformed, or holds an unknown
    key or a value of a wrong kind.
    """
    env = os.environ if environ is None else environ
    layers: list[Mapping[str, Value]] = [_environment(env)]
    files = []
    project = path or env.get("CMD_CONFIG", "") or os.path.join(folder, "cmd.toml")
    required = bool(path or env.get("CMD_CONFIG"))
    for name, must in ((project, required), (user_file(env), False)):
        if name and (must or os.path.isfile(name)):
            shown = "cmd.toml" if name == os.path.join(".", "cmd.toml") else name
            layers.append(_file(name, shown))
            files.append(shown)
    return Settings(layers, files)


def user_file(environ: Mapping[str, str]) -> str:
    """Path of the user's file, which need not exist; empty where no home is known."""
    base = environ.get("XDG_CONFIG_HOME") or environ.get("APPDATA")
    if not base:
        home = environ.get("HOME", "")
        base = os.path.join(home, ".config") if home else ""
    return os.path.join(base, "cryptomarketdata", "config.toml") if base else ""


def _environment(environ: Mapping[str, str]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for key in KEYS.values():
        name = key.variables[0]
        text = environ.get(name, "")
        if text:
            found[key.path] = Value(key, _convert(key, text, name, True), name)
    return found


def _file(path: str, shown: str) -> dict[str, Value]:
    try:
        with open(path, "rb") as f:
            text = f.read().decode("utf-8-sig")
    except OSError as error:
        hint = "create it with: cmd-cli config init" if isinstance(error, FileNotFoundError) else ""
        raise UsageError(f"cannot read configuration {shown}: {error.strerror or error}", hint=hint) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read configuration {shown}: it is not UTF-8 text") from error
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"configuration {shown} is not valid TOML: {error}") from error
    lines = key_lines(text)
    found: dict[str, Value] = {}
    for name, value in document.items():
        section = _canonical(name)
        if section in SECTIONS and isinstance(value, dict) and section not in KEYS:
            for inner, content in value.items():
                at = _at(shown, lines, (name, inner))
                _take(found, _known(f"{section}.{_canonical(inner)}", f"{name}.{inner}", at), content, at)
        else:
            at = _at(shown, lines, (name,))
            _take(found, _known(section, name, at), value, at)
    return found


def _take(found: dict[str, Value], key: Key, content: object, at: str) -> None:
    if key.path in found:
        raise UsageError(f"{at}: {key.path} is set twice", hint=f"the other place is {found[key.path].origin}")
    found[key.path] = Value(key, _convert(key, content, f"{at}: {key.path}", False), at)


def _canonical(name: str) -> str:
    return name.replace("_", "-")


def _at(shown: str, lines: Mapping[tuple[str, ...], int], path: tuple[str, ...]) -> str:
    line = lines.get(path)
    return f"{shown}:{line}" if line else shown


def _known(path: str, written: str, at: str) -> Key:
    key = KEYS.get(path)
    if key is not None:
        return key
    section, dot, name = path.rpartition(".")
    # the same key elsewhere is as likely as a misspelt one here
    near = [k.path for k in KEYS.values() if k.name == name and k.section != section] if dot else []
    prefix = f"{section}." if section else ""
    here = [f"{prefix}{n}" for n in nearest(name, [k.name for k in KEYS.values() if k.section == section])]
    names = here or near or nearest(path, [*KEYS, *SECTIONS])
    hint = f"did you mean {' or '.join(names[:3])}?" if names else f"sections are: {', '.join(SECTIONS)}"
    raise UsageError(f"{at}: unknown key {written!r}", hint=hint)


def _convert(key: Key, value: object, where: str, from_text: bool) -> Any:
    """Validate a value and bring it to its form; ``from_text``: it may be text of another type."""
    if value is None:
        return None
    try:
        return _CONVERT[key.kind](key, value, from_text)
    except ValueError as error:
        raise UsageError(f"{where}: {error}", hint=_hint(key)) from None


def _hint(key: Key) -> str:
    if key.kind == "duration":
        return _DURATION_HINT
    if key.kind == "choice":
        return f"choose one of {', '.join(key.choices)}"
    return f"for example {key.example}" if key.example else ""


def _as_text(key: Key, value: object, from_text: bool) -> str:
    if key.name in ("start", "end") and hasattr(value, "isoformat"):
        return str(value.isoformat())  # a TOML date
    if key.path == "replay.symbols" and isinstance(value, int | list) and not isinstance(value, bool):
        return ",".join(map(str, value)) if isinstance(value, list) else str(value)
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not text")
    return value


def _as_choice(key: Key, value: object, from_text: bool) -> str:
    if value not in key.choices:
        near = nearest(str(value), key.choices, 1)
        raise ValueError(f"{value!r} is not known" + (f", {near[0]} is near" if near else ""))
    return str(value)


def _as_int(key: Key, value: object, from_text: bool) -> int:
    try:
        number = msgspec.convert(value, int, strict=not from_text)
    except msgspec.ValidationError:
        raise ValueError(f"{value!r} is not a whole number") from None
    if number < key.least:
        raise ValueError(f"{number} is less than {key.least}")
    return number


def _as_bool(key: Key, value: object, from_text: bool) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).casefold() if from_text else ""
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise ValueError(f"{value!r} is neither true nor false")


def _as_list(key: Key, value: object, from_text: bool) -> tuple[str, ...]:
    if key.name == "fault":  # its parameters hold commas
        parts = [value] if isinstance(value, str) else value
    elif key.name == "listen":  # so do topics in an address
        listed = [value] if isinstance(value, str) else value
        if isinstance(listed, list) and all(isinstance(p, str) for p in listed):
            listed = [part for text in listed for part in _ADDRESSES.split(text)]
        parts = listed
    elif isinstance(value, str):
        parts = value.split(",")
    else:
        parts = value
    if not isinstance(parts, list) or not all(isinstance(p, str) for p in parts):
        raise ValueError(f"{value!r} is not a list of text")
    if key.name not in ("fault", "recording", "listen"):  # a file name may hold a comma
        parts = [p for part in parts for p in part.split(",")]
    return tuple(dict.fromkeys(p.strip() for p in parts if p.strip()))


def _as_symbols(key: Key, value: object, from_text: bool) -> Any:
    lists = value.values() if isinstance(value, dict) else [value]
    for item in lists:
        if not isinstance(item, str) and not (isinstance(item, list) and all(isinstance(s, str) for s in item)):
            raise ValueError(f"{item!r} is not a list of symbols")
    return value


def _as_mapping(key: Key, value: object, from_text: bool) -> dict[str, str]:
    if from_text and isinstance(value, str):
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        if not all(equals for _, equals, _ in pairs):
            raise ValueError(f"{value!r} is not k=v,...")
        value = {name.strip(): text.strip() for name, _, text in pairs}
    if not isinstance(value, dict) or not all(isinstance(v, str | int | float | bool) for v in value.values()):
        raise ValueError(f"{value!r} is not a table of plain values")
    return {str(k): str(v).lower() if isinstance(v, bool) else str(v) for k, v in value.items()}


def _as_endpoints(key: Key, value: object, from_text: bool) -> dict[str, str]:
    """Venue, or "" for all, to URL."""
    found: dict[str, str] = {}
    if isinstance(value, dict):
        pairs = list(value.items())
    else:
        parts = [p.strip() for item in (value if isinstance(value, list) else [value]) for p in str(item).split(",")]
        pairs = []
        for part in filter(None, parts):
            head, equals, tail = part.partition("=")
            pairs.append((head.strip(), tail.strip()) if equals and "://" not in head else ("", part))
    for venue, url in pairs:
        if not isinstance(url, str):
            raise ValueError(f"{url!r} is not a URL")
        try:
            parts_ = urlsplit(url)
            valid = parts_.scheme in ("http", "https", "ws", "wss") and bool(parts_.hostname) and parts_.port != 0
        except ValueError:
            valid = False
        if not valid:
            raise ValueError(f"endpoint {url!r} is not a URL")
        name = "" if venue in ("all", "*") else str(venue)
        if found.get(name, url) != url:
            raise ValueError(f"endpoint of {name or 'all exchanges'} is given twice")
        found[name] = url
    return found


def _as_duration(key: Key, value: object, from_text: bool) -> int:
    if not isinstance(value, str):
        raise ValueError(f"duration {value!r} is not text")
    return parse_duration(value)


def _as_speed(key: Key, value: object, from_text: bool) -> float:
    return parse_speed(str(value))


_CONVERT: Final = {
    "text": _as_text,
    "choice": _as_choice,
    "int": _as_int,
    "bool": _as_bool,
    "list": _as_list,
    "symbols": _as_symbols,
    "mapping": _as_mapping,
    "endpoints": _as_endpoints,
    "duration": _as_duration,
    "speed": _as_speed,
}


def parse_duration(text: str) -> int:
    """``30s``, ``1h30m``, ``1.5s``, ``500ms``, ``2d`` in ns; raises ValueError."""
    match = _DURATION.fullmatch(text.strip())
    if not match or not text.strip():
        raise ValueError(f"duration {text!r} is not understood")
    days, hours, minutes, seconds, fraction, millis = match.groups()
    whole = int(days or 0) * 86_400 + int(hours or 0) * 3_600 + int(minutes or 0) * 60 + int(seconds or 0)
    ns = whole * 1_000_000_000 + int((fraction or "").ljust(9, "0")) + int(millis or 0) * 1_000_000
    if ns == 0:
        raise ValueError(f"duration {text!r} is zero")
    return ns


def format_duration(ns: int) -> str:
    """The shortest text that ``parse_duration`` reads back: ``1h30m``, ``1.5s``."""
    parts = []
    rest = ns
    for unit, size in (("d", 86_400_000_000_000), ("h", 3_600_000_000_000), ("m", 60_000_000_000)):
        if rest >= size:
            parts.append(f"{rest // size}{unit}")
            rest %= size
    if rest:
        parts.append(f"{rest // 1_000_000_000}" + f".{rest % 1_000_000_000:09d}".rstrip("0").rstrip(".") + "s")
    return "".join(parts)


def parse_speed(text: str) -> float:
    """``max`` is 0.0, ``10`` and ``10x`` are 10.0; raises ValueError."""
    word = text.strip().casefold()
    if word == "max":
        return 0.0
    try:
        speed = float(word.removesuffix("x"))
    except ValueError:
        speed = -1.0
    if not 0 < speed < 1e9:
        raise ValueError(f"speed {text!r} is neither a positive number nor max")
    return speed


def mask(value: Any) -> Any:
    """Hide passwords in URLs and in settings of a store, in text or in a collection of texts."""
    if isinstance(value, str):
        value = re.sub(r"\b(password|token)=(?:[^;]|;;)+", r"\1=********", value)
        value = re.sub(r"(://[^/@:\s]*):[^/\s]+@", r"\1:********@", value)
        return re.sub(r"(://)(?!\*+@)[^/@:\s]+@", r"\1********@", value)  # a user alone may be a token
    if isinstance(value, dict):
        return {k: "********" if v and _SECRET.search(str(k)) else mask(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [mask(v) for v in value]
    return value


def template() -> str:
    """A configuration file with every setting as a comment, for ``config init``."""
    lines = [
        "# Configuration of CryptoMarketData. Flags and environment variables win over this file.",
        "# Where each value comes from: cmd-cli config show --origin",
        "",
    ]
    for key in KEYS.values():
        header = f"[{key.section}]"
        if key.section and header not in lines:
            lines += ["", header]
        if key.shared:
            continue
        default = "" if key.default in (None, "", [], {}) else f" (default {_plain(key.default)})"
        lines += [f"# {key.doc}{default}; {key.variables[0]}", f"#{key.name} = {key.example}"]
    return "\n".join(lines) + "\n"


def markdown() -> str:
    """All settings as a Markdown document, which is ``docs/config.md``."""
    lines = [
        "# Configuration",
        "",
        "This file is written from `cmd_common.config` by `python -m cmd_common.config > docs/config.md`; a test",
        "compares the two.",
        "",
        "Every option of every command can be set in one TOML file. A value comes from, the strongest first:",
        "",
        "1. the flag: `--store parquet:data`",
        "2. the environment: `CMD_RECORD_STORE` for one command, `CMD_STORE` for all where a key is shared",
        "3. the project file: `./cmd.toml`, or what `--config FILE` or `CMD_CONFIG` names",
        "4. the user's file: `$XDG_CONFIG_HOME/cryptomarketdata/config.toml` (or `~/.config/...`)",
        "5. the default",
        "",
        "`cmd-cli config init` writes a file with every setting as a comment, and `cmd-cli config show --origin` says",
        "where each value comes from. Within a file a command's own section wins over the shared keys at the top.",
        "Keys are spelled like the flags; `_` is the same as `-`. Errors name file, line, key and the nearest known key.",
        "Passwords in URLs are never shown, in no output, log or state of a process.",
        "",
        "A secret need not be in the file: every key can be a variable of the environment (a unit reads `secrets.env`); `token-file` and",
        "`webhook-file` name files; in a QuestDB store `password=env:NAME` or `password=file:/etc/cmd/password` (and `token=`) name it, and",
        'so do the options of an exchange that are secrets: `options = { secret = "file:/etc/cmd/secret" }`. Such a file is one line; the log',
        "warns when others than its owner can read it.",
        "",
        "```toml",
        'exchange = ["binance-spot", "binance-usdm"]',
        'store = "parquet:data"',
        "",
        "[symbols]                 # a list for each exchange, with all that --symbols takes",
        'binance-spot = ["BTCUSDT", "*USDC"]',
        'binance-usdm = ["BTC-USDT-PERP", "@futures.txt"]',
        "",
        "[record]",
        'types = ["trades", "book"]',
        'raw = "raw"',
        "",
        "[archive]",
        "parallel = 8",
        "```",
        "",
        "Lists are TOML arrays or comma lists. Durations are texts such as `30s`, `5m`, `1h30m`, `500ms`.",
    ]
    for section in ("", *SECTIONS):
        keys = [k for k in KEYS.values() if k.section == section]
        own = [k for k in keys if not k.shared]
        shared = [k.name for k in keys if k.shared]
        lines += ["", f"## [{section}]" if section else "## Shared by all commands", ""]
        if shared:
            names = ", ".join(f"`{name}`" for name in shared)
            lines += [f"Also, for this command only: {names}.", ""]
        if own:
            lines += ["| key | meaning | default | environment | example |", "|---|---|---|---|---|"]
        for key in own:
            default = "" if key.default in (None, "", [], {}) else f"`{_plain(key.default)}`"
            words = key.doc + (f": {', '.join(key.choices)}" if key.choices else "")
            lines.append(f"| `{key.name}` | {words} | {default} | `{key.variables[0]}` | `{key.example}` |")
    return "\n".join(lines).replace("\n\n\n", "\n\n").rstrip() + "\n"


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


if __name__ == "__main__":
    import sys

    sys.stdout.write(markdown())

"""Static completion scripts for bash, zsh and fish, written from the options of the commands.

At TAB the shell starts no Python: words are in the script, symbols in the files that ``cmd-cli symbols``
keeps. Comma lists and several values after one option are completed too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

import click

__all__ = ["SHELLS", "script"]

SHELLS: Final = ("bash", "zsh", "fish")
_FILES: Final = ("config", "recording", "raw", "instruments", "to", "from", "token-file")
_STORE: Final = ("status", "check", "migrate", "backup", "restore", "convert", "export", "size")
_ACTIONS: Final = {
    "config": ("show", "init"),
    "completion": SHELLS,
    "store": _STORE,
    "log": ("decode", "tail", "stats"),
}


class _Option(NamedTuple):
    flag: str
    help: str
    takes: Literal["nothing", "one", "many"]
    kind: Literal["none", "words", "symbols", "files"]
    words: tuple[str, ...]


class _Command(NamedTuple):
    name: str
    help: str
    options: tuple[_Option, ...]
    words: tuple[str, ...]


def script(shell: str, group: click.Group, commands: Mapping[str, str]) -> str:
    """Return the script for a shell, with the exchanges and stores that are installed now."""
    known = [_command(group, name, words) for name, words in commands.items()]
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](known)


def _command(group: click.Group, name: str, words: str) -> _Command:
    command = group.get_command(click.Context(group), name)
    if command is None:
        raise ValueError(f"no command {name}")
    options = [_option(name, p) for p in command.params if isinstance(p, click.Option)]
    options.append(_Option("--help", "show the help", "nothing", "none", ()))
    return _Command(name, words, tuple(options), _ACTIONS.get(name, ()))


def _option(command: str, option: click.Option) -> _Option:
    flag = next(o for o in option.opts if o.startswith("--"))
    takes: Literal["nothing", "one", "many"] = "nothing" if option.is_flag else "many" if option.multiple else "one"
    text = (option.help or "").partition(" [")[0].partition(";")[0]
    name = flag[2:]
    if name == "symbols" and command != "replay":
        return _Option(flag, text, takes, "symbols", ())
    if name in _FILES:
        return _Option(flag, text, takes, "files", ())
    words = _words(command, name)
    return _Option(flag, text, takes, "words" if words else "none", words)


def _words(command: str, name: str) -> tuple[str, ...]:
    from cmd_common.config import KEYS
    from cmd_common.feed import FEED_TYPES, SESSION_TYPES
    from cmd_common.registry import exchange, names

    if name == "exchange":
        return tuple(names("cmd.exchanges"))
    if command == "store" and name in ("types", "format"):
        from cmd_common.schema import TABLES

        return (*TABLES, "book", "aggregate") if name == "types" else ("parquet", "csv", "arrow")
    if command == "log" and name in ("format", "level"):
        return ("text", "json") if name == "format" else ("debug", "info", "warning", "error", "critical")
    if name == "types":
        from .commands.archive import ARCHIVE_TYPES

        return ARCHIVE_TYPES if command == "archive" else SESSION_TYPES if command == "record" else FEED_TYPES
    if name == "interval":
        return tuple(dict.fromkeys(i for venue in names("cmd.exchanges") for i in exchange(venue).intervals))
    if name in ("listen", "connect") and command in ("serve", "watch"):
        return tuple(f"{scheme}:" for scheme in names("cmd.transports"))
    if name in ("store", "from-store", "measure"):
        return tuple(f"{scheme}:" for scheme in names("cmd.stores"))
    if name == "fault":
        from cmd_common.faults import FAULTS

        return tuple(FAULTS)
    if name == "format":
        return KEYS["query.format"].choices
    key = KEYS.get(f"{command}.{name}") or KEYS.get(name)
    return key.choices if key else ()


def _cases(commands: Sequence[_Command]) -> list[str]:
    """``case`` branches of bash and zsh: what follows an option of a command."""
    by_action: dict[str, list[str]] = {}
    for command in commands:
        for o in command.options:
            action = {
                "words": f"choices='{' '.join(o.words)}'",
                "symbols": 'choices="$(_cmd_cli_symbols)"',
                "files": "files=1",
                "none": "choices=''",
            }[o.kind]
            if o.takes != "nothing":
                by_action.setdefault(f"takes={o.takes}; {action}", []).append(f"'{command.name} {o.flag}'")
    lines = []
    for action, patterns in by_action.items():
        joined = " | ".join(patterns)
        lines.append(f"    {joined}) {action} ;;")
    return lines


_SYMBOLS: Final = """\
_cmd_cli_symbols() {
  cat "${XDG_CACHE_HOME:-$HOME/.cache}"/cryptomarketdata/symbols/* 2>/dev/null
}
"""


def _bash(commands: Sequence[_Command]) -> str:
    names = " ".join(c.name for c in commands)
    flags = "\n".join(f"      {c.name}) choices='{_all_words(c)}' ;;" for c in commands)
    return f"""\
# bash completion for cmd-cli: eval "$(cmd-cli completion bash)", or save it where bash-completion looks
{_SYMBOLS}
_cmd_cli() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" command='' option='' distance=0 takes='' choices='' files='' prefix='' i
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "${{COMP_WORDS[i]}}" in
    {" | ".join(c.name for c in commands)}) command="${{COMP_WORDS[i]}}"; break ;;
    esac
  done
  for ((i = COMP_CWORD - 1; i > 0; i--)); do
    if [[ "${{COMP_WORDS[i]}}" == --* ]]; then
      option="${{COMP_WORDS[i]}}"
      distance=$((COMP_CWORD - i))
      break
    fi
  done
  if [[ "$current" != -* ]]; then
    case "$command $option" in
{chr(10).join(_cases(commands))}
    esac
  fi
  if [[ "$takes" == many || ( "$takes" == one && "$distance" == 1 ) ]]; then
    if [[ -n "$files" ]]; then
      mapfile -t COMPREPLY < <(compgen -f -- "$current")
      return
    fi
    if [[ "$takes" == many && "$current" == *,* ]]; then
      prefix="${{current%,*}},"
      current="${{current##*,}}"
    fi
  elif [[ -z "$command" ]]; then
    choices='{names} --help --version'
  else
    case "$command" in
{flags}
    esac
  fi
  mapfile -t COMPREPLY < <(compgen -P "$prefix" -W "$choices" -- "$current")
  if [[ "${{#COMPREPLY[@]}}" == 1 && "${{COMPREPLY[0]}}" == *: ]]; then
    compopt -o nospace 2>/dev/null
  fi
}}
complete -F _cmd_cli cmd-cli
"""


def _zsh(commands: Sequence[_Command]) -> str:
    names = "\n".join(f"    '{c.name}:{_quoted(c.help)}'" for c in commands)
    flags = "\n".join(f"    {c.name})\n      described=({' '.join(_described(c))})\n      ;;" for c in commands)
    return f"""\
#compdef cmd-cli
# zsh completion for cmd-cli: save it as _cmd-cli in a folder of $fpath, or eval "$(cmd-cli completion zsh)"
{_SYMBOLS}
_cmd_cli() {{
  local current="$words_now[$CURRENT]" command='' option='' takes='' choices='' files=''
  local -i distance=0 i
  local -a described
  for ((i = 2; i < CURRENT; i++)); do
    case "$words_now[$i]" in
    ({" | ".join(c.name for c in commands)}) command="$words_now[$i]"; break ;;
    esac
  done
  for ((i = CURRENT - 1; i > 1; i--)); do
    if [[ "$words_now[$i]" == --* ]]; then
      option="$words_now[$i]"
      distance=$((CURRENT - i))
      break
    fi
  done
  if [[ "$current" != -* ]]; then
    case "$command $option" in
{chr(10).join(_cases(commands))}
    esac
  fi
  if [[ "$takes" == many || ( "$takes" == one && "$distance" == 1 ) ]]; then
    if [[ -n "$files" ]]; then
      _files
      return
    fi
    [[ "$takes" == many ]] && compset -P '*,'
    compadd -S '' -- ${{=choices}}
    return
  fi
  if [[ -z "$command" ]]; then
    described=(
{names}
    )
    _describe command described
    return
  fi
  case "$command" in
{flags}
  esac
  _describe option described
}}
_cmd_cli_entry() {{
  local -a words_now
  words_now=("${{words[@]}}")
  _cmd_cli
}}
if [[ "$funcstack[1]" == _cmd-cli ]]; then
  _cmd_cli_entry
else
  compdef _cmd_cli_entry cmd-cli
fi
"""


def _described(command: _Command) -> list[str]:
    words = [f"'{word}:'" for word in command.words]
    return words + [f"'{o.flag}:{_quoted(o.help)}'" for o in command.options]


def _fish(commands: Sequence[_Command]) -> str:
    names = " ".join(c.name for c in commands)
    lines = [
        "# fish completion for cmd-cli: cmd-cli completion fish > ~/.config/fish/completions/cmd-cli.fish",
        "function __cmd_cli_symbols",
        "    set -l base $HOME/.cache",
        "    set -q XDG_CACHE_HOME; and set base $XDG_CACHE_HOME",
        "    cat $base/cryptomarketdata/symbols/* 2>/dev/null",
        "end",
        "function __cmd_cli_list",
        "    set -l prefix (string match -r '.*,' -- (commandline -ct))",
        "    for word in $argv",
        '        echo "$prefix$word"',
        "    end",
        "end",
        "complete -c cmd-cli -f",
    ]
    lines += [
        f"complete -c cmd-cli -n 'not __fish_seen_subcommand_from {names}' -a {c.name} -d '{_fish_text(c.help)}'"
        for c in commands
    ]
    for c in commands:
        seen = f"complete -c cmd-cli -n '__fish_seen_subcommand_from {c.name}'"
        lines += [f"{seen} -a {word}" for word in c.words]
        for o in c.options:
            line = f"{seen} -l {o.flag[2:]} -d '{_fish_text(o.help)}'"
            if o.kind == "files":
                line += " -r -F"
            elif o.kind == "symbols":
                line += " -x -a '(__cmd_cli_list (__cmd_cli_symbols))'"
            elif o.kind == "words":
                listed = " ".join(o.words)
                line += f" -x -a '(__cmd_cli_list {listed})'" if o.takes == "many" else f" -x -a '{listed}'"
            elif o.takes != "nothing":
                line += " -x"
            lines.append(line)
    return "\n".join(lines) + "\n"


def _all_words(command: _Command) -> str:
    return " ".join([*command.words, *(o.flag for o in command.options)])


def _quoted(text: str) -> str:
    return text.replace("'", "'\\''").replace(":", "\\:")


def _fish_text(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")

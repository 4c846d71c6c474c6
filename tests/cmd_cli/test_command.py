"""Several values after one option, and the options that all commands share."""

from __future__ import annotations

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_cli.command import Cmd, expand
from cmd_cli.main import COMMANDS, cli
from cmd_common.config import KEYS

MANY = ["--exchange", "--recording"]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ("--exchange a b --recording f1 f2", "--exchange a --exchange b --recording f1 --recording f2"),
        ("--exchange a --json b", "--exchange a --json b"),
        ("--exchange=a b", "--exchange=a --exchange b"),
        ("--exchange a,b", "--exchange a,b"),
        ("x --exchange a", "x --exchange a"),
        ("--store s t", "--store s t"),
        ("--exchange a -- b", "--exchange a -- b"),
        ("--exchange a - b", "--exchange a --exchange - --exchange b"),
        ("--exchange", "--exchange"),
        ("", ""),
    ],
)
def test_values_reach_until_the_next_option(args: str, expected: str) -> None:
    assert expand(args.split(), MANY) == expected.split()


@given(st.lists(st.sampled_from(["--exchange", "--other", "a", "b", "-q", "--exchange=c"])))
def test_expanding_loses_nothing_and_is_stable(args: list[str]) -> None:
    once = expand(args, MANY)
    assert [a for a in once if a != "--exchange"] == [a for a in args if a != "--exchange"]
    assert expand(once, MANY) == once


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_common_options_and_two_examples(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert isinstance(command, Cmd)
    flags = {o for p in command.params for o in p.opts}
    assert {"--config", "--json", "--log-level", "-q"} <= flags
    assert len(command.examples) >= 2
    assert all("cmd-cli" in line for _, line in command.examples)


@pytest.mark.parametrize("section", ["record", "archive", "replay", "query", "watch", "serve"])
def test_every_setting_of_a_command_is_a_flag_and_every_flag_a_setting(section: str) -> None:
    command = cli.get_command(click.Context(cli), section)
    assert command is not None
    flags = {o[2:] for p in command.params for o in p.opts if o.startswith("--")}
    settings = {k.name for k in KEYS.values() if k.section == section}
    assert flags - {"config", "json", "log-level", "quiet"} == settings

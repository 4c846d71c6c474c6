"""Secrets by environment and by file."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from cmd_common.config import mask
from cmd_common.errors import UsageError
from cmd_common.secrets import resolve


def test_what_names_nothing_is_the_secret_itself() -> None:
    assert resolve("", "x") == ""
    assert resolve("plain:text", "x") == "plain:text"


def test_by_environment() -> None:
    assert resolve("env:NAME", "the password", {"NAME": "geheim"}) == "geheim"
    with pytest.raises(UsageError, match="the password names the environment variable NAME, which is not set"):
        resolve("env:NAME", "the password", {})


def test_by_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "secret"
    path.write_text("geheim\n")
    path.chmod(0o600)
    with caplog.at_level(logging.WARNING):
        assert resolve(f"file:{path}", "x") == "geheim"
    assert caplog.messages == []
    path.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        assert resolve(f"file:{path}", "x") == "geheim"
    assert caplog.messages == [f"{path} can be read by others than its owner: chmod 600 {path}"]
    assert "geheim" not in caplog.text


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines\n", b"\xff\xfe", b"x" * 70_000])
def test_a_file_that_holds_no_secret(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="the token") as caught:
        resolve(f"file:{path}", "the token")
    assert "lines" not in str(caught.value)
    with pytest.raises(UsageError, match=r"cannot read the token from .*: No such file"):
        resolve(f"file:{path}x", "the token")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://geheim@proxy:3128", "http://********@proxy:3128"),
        ("http://user:geheim@proxy:3128", "http://user:********@proxy:3128"),
        ("https://example.org/a@b", "https://example.org/a@b"),
        ("wss://host/path", "wss://host/path"),
    ],
)
def test_a_user_alone_may_be_a_token(text: str, shown: str) -> None:
    assert mask(text) == shown

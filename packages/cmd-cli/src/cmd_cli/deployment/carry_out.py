"""Writing, checking, installing and removing what ``plan`` says; the thin part with files and processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cmd_common.commands import Reporter
from cmd_common.errors import CmdError, StoreError, UsageError

from .plan import NAME, File

__all__ = ["check_units", "crontab", "missing", "remove", "systemctl", "write"]

_TIMEOUT = 120  # seconds for a helper program


def write(files: Sequence[File], root: str) -> list[str]:
    """Write files below a root, each whole or not at all; returns those that changed. Raises StoreError."""
    changed = []
    for file in files:
        path = Path(root, file.path)
        try:
            if path.is_file() and path.read_text() == file.text and path.stat().st_mode & 0o777 == file.mode:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}.part")
            part.write_text(file.text)
            part.chmod(file.mode)
            os.replace(part, path)
        except OSError as error:
            hint = "run it as root, or with --user" if isinstance(error, PermissionError) else ""
            raise StoreError(f"cannot write {path}: {error.strerror or error}", hint=hint) from error
        changed.append(str(path))
    return changed


def missing(files: Sequence[File], root: str) -> list[str]:
    """Files that are not there, or differ."""
    out = []
    for file in files:
        path = Path(root, file.path)
        try:
            same = path.read_text() == file.text
        except OSError:
            same = False
        if not same:
            out.append(str(path))
    return out


def remove(root: str, folder: str, names: Sequence[str]) -> list[str]:
    """Remove our files of a folder below a root; returns those that were there. Raises StoreError."""
    gone = []
    for name in names:
        for path in sorted(Path(root, folder).glob(name)):
            try:
                path.unlink()
            except OSError as error:
                raise StoreError(f"cannot remove {path}: {error.strerror or error}") from error
            gone.append(str(path))
    return gone


def check_units(files: Sequence[File], *, user: bool) -> list[str]:
    """What ``systemd-analyze verify`` says of units; raises UsageError where it is not there."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        raise UsageError("systemd-analyze is not installed, so that units cannot be checked")
    with tempfile.TemporaryDirectory(prefix="cmd-units-") as folder:
        for file in files:
            Path(folder, os.path.basename(file.path)).write_text(file.text)
        names = sorted(p for p in os.listdir(folder) if "@" not in p)
        words = [tool, "verify", *(["--user"] if user else []), "--man=no", *(os.path.join(folder, n) for n in names)]
        done = _run(words, env={"XDG_RUNTIME_DIR": folder, **os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:"})
    lines = [line.replace(folder + "/", "") for line in (done.stdout + done.stderr).splitlines() if NAME in line]
    return lines or ([f"systemd-analyze ended with {done.returncode}"] if done.returncode else [])


def systemctl(words: Sequence[str], reporter: Reporter, *, user: bool) -> bool:
    """Run systemctl where systemd runs; returns whether it did. Raises CmdError with its words."""
    running = os.path.isdir(f"/run/user/{os.getuid()}/systemd") if user else os.path.isdir("/run/systemd/system")
    tool = shutil.which("systemctl")
    if not running or tool is None:
        reporter.warn("systemd does not run here: the units are written, and nothing was started")
        return False
    done = _run([tool, *(["--user"] if user else []), *words])
    if done.returncode:
        raise CmdError(f"systemctl {' '.join(words)}: {(done.stderr or done.stdout).strip()}")
    return True


def crontab(line: str | None, marker: str) -> bool:
    """Put a line into the user's crontab, in place of ours that was there, or remove it (None); returns whether it changed.

    Raises UsageError where there is no cron, CmdError with its words.
    """
    tool = shutil.which("crontab")
    if tool is None:
        raise UsageError("crontab is not installed", hint="install cron, or use cmd-cli deploy systemd --user")
    done = _run([tool, "-l"])
    before = done.stdout.splitlines() if done.returncode == 0 else []
    after = [text for text in before if marker not in text]
    if line is not None:
        after.append(line)
    if after == before:
        return False
    done = _run([tool, "-"], given="".join(f"{text}\n" for text in after))
    if done.returncode:
        raise CmdError(f"crontab: {(done.stderr or done.stdout).strip()}")
    return True


def _run(
    words: Sequence[str], *, given: str | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            list(words), input=given, capture_output=True, text=True, timeout=_TIMEOUT, check=False, env=env
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CmdError(f"{words[0]}: {error}") from error

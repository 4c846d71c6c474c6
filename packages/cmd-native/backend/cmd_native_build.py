"""The build backend: maturin, after a look for the Rust toolchain, whose absence is said in one line."""

from __future__ import annotations

import shutil
from typing import Any

import maturin

_MISSING = (
    "cmd-native is built by Rust, and there is no cargo on the PATH: install a toolchain of 1.87 or newer (rustup), or leave "
    "cmd-native out, since everything runs without it"
)


def _need() -> None:
    if shutil.which("cargo") is None:
        raise SystemExit(_MISSING)


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """What a wheel needs beyond ``requires``: nothing that pip could install."""
    _need()
    return []


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    """The same for an editable installation."""
    _need()
    return []


def get_requires_for_build_sdist(config_settings: Any = None) -> list[str]:
    """A source distribution needs no toolchain."""
    return []


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    """Build a wheel."""
    _need()
    name: str = maturin.build_wheel(wheel_directory, config_settings, metadata_directory)
    return name


def build_editable(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    """Build an editable wheel."""
    _need()
    name: str = maturin.build_editable(wheel_directory, config_settings, metadata_directory)
    return name


def build_sdist(sdist_directory: str, config_settings: Any = None) -> str:
    """Build a source distribution."""
    name: str = maturin.build_sdist(sdist_directory, config_settings)
    return name

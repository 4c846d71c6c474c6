"""The build of cmd-aeron: maturin, with what Aeron's C code needs to compile taken from wheels instead of the system.

bindgen finds libclang in its wheel and the compiler's own headers by asking the compiler; CMake and Ninja are wheels
too. Only a Rust toolchain and a C compiler must be there; where one is missing, one line says so before anything is
fetched or run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, NoReturn

REQUIRES: Final = ["maturin>=1.9,<2", "cmake>=3.30", "ninja>=1.11", "libclang>=16"]


def _stop(line: str) -> NoReturn:
    sys.stderr.write(f"cmd-aeron: {line}\n")
    raise SystemExit(1)


def _check_tools() -> None:
    if not sys.platform.startswith("linux"):
        _stop(f"it builds on Linux only, this is {sys.platform}")
    if shutil.which("cargo") is None:
        _stop(
            "a Rust toolchain (cargo, rustc >= 1.85) is needed to build it and none is in PATH; "
            "install one from https://rustup.rs or by the system's package manager, then install cmd-aeron again"
        )
    if shutil.which(_compiler()) is None:
        _stop(
            f"a C compiler ({_compiler()}) is needed to build it and none is in PATH; install gcc or clang, or set CC"
        )


def _compiler() -> str:
    return os.environ.get("CC", "").split(" ")[0] or "cc"


def _prepare() -> None:
    """Point bindgen at libclang of the wheel, and at the headers that come with the compiler."""
    if "LIBCLANG_PATH" not in os.environ:
        import clang

        os.environ["LIBCLANG_PATH"] = str(Path(clang.__path__[0], "native"))
    if "BINDGEN_EXTRA_CLANG_ARGS" not in os.environ:
        asked = subprocess.run([_compiler(), "-print-file-name=include"], capture_output=True, text=True, check=False)
        if asked.returncode == 0 and Path(asked.stdout.strip()).is_dir():
            os.environ["BINDGEN_EXTRA_CLANG_ARGS"] = f"-I{asked.stdout.strip()}"
    os.environ.setdefault("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count() or 2))


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """What a build needs from the package index; asked first, so this is where a missing toolchain is told."""
    _check_tools()
    return REQUIRES


get_requires_for_build_editable = get_requires_for_build_wheel


def get_requires_for_build_sdist(config_settings: Any = None) -> list[str]:
    """Maturin; it asks Cargo for the sources."""
    _check_tools()
    return REQUIRES[:1]


def build_sdist(sdist_directory: str, config_settings: Any = None) -> str:
    """Maturin's."""
    _check_tools()
    import maturin

    return str(maturin.build_sdist(sdist_directory, config_settings))


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: Any = None) -> str:
    """Maturin's, for the wheel."""
    _check_tools()
    import maturin

    return str(maturin.prepare_metadata_for_build_wheel(metadata_directory, config_settings))


prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    """Maturin's, in the prepared environment."""
    _check_tools()
    _prepare()
    import maturin

    return str(maturin.build_wheel(wheel_directory, config_settings, metadata_directory))


def build_editable(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    """Maturin's, in the prepared environment."""
    _check_tools()
    _prepare()
    import maturin

    return str(maturin.build_editable(wheel_directory, config_settings, metadata_directory))

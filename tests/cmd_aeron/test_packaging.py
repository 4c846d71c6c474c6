"""The distribution: licences in the wheel, stubs that tell the truth, and one clear line where a toolchain is missing."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest

import cmd_aeron
from cmd_aeron import _native

PACKAGE = Path(__file__).parents[2] / "packages" / "cmd-aeron"


def test_the_installed_package_carries_both_licences() -> None:
    files = {path.name: path for path in distribution("cmd-aeron").files or []}
    ours = files["LICENSE"].read_text()
    assert ours == (PACKAGE / "LICENSE").read_text()
    theirs = files["THIRD-PARTY.txt"].read_text()
    assert "Real Logic Limited" in theirs
    assert "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION" in theirs
    assert {"py.typed", "_native.pyi"} <= files.keys()


def test_the_versions_agree() -> None:
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    cargo = tomllib.loads((PACKAGE / "Cargo.toml").read_text())
    assert project["version"] == cargo["package"]["version"] == cmd_aeron.__version__
    pinned = {cargo["dependencies"][name]["version"] for name in ("libaeron-sys", "libaeron_driver-sys")}
    assert pinned == {f"={cmd_aeron.version()}"}


def test_the_stubs_name_what_there_is() -> None:
    tree = ast.parse((PACKAGE / "src" / "cmd_aeron" / "_native.pyi").read_text())
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    public = {name for name in vars(_native) if not name.startswith("_")}
    assert {name for name in classes if not name.startswith("_")} | functions == public
    for name in public - functions:
        node = classes[name]
        bodies = [node, *(classes[base.id] for base in node.bases if isinstance(base, ast.Name))]
        stated = {f.name: f for body in bodies for f in body.body if isinstance(f, ast.FunctionDef)}
        real = {n: v for n, v in vars(getattr(_native, name)).items() if not n.startswith("_")}
        assert {n for n in stated if not n.startswith("_")} == real.keys(), name
        for method, value in real.items():
            is_property = any(getattr(d, "id", "") == "property" for d in stated[method].decorator_list)
            assert is_property == inspect.isgetsetdescriptor(value), method
            if not is_property:
                arguments = stated[method].args
                names = [a.arg for a in (*arguments.args, *arguments.kwonlyargs)]
                assert list(inspect.signature(value).parameters) == names, method


@pytest.mark.parametrize(
    "hook", ["get_requires_for_build_wheel()", "build_wheel('.')", "build_editable('.')", "build_sdist('.')"]
)
@pytest.mark.parametrize(("tools", "named"), [((), "Rust toolchain"), (("cargo",), "C compiler")])
def test_a_missing_toolchain_is_one_clear_line(tmp_path, hook, tools, named) -> None:
    for tool in tools:
        (tmp_path / tool).write_text("")
        (tmp_path / tool).chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", f"import build_backend; build_backend.{hook}"],
        cwd=PACKAGE,
        env={**os.environ, "PATH": str(tmp_path), "CC": "", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("cmd-aeron: ")
    assert named in done.stderr
    assert "install" in done.stderr


def test_the_program_of_the_docs_runs(directory) -> None:
    text = (PACKAGE.parents[1] / "docs" / "aeron.md").read_text()
    program = text.partition("## The package cmd-aeron")[2].split("```python\n")[1].split("```")[0]
    assert "/dev/shm/aeron-demo" in program
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program.replace("/dev/shm/aeron-demo", directory)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[b'hello']\n", "")

"""The workspace keeps its own rules: versions, floors, layout, and nothing of a build machine in the tree."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = sorted(p.parent for p in ROOT.glob("packages/*/pyproject.toml"))


def _project(package: Path) -> dict[str, object]:
    return tomllib.loads((package / "pyproject.toml").read_text())["project"]


def _tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [f for f in listed.stdout.splitlines() if (ROOT / f).exists()]


def test_top_level_is_what_the_readme_describes() -> None:
    top = {f.split("/")[0] for f in _tracked()}
    assert top == {
        ".ci", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "TODO.md", "benchmarks",
        "deploy", "docs", "examples", "packages", "pyproject.toml", "tests",
    }  # fmt: skip


def test_all_distributions_share_one_version() -> None:
    assert len(PACKAGES) >= 7
    assert len({_project(p)["version"] for p in PACKAGES}) == 1


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_sibling_requirements_carry_the_version_as_floor(package: Path) -> None:
    project = _project(package)
    names = {p.name for p in PACKAGES}
    extras = project.get("optional-dependencies", {})
    assert isinstance(extras, dict)
    dependencies = [*project["dependencies"], *(d for group in extras.values() for d in group)]  # type: ignore[misc]
    for dependency in dependencies:
        match = re.match(r"^([A-Za-z0-9-]+)(\[[^]]*\])?(.*)$", dependency)
        assert match is not None
        if match[1] in names:
            assert match[3] == f">={project['version']}", dependency
        else:
            assert ">=" in match[3], f"{dependency} has no floor"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_every_distribution_is_typed_licensed_and_described(package: Path) -> None:
    module = package / "src" / package.name.replace("-", "_")
    assert (module / "py.typed").exists()
    assert (package / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert len((package / "README.md").read_text()) > 300
    assert _project(package)["license"] == "Apache-2.0"


def test_package_version_attribute_agrees() -> None:
    import cmd_common

    assert cmd_common.__version__ == _project(PACKAGES[0])["version"]


def test_members_are_all_in_the_default_environment() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    members = config["tool"]["hatch"]["envs"]["default"]["workspace"]["members"]
    paths = {m if isinstance(m, str) else m["path"] for m in members}
    native = {f"packages/{p.name}" for p in PACKAGES if (p / "Cargo.toml").exists()}
    assert paths | native == {f"packages/{p.name}" for p in PACKAGES}
    assert not paths & native  # they need a toolchain: deploy/lib.sh builds them where one is
    assert set(config["tool"]["hatch"]["envs"]["demo"]["workspace"]["exclude"]) == native
    assert "project" not in config


def test_modules_stay_small() -> None:
    long = [f for f in _tracked() if f.endswith(".py") and len((ROOT / f).read_text().splitlines()) > 700]
    assert not long


def test_no_address_of_a_package_index_nor_a_home_path_in_the_tree() -> None:
    # Split so that this file does not find itself.
    hosts = ["py" + "pi.org", "python" + "hosted", "crates" + ".io", "repo1" + ".maven", "npmjs" + ".org"]
    pattern = re.compile("|".join([*map(re.escape, hosts), "/ho" + "me/[a-z]", "/ro" + "ot/", "/wo" + "rk/"]))
    found = []
    for name in _tracked():
        if name == "LICENSE" or name.endswith("/LICENSE"):
            continue
        try:
            text = (ROOT / name).read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{name}: {m[0]}" for m in pattern.finditer(text)]
    assert not found

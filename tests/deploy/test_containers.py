"""The container files, as far as they can be judged without an engine: their form, and that what they name is there."""

from __future__ import annotations

from pathlib import Path

import yaml

from cmd_cli.main import COMMANDS

FOLDER = Path(__file__).parents[2] / "deploy/containers"
INSTRUCTIONS = {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "VOLUME", "ENTRYPOINT", "CMD"}


def test_the_dockerfile_copies_what_is_there_and_does_not_run_as_root() -> None:
    text = (FOLDER / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert {line[0] for line in lines} <= INSTRUCTIONS
    assert [line[1] for line in lines if line[0] == "USER"] == ["cryptomarketdata"]
    for _, *words in (line for line in lines if line[0] == "COPY" and not line[1].startswith("--from")):
        assert (FOLDER.parents[1] / words[0]).exists(), words
    assert all(":" in line[1] and not line[1].endswith(":latest") for line in lines if line[0] == "FROM")
    (run,) = (" ".join(line) for line in lines if line[0] == "RUN" and "pip" in " ".join(line))
    rust = [p.parent.name for p in (FOLDER.parents[1] / "packages").glob("*/Cargo.toml")]
    assert all(f"packages/{name}" in run for name in rust)  # what needs a compiler is left out


def test_the_compose_file_starts_jobs_of_ours() -> None:
    found = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    assert set(found["services"]) == {"record", "serve", "archive"}
    for service in found["services"].values():
        words = service["command"][0].split()
        assert words[0] in COMMANDS or "cmd-cli archive --since-last" in service["command"][0]
        assert (FOLDER / service["build"]["dockerfile"].rpartition("/")[2]).is_file()
        assert (FOLDER / service["build"]["context"] / service["build"]["dockerfile"]).resolve().is_file()
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        volumes = {v.partition(":")[0] for v in service["volumes"]}
        assert "data" in volumes & set(found["volumes"])

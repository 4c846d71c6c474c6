"""The alert rules and the dashboard: checked by promtool, and run by a real Prometheus over real processes."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import require

from cmd_common.testing.ports import free_ports

FOLDER = Path(__file__).parents[2] / "deploy" / "monitoring"
RULES = [r for g in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"] for r in g["rules"]]
BOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
PANELS = [p for p in BOARD["panels"] if p["type"] != "row"]
TARGETS = [(p["title"], t["expr"]) for p in PANELS for t in p["targets"]]
DOCUMENT = (FOLDER.parents[1] / "docs" / "monitoring.md").read_text()


@pytest.fixture(scope="module")
def prometheus() -> None:
    there = shutil.which("promtool") is not None and shutil.which("prometheus") is not None
    require("prometheus", there, "install Prometheus (Debian: apt install prometheus)")


def promtool(*words: str) -> str:
    done = subprocess.run(["promtool", *words], cwd=FOLDER, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_finds_nothing_wrong(prometheus: None) -> None:
    assert f"{len(RULES)} rules found" in promtool("check", "rules", "alerts.yml")
    assert "SUCCESS" in promtool("check", "config", "prometheus.yml")
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")


def test_every_rule_has_a_test_words_and_a_place_in_the_documentation() -> None:
    tests = yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]
    checks = [c for t in tests for c in t["alert_rule_test"]]
    for rule in RULES:
        name = rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert any(c["alertname"] == name and c["exp_alerts"] for c in checks), f"nothing shows that {name} fires"
        assert any(c["alertname"] == name and not c["exp_alerts"] for c in checks), f"nor that {name} is quiet"
        assert f"`{name}`" in DOCUMENT
    assert len({r["alert"] for r in RULES}) == len(RULES)


def test_the_dashboard_is_one() -> None:
    assert len({p["id"] for p in BOARD["panels"]}) == len(BOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies over another one"
        assert place["x"] + place["w"] <= 24
        taken |= cells
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["datasource"]["uid"] == "${datasource}"
        assert len({t["refId"] for t in panel["targets"]}) == len(panel["targets"])
    assert {v["name"] for v in BOARD["templating"]["list"]} == {"datasource", "instance"}


# -- real processes, watched by a real Prometheus --------------------------------------------------


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cmd_cli", *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


@contextlib.contextmanager
def running(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=60)


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return bytes(answer.read())


def wait_for(what: Callable[[], object], words: str) -> Any:
    end = time.monotonic() + 90
    while True:
        with contextlib.suppress(OSError):
            if found := what():
                return found
        assert time.monotonic() < end, words
        time.sleep(0.2)


class Watched:
    """A recorder, a server with a client, a job's numbers, and the Prometheus that reads them."""

    def __init__(self, api: str, texts: dict[str, str]) -> None:
        self.api = api
        self.texts = texts  # what each process exposes

    def get(self, path: str, **words: str) -> Any:
        answer = json.loads(fetch(f"{self.api}/api/v1/{path}?{urllib.parse.urlencode(words)}"))
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[Any]:
        return list(self.get("query", query=expression)["result"])


@pytest.fixture(scope="module")
def watched(prometheus: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("monitoring")
    recorder, server, own = free_ports(3)
    with contextlib.ExitStack() as stack:
        replay = stack.enter_context(
            running(start("replay", "--exchange", "binance-spot", "--simulate", "--symbols", "BTCUSDT", "--speed", "2"))
        )
        assert replay.stdout is not None
        exchange = ["--exchange", "binance-spot", "--endpoint", json.loads(replay.stdout.readline())["endpoint"]]
        live = [*exchange, "--symbols", "BTCUSDT", "--types", "trades,book"]
        stack.enter_context(
            running(start("record", *live, "--store", f"parquet:{folder}/data", "--metrics", f"127.0.0.1:{recorder}"))
        )
        serving = start(
            "serve", *live, "--listen", f"unix:{folder}/s.sock", "--metrics", f"127.0.0.1:{server}", "--json"
        )
        stack.enter_context(running(serving))
        assert serving.stdout is not None
        assert serving.stdout.readline()
        stack.enter_context(running(start("watch", "--connect", f"unix:{folder}/s.sock", "--plain")))
        numbers = folder / "archive.prom"
        with start(
            "archive", *exchange, "--symbols", "BTCUSDT", "--types", "trades", "--since-last", "--store",
            f"parquet:{folder}/data", "--metrics-file", str(numbers),
        ) as job:  # fmt: skip
            assert job.wait(120) in (0, 1, 3)  # the replay's day is not today's
        targets = [f"127.0.0.1:{recorder}", f"127.0.0.1:{server}"]
        config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(FOLDER / "alerts.yml")]
        config["scrape_configs"] = [c for c in config["scrape_configs"] if c["job_name"] == "cryptomarketdata"]
        config["scrape_configs"][0]["static_configs"] = [{"targets": targets}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        api = f"http://127.0.0.1:{own}"
        words = [
            "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
            f"--web.listen-address=127.0.0.1:{own}", "--log.level=error",
        ]  # fmt: skip
        stack.enter_context(
            running(subprocess.Popen(words, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
        )
        wait_for(lambda: fetch(f"{api}/-/ready"), "Prometheus is ready")
        there = Watched(api, {})
        wait_for(
            lambda: (
                len(there.query('cmd_feed_books{state="LIVE"} == 1')) == 2 and there.query("cmd_client_sent_total > 0")
            ),
            "both processes are scraped, their books are live, the client reads",
        )
        wait_for(lambda: len(there.query("rate(cmd_feed_records_total[5s]) > 0")) >= 4, "records have a rate")
        there.texts = {t: fetch(f"http://{t}/metrics").decode() for t in targets}
        there.texts["job"] = numbers.read_text()
        yield there
    shutil.rmtree(folder, ignore_errors=True)


def exported(texts: dict[str, str]) -> set[str]:
    return {m[1] for text in texts.values() for m in re.finditer(r"^# TYPE (\w+) \w+$", text, re.MULTILINE)}


def test_a_real_prometheus_over_real_processes(watched: Watched) -> None:
    """One test, so that the processes are started once."""
    every_name_is_exported_and_documented(watched)
    every_rule_is_evaluated(watched)
    every_panel_is_answered(watched)


def every_name_is_exported_and_documented(watched: Watched) -> None:
    names = exported(watched.texts)
    used = {
        name
        for expression in [*(r["expr"] for r in RULES), *(e for _, e in TARGETS)]
        for name in re.findall(r"\b(?:cmd|process)_\w+", expression)
    }
    assert len(used) > 30
    assert used <= names, f"nobody exports {sorted(used - names)}"
    ours = {n for n in names if n.startswith("cmd_")}
    documented = set(re.findall(r"`(cmd_\w+)`", DOCUMENT))
    assert ours <= documented, f"not in docs/monitoring.md: {sorted(ours - documented)}"
    assert documented - {r["alert"] for r in RULES} <= ours, f"nobody exports {sorted(documented - ours)}"


def every_rule_is_evaluated(watched: Watched) -> None:
    def evaluated() -> bool:
        rules = [r for g in watched.get("rules")["groups"] for r in g["rules"]]
        return len(rules) == len(RULES) and all(r["health"] == "ok" for r in rules)

    wait_for(evaluated, "every rule was evaluated")
    firing = {a["labels"]["alertname"] for a in watched.get("alerts")["alerts"] if a["state"] == "firing"}
    assert firing <= {"CmdLate"}, "nothing is wrong with a recorder and a server that run"


def every_panel_is_answered(watched: Watched) -> None:
    # what needs a fault, a handover, an audit or the job's own file to be scraped shows nothing here
    rare = (
        "gaps",
        "cmd_connection_second",
        "reconnects",
        "handovers_total",
        "audit",
        "silent",
        "cmd_job_",
        "dropped",
        "conflated",
    )
    for title, expression in TARGETS:
        asked = expression.replace("$instance", ".*").replace("$__rate_interval", "5s")
        assert "$" not in asked
        found = watched.query(asked)
        assert found or any(word in expression for word in rare), f"{title} shows nothing"

"""The units, proxies, Prometheus and Grafana files that install.sh writes are what their programs want."""

from __future__ import annotations

import base64
import http.client
import json
import re
import shutil
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from installed_questdb import DEPLOY, Installed, run
from questdb_server import QuestDBServer

from cmd_common.testing.ports import free_ports
from cmd_questdb.conf import Conf
from cmd_questdb.schema import create_statements

GRAFANA = DEPLOY / "files/grafana"
BOARDS = sorted(GRAFANA.glob("*.json"))


def need(program: str, package: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is missing; apt install {package}")
    return found


@pytest.fixture(scope="module")
def root(questdb_parts: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """An installation whose certificate is self-signed; its server is not started."""
    folder = tmp_path_factory.mktemp("files")
    subprocess.run(
        [need("openssl", "openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    there = Installed(folder / "root")
    there.install(
        "--domain", "localhost", "--tls-port", str(free_ports(1)[0]),
        "--certificate", str(folder / "cert.pem"), "--certificate-key", str(folder / "key.pem"),
    )  # fmt: skip
    yield there
    shutil.rmtree(folder, ignore_errors=True)


def etc(root: Installed, name: str) -> Path:
    return root.prefix / "etc/questdb" / name


# --- systemd


def test_systemd_finds_nothing_wrong_with_the_units(root: Installed, tmp_path: Path) -> None:
    program = need("systemd-analyze", "systemd")
    units = sorted((root.prefix / "etc/systemd/system").iterdir())
    assert [u.name for u in units] == ["questdb-backup.service", "questdb-backup.timer", "questdb.service"]
    done = subprocess.run([program, "verify", *units], capture_output=True, text=True, timeout=60, check=False)
    # It looks for the units they start after, too; what it says of those is not ours.
    ours = [line for line in done.stderr.splitlines() if "questdb" in line]
    assert ours == []
    wrong = tmp_path / "questdb.service"
    wrong.write_text(units[2].read_text().replace("ProtectHome=true", "ProtectHome=maybe\nProtectHoem=true"))
    done = subprocess.run([program, "verify", wrong], capture_output=True, text=True, timeout=60, check=False)
    assert "ProtectHoem" in done.stderr, "systemd-analyze verify did not look"


@pytest.mark.parametrize("name", ["questdb.service", "questdb-backup.service"])
def test_the_services_are_locked_down(root: Installed, name: str) -> None:
    program = need("systemd-analyze", "systemd")
    unit = root.prefix / "etc/systemd/system" / name
    done = subprocess.run(
        [program, "security", "--offline=yes", "--threshold=20", "--no-pager", unit],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert "Overall exposure level" in done.stdout


# --- TLS


def over_tls(
    root: Installed, port: int, path: str, *, body: bytes | None = None, auth: bool = True
) -> tuple[int, bytes]:
    context = ssl.create_default_context(cafile=str(root.prefix.parent / "cert.pem"))
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=10)
    headers = {}
    if auth:
        token = f"{root.setting('http.user')}:{root.setting('http.password')}".encode()
        headers["Authorization"] = "Basic " + base64.b64encode(token).decode()
    try:
        connection.request("POST" if body is not None else "GET", path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def tls_port(root: Installed) -> int:
    found = re.search(r"^TLS_PORT=(\d+)$", etc(root, "install.conf").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def start_nginx(root: Installed, folder: Path) -> subprocess.Popen[bytes]:
    program = need("nginx", "nginx-light")
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = folder / "nginx.conf"
    main.write_text(
        f"pid {folder}/pid;\nerror_log {folder}/error.log;\ndaemon off;\nworker_processes 1;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}include {etc(root, 'proxy/nginx.conf')};\n}}\n"
    )
    checked = subprocess.run(
        [program, "-t", "-q", "-e", folder / "error.log", "-c", main], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "warn" not in checked.stderr
    return subprocess.Popen([program, "-e", folder / "error.log", "-c", main], stderr=subprocess.DEVNULL)


def start_caddy(root: Installed, folder: Path) -> subprocess.Popen[bytes]:
    program = need("caddy", "caddy")
    main = folder / "Caddyfile"
    main.write_text("{\n\tadmin off\n\tauto_https disable_redirects\n}\n" + etc(root, "proxy/Caddyfile").read_text())
    checked = subprocess.run(
        [program, "validate", "--adapter", "caddyfile", "--config", main],
        capture_output=True, text=True, check=False, env={"HOME": str(folder), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert checked.returncode == 0, checked.stderr
    return subprocess.Popen(
        [program, "run", "--adapter", "caddyfile", "--config", main],
        stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env={"HOME": str(folder), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip


def test_both_proxies_serve_the_store_over_tls(root: Installed, tmp_path: Path) -> None:
    from questdb import Sender, TimestampNanos

    server = root.start()
    try:
        server.sql(
            "CREATE TABLE t (ts TIMESTAMP_NS, n LONG) TIMESTAMP(ts) PARTITION BY DAY WAL DEDUP UPSERT KEYS(ts, n)"
        )
        port = tls_port(root)
        for sent, start in enumerate((start_nginx, start_caddy), 1):
            folder = tmp_path / start.__name__
            folder.mkdir()
            proxy = start(root, folder)
            try:

                def reached(proxy: subprocess.Popen[bytes] = proxy) -> bool:
                    assert proxy.poll() is None, "the proxy ended"
                    try:
                        return over_tls(root, port, "/ping")[0] == 204
                    except OSError:
                        return False

                server.wait_for(reached, "the proxy passes requests on")
                assert over_tls(root, port, "/exec?query=SELECT%201", auth=False)[0] == 401
                assert json.loads(over_tls(root, port, "/exec?query=SELECT%201")[1])["dataset"] == [[1]]
                # The console is not for the world, nor is anything beside the interface.
                assert {over_tls(root, port, path)[0] for path in ("/", "/index.html", "/exec/../index.html")} == {404}
                conf = (
                    f"https::addr=localhost:{port};username={root.setting('http.user')};password={root.setting('http.password')};"
                    f"tls_roots={root.prefix.parent / 'cert.pem'};auto_flush=off;"
                )
                with Sender.from_conf(conf) as sender:
                    # More than a megabyte in one request: nothing on the way cuts it.
                    for n in range(60_000):
                        sender.row(
                            "t", columns={"n": n + sent * 1_000_000}, at=TimestampNanos(1_767_225_600_000_000_000 + n)
                        )
                    sender.flush()
                server.wait_applied("t")
                assert server.count("t") == 60_000 * sent
            finally:
                proxy.terminate()
                proxy.wait(30)
    finally:
        root.stop()


# --- Prometheus and Grafana


def test_prometheus_reads_what_the_server_tells(root: Installed, plain_questdb: QuestDBServer) -> None:
    config = yaml.safe_load(etc(root, "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job["job_name"] == "questdb"
    assert job["metrics_path"] == "/metrics"
    assert job["static_configs"] == [{"targets": [f"127.0.0.1:{root.ports[2]}"]}]
    assert [Path(p).read_text() for p in config["rule_files"]] == [(DEPLOY / "files/prometheus-rules.yml").read_text()]
    with urllib.request.urlopen(f"http://127.0.0.1:{plain_questdb.min}/metrics", timeout=10) as answer:
        known = set(re.findall(r"^(questdb_\w+)", answer.read().decode(), re.MULTILINE))
    assert len(known) > 100
    rules = yaml.safe_load((DEPLOY / "files/prometheus-rules.yml").read_text())
    used = " ".join(rule["expr"] for group in rules["groups"] for rule in group["rules"])
    used += " ".join(
        t["expr"] for b in BOARDS for p in json.loads(b.read_text())["panels"] for t in p["targets"] if "expr" in t
    )
    names = set(re.findall(r"questdb_\w+", used))
    assert len(names) >= 10
    assert names <= known, f"no such metric: {names - known}"


def test_grafana_reads_with_the_read_only_user(root: Installed) -> None:
    sources = yaml.safe_load(etc(root, "grafana/datasources.yml").read_text())["datasources"]
    store = sources[0]
    assert store["type"] == "postgres"
    assert store["user"] == root.setting("pg.readonly.user") == "cmd_reader"
    assert store["url"] == f"127.0.0.1:{root.ports[1]}"
    secret = re.fullmatch(r"\$__file\{(.*)\}", store["secureJsonData"]["password"])
    assert secret is not None
    assert Path(secret[1]).read_text().strip() == root.setting("pg.readonly.password")
    (provider,) = yaml.safe_load(etc(root, "grafana/dashboards.yml").read_text())["providers"]
    there = Path(provider["options"]["path"])
    assert sorted(p.name for p in there.iterdir()) == ["market-data.json", "store-health.json"]
    uids = {s["uid"] for s in sources}
    for board in BOARDS:
        content = json.loads(board.read_text())
        assert (there / board.name).read_text() == board.read_text()
        assert {t["datasource"]["uid"] for p in content["panels"] for t in p["targets"]} <= uids
        assert len({p["id"] for p in content["panels"]}) == len(content["panels"])


@pytest.fixture(scope="module")
def filled(plain_questdb: QuestDBServer) -> QuestDBServer:
    """A database with our schema and a few rows of what the dashboards show."""
    server = plain_questdb.empty()
    for statement in create_statements(Conf(scheme="http", addrs=(("127.0.0.1", server.http),))):
        server.sql(statement)
    second = "dateadd('s', -x::int, now())::timestamp_ns"
    for statement in (
        "INSERT INTO trades (ts_event, ts_recv, venue, symbol, trade_id, trade_seq, price, quantity, side, flags) SELECT "
        f"{second}, dateadd('u', 1500, {second}), 'binance-spot', 'BTCUSDT', x::varchar, x, 100.0 + x, 1.0, 'buy', 0 FROM long_sequence(300)",
        "INSERT INTO quotes (ts_event, ts_recv, venue, symbol, seq, bid_price, bid_quantity, ask_price, ask_quantity, flags) SELECT "
        f"{second}, {second}, 'binance-spot', 'BTCUSDT', x, 100.0, 1.0, 101.0, 1.0, 0 FROM long_sequence(300)",
        "INSERT INTO book_snapshots (ts_event, ts_recv, venue, symbol, epoch, seq, best_bid, best_ask) SELECT "
        f"{second}, {second}, 'binance-spot', 'BTCUSDT', 1, x, 100.0, 101.0 FROM long_sequence(30)",
        "INSERT INTO gaps (ts_from, ts_to, venue, symbol, record_type, reason) VALUES "
        "(now()::timestamp_ns, now()::timestamp_ns, 'binance-spot', 'BTCUSDT', 'trades', 'disconnect')",
        "INSERT INTO feed_status (ts_event, venue, symbol, record_type, connection, state) VALUES "
        "(now()::timestamp_ns, 'binance-spot', '', '', 'ws', 'live')",
    ):  # fmt: skip
        server.sql(statement)
    server.wait_applied()
    server.wait_for(lambda: server.count("candles_1m") >= 5, "the view has the candles")
    return server


def panels() -> list[Any]:
    found = []
    for board in BOARDS:
        content = json.loads(board.read_text())
        for panel in content["panels"]:
            found += [pytest.param(panel["type"], t["format"], t["rawSql"], id=f"{board.stem}: {panel['title']}")
                      for t in panel["targets"] if "rawSql" in t]  # fmt: skip
        found += [pytest.param("variable", "table", v["query"], id=f"{board.stem}: ${v['name']}")
                  for v in content["templating"]["list"]]  # fmt: skip
    return found


@pytest.mark.parametrize(("kind", "form", "statement"), panels())
def test_every_panel_shows_something(filled: QuestDBServer, kind: str, form: str, statement: str) -> None:
    """Each statement as Grafana sends it, over the PG wire, as the read-only user."""
    now = time.time()
    start, end = (time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(t)) for t in (now - 3600, now + 60))
    statement = re.sub(r"\$__timeFilter\((\w+)\)", rf"\1 BETWEEN '{start}' AND '{end}'", statement)
    statement = statement.replace("$venue", "binance-spot").replace("$symbol", "BTCUSDT")
    assert "$" not in statement
    conf = f"host=127.0.0.1 port={filled.pg} user=cmd_reader password=reader dbname=qdb sslmode=disable"
    with psycopg.connect(conf, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        assert cursor.description is not None
        columns = [c.name for c in cursor.description]
        rows = cursor.fetchall()
    assert rows, f"no rows: {statement}"
    if form == "time_series":
        assert "time" in columns
        assert any(isinstance(v, int | float) for v in rows[0])
    if kind == "candlestick":
        assert {"time", "open", "high", "low", "close", "volume"} <= set(columns)


def test_no_placeholder_is_left(root: Installed) -> None:
    folders = [root.prefix / "etc", root.prefix / "opt", root.data / "conf"]
    written = [p for f in folders for p in f.rglob("*") if p.is_file() and p.suffix not in (".jar", ".sh")]
    assert len(written) >= 15
    left = {p.name: re.findall(r"@[A-Z_]+@", p.read_text(errors="replace")) for p in written}
    assert {name: marks for name, marks in left.items() if marks} == {}
    assert run("install.sh", "--help").stdout.startswith("Installs QuestDB")

"""The doctor: its checks as pure functions, and the command against real servers, ports, stores and a replay."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_cli import doctor
from cmd_common import registry
from cmd_common.exchange import server_time
from cmd_common.http import HttpResponse
from cmd_common.io import open_writer
from cmd_common.testing.ports import free_ports

from .conftest import Ran, replaying

MS = 1_000_000
BINANCE = server_time(registry.exchange("binance-spot"))


@contextmanager
def exchange(status: int = 200, shift: int = 0, weight: int = 7) -> Iterator[str]:
    """An HTTP server that tells Binance's time, ``shift`` ms off, or refuses with a status."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = json.dumps({"serverTime": time.time_ns() // MS + shift}).encode()
            self.send_response(status)
            self.send_header("X-MBX-USED-WEIGHT-1M", str(weight))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def checks(ran: Ran) -> dict[str, dict[str, str]]:
    return {c["check"]: c for c in json.loads(ran.out)["checks"]}


def ask(run: Callable[..., Ran], url: str) -> tuple[Ran, dict[str, dict[str, str]]]:
    ran = run("doctor", "--exchange", "binance-spot", "--endpoint", url, "--json")
    return ran, checks(ran)


def test_an_exchange_that_answers(run: Callable[..., Ran]) -> None:
    with exchange(weight=5999) as url:
        ran, found = ask(run, url)
    assert found["binance-spot endpoint"]["state"] == "ok"
    assert found["binance-spot rate budget"]["state"] == "warn"
    assert "5,999" in found["binance-spot rate budget"]["found"]
    assert found["binance-spot clock"]["state"] in ("ok", "warn"), found  # a loaded machine answers late
    # it is only an HTTP server: no stream opens there
    assert found["binance-spot stream"]["state"] == "fail"
    assert "HTTP 200 and no WebSocket" in found["binance-spot stream"]["found"]
    assert found["binance-spot archive"]["state"] == "ok"
    assert ran.code == 1


@pytest.mark.parametrize(("status", "words"), [(451, "restricted"), (403, "restricted"), (429, "too many"), (503, "")])
def test_an_exchange_that_refuses(run: Callable[..., Ran], status: int, words: str) -> None:
    with exchange(status) as url:
        ran, found = ask(run, url)
    line = found["binance-spot endpoint"]
    assert (ran.code, line["state"]) == (1, "fail")
    assert str(status) in line["found"]
    assert words in line["found"]
    assert line["todo"]
    assert "binance-spot clock" not in found


def test_a_shifted_clock_of_a_server_of_this_machine_is_a_warning(run: Callable[..., Ran]) -> None:
    with exchange(shift=3_600_000) as url:
        _, found = ask(run, url)
    assert found["binance-spot clock"]["state"] == "warn"
    assert "-3,5" in found["binance-spot clock"]["found"] or "-3,6" in found["binance-spot clock"]["found"]
    assert "NTP" in found["binance-spot clock"]["todo"]


def test_a_replay_of_another_day_has_another_clock(run: Callable[..., Ran]) -> None:
    venues = "binance-spot,bybit-spot,okx,coinbase,kraken"
    with replaying("--exchange", venues, "--simulate", "--start", "2024-08-10T12:00:00") as endpoints:
        url = ",".join(f"{venue}={at}" for venue, at in endpoints.items())
        ran = run("doctor", "--exchange", venues, "--endpoint", url, "--json")
    found = checks(ran)
    for venue in endpoints:
        assert found[f"{venue} endpoint"]["state"] == "ok"
        assert found[f"{venue} clock"]["state"] == "warn", found[f"{venue} clock"]
        assert found[f"{venue} stream"]["state"] == "ok", found[f"{venue} stream"]
        assert found[f"{venue} stream"]["found"].endswith("a WebSocket opens")
    assert found["binance-spot archive"]["state"] == "ok"
    assert "kraken archive" not in found
    assert ran.code == 0


def test_a_refused_port(run: Callable[..., Ran]) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))  # bound, but nothing listens
        _, found = ask(run, f"http://127.0.0.1:{s.getsockname()[1]}")
    assert "refused" in found["binance-spot endpoint"]["found"]


def test_a_store_its_disk_and_the_ports(run: Callable[..., Ran], tmp_path: Path) -> None:
    url = f"parquet:{tmp_path / 'store'}"
    before = checks(run("doctor", "--offline", "--store", url, "--json"))
    assert "not there yet" in before["store"]["found"]
    assert not (tmp_path / "store").exists()
    open_writer(url).close()
    (free,) = free_ports(1)
    with socket.create_server(("127.0.0.1", 0)) as s:
        busy = s.getsockname()[1]
        Path("cmd.toml").write_text(f'[serve]\nlisten = ["tcp:127.0.0.1:{free}", "ws:127.0.0.1:{busy}"]\n')
        ran = run("doctor", "--offline", "--store", url, "--json")
    found = checks(ran)
    assert found["store"]["state"] == "ok"
    assert "schema" in found["store"]["found"]
    assert found["disk speed"]["state"] in ("ok", "warn")
    assert found["port of serve.listen 1"]["state"] == "ok"
    assert found["port of serve.listen 2"]["state"] == "warn"
    assert "in use" in found["port of serve.listen 2"]["found"]


@pytest.mark.parametrize(
    ("address", "check", "state", "words"),
    [
        ("multicast:239.255.0.1:9999?interface=127.0.0.1", "group of serve.listen 1", "ok", "can be sent to"),
        ("multicast:10.0.0.1:9999", "group of serve.listen 1", "fail", "not a multicast group"),
        ("multicast:239.255.0.1:9999?interface=203.0.113.9", "group of serve.listen 1", "fail", ""),
        ("aeron:ipc", "aeron directory", "", "MiB are free"),
        ("aeron:ipc?dir=/proc/nowhere", "aeron directory", "fail", "/proc/nowhere: "),
    ],
)
def test_datagrams_and_aeron(run: Callable[..., Ran], address: str, check: str, state: str, words: str) -> None:
    Path("cmd.toml").write_text(f'[serve]\nlisten = ["{address}"]\n')
    line = checks(run("doctor", "--offline", "--json"))[check]
    assert not state or line["state"] == state, line
    assert words in line["found"]
    assert line["state"] == "ok" or line["todo"]


def test_a_file_in_the_way_of_the_store_fails(run: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").write_text("x")
    ran = run("doctor", "--offline", "--store", f"parquet:{tmp_path / 'other'}", "--json")
    assert (ran.code, checks(ran)["store"]["state"]) == (1, "fail")


def test_a_broken_configuration_is_a_line_with_its_place(run: Callable[..., Ran]) -> None:
    Path("cmd.toml").write_text("[record]\ntypo = 1\n")
    ran = run("doctor", "--offline", "--json")
    line = checks(ran)["config"]
    assert (ran.code, line["state"]) == (1, "fail")
    assert "cmd.toml" in line["found"]
    assert "2" in line["found"]


@given(st.integers(-5_000, 5_000), st.integers(0, 2_000))
def test_the_clock_by_its_offset_beyond_the_uncertainty(away: int, half: int) -> None:
    sent = 1_800_000_000_000 * MS
    server = sent + half * MS - away * MS
    response = HttpResponse(200, json.dumps({"serverTime": server // MS}).encode())
    found = doctor.offset(BINANCE, response, sent, sent + 2 * half * MS)
    assert found == (away * MS, half * MS)
    sure = max(0, abs(away) - half)
    assert doctor.clock("x", found).state == ("fail" if sure >= 1000 else "warn" if sure >= 250 else "ok")
    assert doctor.clock("x", found, local=True).state == ("warn" if sure >= 250 else "ok")


@given(st.sampled_from(registry.names("cmd.exchanges")), st.binary(max_size=60), st.text(max_size=30))
def test_no_answer_breaks_the_clock(venue: str, body: bytes, date: str) -> None:
    at = server_time(registry.exchange(venue))
    doctor.clock(venue, doctor.offset(at, HttpResponse(200, body, {"date": date}), 0, 10))


def test_a_date_in_whole_seconds_counts_half_a_second_more() -> None:
    response = HttpResponse(200, b"{}", {"date": "Thu, 01 Jan 1970 00:00:10 GMT"})
    assert doctor.offset(None, response, 10_000 * MS, 10_200 * MS) == (-400 * MS, 600 * MS)


def test_lines_of_single_checks() -> None:
    assert doctor.python((3, 10, 9)).state == "fail"
    assert doctor.python((3, 12, 0)).state == "ok"
    assert doctor.packages({"cmd-cli": "0.1.0", "cmd-common": "0.2.0"}).state == "fail"
    assert doctor.native(False, False, "").state == "warn"
    assert doctor.native(True, False, "no symbol").state == "fail"
    assert doctor.disk("/x", 100 << 20, 100 << 30).state == "fail"
    assert doctor.disk("/x", 50 << 30, 100 << 30).state == "ok"
    assert doctor.files_limit(128, 128).state == "fail"
    assert doctor.files_limit(-1, -1).state == "ok"
    assert doctor.store("questdb:x", {"schema": 2, "schema_of_program": 3}).todo == "cmd-cli store migrate"
    assert doctor.store("questdb:x", {"schema": 4, "schema_of_program": 3}).todo == "upgrade this program"
    for kind in ("dns", "tls", "timeout", "proxy", "other"):
        assert doctor.endpoint("x", "h", None, kind, "e").todo
    for what in ("endpoint", "stream", "archive"):
        assert doctor.endpoint("x", "h", HttpResponse(451), "", "", what=what).state == "fail"
    assert doctor.endpoint("x", "h", HttpResponse(404), "", "").state == "fail"
    assert doctor.endpoint("x", "h", HttpResponse(404), "", "", what="archive").state == "ok"
    assert doctor.shared_memory("/x", 1 << 20).state == "fail"
    assert doctor.shared_memory("/x", 100 << 20).state == "warn"
    assert doctor.shared_memory("/x", 1 << 30).state == "ok"

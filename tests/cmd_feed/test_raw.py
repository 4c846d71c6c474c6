from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_common.errors import StoreError, UsageError
from cmd_common.recording import Recording, read
from cmd_feed import raw as raw_module
from cmd_feed.raw import Compression, RawRecorder

DAY = 86_400_000_000_000
T0 = 1_723_161_599_000_000_000  # 2024-08-08T23:59:59Z
COMPRESSIONS: list[Compression] = ["", "gz", "zst"]


def lines_of(path: Path) -> list[tuple[int | None, str, str | None, str]]:
    return [(line.recv_ns, line.src, line.url, line.text) for line in read(path)]


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_lines_come_back_verbatim(tmp_path: Path, compression: Compression) -> None:
    recorder = RawRecorder(str(tmp_path), compression=compression)
    texts = ['{"p":"1.10","q":0.30}', '{"x": [1,  2]}', "null", '{"ä":"}"}']
    recorder.write([("v", T0 + n, "ws", "wss://h/ws?a=1", t) for n, t in enumerate(texts)])
    recorder.write([("v", T0 + 9, "rest", "https://h/depth", b'{"lastUpdateId":1}')])
    recorder.close()
    recorder.close()
    (path,) = sorted(tmp_path.iterdir())
    assert lines_of(path) == [
        *((T0 + n, "ws", "wss://h/ws?a=1", t) for n, t in enumerate(texts)),
        (T0 + 9, "rest", "https://h/depth", '{"lastUpdateId":1}'),
    ]
    assert recorder.counters.lines == 5


def test_one_file_a_venue_rotated_at_utc_midnight(tmp_path: Path) -> None:
    recorder = RawRecorder(str(tmp_path), compression="gz")
    for n in range(4):
        for venue in ("binance-spot", "binance-usdm"):
            recorder.write([(venue, T0 + n * 500_000_000, "ws", "u", str(n))])
    assert recorder.paths["binance-spot"].endswith("binance-spot-2024-08-09-001.ndjson.gz")
    recorder.close()
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == [
        "binance-spot-2024-08-08-001.ndjson.gz",
        "binance-spot-2024-08-09-001.ndjson.gz",
        "binance-usdm-2024-08-08-001.ndjson.gz",
        "binance-usdm-2024-08-09-001.ndjson.gz",
    ]
    assert [line[3] for line in lines_of(tmp_path / names[0])] == ["0", "1"]
    assert [line[3] for line in lines_of(tmp_path / names[1])] == ["2", "3"]


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_rotated_by_size_without_losing_a_line(tmp_path: Path, compression: Compression) -> None:
    recorder = RawRecorder(str(tmp_path), compression=compression, max_bytes=20_000)
    for n in range(5000):
        recorder.write([("v", T0, "ws", "u", f'{{"n":{n},"r":{n * 7919 % 10007}}}')])
        if n % 100 == 0:
            recorder.flush()
    recorder.close()
    paths = sorted(tmp_path.iterdir())
    assert len(paths) > 1
    found = [line[3] for path in paths for line in lines_of(path)]
    assert found == [f'{{"n":{n},"r":{n * 7919 % 10007}}}' for n in range(5000)]


def test_an_earlier_file_of_the_same_day_is_never_touched(tmp_path: Path) -> None:
    first = tmp_path / "v-2024-08-08-001.ndjson"
    first.write_text("precious")
    for n in range(3):
        recorder = RawRecorder(str(tmp_path), compression="")
        recorder.write([("v", T0, "ws", "u", str(n))])
        recorder.close()
    assert first.read_text() == "precious"
    assert [p.name for p in sorted(tmp_path.iterdir())] == [f"v-2024-08-08-00{n}.ndjson" for n in range(1, 5)]


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_after_a_flush_everything_is_readable_while_it_goes_on(tmp_path: Path, compression: Compression) -> None:
    recorder = RawRecorder(str(tmp_path), compression=compression)
    path = None
    for n in range(10):
        recorder.write([("v", T0, "ws", "u", f'{{"n":{n}}}')])
        recorder.flush()
        path = Path(recorder.paths["v"])
        assert [line[3] for line in lines_of(path)] == [f'{{"n":{k}}}' for k in range(n + 1)]
    recorder.close()
    assert path is not None
    whole = Recording(path)
    assert len(list(whole)) == 10
    assert not whole.torn


@given(st.lists(st.tuples(st.integers(0, 3 * DAY), st.sampled_from("ab"), st.text(max_size=20))), st.booleans())
def test_any_text_that_is_json_comes_back(lines: list[tuple[int, str, str]], packed: bool) -> None:
    import tempfile

    import msgspec

    with tempfile.TemporaryDirectory() as directory:
        recorder = RawRecorder(directory, compression="gz" if packed else "")
        expected: dict[str, list[str]] = {}
        for ns, venue, word in sorted(lines):
            text = msgspec.json.encode({"k": word}).decode()
            recorder.write([(venue, ns, "ws", "u", text)])
            expected.setdefault(venue, []).append(text)
        recorder.close()
        for venue, texts in expected.items():
            paths = sorted(Path(directory).glob(f"{venue}-*"))
            assert [line[3] for path in paths for line in lines_of(path)] == texts


def test_a_binary_frame_is_counted_and_left_out(tmp_path: Path) -> None:
    recorder = RawRecorder(str(tmp_path), compression="")
    recorder.write([("v", T0, "ws", "u", b"\xff\x00"), ("v", T0, "ws", "u", "1")])
    recorder.close()
    assert recorder.counters.skipped == 1
    assert recorder.counters.lines == 1


def test_a_directory_that_cannot_be_made_and_a_missing_extra_are_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(StoreError, match="cannot make the directory of raw recordings"):
        RawRecorder(str(blocker / "raw"))
    monkeypatch.setattr(raw_module, "zstd_available", lambda: False)
    with pytest.raises(UsageError, match="zstandard"):
        RawRecorder(str(tmp_path), compression="zst")


def test_a_full_disk_is_a_store_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    recorder = RawRecorder(str(tmp_path), compression="")
    recorder.write([("v", T0, "ws", "u", "1")])
    recorder.flush()
    recorder._open["v"].file.close()
    recorder._open["v"].file = full = open("/dev/full", "wb", buffering=0)  # noqa: SIM115 - closed below
    recorder.write([("v", T0, "ws", "u", "2")])
    with pytest.raises(StoreError, match=r"cannot write the raw recording.*No space left"):
        recorder.flush()
    full.close()


CHILD = """
    import sys
    from cmd_feed.raw import RawRecorder

    recorder = RawRecorder(sys.argv[1], compression=sys.argv[2], max_bytes=200_000)
    n = 0
    while True:
        recorder.write([("v", 1_723_161_599_000_000_000, "ws", "u", '{"n":%d,"pad":"%d"}' % (n + k, (n + k) ** 5))
                        for k in range(50)])
        n += 50
        recorder.flush()
        print(n, flush=True)
"""


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("after", [1, 7, 60])
def test_kill_9_loses_nothing_that_was_flushed(tmp_path: Path, compression: Compression, after: int) -> None:
    script = tmp_path / "child.py"
    script.write_text(textwrap.dedent(CHILD))
    directory = tmp_path / "raw"
    total = 0
    for _ in range(2):  # the second run must not touch the files of the first
        child = subprocess.Popen(
            [sys.executable, str(script), str(directory), compression], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        flushed = 0
        for _ in range(after):
            flushed = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        for line in child.stdout.read().split("\n")[:-1]:
            flushed = int(line)
        child.wait()
        child.stdout.close()
        before = total
        found: list[Any] = [line for path in sorted(directory.iterdir()) for line in lines_of(path)]
        total = len(found)
        numbers = [int(line[3].split(":")[1].split(",")[0]) for line in found]
        assert total - before >= flushed
        assert numbers[before:] == list(range(total - before))

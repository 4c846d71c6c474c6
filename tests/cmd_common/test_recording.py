from __future__ import annotations

import gzip
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cmd_common.errors import UsageError
from cmd_common.recording import Line, Playlist, Recording, frame_line, read, redact

MESSAGES = ['{"a":1.10,"b":"}"}', "[1,2]", '{"stream":"x","data":{}}']


def write(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"".join(lines))
    return path


def test_lines_come_back_verbatim(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.ndjson",
        frame_line(5, "ws", None, MESSAGES[0]),
        frame_line(None, "rest", 'https://x/y?a="b"', MESSAGES[1]),
    )
    assert list(read(path)) == [Line(5, "ws", None, MESSAGES[0]), Line(None, "rest", 'https://x/y?a="b"', MESSAGES[1])]


def test_white_space_between_the_keys_is_allowed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ndjson", b' { "recv_ns" : 7 , "src" : "ws", "url": null, "msg" : {"p":1.0} }  \r\n')
    assert list(read(path)) == [Line(7, "ws", None, '{"p":1.0}')]


@given(
    st.one_of(st.text(), st.text().map(lambda t: "{" + t), st.text().map(lambda t: "[" + t)),
    st.one_of(st.none(), st.integers(0, 2**63)),
)
@example('{"e":"trade","E":17', 1)
@example('{"a":1}{"b":2}', 1)
@example("[" * 100_000, 1)
def test_any_text_stays_one_line(text: str, received: int | None) -> None:
    raw = frame_line(received, "ws", text, text)
    assert raw.count(b"\n") == 1
    assert raw.endswith(b"\n")
    decoded = msgspec.json.decode(raw)
    assert decoded["recv_ns"] == received
    assert decoded["url"] == text


@given(
    st.recursive(
        st.one_of(st.integers(-(2**53), 2**53), st.text(), st.booleans(), st.none()),
        lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    ).filter(lambda value: isinstance(value, dict | list))
)
def test_json_is_kept_byte_for_byte(value: object) -> None:
    text = msgspec.json.encode(value).decode()
    assert frame_line(1, "ws", None, text) == b'{"recv_ns":1,"src":"ws","msg":' + text.encode() + b"}\n"


def test_pretty_printed_bodies_become_one_line() -> None:
    line = frame_line(1, "rest", "u", '{\n  "a": 1\r\n}\n')
    assert msgspec.json.decode(line)["msg"] == {"a": 1}
    assert line.count(b"\n") == 1


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_torn_last_line_is_left_out_and_reported(tmp_path: Path, cut: int) -> None:
    whole = frame_line(1, "ws", None, MESSAGES[0])
    last = frame_line(2, "ws", None, '{"q":123456}')
    path = write(tmp_path / "a.ndjson", whole, last[:-cut])
    recording = Recording(path)
    lines = list(recording)
    complete = cut == 1  # only the end of line is missing
    assert [line.recv_ns for line in lines] == ([1, 2] if complete else [1])
    assert recording.torn is (not complete and cut < len(last))


def test_a_torn_gzip_stream_is_reported(tmp_path: Path) -> None:
    body = gzip.compress(b"".join(frame_line(n, "ws", None, f'{{"n":{n},"x":"{n * 7919}"}}') for n in range(5000)))
    path = write(tmp_path / "a.ndjson.gz", body[: len(body) // 2])
    recording = Recording(path)
    lines = list(recording)
    assert recording.torn
    assert 0 < len(lines) < 5000
    assert [line.recv_ns for line in lines] == list(range(len(lines)))


def test_zstd_files_are_read(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    body = zstandard.compress(frame_line(1, "ws", None, "{}") * 3)
    assert len(list(read(write(tmp_path / "a.ndjson.zst", body)))) == 3
    torn = Recording(write(tmp_path / "b.ndjson.zst", body[:-4]))
    assert len(list(torn)) <= 3


def test_bad_lines_in_the_middle_are_counted(tmp_path: Path) -> None:
    good = frame_line(1, "ws", None, "{}")
    recording = Recording(write(tmp_path / "a.ndjson", good, b"rubbish\n", b"\n", good))
    assert len(list(recording)) == 2
    assert (recording.bad_lines, recording.lines, recording.torn) == (1, 2, False)


def test_a_missing_file_is_the_callers_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the recording"):
        list(read(tmp_path / "none.ndjson"))


def times(playlist: Playlist) -> list[tuple[int, str]]:
    return [(ts, line.text) for ts, line in playlist]


def make_playlist(*paths: Path) -> Playlist:
    return Playlist(paths, [Playlist.scan(p, lambda line: None) for p in paths], lambda line: None)


def test_files_that_overlap_are_merged_by_time(tmp_path: Path) -> None:
    a = write(tmp_path / "a", *(frame_line(t, "ws", None, f"[{t}]") for t in (10, 30, 50)))
    b = write(tmp_path / "b", *(frame_line(t, "ws", None, f"[{t}]") for t in (20, 40, 60)))
    assert [ts for ts, _ in times(make_playlist(a, b))] == [10, 20, 30, 40, 50, 60]


def test_long_pauses_and_steps_back_between_files_are_cut_out(tmp_path: Path) -> None:
    hour = 3_600_000_000_000
    a = write(tmp_path / "a", frame_line(5 * hour, "ws", None, "[1]"), frame_line(5 * hour + 9, "ws", None, "[2]"))
    b = write(tmp_path / "b", frame_line(9 * hour, "ws", None, "[3]"), frame_line(9 * hour + 4, "ws", None, "[4]"))
    c = write(tmp_path / "c", frame_line(hour, "ws", None, "[5]"))
    first = 5 * hour
    assert [ts - first for ts, _ in times(make_playlist(a, b, c))] == [0, 9, 9, 13, 13]


def test_a_short_pause_between_files_is_kept(tmp_path: Path) -> None:
    a = write(tmp_path / "a", frame_line(0, "ws", None, "[1]"), frame_line(9, "ws", None, "[2]"))
    b = write(tmp_path / "b", frame_line(1_000_000, "ws", None, "[3]"))
    assert [ts for ts, _ in times(make_playlist(a, b))] == [0, 9, 1_000_000]


def test_real_recordings_read_whole_and_in_order(recordings: Path) -> None:
    folder = recordings / "binance_spot"
    paths = [folder / "hft_btcusdt_20240808.ndjson.gz", folder / "hft_btcusdt_20240809.ndjson.gz"]
    spans = [Playlist.scan(p, lambda line: None) for p in paths]
    assert sum(s.lines for s in spans) == 99_574
    assert not any(s.torn or s.bad_lines for s in spans)
    last = 0
    for ts, line in Playlist(paths, spans, lambda line: None):
        assert ts >= last
        assert line.text[0] == "{"
        last = ts


def test_further_keys_before_the_message_are_allowed(tmp_path: Path) -> None:
    path = tmp_path / "r.ndjson"
    path.write_text(
        '{"recv_ns":1,"src":"ws","test":"a \\"b\\"","n":-1.5,"url":"wss://x/y","msg":{"msg":{"a":1}}}\n'
        '{"recv_ns":null,"src":"sample","test":"spot","msg":[1]}\n'
    )
    first, second = read(path)
    assert (first.recv_ns, first.src, first.url, first.text) == (1, "ws", "wss://x/y", '{"msg":{"a":1}}')
    assert (second.recv_ns, second.url, second.text) == (None, None, "[1]")


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ('{"type":"subscribe","key":"a","signature" : "b\\"c","n":1}', '{"type":"subscribe","key":"***","signature" : "***","n":1}'),
        ('{"apiKey":"a","Passphrase":"","token":"t","jwt":"j"}', '{"apiKey":"***","Passphrase":"***","token":"***","jwt":"***"}'),
        ('{"op":"subscribe","args":[{"channel":"books","keys":"x","instId":"BTC-USDT"}]}', None),
        ("ping", None),
    ],
)  # fmt: skip
def test_what_we_sent_is_written_without_its_secrets(sent: str, shown: str | None) -> None:
    assert redact(sent) == (shown or sent)
    assert (shown or sent).encode() in frame_line(1, "ws_out", None, sent)
    assert sent.encode() in frame_line(1, "ws", None, sent) or not sent.startswith("{")

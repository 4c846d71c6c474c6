"""Fuzzes one target with Atheris for so many seconds: python tests/fuzz/fuzz_run.py TARGET SECONDS FOLDER

FOLDER/TARGET keeps what reached new code; an input that fails is kept in FOLDER/found with those that came before it. How
many inputs there were is in FOLDER/TARGET.inputs.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
START = os.environ.get("CMD_FUZZ_START", "")  # repeats a search; else each one goes its own way
sys.path[:0] = [str(HERE), str(HERE.parent / "simulation"), str(HERE.parent.parent)]

import atheris  # noqa: E402  # behind the folders that what it instruments is found in

VENUES = ("binance", "coinbase", "kraken", "okx", "bybit", "gemini", "bitstamp")
SERVER = ("cmd_server.client", "cmd_server.framing", "cmd_server.codec", "cmd_server.decoder")

with atheris.instrument_imports(
    include=["cmd_common", "cmd_archiver", "cmd_parquet.journal", *SERVER, *(f"cmd_{venue}" for venue in VENUES)]
):
    from fuzz_targets import TARGETS


def main(name: str, seconds: int, folder: Path) -> None:
    """Run one target; ends the process."""
    target = TARGETS[name]
    corpus, found = folder / name, folder / "found"
    corpus.mkdir(parents=True, exist_ok=True)
    found.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number:03d}").write_bytes(seed)
    inputs, begun, told = 0, time.monotonic(), 0.0

    def one(data: bytes) -> None:
        nonlocal inputs, told
        inputs += 1
        try:
            target(data)
        except Exception:
            (found / f"{name}-before").write_text("\n".join(before.hex() for before in target.before))
            raise
        now = time.monotonic() - begun
        if now - told > 1 or now >= seconds:  # libFuzzer ends the process without a last word to us
            told = now
            (folder / f"{name}.inputs").write_text(str(inputs))

    words = HERE.parent.parent / "packages/cmd-native/fuzz/words.dict"
    limits = [
        "-timeout=10",
        "-rss_limit_mb=2048",
        "-max_len=65536",
        "-verbosity=0",
        *([f"-seed={START}"] if START else []),
    ]
    atheris.Setup(
        [
            *(sys.argv[0], str(corpus), f"-max_total_time={seconds}"),
            *(f"-artifact_prefix={found}/{name}-", f"-dict={words}", *limits),
        ],
        one,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1:] == ["--list"]:
        print(*TARGETS)
        raise SystemExit
    if len(sys.argv) != 4 or sys.argv[1] not in TARGETS or not sys.argv[2].isdigit():
        print(f"usage: fuzz_run.py TARGET SECONDS FOLDER; targets: {' '.join(TARGETS)}", file=sys.stderr)
        raise SystemExit(2)
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))

#!/usr/bin/env bash
# Proves that every distribution works alone: builds all wheels (deploy/build-wheels.sh), installs each into an environment of its own with only its
# declared dependencies, imports every module of it, and runs what can run there. Then installs all wheels into one clean environment.
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
setup_tools
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uv="$tools/bin/uv"
python=$(find_python)
rm -rf dist
deploy/build-wheels.sh
# The version stays the same while the code changes: never take a sibling from uv's cache.
fresh=()
for package in packages/*; do fresh+=(--refresh-package "$(basename "$package")"); done
for package in packages/*; do
  name=$(basename "$package")
  module=${name//-/_}
  [ ! -f "$package/Cargo.toml" ] || ls dist/"$module"-*.whl >/dev/null 2>&1 || continue # left out above
  "$uv" venv --quiet --python "$python" "$work/$name"
  "$uv" pip install --quiet "${fresh[@]}" --python "$work/$name/bin/python" --find-links dist "$(ls dist/"$module"-*.whl)"
  "$uv" pip check --quiet --python "$work/$name/bin/python"
  (cd "$work" && "$work/$name/bin/python" - "$module" <<'PY'
import importlib, pkgutil, sys

top = importlib.import_module(sys.argv[1])
optional = {"cmd_feed.fastws"}  # needs the extra "fast"
count = 0
for info in pkgutil.walk_packages(top.__path__, top.__name__ + "."):
    if info.name in optional or ".testing" in info.name or info.name.endswith("__main__"):
        continue
    importlib.import_module(info.name)
    count += 1
print(f"{sys.argv[1]}: {count} modules import with declared dependencies only")
PY
  )
done
"$work/cmd-common/bin/python" examples/orderbook_only/main.py >"$work/example.txt"
[ -s "$work/example.txt" ] || die "examples/orderbook_only printed nothing"
echo "examples/orderbook_only runs with cmd-common alone"
"$work/cmd-server/bin/python" - <<'PY'
import asyncio, importlib.metadata as metadata, tempfile

from cmd_common.records import BookSnapshot, Trade, pack_levels
from cmd_server.client import aio, connect
from cmd_server.server import Server

siblings = {d.name for d in metadata.distributions() if d.name.startswith("cmd-")}
assert siblings == {"cmd-common", "cmd-server"}, siblings


async def main() -> None:
    def first_trade() -> object:
        with connect(f"unix:{folder}/s", topics=["trades *"]) as client:
            return next(record for record in client if isinstance(record, Trade))

    async def publish() -> None:
        while True:
            server.publish([Trade(1, 1, "v", "A", "1", 1, 1.0, 1.0, "buy")])
            await asyncio.sleep(0.05)

    with tempfile.TemporaryDirectory() as folder:
        async with Server() as server, asyncio.timeout(60):
            await server.listen(f"unix:{folder}/s")
            sides = pack_levels([(1.0, 1.0)]), pack_levels([(2.0, 1.0)])
            server.publish([BookSnapshot(1, 1, "v", "A", 1, 1, 1, 1, *sides)])
            async with aio.connect(f"unix:{folder}/s", topics=["book *"]) as client:
                assert (await client.live("v:A")).best_ask[0] == 2.0
            publishing = asyncio.create_task(publish())
            assert isinstance(await asyncio.to_thread(first_trade), Trade)
            publishing.cancel()


asyncio.run(main())
PY
echo "server and clients run with cmd-common and cmd-server alone"
"$uv" venv --quiet --python "$python" "$work/all"
"$uv" pip install --quiet "${fresh[@]}" --python "$work/all/bin/python" dist/*.whl
"$work/all/bin/cmd-cli" version
"$work/all/bin/cmd-cli" --help >/dev/null
echo "all wheels install into one clean environment"
# An outsider's package is installed like any other and is found by its entry point alone.
"$uv" pip install --quiet --python "$work/all/bin/python" --no-deps examples/custom_exchange
"$work/all/bin/python" -c 'from cmd_common import registry; assert registry.exchange("exampex").venue == "exampex"'
echo "examples/custom_exchange installs and is found"
"$uv" pip install --quiet --python "$work/all/bin/python" --no-deps examples/custom_writer
"$work/all/bin/python" -c 'import sys; from cmd_common import open_writer; open_writer(f"jsonl:{sys.argv[1]}/rows").close()' "$work"
echo "examples/custom_writer installs and is found"

"""The 247 cases of the WebSocket conformance suite, against the server's endpoint and against the client's link."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tests.tally import note
from ws_echo import ECHO, NoServer, talk

from cmd_server import tcp
from cmd_server.transport import Address, LinkOptions, ListenOptions

EXCLUDED = ["9.*", "12.*", "13.*"]  # 9: speed of huge messages; 12 and 13: compression, which is not offered
CASES = 247


kosoku = pytest.importorskip("kosoku", reason="pip install kosoku")


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """Take the suite's own ``pkg_resources`` away again: pytest's ``syspath_prepend`` would use it in later tests."""
    yield
    if "kosoku" in (getattr(sys.modules.get("pkg_resources"), "__file__", None) or ""):
        del sys.modules["pkg_resources"]


def judge(results: list[Any]) -> None:
    failed = [f"{r.case_id}: {r.behavior.value}, {r.behavior_close.value}: {r.result}" for r in results if not r.passed]
    assert not failed, "\n".join(failed)
    assert len(results) == CASES
    note("conformance_cases", len(results), "websocket")


def test_the_server_s_endpoint_conforms() -> None:
    async def run() -> list[Any]:
        options = ListenOptions(max_message=1 << 24)
        listener = await ECHO.listen(Address.parse("ws:127.0.0.1:0"), NoServer(), options)
        try:
            url = f"ws://{listener.address.target}/"
            results: list[Any] = await kosoku.run_fuzzingclient(url, None, EXCLUDED, 8)
        except kosoku.FailureError as failure:
            results = failure.results
        finally:
            await listener.close()
        return results

    judge(asyncio.run(run()))


def test_the_client_s_link_conforms() -> None:
    async def run() -> list[Any]:
        async with kosoku.run_fuzzingserver(None, EXCLUDED, host="127.0.0.1", port=0) as server:
            place = f"127.0.0.1:{server.port}"

            async def one(path: str, *, echo: bool = True) -> list[Any]:
                inner = await tcp.TRANSPORT.connect(Address.parse(f"tcp:{place}"), LinkOptions())
                return list(await talk(f"ws://{place}{path}", inner, echo=echo))

            count = int((await one("/getCaseCount", echo=False))[0].data)
            places = asyncio.Semaphore(8)

            async def case(number: int) -> None:
                async with places:
                    await one(f"/runCase?case={number}&agent=cmd-server")

            await asyncio.gather(*map(case, range(1, count + 1)))
            await one("/updateReports?agent=cmd-server", echo=False)
            try:
                results: list[Any] = await server.get_result()
            except kosoku.FailureError as failure:
                results = failure.results
        return results

    judge(asyncio.run(run()))

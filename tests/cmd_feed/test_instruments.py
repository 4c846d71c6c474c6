"""Reference data that takes several requests."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from cmd_common.errors import ProtocolError
from cmd_common.exchange import Endpoints, Limits, next_instruments_request
from cmd_common.http import HttpRequest
from cmd_common.instruments import Instrument
from cmd_common.seams import SystemClock, system_rng
from cmd_feed.budget import BudgetPools
from cmd_feed.instruments import PAGES, load_instruments
from cmd_feed.net import SystemNet


class Paged:
    """Instruments S0, S1, ... in pages of two; ``pages`` None: without an end."""

    venue = "paged"
    limits = Limits(0, "", 0, 0, 0, 0)

    def __init__(self, pages: int | None) -> None:
        self.pages = pages

    def instruments_request(self, endpoints: Endpoints) -> HttpRequest:
        return HttpRequest(f"{endpoints.rest}/instruments?page=0")

    def next_instruments_request(self, request: HttpRequest, body: bytes, endpoints: Endpoints) -> HttpRequest | None:
        page = int(request.url.rsplit("=", 1)[1]) + 1
        return None if page == self.pages else HttpRequest(f"{endpoints.rest}/instruments?page={page}")

    def parse_instruments(self, body: bytes) -> list[Instrument]:
        one = Decimal(1)
        return [Instrument(self.venue, name, "A", "B", "spot", one, one) for name in json.loads(body)]

    def used_weight(self, response: Any) -> int | None:
        return None

    def check(self, response: Any, url: str) -> None:
        return None


async def load(exchange: Any, server: Any, words: Any) -> list[str]:
    net = SystemNet()
    endpoints = Endpoints(server.ws, server.http)
    try:
        found = await load_instruments(exchange, endpoints, net, SystemClock(), system_rng(), BudgetPools(), words)
    finally:
        await net.close()
    return [i.symbol for i in found]


async def test_pages_are_joined_and_a_symbol_on_two_of_them_is_one(server: Any, words: Any) -> None:
    server.rest = lambda path, n: (200, {}, json.dumps([f"S{n - 1}", f"S{n}"]).encode())
    assert await load(Paged(3), server, words) == ["S0", "S1", "S2", "S3"]
    assert server.requests == [f"/instruments?page={n}" for n in range(3)]


async def test_pages_without_an_end_are_an_error(server: Any, words: Any) -> None:
    server.rest = lambda path, n: (200, {}, b"[]")
    with pytest.raises(ProtocolError, match="more than 100 pages"):
        await load(Paged(None), server, words)
    assert len(server.requests) == PAGES


async def test_a_venue_without_pages_needs_no_such_method(spot: Any, words: Any) -> None:
    from cmd_common import registry

    exchange = registry.exchange("binance-spot")
    request = exchange.instruments_request(exchange.endpoints)
    assert next_instruments_request(exchange, request, b"{}", exchange.endpoints) is None

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cmd_common import registry
from cmd_common.errors import UsageError
from cmd_common.exchange import Endpoints, live_intervals, next_instruments_request
from cmd_common.http import HttpRequest


def test_one_address_replaces_all_endpoints() -> None:
    production = Endpoints("wss://a", "https://b", "https://c")
    assert production.override("http://127.0.0.1:9/x/") == Endpoints(
        "ws://127.0.0.1:9/x", "http://127.0.0.1:9/x", "http://127.0.0.1:9/x"
    )
    assert Endpoints("wss://a", "https://b").override("https://h").archive == ""  # none stays none
    for bad in ("127.0.0.1:9", "ftp://x", "http://"):
        with pytest.raises(UsageError):
            production.override(bad)


def test_live_intervals_are_all_of_them_unless_the_exchange_says_otherwise() -> None:
    exchange: Any = SimpleNamespace(intervals=("1m", "5m"))
    assert live_intervals(exchange) == ("1m", "5m")
    exchange.live_intervals = ("5m",)
    assert live_intervals(exchange) == ("5m",)


def test_reference_data_of_one_answer_has_no_next_request() -> None:
    request = HttpRequest("http://x")
    assert next_instruments_request(registry.exchange("kraken"), request, b"{}", Endpoints("", "")) is None

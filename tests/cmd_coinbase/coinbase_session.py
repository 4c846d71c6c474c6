"""Coinbase's emulators and feeds in one loop without sockets, on a clock that jumps."""

from __future__ import annotations

import json
from typing import Any

from cmd_coinbase import EXCHANGE, CoinbaseExchange
from cmd_common.emulation import MarketSource
from cmd_common.testing import session
from cmd_common.testing.session import ENDPOINTS, SECOND, T0

__all__ = ["ENDPOINTS", "SECOND", "T0", "CoinbaseSession", "recorded", "simulated"]


def simulated(exchange: CoinbaseExchange = EXCHANGE, *faults: str, **options: Any) -> Any:
    return exchange.emulator(session.simulated(exchange, *faults, **{"levels": 100, **options}))


def recorded(exchange: CoinbaseExchange, *paths: Any, **options: Any) -> Any:
    options = {"speed": 0, **options}
    return exchange.emulator(MarketSource(exchange.venue, recordings=tuple(map(str, paths)), **options))


class CoinbaseSession(session.VenueSession):
    def __init__(self, exchange: CoinbaseExchange, emulator: Any, now: int = T0) -> None:
        super().__init__(exchange, emulator, now, pause=SECOND // 4)

    def json(self, target: str) -> Any:
        response = self.get(target)
        assert response.status == 200, (response.status, response.body)
        return json.loads(response.body)

"""The command ``symbols``: what exchanges trade."""

from __future__ import annotations

import asyncio
from typing import Any

from cmd_common import get_symbols, registry
from cmd_common.commands import Reporter, Result, SymbolsOptions
from cmd_common.errors import UsageError
from cmd_common.instruments import Instrument
from cmd_common.seams import SystemClock, system_rng

from .budget import BudgetPools
from .instruments import load_instruments
from .session import check_endpoint_names, resolve_endpoints

__all__ = ["run", "symbols"]


def run(options: SymbolsOptions, reporter: Reporter) -> Result:
    """List instruments; the summary has ``instruments``, a list of dicts with decimals as exact text."""
    return asyncio.run(symbols(options, reporter))


async def symbols(options: SymbolsOptions, reporter: Reporter) -> Result:
    """``run`` inside a running event loop. Raises CmdError."""
    from .net import SystemNet

    if not options.exchanges:
        raise UsageError("no exchange is given", hint=f"choose from {', '.join(registry.names('cmd.exchanges'))}")
    exchanges = {name: registry.exchange(name) for name in dict.fromkeys(options.exchanges)}
    check_endpoint_names(options.endpoints, list(exchanges))
    net = SystemNet(proxy=options.proxy)
    pools = BudgetPools()
    rng = system_rng()
    clock = SystemClock()
    try:
        lists = await asyncio.gather(
            *(
                load_instruments(e, resolve_endpoints(e, options.endpoints), net, clock, rng, pools, reporter)
                for e in exchanges.values()
            )
        )
    finally:
        await net.close()
    listed = dict(zip(exchanges, lists, strict=True))
    chosen = get_symbols(options.symbols, listed)
    by_name = {venue: {i.symbol: i for i in instruments} for venue, instruments in listed.items()}
    return Result(
        summary={
            "instruments": [
                describe(by_name[venue][symbol])
                for venue, names in chosen.items()
                for symbol in names
                if symbol in by_name[venue]
            ]
        }
    )


def describe(instrument: Instrument) -> dict[str, Any]:
    """Return an instrument as plain JSON values."""
    i = instrument
    return {
        "venue": i.venue,
        "symbol": i.symbol,
        "unified": i.unified,
        "base": i.base,
        "quote": i.quote,
        "settle": i.settle or i.quote,
        "kind": i.kind,
        "tick_size": str(i.tick_size),
        "lot_size": str(i.lot_size),
        "min_quantity": str(i.min_quantity),
        "min_notional": str(i.min_notional),
        "contract_size": None if i.contract_size is None else str(i.contract_size),
        "inverse": i.inverse,
        "expiry": i.expiry,
        "status": i.status,
    }

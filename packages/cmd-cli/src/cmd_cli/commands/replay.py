"""``cmd-cli replay``: recordings or a simulation, served as the exchange itself."""

from __future__ import annotations

from cmd_cli.command import Cmd, Run, flag

__all__ = ["command"]


def _replay(**flags: object) -> int:
    from cmd_cli import values
    from cmd_common.commands import ReplayOptions, Result
    from cmd_common.errors import UsageError
    from cmd_common.registry import command as implementation

    run = Run("replay", flags)
    venues = values.exchanges(run.get("exchange"))
    recordings = values.recordings(run.get("recording") or ())
    simulate = run.get("simulate")
    if simulate and recordings:
        raise UsageError("both --recording and --simulate are given", hint="choose one")
    if not simulate and not recordings:
        raise UsageError("nothing to replay", hint="add --recording FILE... or --simulate")
    number, names = values.number_or_names(run.get("symbols"))
    start = run.get("start")
    options = ReplayOptions(
        exchanges=venues,
        recordings=recordings,
        simulate=simulate,
        symbols=number,
        symbol_names=names,
        seed=run.get("seed"),
        speed=run.get("speed"),
        listen=values.listen(run.get("listen")),
        faults=tuple(values.fault(text) for text in run.get("fault")),
        exit_at_end=run.get("exit-at-end"),
        start=values.instant(start, "start") if start else 0,
        duration=run.get("duration") or 0,
        instruments=run.get("instruments"),
        history_days=run.get("history-days"),
        history_trades=run.get("history-trades"),
    )
    if options.instruments:
        values.recordings([options.instruments])
    with run.output() as output:
        result: Result = implementation("replay")(options, output)
        output.close()
        if result.summary and not run.json:  # stdout belongs to the ready lines
            output.info("replay ended")
        return result.exit_code


command = Cmd(
    "replay",
    _replay,
    doc="Serve recordings or a seeded simulation on loopback as the exchange itself: WebSocket, REST and archive.",
    examples=[
        (
            "a simulated market at real speed, on a fixed port, until Ctrl-C",
            "cmd-cli replay --exchange binance-spot --simulate --symbols 4 --seed 1 --listen 127.0.0.1:9001",
        ),
        (
            "one minute of it as fast as possible, one message in a hundred lost",
            "cmd-cli replay --exchange binance-spot --simulate --duration 1m --speed max --fault drop:rate=0.01",
        ),
    ],
    params=[
        flag("replay", "exchange", metavar="VENUE"),
        flag("replay", "recording", metavar="FILE"),
        flag("replay", "simulate"),
        flag("replay", "symbols", metavar="N|SYMBOL,..."),
        flag("replay", "seed"),
        flag("replay", "speed", metavar="N|max"),
        flag("replay", "listen", metavar="HOST:PORT"),
        flag("replay", "fault", metavar="KIND[:k=v,...]"),
        flag("replay", "exit-at-end"),
        flag("replay", "start", metavar="INSTANT"),
        flag("replay", "duration"),
        flag("replay", "history-days"),
        flag("replay", "history-trades"),
        flag("replay", "instruments", metavar="FILE"),
    ],
    notes='When it is ready it prints one JSON line a venue: {"venue": ..., "endpoint": "http://127.0.0.1:PORT", ...}.\n'
    "Faults: drop, repeat, reorder, tear, delay, disconnect, silence, shutdown, rate_limit, ban, bad_checksum,\n"
    "truncated_zip, missing_day, malformed.",
)

"""The pipeline without its thread: the same order of writes and flushes, by virtual time."""

import errno

import pytest

from cmd_common.errors import StoreError
from cmd_common.testing.virtual import VirtualLoop
from cmd_feed.pipeline import Pipeline


class Sink:
    def __init__(self, loop, broken=None):
        self.loop = loop
        self.broken = broken
        self.calls = []

    def _call(self, what, *detail):
        self.calls.append((round(self.loop.time(), 3), what, *detail))
        if what == self.broken:
            raise OSError(errno.EIO, "Input/output error")

    def write(self, items):
        self._call("write", list(items))

    def flush(self):
        self._call("flush")

    def close(self):
        self._call("close")


def run(scenario, broken=None):
    loop = VirtualLoop()
    sink = Sink(loop, broken)
    pipelines = []

    async def main():
        pipeline = Pipeline(sink, inline=True, flush_every=1.0)
        pipelines.append(pipeline)
        await scenario(loop, pipeline)

    loop.run(main())
    return sink.calls, pipelines[0]


def test_writes_at_once_and_flushes_every_second():
    async def scenario(loop, pipeline):
        import asyncio

        pipeline.put([1, 2])
        await asyncio.sleep(0.3)
        pipeline.put([3])
        await asyncio.sleep(5)
        pipeline.put([4])
        await asyncio.sleep(0.1)
        await pipeline.close()

    calls, pipeline = run(scenario)
    assert [c[1:] for c in calls if c[1] != "flush"] == [("write", [1, 2]), ("write", [3]), ("write", [4]), ("close",)]
    assert (1.0, "flush") in calls
    assert pipeline.counters.confirmed == 4
    assert pipeline.error is None


@pytest.mark.parametrize("broken", ["write", "flush", "close"])
def test_an_error_of_the_sink_ends_the_pipeline(broken):
    async def scenario(loop, pipeline):
        import asyncio

        pipeline.put([1])
        await asyncio.sleep(3)
        await pipeline.close()

    calls, pipeline = run(scenario, broken)
    assert isinstance(pipeline.error, StoreError)
    assert calls[-1][1] == "close"

"""The virtual loop: time jumps, one order, no threads, no real waiting."""

import asyncio
import threading
import time

import pytest

from cmd_common.testing.virtual import DeadlockError, VirtualClock, VirtualLoop, VirtualTimeoutError

SECOND = 1_000_000_000


def test_hours_of_sleep_take_no_time():
    loop = VirtualLoop()
    clock = VirtualClock(loop, 1_700_000_000 * SECOND)

    async def main():
        await clock.sleep(24 * 3600 * SECOND)
        await asyncio.sleep(0.25)
        return clock.now(), clock.monotonic()

    started = time.process_time()
    assert loop.run(main()) == ((1_700_000_000 + 86400) * SECOND + SECOND // 4, 86400 * SECOND + SECOND // 4)
    assert time.process_time() - started < 5  # a day of virtual time


def test_timers_fire_in_order_of_time_then_of_creation():
    loop = VirtualLoop()
    seen = []

    async def main():
        for name, delay in (("c", 2.0), ("a", 1.0), ("d", 2.0), ("b", 1.0), ("e", 2.0)):
            loop.call_later(delay, seen.append, name)
        await asyncio.sleep(3)

    loop.run(main())
    assert seen == ["a", "b", "c", "d", "e"]


def test_nanosecond_timers_keep_their_order_late_in_a_run():
    loop = VirtualLoop()
    seen = []

    async def main():
        await asyncio.sleep(3600)
        for ns in (5, 1, 3, 2, 4):
            loop.call_at_ns(loop.ns + ns * 1000, seen.append, ns)
        await asyncio.sleep(1)

    loop.run(main())
    assert seen == [1, 2, 3, 4, 5]


def test_a_timer_below_a_nanosecond_still_moves_the_clock():
    loop = VirtualLoop(steps=1000)

    async def main():
        end = loop.time() + 0.1 + 0.2  # not a whole number of ns
        while (left := end - loop.time()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(left if left > 1e-9 else 1e-12)

    loop.run(main())


def test_wait_forever_is_a_deadlock_error_not_a_hang():
    async def main():
        await asyncio.Event().wait()

    with pytest.raises(DeadlockError):
        VirtualLoop().run(main())


def test_endless_programs_end_by_limit():
    async def ticks():
        while True:  # noqa: ASYNC110 - that is the point
            await asyncio.sleep(1)

    async def spin():
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)

    with pytest.raises(VirtualTimeoutError, match="60 virtual seconds"):
        VirtualLoop(limit=60 * SECOND).run(ticks())
    with pytest.raises(VirtualTimeoutError, match="steps"):
        VirtualLoop(steps=1000).run(spin())


def test_timeouts_are_virtual():
    async def main():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 3600)
        async with asyncio.timeout(10):
            await asyncio.sleep(9.999)
        return asyncio.get_running_loop().time()

    assert VirtualLoop().run(main()) == pytest.approx(3609.999)


def test_executor_calls_run_in_the_loops_own_thread():
    async def main():
        names = await asyncio.gather(*(asyncio.to_thread(threading.get_ident) for _ in range(3)))
        with pytest.raises(ValueError, match="boom"):
            await asyncio.to_thread(_boom)
        return set(names)

    before = threading.active_count()
    assert VirtualLoop().run(main()) == {threading.get_ident()}
    assert threading.active_count() == before


def _boom():
    raise ValueError("boom")


def test_sets_of_tasks_have_the_same_order_in_every_run():
    """asyncio.wait and TaskGroup iterate over sets of tasks, which hash by address in a normal loop."""

    def once(ballast):
        seen = []

        async def worker(n):
            try:
                await asyncio.sleep(100 if n % 3 else 1)
                seen.append(("done", n))
            except asyncio.CancelledError:
                seen.append(("cancelled", n))
                raise

        async def main():
            done, pending = await asyncio.wait([asyncio.create_task(worker(n)) for n in range(20)], timeout=2)
            seen.extend(t.get_name() for t in done)
            for task in pending:
                task.cancel()
            await asyncio.wait(pending)
            with pytest.raises(ExceptionGroup):
                await broken_group()

        async def broken_group():
            async with asyncio.TaskGroup() as group:
                for n in range(20):
                    group.create_task(worker(n + 1))
                await asyncio.sleep(0)
                raise ValueError("stop")

        ballast.append([object() for _ in range(1000 * len(ballast))])  # moves the addresses
        VirtualLoop().run(main())
        return seen

    ballast = [1]
    first = once(ballast)
    assert all(once(ballast) == first for _ in range(5))


def test_shutdown_cancels_what_is_left_in_order():
    seen = []

    async def worker(n):
        try:
            await asyncio.sleep(1000)
        finally:
            seen.append(n)

    tasks = []

    async def main():
        tasks.extend(asyncio.create_task(worker(n)) for n in range(5))
        await asyncio.sleep(1)

    VirtualLoop().run(main())
    assert seen == [0, 1, 2, 3, 4]


def test_unretrieved_errors_are_collected():
    loop = VirtualLoop()

    async def main():
        loop.call_soon(_boom)
        await asyncio.sleep(1)

    loop.run(main())
    assert [type(c["exception"]) for c in loop.errors] == [ValueError]


def test_wall_clock_jumps_and_the_monotonic_clock_does_not():
    loop = VirtualLoop()
    clock = VirtualClock(loop, 1000)

    async def main():
        clock.jump(-500)
        assert (clock.now(), clock.true_now(), clock.monotonic()) == (500, 1000, 0)
        await clock.sleep(7)
        clock.jump(10_000)
        assert (clock.now(), clock.true_now(), clock.monotonic()) == (10_507, 1007, 7)

    loop.run(main())
    assert clock.jumps == 2

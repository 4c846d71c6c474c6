"""No Python program, however wrong, crashes or hangs the interpreter: each of these does something wrong in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from aeron_folders import LONG

PREFACE = """
import faulthandler, gc, itertools, os, random, signal, sys, threading, time
import cmd_aeron
from cmd_aeron import AeronError
faulthandler.enable()
S = 10**9
directory = sys.argv[1]

def start(**settings):
    return cmd_aeron.MediaDriver(directory, ipc_term_length=1 << 16, term_length=1 << 16, **settings)

def until(what):
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)

streams = itertools.count(1)

def pair(client, exclusive=True):
    stream = next(streams)
    subscription = client.add_subscription("aeron:ipc", stream)
    add = client.add_exclusive_publication if exclusive else client.add_publication
    publication = add("aeron:ipc", stream)
    until(lambda: publication.connected and subscription.connected)
    return publication, subscription

def claimed(publication, length):
    while isinstance(claim := publication.try_claim(length), int):
        assert claim == -2
    return claim
"""

PROGRAMS = {
    "exit with everything open": """
driver = start()
client = cmd_aeron.Client(directory)
publication, subscription = pair(client)
shared, other = pair(client, exclusive=False)
claim = claimed(publication, 100)
view = memoryview(claim)
view[:] = b"x" * 100
buffer = bytearray(1000)
for idle in cmd_aeron.IDLE:
    s = client.add_subscription("aeron:ipc", next(streams))
    threading.Thread(target=s.poll_wait, args=(3600 * S, 1, idle), daemon=True).start()
threading.Thread(target=other.poll_into, args=(buffer, 3600 * S), daemon=True).start()
time.sleep(0.05)
print("done")
""",
    "exit while threads poll and offer on and on": """
driver = start()
client = cmd_aeron.Client(directory)
publication, subscription = pair(client)
def send():
    while True:
        publication.offer(b"x" * 100)
def send_long():
    block = bytes(8000)
    while True:
        publication.offer(block)
def receive():
    while True:
        subscription.poll_wait(S)
def claims():
    while True:
        claim = publication.try_claim(10)
        if not isinstance(claim, int):
            memoryview(claim)[:] = b"0123456789"
            claim.commit()
threading.excepthook = lambda _: None
for target in (send, send_long, receive, claims):
    threading.Thread(target=target, daemon=True).start()
time.sleep(0.1)
print("done")
""",
    "sys.exit in a waiting program with an exit hook that uses what is closed": """
import atexit
driver = start()
client = cmd_aeron.Client(directory)
publication, subscription = pair(client)
class Late:
    def __del__(self):
        publication.offer(b"late")
        client.close()
        driver.close()
late = Late()
atexit.register(publication.offer, b"in the hook")
print("done")
sys.exit(0)
""",
    "claims and views after the end of everything": """
for end in range(3):
    with start() as driver:
        client = cmd_aeron.Client(directory)
        publication, subscription = pair(client)
        claims = [claimed(publication, 1000) for _ in range(1 if end == 2 else 5)]
        views = [memoryview(claim) for claim in claims]
        for view in views:
            view[:] = b"a" * 1000
        (publication, client, driver)[end].close()
        for view in views:
            view[:] = b"b" * 1000
            assert bytes(view) == b"b" * 1000
        if end == 2:
            until(lambda: client.closed)
        for claim in claims:
            try:
                claim.commit()
                assert end == 2
            except AeronError as error:
                assert "\\n" not in str(error)
            claim.abort()
            try:
                memoryview(claim)
                raise SystemExit("a view of a finished claim")
            except BufferError:
                pass
        client.close()
        for view in views:
            view[:] = b"c" * 1000
    for view in views:
        view[:] = b"d" * 1000
    del claims
    gc.collect()
    for view in views:
        view[:] = b"e" * 1000
        view.release()
print("done")
""",
    "a claim that is kept open until the driver gives it up": """
os.environ["AERON_PUBLICATION_UNBLOCK_TIMEOUT"] = "2500ms"
with start(client_liveness=2 * S) as driver, cmd_aeron.Client(directory) as client:
    publication, subscription = pair(client, exclusive=False)
    claim = claimed(publication, 64)
    view = memoryview(claim)
    assert publication.offer(b"behind it") > 0
    got = []
    until(lambda: got.extend(subscription.poll()) or got == [b"behind it"])
    try:
        claim.commit()
        raise SystemExit("committed what was lost")
    except cmd_aeron.PublicationClosedError as error:
        assert "lost" in str(error)
    claim = claimed(publication, 64)
    view = memoryview(claim)
    count = 0
    def turn():
        global count
        count += publication.offer(b"m" * 1000) > 0
        view[:] = b"v" * 64
        got.extend(subscription.poll())
        return publication.position > 5 * publication.term_length
    got.clear()
    until(turn)
    until(lambda: got.extend(subscription.poll()) or len(got) == count)
    assert set(got) == {b"m" * 1000}
print("done")
""",
    "two threads that poll one subscription": """
with start() as driver, cmd_aeron.Client(directory) as client:
    publication, subscription = pair(client)
    errors = []
    got = []
    def poll(turn):
        for i in range(300):
            try:
                if turn % 2:
                    got.extend(subscription.poll_wait(S // 1000, 256, "spin"))
                else:
                    buffer = bytearray(512)
                    if length := subscription.poll_into(buffer, S // 1000):
                        got.append(bytes(buffer[:length]))
            except AeronError as error:
                errors.append(str(error))
    threads = [threading.Thread(target=poll, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    sent = 0
    while any(thread.is_alive() for thread in threads):
        sent += publication.offer(b"x" * 8) > 0
        subscription.images, subscription.connected, subscription.endpoint, subscription.take_events()
    got += subscription.poll(100000)
    assert errors and all("another thread" in error for error in errors)
    while len(b"".join(got)) < sent * 8:
        got += subscription.poll()
    assert b"".join(got) == b"x" * 8 * sent
print("done")
""",
    "closing in every order while threads are at work": """
threading.excepthook = lambda _: None
for number, order in enumerate(itertools.permutations(range(5))):
    if number % 5:
        continue
    driver = start()
    client = cmd_aeron.Client(directory)
    publication, subscription = pair(client)
    shared = client.add_publication("aeron:ipc", publication.stream_id)
    claim = publication.try_claim(100)
    view = None if isinstance(claim, int) else memoryview(claim)
    buffer = bytearray(4096)
    ending = threading.Event()
    def receive():
        while not ending.is_set():
            subscription.poll_wait(S // 10)
            subscription.poll_into(buffer, S // 100)
    def send():
        while not ending.is_set():
            publication.offer_many([b"x" * 100] * 10)
            shared.offer(b"y" * 3000)
            shared.connected, shared.position, subscription.images, client.closed
    def add():
        while not ending.is_set():
            client.add_publication("aeron:ipc", 5000).close()
            client.add_subscription("aeron:ipc", 5000)
            client.counters()
    threads = [threading.Thread(target=t) for t in (receive, send, add)]
    for thread in threads:
        thread.start()
    things = (driver, client, publication, subscription, shared)
    for which in order:
        things[which].close()
        if view is not None:
            view[:] = b"z" * 100
    ending.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    for thing in things:
        thing.close()
        assert thing.closed
        repr(thing)
print("done")
""",
    "many threads that open and close clients": """
with start() as driver:
    def work():
        for _ in range(6):
            client = cmd_aeron.Client(directory)
            threads = [threading.Thread(target=client.close) for _ in range(3)]
            try:
                publication, subscription = pair(client)
                for thread in threads:
                    thread.start()
                while publication.offer(b"x") != cmd_aeron.CLOSED:
                    pass
                subscription.poll()
            except AeronError:
                pass
            for thread in threads:
                thread.join() if thread.ident else None
    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
print("done")
""",
    "a fork in the middle of it all": """
driver = start()
client = cmd_aeron.Client(directory)
publication, subscription = pair(client)
claim = claimed(publication, 10)
view = memoryview(claim)
ending = threading.Event()
def receive():
    while not ending.is_set():
        subscription.poll_wait(S // 100, 256, "spin")
def send():
    block = bytes(8000)
    while not ending.is_set():
        publication.offer(block)
threads = [threading.Thread(target=t, daemon=True) for t in (receive, send)]
for thread in threads:
    thread.start()
children = []
for way in range(6):
    child = os.fork()
    if child == 0:
        faulthandler.dump_traceback_later(50, exit=True)
        for wrong in (client.check, client.counters, subscription.poll, lambda: subscription.poll_wait(S),
                      lambda: subscription.poll_into(bytearray(5)), lambda: client.add_publication("aeron:ipc", 1),
                      claim.commit):
            try:
                wrong()
                os._exit(3)
            except AeronError as error:
                assert "\\n" not in str(error)
        assert publication.offer(b"x") == cmd_aeron.CLOSED
        assert publication.try_claim(5) == cmd_aeron.CLOSED
        assert not publication.connected and publication.closed and client.closed and driver.closed
        assert subscription.images == [] and subscription.take_events() == [] and client.take_errors() == []
        assert not subscription.connected and subscription.closed and subscription.endpoint == ""
        for thing in (claim, ):
            thing.abort()
        for thing in (publication, subscription, client, driver)[:: 1 if way % 2 else -1]:
            if way < 4:
                thing.close()
        if way % 3 == 0:
            own = cmd_aeron.Client(directory)  # the parent's driver is there for everyone
            streams = itertools.count(100 + way)
            p, s = pair(own)
            p.offer(b"child")
            assert s.poll_wait(60 * S) == [b"child"]
        if way % 2:
            del publication, subscription, client, driver, claim, view
            gc.collect()
            os._exit(0)
        threading._shutdown = lambda: None
        sys.exit(0)
    children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
assert codes == [0] * 6, codes
ending.set()
for thread in threads:
    thread.join()
assert cmd_aeron.driver_status(directory).running
client.check()
claim.abort()
print("done")
""",
    "garbage in cycles, and names that go in any order": """
for _ in range(5):
    driver = start()
    client = cmd_aeron.Client(directory)
    publication, subscription = pair(client)
    class Node:
        pass
    node = Node()
    node.self, node.things = node, [publication, subscription, client, driver, memoryview(claimed(publication, 5))]
    del publication, subscription, client, driver, node
    gc.collect()
    assert not os.path.exists(directory)
print("done")
""",
    "sequences and buffers with a life of their own": """
with start() as driver, cmd_aeron.Client(directory) as client:
    publication, subscription = pair(client)
    class Sly:
        def __len__(self):
            return 1000
        def __getitem__(self, index):
            if index == 3:
                publication.offer(b"from within")
                subscription.poll()
                publication.close()
            if index == 5:
                client.close()
                gc.collect()
            return b"item"
    accepted, result = publication.offer_many(Sly())
    assert (accepted, result) == (3, cmd_aeron.CLOSED), (accepted, result)
    class Short(list):
        def __len__(self):
            return 10**9
    publication, subscription = pair(client)
    assert publication.offer_many(Short([b"a", b"b"]))[0] == 2
    class Liar:
        def __len__(self):
            raise KeyError("no length")
        def __getitem__(self, index):
            raise KeyError("no item")
    for call in (lambda: publication.offer_many(Liar()), lambda: publication.offer_many({b"a": 1})):
        try:
            call()
            raise SystemExit("accepted")
        except (KeyError, TypeError):
            pass
    if sys.version_info >= (3, 12):
        class Closing:
            def __buffer__(self, flags):
                return memoryview(bytearray(100))
            def __release_buffer__(self, view):
                third.close()
                fourth.close()
        third, fourth = pair(client)
        assert third.offer(Closing()) > 0
        assert third.offer(Closing()) == cmd_aeron.CLOSED
        third, fourth = pair(client)
        third.offer(b"x")
        assert fourth.poll_into(Closing(), 60 * S) == 1
        assert fourth.closed
    class Cutting(bytearray):
        pass
    buffer = Cutting(100)
    def cut():
        for _ in range(1000):
            try:
                buffer.clear()
                buffer.extend(bytes(100))
            except BufferError:
                pass
    thread = threading.Thread(target=cut)
    thread.start()
    while thread.is_alive():
        publication.offer(buffer)
        try:
            subscription.poll_into(buffer, S // 1000)
        except ValueError:
            pass  # it had no room just then
    claim = claimed(publication, 50)
    with claim:
        subscription.poll_into(memoryview(claim))  # into the log itself
    import array, ctypes
    assert publication.offer(array.array("d", [1.5, 2.5])) > 0
    assert publication.offer((ctypes.c_char * 5)(*b"12345")) > 0
    try:
        publication.offer(memoryview(bytes(100))[::2])
        raise SystemExit("accepted what is not contiguous")
    except BufferError:
        pass
print("done")
""",
    "a key press during each kind of wait": """
signal.signal(signal.SIGALRM, signal.default_int_handler)
with start() as driver, cmd_aeron.Client(directory) as client:
    publication, subscription = pair(client)
    waits = [lambda idle=idle: subscription.poll_wait(3600 * S, 1, idle) for idle in cmd_aeron.IDLE]
    waits.append(lambda: subscription.poll_into(bytearray(5), 3600 * S))
    for wait in waits:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            wait()
            raise SystemExit("it ended")
        except KeyboardInterrupt:
            pass
    publication.offer(b"and on")
    assert subscription.poll_wait(60 * S) == [b"and on"]
print("done")
""",
    "the directory is deleted under everyone": """
import shutil
driver = start()
client = cmd_aeron.Client(directory, driver_timeout=2 * S)
publication, subscription = pair(client)
shutil.rmtree(directory)
publication.offer(b"x")
try:
    claim = publication.try_claim(10)
    if not isinstance(claim, int):
        memoryview(claim)
except BufferError as error:
    assert "cannot map" in str(error)
try:
    client.add_publication("aeron:ipc", 77)
    raise SystemExit("published nowhere")
except AeronError as error:
    assert "\\n" not in str(error)
try:
    cmd_aeron.Client(directory)
    raise SystemExit("connected to nothing")
except cmd_aeron.DriverMissingError:
    pass
client.close()
driver.close()
print("done")
""",
    "objects that were never made": """
for kind in (cmd_aeron.Publication, cmd_aeron.ExclusivePublication, cmd_aeron.Subscription, cmd_aeron.Claim):
    for make in (kind, lambda kind=kind: kind.__new__(kind), lambda kind=kind: object.__new__(kind)):
        try:
            make()
            raise SystemExit("made from nothing")
        except TypeError:
            pass
for kind in (cmd_aeron.Client, cmd_aeron.MediaDriver):
    try:
        object.__new__(kind)
        raise SystemExit("made from nothing")
    except TypeError:
        pass
import copy, pickle
with start() as driver, cmd_aeron.Client(directory) as client:
    publication, subscription = pair(client)
    for thing in (driver, client, publication, subscription):
        for act in (copy.copy, copy.deepcopy, pickle.dumps):
            try:
                act(thing)
                raise SystemExit("copied")
            except TypeError:
                pass
error = pickle.loads(pickle.dumps(cmd_aeron.RegistrationError("a", "b", -10)))
assert (error.message, error.hint, error.code) == ("a", "b", -10)
print("done")
""",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_wrong_program_neither_crashes_nor_hangs(name, directory) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PREFACE + PROGRAMS[name], directory],
        capture_output=True,
        text=True,
        timeout=2 * LONG,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
    assert not Path(directory).exists()


def test_a_killed_program_leaves_no_claim_in_the_way(driver) -> None:
    # The stream of a publisher that was killed with a claim open goes on for another publisher.
    from aeron_folders import SECOND, pair

    import cmd_aeron

    program = """
import os, sys, cmd_aeron
client = cmd_aeron.Client(sys.argv[1])
publication = client.add_exclusive_publication("aeron:ipc", int(sys.argv[2]))
while isinstance(claim := publication.try_claim(100), int):
    pass
memoryview(claim)[:] = b"u" * 100
os.kill(os.getpid(), 9)
"""
    with cmd_aeron.Client(driver.directory) as client:
        publication, subscription = pair(client)
        command = [sys.executable, "-c", program, driver.directory, str(publication.stream_id)]
        assert subprocess.run(command, timeout=LONG, check=False).returncode == -9
        assert publication.offer(b"mine") > 0
        assert subscription.poll_wait(LONG * SECOND) == [b"mine"]

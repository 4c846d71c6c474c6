"""What is sent is what comes: whole, in order, by every way of sending and of polling."""

from __future__ import annotations

import random
import threading
from itertools import pairwise

import pytest
from aeron_folders import LONG, SECOND, claimed, pair, streams, until
from hypothesis import given, settings
from hypothesis import strategies as st

import cmd_aeron

WAYS = ("offer", "many", "claim")
READS = ("poll", "wait", "into-1", "into-100", "into-2000", "into-100000")


def send(publication, messages: list[bytes], ways: random.Random) -> int:
    """Send messages in a random way each until one is refused; how many went."""
    at = 0
    while at < len(messages):
        way = ways.choice(WAYS)
        if way == "claim" and len(messages[at]) <= publication.max_payload_length:
            claim = publication.try_claim(len(messages[at]))
            if isinstance(claim, int):
                assert claim == cmd_aeron.BACK_PRESSURED
                return at
            with claim:
                memoryview(claim)[:] = messages[at]
            at += 1
            continue
        if way == "many":
            count = ways.randrange(1, 9)
            accepted, result = publication.offer_many(messages[: at + count], at)
            at += accepted
        else:
            kind = ways.choice((bytes, bytearray, memoryview))
            result = publication.offer(kind(messages[at]))
            at += result > 0
        if result < 0:
            assert result == cmd_aeron.BACK_PRESSURED
            return at
    return at


def read(subscription, how: str) -> list[bytes]:
    if how == "poll":
        return subscription.poll(7)
    if how == "wait":
        return subscription.poll_wait(SECOND // 100, 1000)
    buffer = bytearray(int(how.removeprefix("into-")))
    length = subscription.poll_into(buffer, SECOND // 1000)
    return [bytes(buffer[:length])] if length else []


@settings(max_examples=25)
@given(
    sizes=st.lists(st.one_of(st.integers(0, 200), st.integers(0, 8192)), min_size=1, max_size=60),
    reads=st.lists(st.sampled_from(READS), min_size=1, max_size=3),
    exclusive=st.booleans(),
    seed=st.integers(0, 1 << 30),
)
def test_bytes_are_equal_and_in_order(driver, sizes, reads, exclusive, seed) -> None:
    chance = random.Random(seed)
    messages = [chance.randbytes(size) for size in sizes]
    with cmd_aeron.Client(driver.directory) as client:
        publication, subscription = pair(client, exclusive=exclusive)
        got: list[bytes] = []
        at = 0
        while at < len(messages):
            at += send(publication, messages[at:], chance)
            got += read(subscription, reads[len(got) % len(reads)])
        want = b"".join(messages)
        for _ in range(100_000):
            if sum(map(len, got)) >= len(want):
                break
            got += read(subscription, chance.choice(reads))
        assert b"".join(got) == want
        if all(how in ("poll", "wait") for how in reads):
            got += subscription.poll(1000)  # empty messages at the end
            assert got == messages


def test_messages_of_two_publishers_are_never_joined(client) -> None:
    stream = next(streams)
    subscription = client.add_subscription("aeron:ipc", stream)
    publications = [client.add_exclusive_publication("aeron:ipc", stream) for _ in range(2)]
    until(lambda: len(subscription.images) == 2 and all(p.connected for p in publications))
    sent = {0: 0, 1: 0}
    got: dict[int, list[int]] = {0: [], 1: []}
    buffer = bytearray(4096)
    chance = random.Random(5)
    while min(map(len, got.values())) < 2000:
        for which, publication in enumerate(publications):
            for _ in range(chance.randrange(4)):
                size = chance.choice((8, 8, 8, 3000))
                body = which.to_bytes(4, "big") + sent[which].to_bytes(4, "big") + bytes([which]) * (size - 8)
                if publication.offer(len(body).to_bytes(4, "big") + body) > 0:
                    sent[which] += 1
        length = subscription.poll_into(buffer)
        at, of = 0, set()
        while at < length:
            size = int.from_bytes(buffer[at : at + 4], "big")
            which = int.from_bytes(buffer[at + 4 : at + 8], "big")
            assert buffer[at + 12 : at + 4 + size] == bytes([which]) * (size - 8)
            got[which].append(int.from_bytes(buffer[at + 8 : at + 12], "big"))
            of.add(which)
            at += 4 + size
        assert at == length
        assert len(of) <= 1
    for numbers in got.values():
        assert numbers == list(range(len(numbers)))


def test_a_message_longer_than_the_buffer_comes_in_parts(client) -> None:
    publication, subscription = pair(client)
    long = random.Random(1).randbytes(5000)
    assert publication.offer_many([b"first", long, b"last"])[0] == 3
    buffer = bytearray(1200)
    parts = []
    while not parts or parts[-1] != b"last":
        if length := subscription.poll_into(buffer, LONG * SECOND):
            parts.append(bytes(buffer[:length]))
    assert [len(part) for part in parts] == [5, 1200, 1200, 1200, 1200, 200, 4]
    assert b"".join(parts) == b"first" + long + b"last"


def test_the_rest_of_a_long_message_comes_first_by_the_other_way_of_polling(client) -> None:
    publication, subscription = pair(client)
    publication.offer_many([bytes(range(200)), b"next"])
    buffer = bytearray(150)
    until(lambda: subscription.poll_into(buffer) == 150)
    assert subscription.poll() == [bytes(range(150, 200)), b"next"]


def test_offer_says_why_it_refuses(driver) -> None:
    stream = next(streams)
    with cmd_aeron.Client(driver.directory) as client:
        publication = client.add_exclusive_publication("aeron:ipc", stream)
        assert publication.offer(b"nobody") == cmd_aeron.NOT_CONNECTED
        assert publication.offer_many([b"a", b"b"]) == (0, cmd_aeron.NOT_CONNECTED)
        assert publication.try_claim(5) == cmd_aeron.NOT_CONNECTED
        subscription = client.add_subscription("aeron:ipc", stream)
        until(lambda: publication.connected)
        block = bytes(publication.max_payload_length)
        accepted, result = publication.offer_many([block] * 200)
        assert result == cmd_aeron.BACK_PRESSURED
        assert accepted == -(-publication.term_length // 2 // (len(block) + 32))  # the window, in whole frames
        assert publication.position <= publication.position_limit + len(block) + 32
        total = 0
        while total < accepted:
            total += len(subscription.poll_wait(LONG * SECOND))
        until(lambda: publication.offer(b"again") > 0)
        assert publication.offer_many([b"1", b"2", b"3"], 2)[0] == 1
        assert publication.offer_many([], 0) == (0, 0)
        publication.close()
        assert publication.closed
        assert publication.offer(b"x") == cmd_aeron.CLOSED
        assert publication.try_claim(1) == cmd_aeron.CLOSED
        assert publication.position == cmd_aeron.CLOSED
    assert client.closed


def test_wrong_arguments_are_refused(client) -> None:
    publication, subscription = pair(client)
    for wrong in (
        lambda: publication.offer(bytes(publication.max_message_length + 1)),
        lambda: publication.try_claim(publication.max_payload_length + 1),
        lambda: publication.try_claim(-1),
        lambda: subscription.poll(0),
        lambda: subscription.poll_wait(-1),
        lambda: subscription.poll_wait(1, idle="lazy"),
        lambda: subscription.poll_into(bytearray()),
        lambda: client.add_subscription("aeron:ipc\0", 1),
        lambda: client.add_subscription("aeron:ipc", 1, -5),
        lambda: cmd_aeron.MediaDriver("/nowhere", term_length=1000),
        lambda: cmd_aeron.MediaDriver("/nowhere", mtu=100),
        lambda: cmd_aeron.MediaDriver("/nowhere", threading="many"),
        lambda: cmd_aeron.MediaDriver("/nowhere", idle="lazy"),
        lambda: cmd_aeron.MediaDriver("/nowhere", client_liveness=1000),
        lambda: cmd_aeron.MediaDriver("/nowhere", image_liveness=-1),
    ):
        with pytest.raises(ValueError) as caught:
            wrong()
        assert "\n" not in str(caught.value)
    for wrong in (
        lambda: publication.offer("text"),
        lambda: publication.offer(None),
        lambda: publication.offer_many([1]),
        lambda: publication.offer_many(7),
        lambda: subscription.poll_into(5),
    ):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(BufferError):
        subscription.poll_into(b"read-only")
    with pytest.raises(IndexError):
        publication.offer_many([b""], -1)
    # What was accepted before the wrong item is told, the next call meets it.
    assert publication.offer_many([b"good", "wrong"])[0] == 1
    with pytest.raises(TypeError):
        publication.offer_many([b"good", "wrong"], 1)


def test_a_claim_is_committed_or_aborted(client) -> None:
    publication, subscription = pair(client)
    with publication.try_claim(4) as claim:
        memoryview(claim)[:] = b"with"
    assert not claim.open
    assert len(claim) == 4
    claim = publication.try_claim(4)
    with pytest.raises(ValueError, match="different structures"), claim:
        memoryview(claim)[:] = b"too long"
    assert not claim.open
    publication.try_claim(4)  # forgotten: aborted
    two = [publication.try_claim(3) for _ in range(2)]
    memoryview(two[1])[:] = b"two"
    two[1].commit()
    memoryview(two[0])[:] = b"one"
    two[0].commit()
    publication.try_claim(0).commit()
    until(lambda: subscription.connected)
    assert [m for _ in range(5) for m in subscription.poll()] == [b"with", b"one", b"two", b""]
    with pytest.raises(cmd_aeron.PublicationClosedError):
        two[0].commit()
    two[0].abort()
    with pytest.raises(BufferError):
        memoryview(two[0])


def test_a_view_that_is_kept_cannot_touch_what_was_sent(client) -> None:
    publication, subscription = pair(client)
    views = []
    for _ in range(300):  # several times round the log
        claim = claimed(publication, 1000)
        view = memoryview(claim)
        view[:] = b"a" * 1000
        claim.commit()
        view[:] = b"b" * 1000
        views.append(view)
        for other in views[-50:]:
            other[0] = 99
        assert subscription.poll_wait(LONG * SECOND) == [b"a" * 1000]
    first, second = claimed(publication, 8), claimed(publication, 8)
    views = [memoryview(first), memoryview(second)]
    with pytest.raises(cmd_aeron.AeronError, match="in use"):
        first.commit()
    views.pop().release()
    views[0][:] = b"12345678"
    first.commit()
    memoryview(second)[:] = b"abcdefgh"
    second.commit()
    assert subscription.poll() == [b"12345678", b"abcdefgh"]


@pytest.mark.parametrize("idle", cmd_aeron.IDLE)
def test_every_idle_strategy_waits_stops_and_lets_others_in(client, idle) -> None:
    publication, subscription = pair(client)
    got: list[bytes] = []
    ended = threading.Event()

    def poll() -> None:
        while not subscription.stopped:
            got.extend(subscription.poll_wait(LONG * SECOND, idle=idle))
        ended.set()

    thread = threading.Thread(target=poll)
    thread.start()
    for i in range(20):
        until(lambda i=i: publication.offer(b"%d" % i) > 0)
        until(lambda i=i: len(got) == i + 1)
        assert subscription.connected
        assert subscription.images[0].session_id == publication.session_id
    with pytest.raises(cmd_aeron.AeronError, match="another thread"):
        subscription.poll()
    subscription.stop()
    assert ended.wait(LONG)
    thread.join()
    assert subscription.poll_wait(LONG * SECOND) == []
    assert got == [b"%d" % i for i in range(20)]


def test_a_timeout_gives_nothing(client) -> None:
    _, subscription = pair(client)
    assert subscription.poll_wait(SECOND // 100) == []
    assert subscription.poll_wait(0) == []
    assert subscription.poll_into(bytearray(9), SECOND // 100, "low-cpu") == 0


def test_images_and_their_events(client) -> None:
    stream = next(streams)
    subscription = client.add_subscription("aeron:ipc", stream)
    assert subscription.images == []
    assert not subscription.connected
    publication = client.add_exclusive_publication("aeron:ipc", stream)
    until(lambda: subscription.images)
    (image,) = subscription.images
    assert (image.session_id, image.source, image.position) == (publication.session_id, "aeron:ipc", 0)
    until(lambda: publication.offer(b"12345") > 0)
    assert subscription.poll_wait(LONG * SECOND) == [b"12345"]
    assert subscription.images[0].position == publication.position == 64
    publication.close()
    until(lambda: not subscription.images)
    came, went = subscription.take_events()
    assert came == cmd_aeron.ImageEvent(True, publication.session_id, "aeron:ipc", 0)
    assert (went.available, went.session_id) == (False, publication.session_id)
    assert subscription.take_events() == []


def test_udp_with_a_port_of_the_systems_choice(client) -> None:
    stream = next(streams)
    subscription = client.add_subscription("aeron:udp?endpoint=127.0.0.1:0", stream)
    assert subscription.endpoint.startswith("127.0.0.1:")
    assert not subscription.endpoint.endswith(":0")
    publication = client.add_exclusive_publication(f"aeron:udp?endpoint={subscription.endpoint}", stream)
    until(lambda: publication.connected and subscription.connected)
    sent = [random.Random(i).randbytes(i * 37 % 4000) for i in range(100)]
    got: list[bytes] = []
    at = 0
    while len(got) < len(sent):
        at += publication.offer_many(sent, at)[0]
        got += subscription.poll_wait(SECOND // 100)
    assert got == sent
    assert subscription.images[0].source.startswith("127.0.0.1:")
    assert client.add_subscription("aeron:ipc", next(streams)).endpoint == ""


def test_what_a_publication_tells_of_itself(client) -> None:
    publication, subscription = pair(client, "aeron:ipc?term-length=128k|mtu=4096", exclusive=False)
    assert publication.term_length == 1 << 17
    assert publication.max_message_length == 1 << 14
    assert publication.max_payload_length == 4096 - 32
    assert publication.channel_status == 1
    assert publication.stream_id == subscription.stream_id
    assert publication.channel.startswith("aeron:ipc?")
    assert publication.position_limit > 0
    assert client.client_id > 0
    labels = [counter.label for counter in client.counters()]
    assert len({c.id for c in client.counters()}) == len(labels)
    until(lambda: any("name=tests" in counter.label for counter in client.counters()))  # with its first sign of life
    assert all(low.id < high.id for low, high in pairwise(client.counters()))

"""Signatures, and that no secret gets out."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import coinbase_wire as w
import pytest
from coinbase_wire import BTC, ETH, NOW, SECOND

from cmd_coinbase._auth import credentials, sign, signed_fields
from cmd_common.errors import UsageError
from cmd_common.feed import Resubscribe, Send
from cmd_common.recording import frame_line, redact

SECRET = base64.b64encode(b"a secret of thirty-two bytes ...").decode()
OPTIONS = {"key": "the-key", "secret": SECRET, "passphrase": "the-phrase"}


def test_the_signature_is_an_hmac_of_time_and_path() -> None:
    mac = hmac.new(base64.b64decode(SECRET), b"1767225601GET/users/self/verify", hashlib.sha256).digest()
    assert sign(SECRET, "1767225601") == base64.b64encode(mac).decode()
    c = credentials("coinbase", OPTIONS, {})
    assert c is not None
    assert signed_fields(c, NOW + 999_999_999) == {
        "signature": sign(SECRET, "1767225601"),
        "key": "the-key",
        "passphrase": "the-phrase",
        "timestamp": "1767225601",
    }


def test_known_signature() -> None:
    assert (
        sign("c2VjcmV0", "1700000000")
        == base64.b64encode(hmac.new(b"secret", b"1700000000GET/users/self/verify", hashlib.sha256).digest()).decode()
    )
    assert len(sign("c2VjcmV0", "1700000000")) == 44


def test_values_may_come_from_the_environment() -> None:
    environ = {"CB_KEY": "k", "CB_SECRET": SECRET, "CB_PHRASE": "p"}
    options = {"key": "env:CB_KEY", "secret": "env:CB_SECRET", "passphrase": "env:CB_PHRASE"}
    c = credentials("coinbase", options, environ)
    assert c is not None
    assert (c.key, c.secret, c.passphrase) == ("k", SECRET, "p")
    with pytest.raises(UsageError, match="CB_PHRASE, which is not set"):
        credentials("coinbase", options, {**environ, "CB_PHRASE": ""})


def test_no_key_is_no_error_and_half_a_key_is_one() -> None:
    assert credentials("coinbase", {}, {}) is None
    with pytest.raises(UsageError, match="secret and passphrase"):
        credentials("coinbase", {"key": "the-key"}, {})


@pytest.mark.parametrize("secret", ["no base64!", "abc"])
def test_a_bad_secret_is_refused_without_showing_it(secret: str) -> None:
    with pytest.raises(UsageError) as caught:
        credentials("coinbase", {**OPTIONS, "secret": secret}, {})
    assert secret not in str(caught.value)
    assert caught.value.__cause__ is None


def test_credentials_are_not_shown() -> None:
    c = credentials("coinbase", OPTIONS, {})
    for text in (repr(c), str(c), f"{c}"):
        assert not any(value in text for value in OPTIONS.values())


def frames(output: Any) -> list[str]:
    return [f for a in output.actions for f in ((a.frame,) if isinstance(a, Send) else a.frames)]


def test_with_a_key_the_book_is_the_unbatched_one_and_every_frame_is_signed() -> None:
    plain = w.feed_of(("book",))
    (subscribe,) = w.sent(plain.connected(NOW))
    assert subscribe["channels"][0] == "level2_batch"
    assert "signature" not in subscribe

    feed = w.feed_of(("trades", "book"), **OPTIONS)
    sent = w.sent(feed.connected(NOW))
    assert [m["channels"] for m in sent] == [["matches", "heartbeat"], ["level2", "ticker"]]
    assert all(m["timestamp"] == str(NOW // SECOND) and m["signature"] for m in sent)
    # Asked for again later: signed with the time of then.
    for symbol in (BTC, ETH):
        feed.receive(w.snapshot(symbol), NOW)
    (output,) = [feed.receive('{"type":"l2update","product_id":"BTC-USD","changes":7}', NOW + 60 * SECOND)]
    assert any(isinstance(a, Resubscribe) for a in output.actions)
    assert {m["timestamp"] for m in w.sent(output)} == {str(NOW // SECOND + 60)}


def test_raw_recordings_hold_no_secret() -> None:
    feed = w.feed_of(("trades", "book"), **OPTIONS)
    output = feed.connected(NOW)
    for frame in frames(output):
        shown = redact(frame)
        message = json.loads(shown)
        assert not any(value in shown for value in (*OPTIONS.values(), json.loads(frame)["signature"]))
        assert message["signature"] == message["key"] == message["passphrase"] == "***"
        assert message["product_ids"] == [BTC, ETH]  # all else is as it was sent
        line = frame_line(NOW, "ws_out", "wss://x", frame)
        assert json.loads(line)["msg"] == message
    for record in output.records:
        assert not any(value in repr(record) for value in OPTIONS.values())

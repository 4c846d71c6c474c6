"""The settings of a QuestDB store."""

from __future__ import annotations

import pytest

from cmd_common.errors import UnknownNameError, UsageError
from cmd_questdb.conf import KEYS, Conf, parse_ttl, ttl_text


def test_a_short_location_has_the_defaults() -> None:
    conf = Conf.parse("http::addr=127.0.0.1:9000;")
    assert conf.addrs == (("127.0.0.1", 9000),)
    assert (conf.username, conf.spill, conf.table_prefix, dict(conf.ttl)) == ("", "", "", {})
    assert conf.create
    assert conf.tls_verify
    assert conf.client_conf() == "http::addr=127.0.0.1:9000;request_timeout=30000;"


def test_every_key_is_understood() -> None:
    text = (
        "https::addr=a:1,b,[::1]:7;username=u;password=p;;w=1;tls_verify=unsafe_off;tls_ca=/ca.pem;request_timeout=5;"
        "retry_timeout=0;spill=/s;spill_limit=2g;chunk_rows=7;import_dir=/i;root=/r;table_prefix=x_;create=off;"
        "ttl_book_deltas=7d;ttl_trades=1y"
    )
    conf = Conf.parse(text)
    assert conf.addrs == (("a", 1), ("b", 443), ("::1", 7))
    assert (conf.username, conf.password) == ("u", "p;w=1")
    assert (conf.request_timeout, conf.retry_timeout, conf.chunk_rows) == (5, 0, 7)
    assert (conf.spill, conf.spill_limit, conf.import_dir, conf.root) == ("/s", 2 << 30, "/i", "/r")
    assert (conf.table_prefix, conf.create, conf.tls_verify) == ("x_", False, False)
    assert dict(conf.ttl) == {"book_deltas": 7 * 86_400, "trades": 365 * 86_400}
    assert conf.table("trades") == "x_trades"
    for key in KEYS:
        assert key in text or key in ("token", "ttl_TABLE")
    assert Conf.parse("http::addr=h;token=t").token == "t"


def test_the_client_gets_the_password_and_people_do_not() -> None:
    conf = Conf.parse("https::addr=h:1;username=u;password=s;;ecret;tls_ca=/ca;tls_verify=unsafe_off;")
    assert conf.client_conf(auto_flush="off") == (
        "https::addr=h:1;username=u;password=s;;ecret;tls_verify=unsafe_off;tls_roots=/ca;request_timeout=30000;"
        "auto_flush=off;"
    )
    assert "ecret" not in repr(conf)
    assert "ecret" not in conf.shown
    assert "ecret" not in f"{conf}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not with http::"),
        ("localhost:9000", "not with http::"),
        ("tcp::addr=h:9009;", "acknowledges nothing"),
        ("ftp::addr=h:1;", "not with http::"),
        ("http::", "no addr"),
        ("http::addr=;", "not HOST:PORT"),
        ("http::addr=h:99999;", "not HOST:PORT"),
        ("http::addr=h:x;", "not HOST:PORT"),
        ("http::addr=h:1;addr=h:2", "twice"),
        ("http::addr=h:1;username=u;", "belong together"),
        ("http::addr=h:1;password=topsecret;", "belong together"),
        ("http::addr=h:1;username=u;password=topsecret;token=topsecret;", "token and a user"),
        ("http::addr=h:1;topsecret;", "has no ="),
        ("http::addr=h:1;request_timeout=0;", "whole number from 1"),
        ("http::addr=h:1;chunk_rows=-3;", "whole number from 1"),
        ("http::addr=h:1;spill_limit=much;", "not a size"),
        ("http::addr=h:1;spill_limit=0;", "not a size"),
        ("http::addr=h:1;tls_verify=off;", "on or unsafe_off"),
        ("http::addr=h:1;create=maybe;", "on or off"),
        ("http::addr=h:1;table_prefix=a b;", "not a name"),
        ("http::addr=h:1;table_prefix=1a;", "not a name"),
        ("http::addr=h:1;ttl_trades=forever;", "not a time to keep"),
        ("http::addr=h:1;ttl_trades=0d;", "not a time to keep"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        Conf.parse(text)
    assert "\n" not in str(caught.value)
    if "password=topsecret" in text:
        assert "topsecret" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "near"),
    [("usernam=x", "username"), ("ttl_trade=7d", "ttl_trades"), ("retry_time=1", "retry_timeout"), ("x=1", "")],
)
def test_an_unknown_key_is_refused_with_the_nearest(key: str, near: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        Conf.parse(f"http::addr=h:1;{key}")
    assert near in str(caught.value)
    assert caught.value.hint


def test_a_ttl_is_whole_partitions_and_never_too_short() -> None:
    assert ttl_text(parse_ttl("t", "36h"), "DAY") == "2 DAYS"
    assert ttl_text(parse_ttl("t", "7d"), "HOUR") == "168 HOURS"
    assert ttl_text(parse_ttl("t", "45d"), "MONTH") == "2 MONTHS"
    assert ttl_text(parse_ttl("t", "1h"), "YEAR") == "1 YEARS"

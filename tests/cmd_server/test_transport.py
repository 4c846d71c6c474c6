"""Addresses: what they say, and what is said about wrong ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_common.errors import CmdError, UnknownNameError, UsageError
from cmd_server.transport import Address, only, transport_of


@pytest.mark.parametrize(
    ("text", "scheme", "target", "options"),
    [
        ("tcp:127.0.0.1:9999", "tcp", "127.0.0.1:9999", {}),
        ("TCP:[::1]:9?tls=1&ca=/a/b.pem", "tcp", "[::1]:9", {"tls": "1", "ca": "/a/b.pem"}),
        ("unix:/run/cmd.sock?mode=660", "unix", "/run/cmd.sock", {"mode": "660"}),
        ("unix:///run/cmd.sock", "unix", "/run/cmd.sock", {}),
        ("unix:@cmd", "unix", "@cmd", {}),
        ("ws://127.0.0.1:1/feed?origin=https://a.example", "ws", "127.0.0.1:1/feed", {"origin": "https://a.example"}),
        ("multicast:239.1.1.1:1?recovery=tcp:h:1&topics=book%20*", "multicast", "239.1.1.1:1",
         {"recovery": "tcp:h:1", "topics": "book *"}),
        (" tcp:h:1 ", "tcp", "h:1", {}),
    ],
)  # fmt: skip
def test_what_an_address_says(text: str, scheme: str, target: str, options: dict[str, str]) -> None:
    address = Address.parse(text)
    assert (address.scheme, address.target, address.options) == (scheme, target, options)
    assert Address.parse(str(address)) == address


@given(
    st.text("abcxyz019", min_size=1),
    st.text(st.characters(categories=["L", "N", "P", "S"], exclude_characters="?"), min_size=1).filter(
        lambda t: not t.startswith("//")
    ),
    st.dictionaries(st.text("abc_", min_size=1), st.text(min_size=0), max_size=3),
)
def test_text_and_back(scheme: str, target: str, options: dict[str, str]) -> None:
    address = Address(scheme, target, options)
    if not str(address).isprintable() or str(address).strip() != str(address):
        return
    assert Address.parse(str(address)) == address


@given(st.text())
def test_any_text_is_an_address_or_one_clear_line(text: str) -> None:
    said = None
    try:
        Address.parse(text).host_port()
    except UsageError as error:
        said = error
    if said is not None:
        assert "\n" not in str(said)
        assert said.hint or "twice" in said.message


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "is no address"),
        ("127.0.0.1", "is no address"),
        ("/run/cmd.sock", "is no address"),
        ("tcp:", "names no target"),
        ("tcp:?tls=1", "names no target"),
        ("tcp:h:1?tls", "is no option of an address; write it as key=value"),
        ("tcp:h:1?", "is no option of an address"),
        ("tcp:h:1?tls=1&tls=0", "says tls twice"),
        ("tcp:h:1\n", ""),
        ("t cp:h:1", "is no address"),
        ("tcp:h\0:1", "is no address"),
    ],
)
def test_what_is_no_address(text: str, part: str) -> None:
    if not part:
        assert Address.parse(text).target == "h:1"
        return
    with pytest.raises(UsageError) as caught:
        Address.parse(text)
    assert part in str(caught.value)


@pytest.mark.parametrize("target", ["h", "h:", ":1", "h:x", "h:65536", "h:-1", "::1:9", "h:1/path", "h:٣", "h:000001"])
def test_what_is_no_host_and_port(target: str) -> None:
    with pytest.raises(UsageError, match=r"write it as tcp:HOST:PORT, such as tcp:127.0.0.1:9999"):
        Address("tcp", target).host_port()


def test_host_port_and_path() -> None:
    assert Address.parse("ws:h:1/a/b").host_port(path=True) == ("h", 1, "/a/b")
    assert Address.parse("tcp:[::1]:65535").host_port() == ("::1", 65535, "")
    assert str(Address.parse("tcp:h:0?tls=1").at("h:7")) == "tcp:h:7?tls=1"


def test_options_of_the_wrong_name_side_or_value() -> None:
    keys = {"mode": "server", "ca": "client", "x": "both"}
    only(Address.parse("u:a?mode=1&x=1"), keys, "server")
    with pytest.raises(UnknownNameError, match="unknown option of u addresses 'mod'; did you mean mode"):
        only(Address.parse("u:a?mod=1"), keys, "server")
    with pytest.raises(UnknownNameError, match="u knows ca, mode, x"):
        only(Address.parse("u:a?zzzzzz=1"), keys, "server")
    with pytest.raises(UnknownNameError, match="it takes none"):
        only(Address.parse("u:a?b=1"), {}, "server")
    with pytest.raises(UsageError, match="for the client's side"):
        only(Address.parse("u:a?ca=1"), keys, "server")
    address = Address.parse("u:a?n=12&m=9z&s=2&o=660")
    assert address.number("n", 0, 0, 20) == 12
    assert address.number("none", 7, 0, 20) == 7
    assert address.number("o", 0, 0, 0o777, base=8) == 0o660
    for key in ("n", "m"):
        with pytest.raises(UsageError, match="no number from 0 to 10"):
            address.number(key, 0, 0, 10)
    with pytest.raises(UsageError, match="no number from 0 to 777"):
        address.number("m", 0, 0, 0o777, base=8)
    assert not address.switch("none")
    with pytest.raises(UsageError, match="neither 0 nor 1"):
        address.switch("s")


def test_transports_are_found_by_their_scheme() -> None:
    assert transport_of(Address.parse("tcp:h:1")).local(Address.parse("tcp:127.0.0.1:1"))
    assert transport_of(Address.parse("unix:/a")).local(Address.parse("unix:/a"))
    with pytest.raises(CmdError, match="unknown transport 'unx'; did you mean unix"):
        transport_of(Address.parse("unx:/a"))

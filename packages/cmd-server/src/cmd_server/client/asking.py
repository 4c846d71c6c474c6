"""What a client asks for, by name: policies, topics, and what to say when nobody answers."""

from __future__ import annotations

from typing import Final

from cmd_common.errors import CmdError, UnknownNameError, UsageError
from cmd_common.symbols import nearest
from cmd_server.client.books import Stream
from cmd_server.errors import ConnectionBrokenError, RefusedError, WireError
from cmd_server.messages import Kind, Policy
from cmd_server.topics import Topic

__all__ = ["asks", "policy_of", "unreachable"]

_POLICIES: Final = {"conflate": Policy.CONFLATE, "drop-oldest": Policy.DROP_OLDEST, "disconnect": Policy.DISCONNECT}


def policy_of(policy: Policy | str) -> Policy:
    """Return a policy by its name: conflate, drop-oldest or disconnect; raises UsageError."""
    if isinstance(policy, Policy):
        return policy
    if policy not in _POLICIES:
        close = nearest(policy, _POLICIES)
        raise UnknownNameError("policy", policy, close, hint="" if close else f"it is one of {', '.join(_POLICIES)}")
    return _POLICIES[policy]


def asks(topic: Topic, key: tuple[int, int, int], stream: Stream) -> bool:
    """Whether a topic asks for a stream; states and gaps come with any topic on their instrument, or its venue."""
    _, kind, view = key
    if kind in (Kind.STATUS, Kind.GAPS):
        return not stream.symbol or topic.matches(stream.venue, stream.symbol)
    return topic.kind == kind and topic.view == view and topic.matches(stream.venue, stream.symbol)


def unreachable(address: str, error: CmdError) -> CmdError:
    """The error of an address at which no server could be reached, and what to do; what is wrong in itself, or refused, stays."""
    if isinstance(error, UsageError | WireError | RefusedError):
        return error
    reason = error.message.removeprefix(f"{address}: ")
    return ConnectionBrokenError(f"no server at {address}: {reason}", hint=error.hint or "is it running there?")

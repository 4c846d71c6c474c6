"""One error tree: one line each, with what to do next."""

from __future__ import annotations

import inspect

import pytest

from cmd_common import errors
from cmd_common.errors import CmdError, RateLimitError, UnknownNameError, UsageError, VenueError

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, Exception)]


def test_every_error_is_public_and_in_the_tree() -> None:
    assert {c.__name__ for c in CLASSES} == set(errors.__all__)
    assert all(issubclass(c, CmdError) for c in CLASSES)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_the_documented_tree_names_every_class(cls: type[CmdError]) -> None:
    assert errors.__doc__ is not None
    assert cls.__name__ in errors.__doc__


def test_usage_is_exit_code_two_and_the_rest_one() -> None:
    assert {c.__name__ for c in CLASSES if c.exit_code == 2} == {"UsageError", "UnknownNameError"}


def test_the_hint_follows_the_message() -> None:
    assert str(CmdError("it broke", hint="mend it")) == "it broke; mend it"
    assert str(CmdError("it broke")) == "it broke"


def test_unknown_names_carry_the_nearest() -> None:
    error = UnknownNameError("symbol", "BTCUSTD", ["BTCUSDT", "BTCUSDC"])
    assert str(error) == "unknown symbol 'BTCUSTD'; did you mean BTCUSDT or BTCUSDC?"
    assert error.nearest == ("BTCUSDT", "BTCUSDC")
    assert isinstance(error, UsageError)
    assert str(UnknownNameError("x", "y")) == "unknown x 'y'"


def test_venue_errors_carry_status_and_time() -> None:
    error = RateLimitError("slow down", status=429, retry_after=5)
    assert (error.status, error.retry_after) == (429, 5)
    assert isinstance(error, VenueError)

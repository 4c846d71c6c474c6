"""How a Coinbase Exchange subscription is signed; pure: the time is an argument, nothing is kept or logged.

Rule [D], docs/exchanges/coinbase.md#keys: ``signature`` is the base64 of the HMAC-SHA256, under the base64-decoded
secret, of the timestamp (seconds, as text) followed by ``GET/users/self/verify``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from cmd_common.errors import UsageError

__all__ = ["Credentials", "credentials", "sign", "signed_fields"]

_NAMES: Final = ("key", "secret", "passphrase")
_ENVIRONMENT: Final = "env:"
_SIGNED: Final = "GET/users/self/verify"


class Credentials(Struct, frozen=True):
    """A read-only API key; its texts are never shown, not even by ``repr``."""

    key: str
    secret: str
    passphrase: str

    def __repr__(self) -> str:
        return "Credentials(...)"


def credentials(venue: str, options: Mapping[str, str], environ: Mapping[str, str]) -> Credentials | None:
    """Take ``key``, ``secret`` and ``passphrase`` from a subscription's options; None where none is given.

    A value ``env:NAME`` (``file:PATH`` is resolved by ``cmd-cli``) is read from the environment, so that neither a configuration nor a command line
    holds a secret. Raises UsageError, which never contains a value, when they are incomplete or unusable.
    """
    values: dict[str, str] = {}
    for name in _NAMES:
        text = options.get(name, "")
        if text.startswith(_ENVIRONMENT):
            variable = text[len(_ENVIRONMENT) :]
            text = environ.get(variable, "")
            if not text:
                raise UsageError(
                    f"{venue}: option {name} names the environment variable {variable}, which is not set",
                    hint=f"export {variable}, or leave out {', '.join(_NAMES)} to go without a key",
                )
        values[name] = text
    if not any(values.values()):
        return None
    missing = [name for name in _NAMES if not values[name]]
    if missing:
        raise UsageError(
            f"{venue}: option {' and '.join(missing)} of the API key is missing",
            hint="key, secret and passphrase belong together; each may be env:NAME",
        )
    try:
        base64.b64decode(values["secret"], validate=True)
    except (binascii.Error, ValueError):
        raise UsageError(f"{venue}: option secret is not base64", hint="copy it as the exchange shows it") from None
    return Credentials(**values)


def sign(secret: str, timestamp: str) -> str:
    """Return the signature of a subscription made at ``timestamp`` (seconds since 1970 as text)."""
    mac = hmac.new(base64.b64decode(secret), f"{timestamp}{_SIGNED}".encode(), hashlib.sha256)
    return base64.b64encode(mac.digest()).decode()


def signed_fields(c: Credentials, now: int) -> dict[str, str]:
    """Return the keys that a signed subscription has more; ``now`` in ns."""
    timestamp = str(now // 1_000_000_000)
    return {
        "signature": sign(c.secret, timestamp),
        "key": c.key,
        "passphrase": c.passphrase,
        "timestamp": timestamp,
    }

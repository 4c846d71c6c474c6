"""Who may connect: tokens, certificates, and which addresses need them.

An address that other machines can reach needs a token, and should have TLS, without which the token can be read on
the way. Loopback and Unix sockets need none: whoever is on the machine is let in, as the mode of a socket's file says.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from cmd_common.errors import UsageError

from .transport import Address

__all__ = ["authorizer", "check_exposure", "client_tls", "loopback", "server_tls"]

_MAKE: Final = "this makes one: python -c 'import secrets; print(secrets.token_urlsafe(32))'"


def authorizer(token: str) -> Callable[[str], bool] | None:
    """Return what judges a client's token in a time that tells nothing about ours; None where none is needed."""
    if not token:
        return None
    ours = hashlib.sha256(token.encode()).digest()

    def authorized(theirs: str) -> bool:
        # Of digests, because the time of a compare tells the length of what is compared.
        return hmac.compare_digest(hashlib.sha256(theirs.encode(errors="replace")).digest(), ours)

    return authorized


def loopback(host: str) -> bool:
    """Whether only this machine can reach a listener at ``host``; a name other than localhost counts as reachable."""
    if host.casefold() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def check_exposure(addresses: Sequence[tuple[Address, bool]], token: str) -> None:
    """Refuse, by UsageError, to listen where others can reach without a token; each address comes with ``local``."""
    exposed = [str(address) for address, local in addresses if not local]
    if exposed and not token:
        raise UsageError(
            f"{exposed[0]} can be reached from other machines, so clients must show a token and there is none",
            hint=f"give one by CMD_TOKEN or a token file, or listen at 127.0.0.1 or a Unix socket; {_MAKE}",
        )


def server_tls(address: Address) -> ssl.SSLContext | None:
    """Return the server's side of TLS (1.2 or newer) by ``tls_cert`` and ``tls_key`` of an address; None without them.

    Raises UsageError that says which file is wrong.
    """
    cert, key = address.options.get("tls_cert", ""), address.options.get("tls_key", "")
    if bool(cert) != bool(key):
        raise UsageError(f"{address} names only one of tls_cert and tls_key", hint="TLS needs both")
    if not cert:
        return None
    _readable(cert, "tls_cert")
    _readable(key, "tls_key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # A key with a password would ask on the terminal: an empty one makes it an error instead.
        context.load_cert_chain(cert, key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise UsageError(f"the key {key} does not belong to the certificate {cert}") from error
        hint = "the certificate (its chain after it) and its key, without a password"
        raise UsageError(f"{cert} and {key} are no PEM certificate and key", hint=hint) from error
    return context


def client_tls(address: Address) -> ssl.SSLContext | None:
    """Return a client's side of TLS by ``tls=1`` or ``ca`` of an address; None without them.

    Certificate and name are checked, by the certificates in ``ca`` or else by the system's own. Raises UsageError.
    """
    ca = address.options.get("ca", "")
    if not ca and not address.switch("tls"):
        return None
    if not ca:
        return ssl.create_default_context()
    _readable(ca, "ca")
    try:
        context = ssl.create_default_context(cafile=ca)
    except ssl.SSLError as error:
        raise UsageError(f"{ca} holds no PEM certificates") from error
    return context


def _readable(path: str, what: str) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise UsageError(f"cannot read {what} {path}: {error.strerror}") from error

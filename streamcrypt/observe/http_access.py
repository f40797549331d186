"""Who may read metrics and status: a token, and names of this host. Pure: it sees headers and answers yes or no."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from ipaddress import ip_address

__all__ = ["Access", "is_loopback"]


def is_loopback(host: str) -> bool:
    """Say whether an address to listen on is reached from this host alone; a name that is no address is not."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class Access:
    """Decides from a request's headers.

    Args:
        host: The address that is listened on.
        token: What a reader must show; None: nothing. Compared in constant time, over digests: not even its length
            shows.
    """

    challenges = (
        ("WWW-Authenticate", 'Bearer realm="streamcrypt"'),
        # A browser can send no bearer token of its own accord, but asks for a password (RFC 7617).
        ("WWW-Authenticate", 'Basic realm="streamcrypt", charset="UTF-8"'),
    )

    def __init__(self, host: str, token: str | None) -> None:
        self._loopback = is_loopback(host)
        self.change_token(token)

    def change_token(self, token: str | None) -> None:
        """Ask for another token from now on; None: for nothing."""
        self._digest = None if token is None else _digest(token.encode())

    @property
    def unprotected(self) -> bool:
        """Whether others than this host may read without a token."""
        return not self._loopback and self._digest is None

    def knows_host(self, header: str | None) -> bool:
        """Say whether a request came under one of this host's names.

        On loopback alone a page of somebody else, whose name its DNS points to 127.0.0.1 (DNS rebinding), would
        otherwise have a browser read what only this host may. Beyond loopback we do not know our names. A client that
        names no host is no browser.
        """
        if not self._loopback or header is None:
            return True
        name, _, port = header.rpartition(":") if not header.endswith("]") else (header, "", "")
        bare = (name if name and port.isdecimal() else header).removeprefix("[").removesuffix("]")
        return is_loopback(bare)

    def allows(self, header: str | None) -> bool:
        """Say whether an ``Authorization`` header shows the token: as Bearer (RFC 6750), or as password of Basic."""
        if self._digest is None:
            return True
        scheme, _, given = (header or "").strip().partition(" ")
        # WSGI gives headers as Latin-1 text.
        shown = given.strip().encode("latin-1", "replace")
        if scheme.lower() == "basic":
            try:
                shown = base64.b64decode(shown, validate=True).partition(b":")[2]
            except binascii.Error:
                return False
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(_digest(shown), self._digest)


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()

"""A data key: derived once, committed to, then sealing and opening values. spec: 4.2, 4.3, 4.4, 6.1

With ``wrapping``, which serves the local provider only, the only importer of the ``cryptography`` package.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from functools import cache
from typing import NoReturn, Protocol, Self

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESGCMSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from streamcrypt.crypto.suites import DEK_BYTES, NONCE_BYTES, Suite
from streamcrypt.errors import AuthenticationFailed, ConfigError, StreamcryptError

__all__ = ["COMMITMENT_BYTES", "DataKey", "InvalidTag", "check_suite", "wipe"]

COMMITMENT_BYTES = 32
_DERIVED_BYTES = DEK_BYTES + COMMITMENT_BYTES
_INFO_PREFIX = b"streamcrypt/1\x00"  # spec: 4.1, 11.1
# The tag of no plaintext and no AAD under key 00 01 … 1f and a nonce of zeros.
_KNOWN_TAGS = {
    Suite.AES_256_GCM: bytes.fromhex("f05d76ae4ab99fe5a6f69b3148c2363d"),
    Suite.AES_256_GCM_SIV: bytes.fromhex("46e65e48d9f99f54124c55884bf72539"),
}


class _AEAD(Protocol):
    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...
    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...


_CIPHERS: dict[Suite, Callable[[bytes | bytearray | memoryview], _AEAD]] = {
    Suite.AES_256_GCM: AESGCM,
    Suite.AES_256_GCM_SIV: AESGCMSIV,
}


def wipe(buffer: bytearray) -> None:
    """Overwrite a buffer with zeros. Best effort: copies made by Python or OpenSSL are out of reach."""
    buffer[:] = bytes(len(buffer))


@cache
def check_suite(suite: Suite) -> None:
    """Prove once per process that the installed library does ``suite``, and that it took a copy of the key.

    On OpenSSL before 3.2 the library keeps the caller's buffer instead and reads it at every call, long after it
    was overwritten here: values would be sealed under a key of zeros.

    Raises:
        ConfigError: It does not. There is no fallback. spec: 3.1.5
    """
    buffer = bytearray(range(DEK_BYTES))
    aead = _cipher(suite, buffer)
    wipe(buffer)
    if aead.encrypt(bytes(NONCE_BYTES), b"", b"") != _KNOWN_TAGS[suite]:
        raise ConfigError(
            f"the installed cryptography library cannot be trusted with {suite}: it does not copy keys",
            remedy="Install a cryptography wheel built on OpenSSL 3.2 or later.",
        )


def _cipher(suite: Suite, key: bytes | bytearray | memoryview) -> _AEAD:
    # No else branch: a third suite, or a name where a Suite belongs, must not fall through to another cipher.
    make = _CIPHERS[suite]
    try:
        return make(key)
    except UnsupportedAlgorithm:
        raise ConfigError(
            f"suite {suite} is not in the installed cryptography library",
            remedy="Install a cryptography wheel built on OpenSSL 3.2 or later, or choose AES_256_GCM.",
        ) from None


class DataKey:
    """A data key in use: an opaque handle that seals and opens and never shows its bytes.

    Args:
        dek: The 32 bytes from the key service. Overwritten here once the derivation is done.
        suite: The algorithm suite.
        info: The Avro bytes of (suite, context, bound, content) that the key is bound to. spec: 4.1
        commitment: What the header claims, for a reader; None for a writer.

    Raises:
        AuthenticationFailed: The derived commitment is not the claimed one, or the DEK is not 32 bytes.
        ConfigError: The installed library cannot do the suite.

    .. danger:: A data key belongs to one writer in one process. It refuses to be copied and pickled; a nonce
       used twice under AES-GCM gives away the authentication key (spec: 4.4.1). :meth:`seal` trusts its caller to
       number records; use :class:`streamcrypt.Encryptor`, which does.
    """

    __slots__ = ("__weakref__", "_aead", "commitment", "open", "seal", "suite")

    commitment: bytes
    """32 bytes, public: the data key's id."""
    seal: Callable[[bytes, bytes, bytes], bytes]
    """``seal(nonce, plaintext, aad)`` gives ciphertext ‖ tag. The cipher's own method: nothing stands between."""
    open: Callable[[bytes, bytes, bytes], bytes]
    """``open(nonce, ciphertext_and_tag, aad)`` gives the plaintext or raises the library's ``InvalidTag``."""

    def __init__(self, dek: bytearray, suite: Suite, info: bytes, commitment: bytes | None = None) -> None:
        derived = bytearray(_DERIVED_BYTES)
        try:
            check_suite(suite)
            if len(dek) != DEK_BYTES:  # spec: 4.2.1
                raise AuthenticationFailed("the data key cannot be opened")
            HKDF(SHA256(), _DERIVED_BYTES, salt=None, info=_INFO_PREFIX + info).derive_into(dek, derived)
            mine = bytes(derived[DEK_BYTES:])
            # spec: 4.3.1
            if commitment is not None and not hmac.compare_digest(mine, commitment):
                raise AuthenticationFailed("the data key cannot be opened")
            with memoryview(derived) as view, view[:DEK_BYTES] as key:
                aead = _cipher(suite, key)
        finally:
            wipe(derived)
            wipe(dek)
        self.commitment = mine
        self.suite = suite
        self._aead: _AEAD | None = aead
        self.seal = aead.encrypt
        self.open = aead.decrypt

    @property
    def id(self) -> str:
        """The public id: the commitment in hex, for logs and metrics."""
        return self.commitment.hex()

    def wipe(self) -> None:
        """Drop the cipher; OpenSSL overwrites its key schedule. Sealing and opening raise from now on."""
        self.seal = self.open = _wiped
        self._aead = None

    def __repr__(self) -> str:
        return f"DataKey({self.id[:16]}…, {self.suite})"

    def __copy__(self) -> NoReturn:
        raise TypeError("a data key belongs to one writer and cannot be copied")

    def __deepcopy__(self, _memo: dict[int, object]) -> NoReturn:
        raise TypeError("a data key belongs to one writer and cannot be copied")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a data key stays in its process and cannot be pickled")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.wipe()


class _WipedDataKeyError(StreamcryptError):
    """A data key was used after it was wiped: our bug, never a reason to send anything."""


def _wiped(_nonce: bytes, _data: bytes, _aad: bytes) -> NoReturn:
    raise _WipedDataKeyError("the data key has been wiped")

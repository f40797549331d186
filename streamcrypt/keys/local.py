"""A key service in a file: for development and tests, never for production."""

from __future__ import annotations

import base64
import binascii
import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn, Self

from streamcrypt.crypto.data_key import wipe
from streamcrypt.crypto.suites import DEK_BYTES
from streamcrypt.crypto.wrapping import unwrap_dek, wrap_dek
from streamcrypt.envelope.header import EncryptedDataKey
from streamcrypt.errors import AuthenticationFailed, ConfigError, KeyRefused, UntrustedKey
from streamcrypt.events import DevelopmentKeyInUse, Observer, ignore_events
from streamcrypt.keys.provider import GeneratedDataKey

__all__ = ["LocalKeyProvider"]

_PRIVATE = stat.S_IRWXG | stat.S_IRWXO
_MOST_CHARACTERS = 2**20


class LocalKeyProvider:
    """KEKs of 32 bytes held in memory, from a keyring file ``{"primary": ID, "keys": {ID: base64 of 32 bytes}}``.

    Args:
        keys: KEK id to 32 bytes. Every one of them opens.
        primary: The id of the KEK that wraps new data keys.
        observer: Told once that a development key is in use.

    Raises:
        ConfigError: The primary is missing, an id is not printable ASCII, or a KEK is not 32 bytes.

    .. danger:: Whoever reads the file reads every record. There is no access control, no audit and no revocation.
    """

    provider = "local"
    # Nothing here waits for a network: a decryptor need not bound it.
    answers_at_once = True
    trust_generation = 0
    sealing_generation = 0

    def __init__(self, keys: Mapping[str, bytes], primary: str, *, observer: Observer = ignore_events) -> None:
        if primary not in keys:
            # Not quoted: a file with id and key mixed up would show the key.
            raise ConfigError("keyring: the primary is not among the keys")
        for key_id, key in keys.items():
            if not key_id.isascii() or not key_id.isprintable() or not key_id or " " in key_id:
                raise ConfigError(f"keyring: the key id {key_id!r} is not printable ASCII without spaces")
            if len(key) != DEK_BYTES:
                raise ConfigError(f"keyring: the key {key_id!r} is not {DEK_BYTES} bytes")
        self._keys = {key_id: bytearray(key) for key_id, key in keys.items()}
        self._ids = frozenset(keys)
        self._primary = primary
        observer(DevelopmentKeyInUse(primary))

    @classmethod
    def generate(cls, key_id: str = "local-1", *, observer: Observer = ignore_events) -> Self:
        """Make a keyring of one fresh KEK, in memory only."""
        return cls({key_id: os.urandom(DEK_BYTES)}, key_id, observer=observer)

    @classmethod
    def from_file(cls, path: str | Path, *, primary: str | None = None, observer: Observer = ignore_events) -> Self:
        """Read a keyring file.

        Args:
            path: The file.
            primary: The id of the KEK that wraps new data keys; default that of the file.
            observer: Told once that a development key is in use.

        Raises:
            ConfigError: It is missing, readable by others than its owner, or not a keyring.
        """
        file = Path(path)
        try:
            with open(file, encoding="utf-8", opener=_without_waiting) as opened:
                mode = os.fstat(opened.fileno()).st_mode
                text = opened.read(_MOST_CHARACTERS) if stat.S_ISREG(mode) else ""
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"keyring {file}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
        if not stat.S_ISREG(mode):
            raise ConfigError(f"keyring {file}: no regular file", remedy="Name a keyring file.")
        if mode & _PRIVATE:
            raise ConfigError(
                f"keyring {file}: others than its owner may open it (mode {stat.S_IMODE(mode):04o})",
                remedy=f"chmod 600 {file}",
            )
        try:
            content = json.loads(text)
            keys = {str(k): base64.b64decode(v, validate=True) for k, v in content["keys"].items()}
            named = str(content["primary"])
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError, binascii.Error, ValueError, RecursionError):
            # The parser's own words would quote the file.
            raise ConfigError(f'keyring {file}: not {{"primary": ID, "keys": {{ID: base64 of 32 bytes}}}}') from None
        try:
            return cls(keys, primary or named, observer=observer)
        except ConfigError as error:
            raise ConfigError(f"keyring {file}: {str(error).removeprefix('keyring: ')}") from None

    def save(self, path: str | Path) -> None:
        """Write the keyring to a new file that only its owner may open (mode 0600).

        Raises:
            ConfigError: The file exists already or cannot be written.
        """
        content = {
            "primary": self._primary,
            "keys": {key_id: base64.b64encode(key).decode() for key_id, key in self._keys.items()},
        }
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise ConfigError(f"keyring {path}: {error.strerror}") from None
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2)
            file.write("\n")

    def generate_data_key(self, context: Mapping[str, str]) -> GeneratedDataKey:
        """See :class:`streamcrypt.keys.provider.KeyProvider`."""
        dek = bytearray(os.urandom(DEK_BYTES))
        wrapped = wrap_dek(self._kek(self._primary), dek, _aad(context))
        # Closed meanwhile, the KEK may have been all zeros.
        self._kek(self._primary)
        return GeneratedDataKey(dek, (EncryptedDataKey(self.provider, self._primary, wrapped),))

    def trusted(self, keys: Sequence[EncryptedDataKey]) -> Sequence[tuple[EncryptedDataKey, str]]:
        """See :class:`streamcrypt.keys.provider.KeyProvider`."""
        return [(key, key.key_id) for key in keys if key.provider == self.provider and key.key_id in self._ids]

    def decrypt_data_key(self, encrypted: EncryptedDataKey, key_id: str, context: Mapping[str, str]) -> bytearray:
        """See :class:`streamcrypt.keys.provider.KeyProvider`."""
        try:
            return unwrap_dek(self._kek(key_id), encrypted.ciphertext, _aad(context))
        except AuthenticationFailed:
            self._kek(key_id)  # closed meanwhile, the record is not at fault
            raise

    def rewrap_data_key(
        self, keys: Sequence[EncryptedDataKey], context: Mapping[str, str]
    ) -> tuple[EncryptedDataKey, ...]:
        """See :class:`streamcrypt.keys.provider.RewrappingKeyProvider`: the result holds the primary alone."""
        failure: AuthenticationFailed | None = None
        for encrypted, key_id in self.trusted(keys):
            try:
                dek = self.decrypt_data_key(encrypted, key_id, context)
            except AuthenticationFailed as error:
                failure = error
                continue
            try:
                wrapped = wrap_dek(self._kek(self._primary), dek, _aad(context))
                self._kek(self._primary)
            finally:
                wipe(dek)
            return (EncryptedDataKey(self.provider, self._primary, wrapped),)
        raise failure or UntrustedKey("no trusted KEK among those of the record")

    def under(self, key_id: str | Sequence[str], trusted_keys: Sequence[str] = ()) -> LocalKeyProvider:
        """Give the same keyring with another primary, trusting it and ``trusted_keys`` alone.

        It lives no longer than this one and is not closed. A KEK that the keyring lacks is refused as a deleted one.

        Raises:
            ConfigError: There is more than one KEK: a keyring wraps under one.
        """
        names = (key_id,) if isinstance(key_id, str) else tuple(key_id)
        if len(names) != 1:
            raise ConfigError("keyring: it wraps each data key under one KEK", remedy="Name one key id.")
        other = LocalKeyProvider.__new__(LocalKeyProvider)
        vars(other).update(vars(self), _primary=names[0], _ids=frozenset((names[0], *trusted_keys)))
        return other

    def check(self) -> str:
        """See :class:`streamcrypt.keys.provider.KeyProvider`."""
        self._kek(self._primary)
        return self._primary

    def _kek(self, key_id: str) -> bytearray:
        try:
            return self._keys[key_id]
        except KeyError:
            gone = KeyRefused(
                f"the keyring holds no key {key_id!r}" if self._keys else "the keyring is closed", key_id=key_id
            )
            gone.kek_is_disabled = bool(self._keys)
            raise gone from None

    def close(self) -> None:
        """Overwrite the KEKs."""
        keys = list(self._keys.values())
        # First out of reach, then overwritten: who finds a KEK after using it knows that it was whole.
        self._keys.clear()
        for key in keys:
            wipe(key)

    def __repr__(self) -> str:
        return f"LocalKeyProvider(primary={self._primary!r}, keys={len(self._keys)})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a keyring stays in its process and cannot be pickled")


def _without_waiting(path: str, flags: int) -> int:
    # A named pipe would wait for who writes to it.
    return os.open(path, flags | os.O_NONBLOCK)


def _aad(context: Mapping[str, str]) -> bytes:
    return json.dumps(sorted(context.items()), separators=(",", ":")).encode()

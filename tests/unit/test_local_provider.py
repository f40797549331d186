"""The key service in a file: for development, but no less careful with its keys."""

from __future__ import annotations

import base64
import copy
import json
import os
import pickle
import stat

import pytest

from streamcrypt.crypto.wrapping import unwrap_dek, wrap_dek
from streamcrypt.envelope.header import EncryptedDataKey
from streamcrypt.errors import AuthenticationFailed, ConfigError, KeyRefused, StreamcryptError
from streamcrypt.events import DevelopmentKeyInUse
from streamcrypt.keys.local import LocalKeyProvider
from streamcrypt.keys.provider import KeyProvider
from streamcrypt.testing import CollectingObserver

CONTEXT = {"streamcrypt:topic": "payments", "app": "billing"}


def test_it_is_a_key_provider() -> None:
    """It has every member of the protocol."""
    assert isinstance(LocalKeyProvider.generate(), KeyProvider)


def test_what_it_wraps_it_unwraps_under_the_same_context_only() -> None:
    """The order of the context does not count; any other change does. spec: 9.1.1"""
    keys = LocalKeyProvider.generate()
    generated = keys.generate_data_key(CONTEXT)
    (encrypted,) = generated.encrypted
    dek = bytes(generated.plaintext)
    assert len(dek) == 32
    assert keys.decrypt_data_key(encrypted, "local-1", dict(reversed(CONTEXT.items()))) == dek
    for other in ({}, {**CONTEXT, "more": ""}, {**CONTEXT, "app": "Billing"}, {"streamcrypt:topic": "payments"}):
        with pytest.raises(AuthenticationFailed):
            keys.decrypt_data_key(encrypted, "local-1", other)


def test_no_two_data_keys_are_the_same() -> None:
    """Neither in clear nor wrapped."""
    keys = LocalKeyProvider.generate()
    made = [keys.generate_data_key(CONTEXT) for _ in range(100)]
    assert len({bytes(g.plaintext) for g in made}) == len({g.encrypted[0].ciphertext for g in made}) == 100


@pytest.mark.parametrize("size", range(61))
def test_any_altered_wrapped_key_fails_authentication(size: int) -> None:
    """Of whatever length, and never as an error of the cryptographic library."""
    kek, aad = os.urandom(32), b"aad"
    wrapped = wrap_dek(kek, bytes(32), aad)
    assert len(wrapped) == 60
    cut = wrapped[:size] if size < 60 else wrapped[:-1] + bytes([wrapped[-1] ^ 1])
    with pytest.raises(AuthenticationFailed):
        unwrap_dek(kek, cut, aad)


def test_only_its_own_keks_are_trusted() -> None:
    """By provider and id. spec: 9.2.1"""
    keys = LocalKeyProvider({"a": bytes(32), "b": bytes(32)}, "a")
    mine, other, foreign = (
        EncryptedDataKey("local", "b", b"x"),
        EncryptedDataKey("local", "c", b"x"),
        EncryptedDataKey("aws-kms", "a", b"x"),
    )
    assert keys.trusted([foreign, mine, other]) == [(mine, "b")]


def test_a_keyring_survives_its_file(tmp_path) -> None:
    """What was wrapped before is unwrapped after, and the file is its owner's alone."""
    keys, file = LocalKeyProvider.generate("dev-1"), tmp_path / "keyring.json"
    keys.save(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    generated = keys.generate_data_key(CONTEXT)
    dek = bytes(generated.plaintext)
    again = LocalKeyProvider.from_file(file)
    assert again.check() == "dev-1"
    assert again.decrypt_data_key(generated.encrypted[0], "dev-1", CONTEXT) == dek
    with pytest.raises(ConfigError):
        keys.save(file)  # never over another keyring
    with pytest.raises(ConfigError):
        keys.save(tmp_path / "missing" / "keyring.json")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o777])
def test_a_keyring_that_others_may_open_is_refused(tmp_path, mode: int) -> None:
    """With the command that helps."""
    file = tmp_path / "keyring.json"
    LocalKeyProvider.generate().save(file)
    file.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        LocalKeyProvider.from_file(file)
    assert caught.value.remedy == f"chmod 600 {file}"


SECRET = base64.b64encode(bytes(range(200, 232))).decode()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        json.dumps({"primary": "a"}),
        json.dumps({"keys": {"a": SECRET}}),
        json.dumps({"primary": "a", "keys": [SECRET]}),
        json.dumps({"primary": "a", "keys": {"a": 5}}),
        json.dumps({"primary": "a", "keys": {"a": SECRET + "!"}}),
        json.dumps({"primary": "a", "keys": {"a": SECRET[:-4]}}),
        json.dumps({"primary": "b", "keys": {"a": SECRET}}),
        json.dumps({"primary": SECRET, "keys": {"a": SECRET}}),
        json.dumps({"primary": "a b", "keys": {"a b": SECRET}}),
        json.dumps({"primary": "ä", "keys": {"ä": SECRET}}),
        json.dumps({"primary": "", "keys": {"": SECRET}}),
    ],
)
def test_what_is_no_keyring_is_refused_without_quoting_it(tmp_path, content: str) -> None:
    """The text of the error never holds the content of the file."""
    file = tmp_path / "keyring.json"
    file.write_text(content, encoding="utf-8")
    file.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        LocalKeyProvider.from_file(file)
    assert SECRET[:8] not in repr(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_missing_file_or_a_binary_one_is_refused(tmp_path) -> None:
    """As a setting that is wrong."""
    with pytest.raises(ConfigError):
        LocalKeyProvider.from_file(tmp_path / "none.json")
    with pytest.raises(ConfigError):
        LocalKeyProvider.from_file(tmp_path)
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    binary.chmod(0o600)
    with pytest.raises(ConfigError):
        LocalKeyProvider.from_file(binary)


def test_a_closed_keyring_blames_no_record() -> None:
    """It refuses as a key service, whatever it is asked."""
    keys = LocalKeyProvider.generate()
    (encrypted,) = keys.generate_data_key(CONTEXT).encrypted
    keys.close()
    ((_, key_id),) = keys.trusted([encrypted])
    for call in (
        keys.check,
        lambda: keys.generate_data_key(CONTEXT),
        lambda: keys.decrypt_data_key(encrypted, key_id, CONTEXT),
    ):
        with pytest.raises(KeyRefused):
            call()


def test_closing_overwrites_the_keks() -> None:
    """In the very buffers."""
    keys = LocalKeyProvider({"a": b"\x07" * 32}, "a")
    buffer = keys._keys["a"]
    keys.close()
    assert buffer == bytes(32)


def test_a_kek_overwritten_while_in_use_wraps_nothing() -> None:
    """Closing in the middle of a call never yields a data key wrapped under zeros, and never blames a record."""

    class ClosesWhenRead(dict):
        def __getitem__(self, key_id):
            kek = super().__getitem__(key_id)
            keys.close()
            return kek

    keys = LocalKeyProvider({"a": b"\x07" * 32}, "a")
    (encrypted,) = keys.generate_data_key(CONTEXT).encrypted
    keys._keys = ClosesWhenRead(keys._keys)
    with pytest.raises(KeyRefused):
        keys.generate_data_key(CONTEXT)
    keys = LocalKeyProvider({"a": b"\x07" * 32}, "a")
    keys._keys = ClosesWhenRead(keys._keys)
    with pytest.raises(KeyRefused):
        keys.decrypt_data_key(encrypted, "a", CONTEXT)


def test_it_says_once_that_a_development_key_is_in_use(tmp_path) -> None:
    """However it was made, and with the id alone."""
    seen = CollectingObserver()
    LocalKeyProvider.generate("dev-1", observer=seen).save(tmp_path / "k.json")
    assert seen.events == [DevelopmentKeyInUse("dev-1")]
    LocalKeyProvider.from_file(tmp_path / "k.json", observer=seen)
    assert len(seen.of(DevelopmentKeyInUse)) == 2


def test_a_keyring_neither_shows_nor_copies_its_keys() -> None:
    """Not in its repr, not by pickle, not by copy."""
    kek = bytes(range(200, 232))
    keys = LocalKeyProvider({"a": kek}, "a")
    generated = keys.generate_data_key(CONTEXT)
    for shown in (repr(keys), str(keys), repr(generated)):
        assert kek.hex() not in shown
        assert repr(kek)[2:-1] not in shown
        assert repr(bytes(generated.plaintext))[2:-1] not in shown
    for act in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            act(keys)


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_kek_has_32_bytes(size: int) -> None:
    """No other size is padded or cut."""
    with pytest.raises(StreamcryptError) as caught:
        LocalKeyProvider({"a": bytes(size)}, "a")
    assert isinstance(caught.value, ConfigError)

"""A data key: derived, committed to, never shown, and gone when told so."""

from __future__ import annotations

import copy
import pickle

import pytest
from cryptography.exceptions import InvalidTag

from streamcrypt.crypto.data_key import DataKey, wipe
from streamcrypt.crypto.suites import Suite
from streamcrypt.errors import AuthenticationFailed, StreamcryptError

DEK = bytes(range(100, 132))
NONCE = bytes(12)


def make(suite: Suite = Suite.AES_256_GCM, info: bytes = b"info", commitment: bytes | None = None) -> DataKey:
    """Derive from the one DEK."""
    return DataKey(bytearray(DEK), suite, info, commitment)


@pytest.mark.parametrize("suite", Suite)
def test_what_is_sealed_opens_and_only_so(suite: Suite) -> None:
    """Nonce, AAD and ciphertext all count. spec: 8.2.6"""
    key = make(suite)
    sealed = key.seal(NONCE, b"plaintext", b"aad")
    assert len(sealed) == len(b"plaintext") + 16
    assert key.open(NONCE, sealed, b"aad") == b"plaintext"
    for nonce, data, aad in (
        (bytes(11) + b"\x01", sealed, b"aad"),
        (NONCE, sealed, b"AAD"),
        (NONCE, sealed[:-1] + bytes([sealed[-1] ^ 1]), b"aad"),
        (NONCE, sealed[:-1], b"aad"),
    ):
        with pytest.raises(InvalidTag):
            key.open(nonce, data, aad)


def test_info_separates_keys_of_one_dek() -> None:
    """The same DEK under another info has another commitment and another encryption key. spec: 4.1.1, 4.2.2"""
    one, other = make(info=b"one"), make(info=b"other")
    assert one.commitment != other.commitment
    with pytest.raises(InvalidTag):
        other.open(NONCE, one.seal(NONCE, b"x", b""), b"")


def test_the_commitment_is_compared_before_anything_can_be_opened() -> None:
    """A key with another commitment never comes to be. spec: 4.3.1"""
    good = make().commitment
    assert make(commitment=good).commitment == good
    for wrong in (bytes(32), good[:-1] + bytes([good[-1] ^ 1]), good[:31], b"", good + b"\x00"):
        with pytest.raises(AuthenticationFailed):
            make(commitment=wrong)


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_a_dek_of_another_size_is_refused(size: int) -> None:
    """spec: 4.2.1"""
    dek = bytearray(b"\x07" * size)
    with pytest.raises(AuthenticationFailed):
        DataKey(dek, Suite.AES_256_GCM, b"")
    assert dek == bytes(size)


def test_the_dek_is_overwritten_whether_or_not_it_is_right() -> None:
    """The caller's buffer holds zeros afterwards. spec: 8.1, 8.2"""
    right, wrong = bytearray(DEK), bytearray(DEK)
    DataKey(right, Suite.AES_256_GCM, b"")
    with pytest.raises(AuthenticationFailed):
        DataKey(wrong, Suite.AES_256_GCM, b"", bytes(32))
    assert right == wrong == bytes(32)


def test_overwriting_the_dek_leaves_the_cipher_alone() -> None:
    """Two DEKs give two ciphers, although both buffers hold zeros by now."""
    one = DataKey(bytearray(DEK), Suite.AES_256_GCM, b"")
    other = DataKey(bytearray(DEK[::-1]), Suite.AES_256_GCM, b"")
    assert one.seal(NONCE, b"x", b"") != other.seal(NONCE, b"x", b"")


def test_a_wiped_key_seals_and_opens_nothing() -> None:
    """It raises an error of ours, never one that a loop would take for a bad record."""
    with make() as key:
        sealed = key.seal(NONCE, b"x", b"")
    for use in (key.seal, key.open):
        with pytest.raises(StreamcryptError) as caught:
            use(NONCE, sealed, b"")
        assert not isinstance(caught.value, AuthenticationFailed)


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, pickle.dumps, lambda key: pickle.dumps(key, protocol=0)]
)
def test_a_data_key_is_neither_copied_nor_pickled(duplicate: object) -> None:
    """A second holder would number records from where the first does. spec: 4.4.1"""
    with pytest.raises(TypeError):
        duplicate(make())


def test_a_data_key_shows_its_public_id_alone() -> None:
    """Neither repr nor attributes hold the DEK or the encryption key."""
    key = make()
    assert key.id == key.commitment.hex()
    assert repr(key) == f"DataKey({key.id[:16]}…, AES_256_GCM)"
    assert not hasattr(key, "__dict__")
    shown = {name: getattr(key, name) for name in dir(key) if not name.startswith("__")}
    assert [name for name, value in shown.items() if isinstance(value, bytes | bytearray)] == ["commitment"]


def test_an_error_tells_nothing_of_the_key() -> None:
    """Neither text nor cause carries bytes."""
    with pytest.raises(AuthenticationFailed) as caught:
        make(commitment=bytes(32))
    assert str(caught.value) == "the data key cannot be opened"
    assert caught.value.__cause__ is None


def test_wipe_overwrites_in_place() -> None:
    """Length and identity stay, content goes."""
    buffer = bytearray(b"secret")
    alias = memoryview(buffer)
    wipe(buffer)
    assert bytes(alias) == bytes(6)

"""What a reader does and does not do besides giving plaintext or an error: calls, memory, trust. spec: 8.2, 9"""

from __future__ import annotations

import json

import pytest

from streamcrypt.crypto.suites import Suite
from streamcrypt.decryptor import Decryptor
from streamcrypt.encryptor import Encryptor
from streamcrypt.envelope.codec import decode_header
from streamcrypt.envelope.framing import Framing
from streamcrypt.envelope.header import EncryptedDataKey
from streamcrypt.errors import AlreadySealed, AuthenticationFailed, ContextMismatch, StreamcryptError, UntrustedKey
from streamcrypt.keys.rotation import CachePolicy
from streamcrypt.testing import ManualClock
from streamcrypt.testing.fixed_keys import FixedKeyProvider
from tests.vectors.test_vectors import VECTORS, _bytes, reader_of

DEK = bytes(range(32))
THREE = tuple(EncryptedDataKey("fixed", name, b"blob") for name in ("a", "b", "c"))


def provider(dek: bytes = DEK, trusts: str = "abc") -> FixedKeyProvider:
    """A key service that wraps under three KEKs and trusts those named."""
    return FixedKeyProvider(dek, {("fixed", name) for name in trusts}, THREE)


def sealed(**options: object) -> tuple[bytes, list[tuple[str, bytes | None]]]:
    """One record of the topic ``t`` with the key ``k``."""
    with Encryptor(provider(), **options) as writer:
        return writer.encrypt("t", b"plaintext", b"k")


@pytest.mark.parametrize("name", [n for n, v in VECTORS.items() if v["stage"] in {"framing", "header", "policy"}])
def test_the_key_service_is_not_called_for_what_is_refused_anyway(name: str) -> None:
    """Neither for a header that breaks a rule nor for one that the policy refuses. spec: 8.2.1"""
    vector = VECTORS[name]
    with reader_of(vector) as reader:
        with pytest.raises(StreamcryptError):
            reader.decrypt(json.loads(vector["topic"]), _bytes(vector["value"]), None, vector["header"])
        assert getattr(reader._keys, "_family", reader._keys).contexts == []


def test_a_data_key_that_failed_its_commitment_is_not_remembered() -> None:
    """Once the key service gives the right one, the same header opens. spec: 8.2.2"""
    value, headers = sealed()
    clock = ManualClock()
    keys = provider(bytes(32), "a")
    with Decryptor(keys, CachePolicy(refusal_ttl=30), clock=clock) as reader:
        with pytest.raises(AuthenticationFailed):
            reader.decrypt("t", value, b"k", headers)
        keys._dek = DEK
        clock.advance(31)
        assert reader.decrypt("t", value, b"k", headers) == (b"plaintext", [])
    assert keys.unwrapped == ["a", "a"]


def test_policy_holds_for_remembered_headers_too() -> None:
    """A header that opened on its own topic opens on no other. spec: 8.2.4"""
    value, headers = sealed()
    with Decryptor(provider()) as reader:
        reader.decrypt("t", value, b"k", headers)
        for _ in range(2):
            with pytest.raises(ContextMismatch):
                reader.decrypt("other", value, b"k", headers)
            assert reader.decrypt("t", value, b"k", headers) == (b"plaintext", [])


def test_a_kek_that_is_trusted_no_more_opens_nothing_from_then_on() -> None:
    """Not even the very next record under a header that is remembered. spec: 8.2.4"""
    value, headers = sealed()
    keys = provider()
    with Decryptor(keys) as reader:
        reader.decrypt("t", value, b"k", headers)
        keys.trusts = ()
        keys.trust_generation += 1
        with pytest.raises(UntrustedKey):
            reader.decrypt("t", value, b"k", headers)


def test_a_header_that_is_not_known_costs_two_calls_at_most() -> None:
    """Three trusted KEKs, none of which gives the right key. spec: 9.2.2"""
    value, headers = sealed()
    keys = provider(bytes(32))
    with Decryptor(keys) as reader, pytest.raises(AuthenticationFailed):
        reader.decrypt("t", value, b"k", headers)
    assert keys.unwrapped == ["a", "b"]


def test_only_trusted_keks_are_tried() -> None:
    """In the reader's order, under the reader's own names. spec: 9.2.1"""
    value, headers = sealed()
    keys = provider(trusts="c")
    with Decryptor(keys) as reader:
        assert reader.decrypt("t", value, b"k", headers)[0] == b"plaintext"
    assert keys.unwrapped == ["c"]


def test_the_key_service_gets_exactly_the_headers_context() -> None:
    """When minting and when unwrapping. spec: 9.1.1, 9.1.2"""
    writing, reading = provider(), provider()
    with Encryptor(writing, context={"app": "billing"}, topic_names={"eu.t": "t"}) as writer:
        value, headers = writer.encrypt("eu.t", b"plaintext", b"k")
    with Decryptor(reading) as reader:
        reader.decrypt("t", value, b"k", headers)
    assert writing.contexts == reading.contexts == [{"app": "billing", "streamcrypt:topic": "t"}]
    assert dict(decode_header(headers[-1][1] or b"").context) == reading.contexts[0]


@pytest.mark.parametrize("framing", Framing)
@pytest.mark.parametrize("again", Framing)
def test_a_record_is_sealed_once(framing: Framing, again: Framing) -> None:
    """In whichever framing the first envelope stands. spec: 8.1.1"""
    value, headers = sealed(framing=framing)
    with Encryptor(provider(), framing=again) as writer, pytest.raises(AlreadySealed):
        writer.encrypt("t", value, b"k", headers)


def test_our_headers_come_last_and_go_first() -> None:
    """The others keep their order, repeats and nulls. spec: 6.2.1, 8.2.5"""
    others = [("a", b"1"), ("b", None), ("a", b""), ("Streamcrypt", b"x")]
    with Encryptor(provider()) as writer, Decryptor(provider()) as reader:
        value, headers = writer.encrypt("t", b"plaintext", b"k", others)
        assert headers[:-1] == others
        assert headers[-1][0] == "streamcrypt"
        for place in range(5):
            moved = [*others[:place], headers[-1], *others[place:]]
            assert reader.decrypt("t", value, b"k", moved) == (b"plaintext", others)


def test_a_retired_data_key_seals_nothing_more() -> None:
    """After a failed delivery, a purge or an abort the next record has another data key. spec: 4.4.2"""
    from streamcrypt.keys.local import LocalKeyProvider

    with Encryptor(LocalKeyProvider.generate()) as writer:
        before = writer.encrypt("t", b"x")[1][-1][1]
        assert writer.encrypt("t", b"x")[1][-1][1] == before
        writer.retire("t", "failure")
        after = writer.encrypt("t", b"x")[1][-1][1]
    assert decode_header(before or b"").commitment != decode_header(after or b"").commitment


@pytest.mark.parametrize("suite", Suite)
@pytest.mark.parametrize("size", range(29))
def test_no_value_is_too_short_to_be_refused_properly(suite: Suite, size: int) -> None:
    """Down to no byte at all, with both ciphers. spec: 6.1.2, 8.2.6"""
    value, headers = sealed(suite=suite)
    with Decryptor(provider()) as reader, pytest.raises(AuthenticationFailed):
        reader.decrypt("t", value[:size], b"k", headers)

"""Header bytes: small, bounded before they are parsed, and refused with a class of ours."""

from __future__ import annotations

import base64
import tracemalloc
from dataclasses import replace

import pytest

from streamcrypt.crypto.suites import Suite
from streamcrypt.envelope.codec import SINGLE_OBJECT_PREFIX, decode_header, derivation_info, encode_header
from streamcrypt.envelope.header import Content, EncryptedDataKey, EnvelopeHeader, build_context
from streamcrypt.errors import EnvelopeError, MalformedEnvelope, MangledEnvelope, UnsupportedVersion
from tests.vectors.second_implementation import ARN, avro_array, avro_long, avro_string, some_bytes

REALISTIC = EnvelopeHeader(
    Suite.AES_256_GCM,
    some_bytes("commitment", 32),
    build_context({"app": "billing"}, "payments"),
    ("key",),
    Content.PAYLOAD,
    (EncryptedDataKey("aws-kms", ARN, some_bytes("blob", 184)),),
)


def test_a_header_with_one_kms_key_is_at_most_380_bytes() -> None:
    """A key ARN of 75 characters, a ciphertext of 184 bytes, one context pair besides the topic."""
    assert len(encode_header(REALISTIC)) <= 380


def test_a_header_round_trips() -> None:
    """spec: 3.5.1"""
    data = encode_header(REALISTIC)
    assert decode_header(data) == REALISTIC
    assert encode_header(decode_header(data)) == data


def test_the_commitment_and_the_wrapped_keys_are_outside_the_derivation() -> None:
    """So a DEK can be wrapped anew without touching a value. spec: 4.1.1"""
    info = derivation_info(REALISTIC.suite, REALISTIC.context, REALISTIC.bound)
    assert REALISTIC.commitment not in info
    assert ARN.encode() not in info
    assert info != derivation_info(Suite.AES_256_GCM_SIV, REALISTIC.context, REALISTIC.bound)
    assert info != derivation_info(REALISTIC.suite, REALISTIC.context, ())
    assert info != derivation_info(REALISTIC.suite, build_context({}, "payments"), REALISTIC.bound)
    assert info != derivation_info(REALISTIC.suite, REALISTIC.context, REALISTIC.bound, Content.AVRO_FIELDS)


def test_a_header_over_the_limit_is_not_written() -> None:
    """spec: 3.1.4"""
    keys = tuple(EncryptedDataKey("local", name, bytes(6000)) for name in "ab")
    with pytest.raises(MalformedEnvelope, match="over 8192"):
        encode_header(replace(REALISTIC, keys=keys))


def test_size_is_checked_before_anything_is_parsed() -> None:
    """100 MB of junk behind our own prefix cost nothing. spec: 3.1.4"""
    junk = SINGLE_OBJECT_PREFIX + bytes(100_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(MalformedEnvelope, match="over 8192"):
            decode_header(junk)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("claimed", [2**16, 2**31 - 1, 2**31, 2**62, 2**63 - 1, -1, -(2**62), -(2**63)])
@pytest.mark.parametrize("place", ["array", "string", "bytes"])
def test_a_claimed_length_sets_no_memory_aside(claimed: int, place: str) -> None:
    """A parser that trusts a count would ask for exabytes. spec: 3.5.3"""
    start = SINGLE_OBJECT_PREFIX + b"\x00" + bytes(32)
    before = {"array": b"", "string": avro_long(1), "bytes": b"\x00\x00\x00" + avro_long(1) + b"\x02a\x02b"}[place]
    tracemalloc.start()
    try:
        with pytest.raises(MalformedEnvelope):
            decode_header(start + before + avro_long(claimed) + bytes(100))
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


def test_the_most_that_8_kib_can_claim_stays_small() -> None:
    """No object is made of the thousands of items that a body may claim. spec: 3.1.4, 3.5.3"""
    start = SINGLE_OBJECT_PREFIX + b"\x00" + bytes(32)
    topic = avro_array([avro_string("streamcrypt:topic") + avro_string("t")])
    for body in (
        avro_long(4000) + bytes(8000),
        b"\x02\x00\x00" * 2600,
        topic + avro_long(8000) + bytes(8000),
        topic + b"\x02\x00" * 4000,
        topic + b"\x00\x00" + avro_long(2600) + bytes(8000),
    ):
        tracemalloc.start()
        try:
            with pytest.raises(MalformedEnvelope):
                decode_header(start + body)
            assert tracemalloc.get_traced_memory()[1] < 30_000
        finally:
            tracemalloc.stop()


def test_every_prefix_of_a_header_is_malformed() -> None:
    """Whatever is cut off, it is said in one way. spec: 3.5.3"""
    data = encode_header(REALISTIC)
    for end in range(len(data)):
        with pytest.raises(MalformedEnvelope):
            decode_header(data[:end])


def test_a_header_of_a_later_schema_is_told_from_junk() -> None:
    """spec: 3.1.2, 3.1.3"""
    data = encode_header(REALISTIC)
    with pytest.raises(UnsupportedVersion, match="0102030405060708"):
        decode_header(data[:2] + bytes(range(1, 9)) + data[10:])
    with pytest.raises(MalformedEnvelope):
        decode_header(b"\xc3\x02" + data[2:])


@pytest.mark.parametrize("wrap", [lambda text: text, lambda text: b'"' + text + b'"'])
def test_a_header_that_a_mirror_made_base64_is_named_so(wrap: object) -> None:
    """With the remedy: the mirror's header.converter. spec: 3.1.3"""
    with pytest.raises(MangledEnvelope) as caught:
        decode_header(wrap(base64.b64encode(encode_header(REALISTIC))))
    assert "header.converter" in caught.value.remedy


@pytest.mark.parametrize("mirrors", range(2, 5))
@pytest.mark.parametrize("quote", [b"", b'"'])
def test_each_mirror_on_the_way_may_encode_once_more(mirrors: int, quote: bytes) -> None:
    """It is named so all the same, as long as it is within the limit. spec: 3.1.3"""
    data = encode_header(REALISTIC)
    for _ in range(mirrors):
        data = quote + base64.b64encode(data) + quote
    with pytest.raises(MangledEnvelope, match=f"{mirrors} times over"):
        decode_header(data)


def test_base64_of_anything_else_is_malformed() -> None:
    """Base64 that never comes to an end included: there is no more of it than there are bytes."""
    data = b"no envelope"
    for _ in range(20):
        if len(data) < 8000:
            data = base64.b64encode(data)
        with pytest.raises(MalformedEnvelope) as caught:
            decode_header(data)
        assert not isinstance(caught.value, MangledEnvelope)


def test_no_error_quotes_the_header() -> None:
    """What an attacker wrote does not reach the log through us; no cause keeps the parser's bytes."""
    marked = encode_header(replace(REALISTIC, bound=("header:SENTINEL",)))
    for bad in (marked[:-1], marked + b"\x00", marked.replace(b"header:SENTINEL", b"footer:SENTINEL")):
        with pytest.raises(EnvelopeError) as caught:
            decode_header(bad)
        assert "SENTINEL" not in str(caught.value)
        assert caught.value.__cause__ is None

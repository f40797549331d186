"""Where the header rides, and how a self-contained value is cut."""

from __future__ import annotations

import pytest

from streamcrypt.encryptor import Encryptor
from streamcrypt.envelope.framing import MAGIC, Framing, carries_envelope, choose, frame_prefix, split_frame
from streamcrypt.envelope.header import MAX_HEADER_BYTES
from streamcrypt.errors import ConfigError, MalformedEnvelope
from streamcrypt.keys.local import LocalKeyProvider

SEALED = bytes(range(28))


def frame(header: bytes = b"header", sealed: bytes = SEALED) -> bytes:
    """A self-contained value."""
    return frame_prefix(header) + sealed


def self_contained(value: bytes = b"plaintext") -> bytes:
    """A real one."""
    with Encryptor(LocalKeyProvider.generate(), framing="self_contained") as writer:
        sealed, _ = writer.encrypt("t", value)
        return sealed


@pytest.mark.parametrize("header", [b"", b"h", b"h" * MAX_HEADER_BYTES])
def test_what_was_framed_is_split_as_it_was(header: bytes) -> None:
    """Magic, length, header, sealed value. spec: 6.3.1"""
    assert frame(header)[:8] == b"\xc5SC\x01" + len(header).to_bytes(4, "big")
    assert split_frame(frame(header)) == (header, SEALED)
    assert split_frame(frame(header, SEALED + b"more")) == (header, SEALED + b"more")


@pytest.mark.parametrize("size", range(len(frame())))
def test_every_truncation_is_malformed(size: int) -> None:
    """The sealed value keeps room for a nonce and a tag. spec: 6.3.4"""
    with pytest.raises(MalformedEnvelope):
        split_frame(frame()[:size])


@pytest.mark.parametrize("length", [MAX_HEADER_BYTES + 1, 2**31, 2**32 - 1])
def test_a_length_over_the_limit_is_malformed_before_anything_is_cut(length: int) -> None:
    """Even where the value is as long as it says. spec: 6.3.4"""
    body = bytes(min(length, 20_000) + 28)
    with pytest.raises(MalformedEnvelope):
        split_frame(MAGIC + length.to_bytes(4, "big") + body)


def test_only_an_envelope_that_parses_counts_as_sealed() -> None:
    """Plaintext may begin with the magic by chance."""
    value = self_contained()
    assert carries_envelope(value)
    for other in (MAGIC, MAGIC + b"plain text", frame(), value[:50], value[:8] + b"\x00" + value[9:]):
        assert not carries_envelope(other)


@pytest.mark.parametrize("change", [slice(2, 3), slice(9, 10)])
def test_an_envelope_of_a_later_version_counts_as_sealed(change: slice) -> None:
    """It would be sealed twice else. spec: 8.1.1"""
    header, sealed = split_frame(self_contained())
    later = bytearray(header)
    later[change] = bytes([later[change][0] ^ 0xFF])
    assert carries_envelope(frame_prefix(bytes(later)) + sealed)


def test_a_choice_is_taken_by_itself_or_by_name() -> None:
    """What is neither is refused with the list of choices."""
    assert choose(Framing, Framing.HEADER, "framing") is choose(Framing, "header", "framing") is Framing.HEADER
    for wrong in ("Header", "", None, 5, []):
        with pytest.raises(ConfigError, match="header, self_contained"):
            choose(Framing, wrong, "framing")

"""Where the envelope header rides: in a Kafka header, or in the value itself. spec: 6.2, 6.3, 6.4"""

from __future__ import annotations

from enum import StrEnum
from struct import Struct
from typing import TypeVar

from streamcrypt.crypto.suites import OVERHEAD_BYTES
from streamcrypt.envelope.codec import decode_header
from streamcrypt.envelope.header import MAX_HEADER_BYTES
from streamcrypt.errors import ConfigError, EnvelopeError, MalformedEnvelope, UnsupportedVersion

__all__ = ["MAGIC", "Framing", "Tombstones", "carries_envelope", "choose", "frame_prefix", "split_frame"]

MAGIC = b"\xc5SC\x01"
_length = Struct(">I")
_PREFIX_BYTES = len(MAGIC) + _length.size


_Choice = TypeVar("_Choice", bound=StrEnum)


class Framing(StrEnum):
    """``header``: a Kafka header named ``streamcrypt``, the default: batch compression removes its repetition.

    ``self_contained``: the value carries the header, for sinks and mirrors that drop Kafka headers.
    """

    HEADER = "header"
    SELF_CONTAINED = "self_contained"


class Tombstones(StrEnum):
    """``plain``: a null value goes as it is, the default; whoever can write to the topic can delete from it.

    ``authenticated``: it carries two headers that prove it, and a reader takes no other.
    """

    PLAIN = "plain"
    AUTHENTICATED = "authenticated"


def frame_prefix(header_bytes: bytes) -> bytes:
    """Give what stands before the nonce in a self-contained value: constant for the life of a data key."""
    return MAGIC + _length.pack(len(header_bytes)) + header_bytes


def split_frame(value: bytes) -> tuple[bytes, bytes]:
    """Split a self-contained value that begins with MAGIC into header bytes and nonce ‖ ciphertext ‖ tag.

    Raises:
        MalformedEnvelope: The header's length is over the limit or beyond the value.
    """
    if len(value) < _PREFIX_BYTES:
        raise MalformedEnvelope("the self-contained value ends within its prefix")
    (size,) = _length.unpack_from(value, len(MAGIC))
    if size > MAX_HEADER_BYTES:
        raise MalformedEnvelope(f"the header is {size} bytes, over {MAX_HEADER_BYTES}")
    end = _PREFIX_BYTES + size
    if len(value) < end + OVERHEAD_BYTES:
        raise MalformedEnvelope("the self-contained value ends within its envelope")
    return value[_PREFIX_BYTES:end], value[end:]


def carries_envelope(value: bytes) -> bool:
    """Say whether a value that begins with MAGIC holds an envelope, of a later version too: it was sealed already."""
    try:
        decode_header(split_frame(value)[0])
    except UnsupportedVersion:
        return True
    except EnvelopeError:
        return False
    return True


def choose(kind: type[_Choice], value: _Choice | str, name: str) -> _Choice:
    """Take a choice by itself or by its name.

    Raises:
        ConfigError: There is no such choice; the message lists them.
    """
    try:
        return kind(value)
    except ValueError:
        raise ConfigError(f"{name} is one of {', '.join(kind)}, not {value!r}") from None

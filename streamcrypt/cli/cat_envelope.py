"""What the envelope of a record says of itself: claims, until the record has opened."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from typing import Any

from streamcrypt.crypto.suites import NONCE_BYTES, OVERHEAD_BYTES
from streamcrypt.encryptor import LANE_UNKNOWN, HeaderList
from streamcrypt.envelope.codec import decode_header
from streamcrypt.envelope.framing import MAGIC, split_frame
from streamcrypt.envelope.header import HEADER_NAME, OUR_HEADERS, TOMBSTONE_HEADER_NAME, EnvelopeHeader
from streamcrypt.errors import MalformedEnvelope

__all__ = ["EnvelopeFacts", "facts_of"]

_nonce = Struct(">IQ")
# Records of one data key stand together, and carry the same header bytes.
_decode = lru_cache(maxsize=64)(decode_header)


@dataclass(frozen=True, slots=True)
class EnvelopeFacts:
    """One record's envelope.

    Attributes:
        framing: ``header``, or ``self_contained`` where the value carries it.
        header: The header, decoded.
        header_bytes: As it stands on the topic.
        lane: The partition that its writer numbered it for; None where the writer knew none, or there is no nonce.
        sequence: Its number under data key and lane; None where there is no nonce.
        proves: Whether it is the proof of a tombstone.
    """

    framing: str
    header: EnvelopeHeader
    header_bytes: bytes
    lane: int | None = None
    sequence: int | None = None
    proves: bool = False

    @property
    def data_key(self) -> str:
        """The data key's public id, its commitment, in hexadecimal."""
        return self.header.commitment.hex()

    @property
    def keks(self) -> tuple[str, ...]:
        """The KEKs for which the data key is wrapped."""
        return tuple(dict.fromkeys(key.key_id for key in self.header.keys))

    def as_tree(self) -> dict[str, Any]:
        """Give it as JSON has it; see docs/cat.md."""
        header = self.header
        return {
            "framing": self.framing,
            "suite": str(header.suite),
            "data_key": self.data_key,
            "keks": [{"provider": key.provider, "key_id": key.key_id} for key in header.keys],
            "context": dict(header.context),
            "bound": list(header.bound),
            "lane": self.lane,
            "sequence": self.sequence,
            "header_bytes": len(self.header_bytes),
        }


def facts_of(value: bytes | None, headers: HeaderList | None) -> EnvelopeFacts | None:
    """Read the envelope of a record, in either framing; None where it has none at all.

    Raises:
        MalformedEnvelope, UnsupportedVersion: It has one that cannot be read.
    """
    ours = [data for name, data in headers or () if name == HEADER_NAME]
    if len(ours) > 1:
        raise MalformedEnvelope(f"the record has {len(ours)} envelope headers")
    if ours:
        if ours[0] is None:
            raise MalformedEnvelope("the envelope header is null")
        proofs = [data for name, data in headers or () if name == TOMBSTONE_HEADER_NAME]
        numbered = value if value is not None else next(iter(proofs), None)
        return EnvelopeFacts("header", _decode(ours[0]), ours[0], *_numbers(numbered), proves=value is None)
    if value is not None and value.startswith(MAGIC):
        header, sealed = split_frame(value)
        return EnvelopeFacts("self_contained", _decode(header), header, *_numbers(sealed))
    if any(name in OUR_HEADERS for name, _ in headers or ()):
        raise MalformedEnvelope("the record has a tombstone's proof and no envelope header")
    return None


def _numbers(sealed: bytes | None) -> tuple[int | None, int | None]:
    if sealed is None or len(sealed) < OVERHEAD_BYTES:
        return None, None
    lane, sequence = _nonce.unpack(sealed[:NONCE_BYTES])
    return None if lane == LANE_UNKNOWN else lane, sequence

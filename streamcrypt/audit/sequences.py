"""Gaps, repeats, disorder and displacement by the numbers that nonces carry. spec: 5.1, 10

The records are not opened, so this is a hint where to look and no proof: anyone who can write to the topic can write
numbers. A decrypting pipeline with ``sequence: report`` gives evidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from streamcrypt.audit.tally import HeaderBook, Place
from streamcrypt.clients.headers import headers_of
from streamcrypt.crypto.suites import NONCE_BYTES
from streamcrypt.envelope.sequence import SequenceKind, SequenceVerifier, numbered

__all__ = ["SequenceCounter"]

NAMES = {
    SequenceKind.GAP: "gaps",
    SequenceKind.REPEAT: "repeats",
    SequenceKind.DISORDER: "disorder",
    SequenceKind.MOVED: "moved",
}


class SequenceCounter:
    """Counts findings into places.

    Args:
        places: (topic, partition) to its place.
        book: Tells which envelopes are well-formed.
        compacted: Topics that are compacted: gaps are no evidence there.
    """

    def __init__(self, places: Mapping[tuple[str, int], Place], book: HeaderBook, compacted: Sequence[str]) -> None:
        self._places = places
        self._book = book
        self._verifier = SequenceVerifier(compacted=tuple(compacted))
        for place in places.values():
            place.sequence = dict.fromkeys(NAMES.values(), 0)

    def take(self, messages: Sequence[Any]) -> None:
        """Verify messages that were counted."""
        blocks: dict[tuple[str, int], tuple[list[int], list[bytes], list[bytes]]] = {}
        for message in messages:
            if message.error() is not None:
                continue
            key = (message.topic(), message.partition())
            place = self._places.get(key)
            if place is None or message.offset() >= place.end:
                continue
            found = numbered(message.value(), headers_of(message))
            if found is None or len(found[1]) < NONCE_BYTES or not self._book.knows(found[0]):
                continue
            offsets, headers, values = blocks.setdefault(key, ([], [], []))
            offsets.append(message.offset())
            headers.append(found[0])
            values.append(found[1])
        for key, (offsets, headers, values) in blocks.items():
            counts = self._places[key].sequence
            for finding in self._verifier.check_block(*key, offsets, headers, values):
                if counts is not None and not finding.known:
                    counts[NAMES[finding.kind]] += 1

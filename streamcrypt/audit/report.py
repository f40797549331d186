"""What was counted, by KEK: the document that is printed as JSON, and drawn as table and page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from streamcrypt.audit.plan import Plan
from streamcrypt.audit.tally import HeaderBook, Place, Tally
from streamcrypt.audit.verdict import Verdict

__all__ = ["KeyCount", "as_tree", "by_key", "rfc3339"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def rfc3339(milliseconds: int | None) -> str | None:
    """Write a Kafka timestamp as RFC 3339 in UTC; None where it is unknown or beyond the year 9999."""
    if milliseconds is None:
        return None
    try:
        moment = _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class KeyCount:
    """Records of one partition under one KEK.

    Attributes:
        key_id: The KEK as the envelopes name it.
        records: How many, those that are wrapped for further KEKs included.
        data_keys: Distinct data keys.
        tallies: The same by envelope, by first offset.
    """

    key_id: str
    records: int
    data_keys: int
    tallies: tuple[Tally, ...]

    @property
    def first(self) -> Tally:
        """The envelope that begins first."""
        return self.tallies[0]

    @property
    def last(self) -> Tally:
        """The envelope that ends last."""
        return max(self.tallies, key=lambda tally: tally.last_offset)


def by_key(place: Place, book: HeaderBook) -> list[KeyCount]:
    """Give the KEKs of a partition, by first offset and then by id."""
    tallies: dict[str, list[Tally]] = {}
    data_keys: dict[str, set[bytes]] = {}
    for index, tally in place.tallies.items():
        envelope = book.envelopes[index]
        for key_id in envelope.key_ids:
            tallies.setdefault(key_id, []).append(tally)
            data_keys.setdefault(key_id, set()).add(envelope.commitment)
    counts = [
        KeyCount(
            key_id,
            sum(tally.records for tally in found),
            len(data_keys[key_id]),
            tuple(sorted(found, key=lambda tally: tally.first_offset)),
        )
        for key_id, found in tallies.items()
    ]
    return sorted(counts, key=lambda count: (count.first.first_offset, count.key_id))


def as_tree(plan: Plan, book: HeaderBook, verdict: Verdict | None = None) -> dict[str, Any]:
    """Build the documented document: see docs/audit.md. ``verdict`` and ``sequence`` stand there where asked for."""
    topics = [
        {"topic": topic, "partitions": [_partition(place, book) for place in _places(plan, topic)]}
        for topic in plan.topics
    ]
    if verdict is None:
        return {"topics": topics}
    answer = {"key_id": verdict.key_id, "answer": str(verdict.answer), "evidence": list(verdict.evidence)}
    return {"topics": topics, "safe_to_disable": answer}


def _places(plan: Plan, topic: str) -> Sequence[Place]:
    return [place for place in plan.places.values() if place.topic == topic]


def _partition(place: Place, book: HeaderBook) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "partition": place.partition,
        "records": place.records,
        "plaintext": place.plaintext,
        "malformed": place.malformed,
        "tombstones": place.tombstones,
        "keys": [_key(count) for count in by_key(place, book)],
    }
    return tree if place.sequence is None else {**tree, "sequence": place.sequence}


def _key(count: KeyCount) -> dict[str, Any]:
    return {
        "key_id": count.key_id,
        "records": count.records,
        "data_keys": count.data_keys,
        "first_offset": count.first.first_offset,
        "last_offset": count.last.last_offset,
        "first_time": rfc3339(count.first.first_time),
        "last_time": rfc3339(count.last.last_time),
    }

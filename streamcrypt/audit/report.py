"""What was counted, by KEK: the document that is printed as JSON, and drawn as table and page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from streamcrypt.audit.materials import Materials, by_material
from streamcrypt.audit.plan import Plan
from streamcrypt.audit.receipt import Fate, Part, Receipt
from streamcrypt.audit.shortfall import Shortfall, shortfalls
from streamcrypt.audit.tally import HeaderBook, Place, Tally
from streamcrypt.audit.verdict import Verdict

__all__ = ["NOTHING_ELSE", "Findings", "KeyCount", "as_tree", "by_key", "rfc3339"]

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


@dataclass(frozen=True, slots=True)
class Findings:
    """What was asked besides the counts; None where it was not.

    Attributes:
        verdict: ``--safe-to-disable``.
        receipt: ``--receipt``.
        configured: ``--fewer``: the configured KEKs.
        materials: ``--materials``.
    """

    verdict: Verdict | None = None
    receipt: Receipt | None = None
    configured: tuple[str, ...] | None = None
    materials: Materials | None = None


NOTHING_ELSE = Findings()


def as_tree(plan: Plan, book: HeaderBook, findings: Findings = NOTHING_ELSE) -> dict[str, Any]:
    """Build the documented document, see docs/audit.md; what was not asked for has no name in it."""
    tree: dict[str, Any] = {
        "topics": [
            {"topic": topic, "partitions": [_partition(place, book, findings) for place in _places(plan, topic)]}
            for topic in plan.topics
        ]
    }
    verdict, receipt = findings.verdict, findings.receipt
    if verdict is not None:
        answer = {"key_id": verdict.key_id, "answer": str(verdict.answer), "evidence": list(verdict.evidence)}
        tree["safe_to_disable"] = answer
    if findings.configured is not None:
        tree["configured"] = list(findings.configured)
    if receipt is not None:
        tree["receipt"] = _receipt(receipt)
    return tree


def _places(plan: Plan, topic: str) -> Sequence[Place]:
    return [place for place in plan.places.values() if place.topic == topic]


def _partition(place: Place, book: HeaderBook, findings: Findings) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "partition": place.partition,
        "records": place.records,
        "plaintext": place.plaintext,
        "malformed": place.malformed,
        "tombstones": place.tombstones,
        "keys": [_key(count, place, book, findings) for count in by_key(place, book)],
    }
    if place.sequence is not None:
        tree["sequence"] = place.sequence
    if findings.configured is not None:
        tree["fewer"] = [
            {"missing": list(found.missing), **_span(found)} for found in shortfalls(place, book, findings.configured)
        ]
    return tree


def _key(count: KeyCount, place: Place, book: HeaderBook, findings: Findings) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "key_id": count.key_id,
        "records": count.records,
        "data_keys": count.data_keys,
        "first_offset": count.first.first_offset,
        "last_offset": count.last.last_offset,
        "first_time": rfc3339(count.first.first_time),
        "last_time": rfc3339(count.last.last_time),
    }
    if findings.materials is not None:
        tree["materials"] = [
            {"key_material_id": found.material or None, "records": found.records, "data_keys": found.data_keys}
            for found in by_material(place, book, count.key_id, findings.materials)
        ]
    return tree


def _receipt(receipt: Receipt) -> dict[str, Any]:
    return {
        "key_id": receipt.key_id,
        "state": receipt.state,
        "made": rfc3339(int(receipt.made.timestamp() * 1000)),
        "cluster_id": receipt.cluster_id or None,
        "whole": not receipt.doubts,
        **{fate.value: receipt.total(fate) for fate in Fate},
        "topics": [
            {
                "topic": topic,
                "topic_id": topic_id or None,
                "partitions": [
                    {
                        "partition": place.partition,
                        "read_from": place.start,
                        "read_to": place.end,
                        **{fate.value: _span(place.parts[fate]) if fate in place.parts else None for fate in Fate},
                    }
                    for place in receipt.places
                    if place.topic == topic
                ],
            }
            for topic, topic_id in receipt.topic_ids.items()
        ],
        "doubts": list(receipt.doubts),
        "not_covered": list(receipt.not_covered),
    }


def _span(part: Part | Shortfall) -> dict[str, Any]:
    return {
        "records": part.records,
        "data_keys": part.data_keys,
        "first_offset": part.first_offset,
        "last_offset": part.last_offset,
        "first_time": rfc3339(part.first_time),
        "last_time": rfc3339(part.last_time),
    }

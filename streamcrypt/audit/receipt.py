"""The receipt of crypto-shredding: what can no longer be read once a KEK is gone, and what the receipt leaves open.

Where ``--safe-to-disable`` counts a record in doubt as one that needs the KEK, a receipt counts it as one that may
still be opened: each errs on the side that does no harm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from streamcrypt.audit.keks import KEKIdentity
from streamcrypt.audit.plan import Plan
from streamcrypt.audit.tally import Envelope, HeaderBook, Tally
from streamcrypt.audit.unwrapping import Opening, Unwrapping, trusted_entries
from streamcrypt.audit.verdict import came_meanwhile, doubts
from streamcrypt.envelope.codec import decode_header
from streamcrypt.errors import ConfigError, KeyServiceError
from streamcrypt.keys.provider import KeyProvider

__all__ = ["Fate", "Part", "PlaceReceipt", "Receipt", "Witness", "write_receipt"]


class Fate(StrEnum):
    """What becomes of the records under one envelope once the KEK is gone."""

    LOST = "lost"
    """Nothing else in the envelope holds their data key."""
    STILL_OPEN = "still_open"
    """Another KEK of the envelope was unwrapped, and held it."""
    UNKNOWN = "unknown"
    """The envelope names other KEKs, which could not be tried."""


@dataclass(frozen=True, slots=True)
class Part:
    """Records of one partition that share a fate. Offsets are inclusive, times milliseconds since 1970."""

    records: int
    data_keys: int
    first_offset: int
    last_offset: int
    first_time: int | None
    last_time: int | None


@dataclass(frozen=True, slots=True)
class PlaceReceipt:
    """What a receipt says of one partition: offsets from ``start`` up to ``end``, which is not read."""

    topic: str
    partition: int
    start: int
    end: int
    parts: Mapping[Fate, Part]


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt.

    Attributes:
        key_id: The key ARN, or the id of a keyring.
        state: What the key service says of the KEK.
        made: When reading had ended.
        cluster_id: Of the Kafka cluster; empty where it does not tell.
        topic_ids: Topic to its id, which another topic of the same name does not have.
        places: Partitions, in order.
        doubts: Why it is not whole, one sentence each; empty where it is.
        not_covered: What it says nothing about, one sentence each.
    """

    key_id: str
    state: str
    made: datetime
    cluster_id: str
    topic_ids: Mapping[str, str]
    places: tuple[PlaceReceipt, ...]
    doubts: tuple[str, ...]
    not_covered: tuple[str, ...]

    def total(self, fate: Fate) -> int:
        """Count the records of a fate."""
        return sum(place.parts[fate].records for place in self.places if fate in place.parts)


class Witness:
    """Tries whatever else an envelope holds its data key for.

    Args:
        keys: The key service, with all that is trusted anywhere.
        unwrapping: Asks it.
    """

    def __init__(self, keys: KeyProvider, unwrapping: Unwrapping) -> None:
        self._keys = keys
        self._unwrapping = unwrapping

    def fate(self, envelope: Envelope, kek: KEKIdentity) -> tuple[Fate, str]:
        """Say what becomes of an envelope that names the KEK, and what hinders to tell.

        Raises:
            KeyServiceError: A name in it could not be looked up.
        """
        header = decode_header(envelope.data)
        others = [key for key in header.keys if not kek.means(key.key_id)]
        trusted = trusted_entries(self._keys, header, others) if others else ()
        unknown = ""
        for encrypted, arn in trusted:
            if kek.means(arn):
                continue
            attempt = self._unwrapping.attempt(self._keys, header, encrypted, arn)
            if attempt.opening is Opening.OPENS:
                return Fate.STILL_OPEN, ""
            unknown = unknown or attempt.why
        if len(trusted) < len(others):
            unknown = unknown or "other KEKs of their envelope are not trusted here, and were not tried"
        return (Fate.UNKNOWN, unknown) if unknown else (Fate.LOST, "")


def write_receipt(
    plan: Plan,
    book: HeaderBook,
    kek: KEKIdentity,
    witness: Witness,
    *,
    state: str,
    made: datetime,
    lows: Mapping[tuple[str, int], int],
    now: Mapping[tuple[str, int], int],
    not_covered: Sequence[str],
) -> Receipt:
    """Write the receipt of what was counted.

    Args:
        plan: What was read.
        book: The envelopes met.
        kek: The KEK.
        witness: Tries the others.
        state: What the key service says of the KEK.
        made: When reading had ended.
        lows: (topic, partition) to its first offset at the end of the audit: what lies below is gone anyway.
        now: (topic, partition) to its end then.
        not_covered: What it says nothing about.
    """
    unsure = [f"{topic}: could not be read: {why}" for topic, why in plan.unreadable.items()]
    fates: dict[int, tuple[Fate, str] | None] = {}
    places, notes = [], list(not_covered)
    for place in plan.places.values():
        unsure += doubts(place)
        low = lows.get((place.topic, place.partition), place.start)
        by_fate: dict[Fate, dict[int, Tally]] = {}
        reasons: dict[str, int] = {}
        for index, tally in place.tallies.items():
            if index not in fates:
                fates[index] = _fate(book.envelopes[index], kek, witness)
            found = fates[index]
            if found is None or tally.last_offset < low:
                continue
            by_fate.setdefault(found[0], {})[index] = tally
            if found[0] is Fate.UNKNOWN:
                reasons[found[1]] = reasons.get(found[1], 0) + tally.records
        unsure += [f"{place.name}: whether {n} records still open is not known: {why}" for why, n in reasons.items()]
        if any(tally.first_offset < low for tallies in by_fate.values() for tally in tallies.values()):
            notes.append(f"{place.name}: retention deleted records below offset {low} meanwhile: counts are at most")
        parts = {fate: _part(tallies, book, low) for fate, tallies in sorted(by_fate.items())}
        places.append(PlaceReceipt(place.topic, place.partition, place.start, place.end, parts))
    notes += came_meanwhile(list(plan.places.values()), now)
    ids = {topic: facts.topic_id for topic, facts in plan.topics.items()}
    return Receipt(kek.arn, state, made, plan.cluster_id, ids, tuple(places), tuple(unsure), tuple(notes))


def _fate(envelope: Envelope, kek: KEKIdentity, witness: Witness) -> tuple[Fate, str] | None:
    """Give the fate of the records under an envelope; None where it does not name the KEK."""
    try:
        if not any(kek.means(key_id) for key_id in envelope.key_ids):
            return None
        return witness.fate(envelope, kek)
    except (KeyServiceError, ConfigError) as error:
        return Fate.UNKNOWN, str(error)


def _part(tallies: Mapping[int, Tally], book: HeaderBook, low: int) -> Part:
    first = min(tallies.values(), key=lambda tally: tally.first_offset)
    last = max(tallies.values(), key=lambda tally: tally.last_offset)
    return Part(
        sum(tally.records for tally in tallies.values()),
        len({book.envelopes[index].commitment for index in tallies}),
        max(first.first_offset, low),
        last.last_offset,
        first.first_time,
        last.last_time,
    )

"""May a KEK be disabled: yes, no or undetermined, each with its evidence.

``no``: some record needs the KEK. ``yes``: every record was read, and none needs it. Everything else is
``undetermined``: what could not be read might need it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from streamcrypt.audit.keks import KEKIdentity
from streamcrypt.audit.tally import Envelope, HeaderBook, Place, Tally
from streamcrypt.audit.unwrapping import Opening, Unwrapping, trusted_entries
from streamcrypt.envelope.codec import decode_header
from streamcrypt.envelope.header import EnvelopeHeader
from streamcrypt.errors import ConfigError, KeyServiceError, KeyUnavailable
from streamcrypt.keys.provider import KeyProvider

__all__ = ["Answer", "Need", "Substitutes", "Verdict", "came_meanwhile", "doubts", "judge"]

# A reader makes no more calls than this for one record, in this order of preference.
_CALLS_PER_HEADER = 2


class Answer(StrEnum):
    """Whether a KEK may be disabled."""

    YES = "yes"
    NO = "no"
    UNDETERMINED = "undetermined"


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer.

    Attributes:
        key_id: The key ARN, or the id of a keyring; what was asked where it could not be resolved.
        answer: The answer.
        evidence: One sentence each: first what decides, then what to know besides.
    """

    key_id: str
    answer: Answer
    evidence: tuple[str, ...]


class Need(StrEnum):
    """Whether the records under one envelope need the KEK."""

    NONE = "none"
    ONLY = "it alone wraps their data key"
    UNTRUSTED = "the other KEKs of their envelope are not trusted here"
    NO_SUBSTITUTE = "what their envelope holds for other KEKs does not open"
    UNKNOWN = "unknown"


_GRAVITY = {Need.NONE: 0, Need.UNKNOWN: 1}


class Substitutes:
    """Proves that an envelope opens without the KEK: unwraps another entry and compares the commitment.

    As a reader would it tries the first two trusted KEKs of an envelope, and none that is the KEK in question.

    Args:
        keys: The key service, with what these readers trust.
        unwrapping: Asks it; shared where several readers may ask for the same.
        readers: Who they are, for the evidence; empty where CONFIG does not say.
    """

    def __init__(self, keys: KeyProvider, unwrapping: Unwrapping, readers: str = "") -> None:
        self._keys = keys
        self._unwrapping = unwrapping
        self._away = ""
        self.readers = readers

    def need(self, header: EnvelopeHeader, kek: KEKIdentity) -> tuple[Need, str]:
        """Say whether records under an envelope that names the KEK need it, and what hinders to tell."""
        if all(kek.means(key.key_id) for key in header.keys):
            return Need.ONLY, ""
        if self._away:
            return Need.UNKNOWN, self._away
        try:
            first = trusted_entries(self._keys, header, header.keys)[:_CALLS_PER_HEADER]
        except (KeyServiceError, ConfigError) as error:
            # An alias that cannot be resolved: asking again for each envelope would each time wait for it.
            self._away = str(error) if isinstance(error, KeyUnavailable) else ""
            return Need.UNKNOWN, str(error)
        others = [(key, arn) for key, arn in first if not kek.means(key.key_id) and not kek.means(arn)]
        if not others:
            return Need.UNTRUSTED, self.readers
        unknown = ""
        for encrypted, arn in others:
            attempt = self._unwrapping.attempt(self._keys, header, encrypted, arn)
            if attempt.opening is Opening.OPENS:
                return Need.NONE, ""
            unknown = unknown or attempt.why
        return (Need.UNKNOWN, unknown) if unknown else (Need.NO_SUBSTITUTE, self.readers)


def judge(
    places: Sequence[Place],
    book: HeaderBook,
    kek: KEKIdentity,
    substitutes: Callable[[str], tuple[Substitutes, ...]],
    *,
    unreadable: Mapping[str, str],
    lows: Mapping[tuple[str, int], int],
    now: Mapping[tuple[str, int], int],
    notes: Sequence[str] = (),
) -> Verdict:
    """Answer from what was counted.

    Args:
        places: All partitions of the topics in question.
        book: Their envelopes.
        kek: The KEK in question.
        substitutes: For a topic, who proves that its envelopes open without it: all readers of a topic have to.
        unreadable: Topic to why it could not be read.
        lows: (topic, partition) to its first offset at the end of the audit: what lies below is gone.
        now: (topic, partition) to its end at the end of the audit: what came meanwhile was not looked at.
        notes: What to know besides, one sentence each.
    """
    unsure = [f"{topic}: could not be read: {why}" for topic, why in unreadable.items()]
    if not places:
        unsure.append("no partition was read: does this login see the topics?")
    needed: list[str] = []
    needs: dict[tuple[int, tuple[Substitutes, ...]], tuple[Need, str]] = {}
    for place in places:
        proofs = substitutes(place.topic)
        unsure += doubts(place)
        by_need: dict[tuple[Need, str], list[Tally]] = {}
        low = lows.get((place.topic, place.partition), place.start)
        for index, tally in place.tallies.items():
            need = needs.get((index, proofs))
            if need is None:
                need = needs[index, proofs] = _need(book.envelopes[index], kek, proofs)
            if need[0] is not Need.NONE and tally.last_offset >= low:
                by_need.setdefault(need, []).append(tally)
        for (kind, why), tallies in by_need.items():
            span = _span(tallies, low)
            if kind is Need.UNKNOWN:
                unsure.append(f"{place.name}: {span}: whether they open without the KEK is not known: {why}")
            else:
                needed.append(f"{place.name}: {span} need the KEK: {kind}{f' ({why})' if why else ''}")
    answer = Answer.NO if needed else Answer.UNDETERMINED if unsure else Answer.YES
    evidence = [*needed, *unsure]
    if not evidence:
        count = sum(place.records for place in places)
        evidence.append(f"{count} records in {len(places)} partitions were read, and none needs the KEK")
    return Verdict(kek.arn, answer, (*evidence, *came_meanwhile(places, now), *notes))


def _need(envelope: Envelope, kek: KEKIdentity, proofs: tuple[Substitutes, ...]) -> tuple[Need, str]:
    """Give the worst that is true for any reader: that it needs the KEK, then that nobody can tell."""
    try:
        if not any(kek.means(key_id) for key_id in envelope.key_ids):
            return Need.NONE, ""
        header = decode_header(envelope.data)
        found = [proof.need(header, kek) for proof in proofs]
    except (KeyServiceError, ConfigError) as error:
        return Need.UNKNOWN, str(error)
    return max(found, key=lambda need: _GRAVITY.get(need[0], 2))


def doubts(place: Place) -> Iterable[str]:
    """Say what was not read of a partition, one sentence each."""
    if place.unread:
        yield f"{place.name}: read up to offset {place.position} of {place.end} only: {place.unread}"
    if place.high > place.end:
        yield f"{place.name}: a transaction is open from offset {place.end} on: run again once it has ended"
    if place.overtaken >= 0:
        yield f"{place.name}: retention deleted records from offset {place.overtaken} on as they were read: run again"
    for kind, (count, offset) in sorted(place.faults.items()):
        yield f"{place.name}: {count} malformed records ({kind}), the first at offset {offset}: their KEK is not known"


def _span(tallies: Sequence[Tally], low: int) -> str:
    count = sum(tally.records for tally in tallies)
    first, last = min(t.first_offset for t in tallies), max(t.last_offset for t in tallies)
    return f"{'up to ' if first < low else ''}{count} records at offsets {max(first, low)} to {last}"


def came_meanwhile(places: Sequence[Place], now: Mapping[tuple[str, int], int]) -> Iterable[str]:
    """Say which partitions have grown since the audit began; ``now`` gives their ends."""
    came = {p.name: n for p in places if (n := now.get((p.topic, p.partition), p.high) - p.high) > 0}
    if came:
        shown = ", ".join(f"{name} {count}" for name, count in list(came.items())[:5])
        yield f"not looked at: offsets written since the audit began ({shown}{', …' if len(came) > 5 else ''})"  # noqa: PLR2004

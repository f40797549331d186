"""May a KEK be disabled: yes, no or undetermined, each with its evidence.

``no``: some record needs the KEK. ``yes``: every record was read, and none needs it. Everything else is
``undetermined``: what could not be read might need it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from streamcrypt.audit.keks import KEKIdentity
from streamcrypt.audit.tally import Envelope, HeaderBook, Place, Tally
from streamcrypt.crypto.data_key import DataKey
from streamcrypt.envelope.codec import decode_header, derivation_info
from streamcrypt.envelope.header import EncryptedDataKey, EnvelopeHeader
from streamcrypt.errors import AuthenticationFailed, ConfigError, KeyServiceError, KeyUnavailable, UntrustedKey
from streamcrypt.keys.provider import KeyProvider

__all__ = ["Answer", "Need", "Substitutes", "Verdict", "judge"]

MAX_UNWRAPS = 10_000
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


class Substitutes:
    """Proves that an envelope opens without the KEK: unwraps another entry and compares the commitment.

    As a reader would it tries the first two trusted KEKs of an envelope, and none that is the KEK in question.

    Args:
        keys: The key service, with what readers trust.
        limit: The most envelopes that are tried. Default 10,000, at about 10 ms each.
    """

    def __init__(self, keys: KeyProvider, limit: int = MAX_UNWRAPS) -> None:
        self._keys = keys
        self._left = limit
        self._limit = limit
        self._away = ""

    def need(self, header: EnvelopeHeader, kek: KEKIdentity) -> tuple[Need, str]:
        """Say whether records under an envelope that names the KEK need it, and what hinders to tell."""
        if all(kek.means(key.key_id) for key in header.keys):
            return Need.ONLY, ""
        if self._away:
            return Need.UNKNOWN, self._away
        try:
            first = self._keys.trusted(header.keys)[:_CALLS_PER_HEADER]
        except (KeyServiceError, ConfigError) as error:
            return self._unknown(error)
        others = [(key, arn) for key, arn in first if not kek.means(key.key_id) and not kek.means(arn)]
        if not others:
            return Need.UNTRUSTED, ""
        if self._left < 1:
            return Need.UNKNOWN, f"more than {self._limit} envelopes would have to be unwrapped"
        self._left -= 1
        return self._try(header, others)

    def _try(self, header: EnvelopeHeader, others: Iterable[tuple[EncryptedDataKey, str]]) -> tuple[Need, str]:
        info = derivation_info(header.suite, header.context, header.bound, header.content)
        unknown: tuple[Need, str] | None = None
        for encrypted, arn in others:
            try:
                dek = self._keys.decrypt_data_key(encrypted, arn, dict(header.context))
                DataKey(dek, header.suite, info, header.commitment).wipe()
            except (AuthenticationFailed, UntrustedKey):
                continue
            except (KeyServiceError, ConfigError) as error:
                unknown = self._unknown(error)
                continue
            return Need.NONE, ""
        return unknown or (Need.NO_SUBSTITUTE, "")

    def _unknown(self, error: KeyServiceError | ConfigError) -> tuple[Need, str]:
        if isinstance(error, KeyUnavailable):
            self._away = str(error)  # once is enough: thousands of envelopes would each wait for it
        return Need.UNKNOWN, str(error)


def judge(
    places: Sequence[Place],
    book: HeaderBook,
    kek: KEKIdentity,
    substitutes: Substitutes,
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
        substitutes: Proves that envelopes open without it.
        unreadable: Topic to why it could not be read.
        lows: (topic, partition) to its first offset at the end of the audit: what lies below is gone.
        now: (topic, partition) to its end at the end of the audit: what came meanwhile was not looked at.
        notes: What to know besides, one sentence each.
    """
    doubts = [f"{topic}: could not be read: {why}" for topic, why in unreadable.items()]
    if not places:
        doubts.append("no partition was read: does this login see the topics?")
    needed: list[str] = []
    needs: dict[int, tuple[Need, str]] = {}
    for place in places:
        doubts += _doubts(place)
        by_need: dict[tuple[Need, str], list[Tally]] = {}
        low = lows.get((place.topic, place.partition), place.start)
        for index, tally in place.tallies.items():
            if index not in needs:
                needs[index] = _need(book.envelopes[index], kek, substitutes)
            if needs[index][0] is not Need.NONE and tally.last_offset >= low:
                by_need.setdefault(needs[index], []).append(tally)
        for (need, why), tallies in by_need.items():
            span = _span(tallies, low)
            if need is Need.UNKNOWN:
                doubts.append(f"{place.name}: {span}: whether they open without the KEK is not known: {why}")
            else:
                needed.append(f"{place.name}: {span} need the KEK: {need}")
    answer = Answer.NO if needed else Answer.UNDETERMINED if doubts else Answer.YES
    evidence = [*needed, *doubts]
    if not evidence:
        count = sum(place.records for place in places)
        evidence.append(f"{count} records in {len(places)} partitions were read, and none needs the KEK")
    return Verdict(kek.arn, answer, (*evidence, *_came_meanwhile(places, now), *notes))


def _need(envelope: Envelope, kek: KEKIdentity, substitutes: Substitutes) -> tuple[Need, str]:
    try:
        if not any(kek.means(key_id) for key_id in envelope.key_ids):
            return Need.NONE, ""
        return substitutes.need(decode_header(envelope.data), kek)
    except (KeyServiceError, ConfigError) as error:
        return Need.UNKNOWN, str(error)


def _doubts(place: Place) -> Iterable[str]:
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


def _came_meanwhile(places: Sequence[Place], now: Mapping[tuple[str, int], int]) -> Iterable[str]:
    came = {p.name: n for p in places if (n := now.get((p.topic, p.partition), p.high) - p.high) > 0}
    if came:
        shown = ", ".join(f"{name} {count}" for name, count in list(came.items())[:5])
        yield f"not looked at: offsets written since the audit began ({shown}{', …' if len(came) > 5 else ''})"  # noqa: PLR2004

"""Records whose data key is wrapped for fewer KEKs than are configured, such as those sealed while a region was away.

A record counts here where its envelope misses one of the configured KEKs, whatever else it holds: a rewrap adds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from streamcrypt.audit.keks import kek_identity
from streamcrypt.audit.tally import Envelope, HeaderBook, Place, Tally

__all__ = ["Shortfall", "shortfalls"]


@dataclass(frozen=True, slots=True)
class Shortfall:
    """Records of one partition, between two offsets inclusive, that miss the same KEKs.

    Attributes:
        missing: The configured KEKs that their envelopes do not hold.
        records: How many; others may stand between them.
        data_keys: Distinct data keys.
        first_offset: Of the first.
        last_offset: Of the last.
        first_time: Milliseconds since 1970; None where unknown.
        last_time: Likewise.
    """

    missing: tuple[str, ...]
    records: int
    data_keys: int
    first_offset: int
    last_offset: int
    first_time: int | None
    last_time: int | None


def shortfalls(place: Place, book: HeaderBook, configured: Sequence[str]) -> list[Shortfall]:
    """List what misses a KEK, by offset.

    Args:
        place: The partition.
        book: The envelopes.
        configured: The KEKs as ARNs (or ids of a keyring); replicas of one multi-region key count as one.
    """
    wanted = {kek_identity(key_id): key_id for key_id in reversed(configured)}
    found: list[Shortfall] = []
    run: list[tuple[Tally, Envelope]] = []
    before: tuple[str, ...] = ()
    for index, tally in sorted(place.tallies.items(), key=lambda item: item[1].first_offset):
        envelope = book.envelopes[index]
        held = {kek_identity(key_id) for key_id in envelope.key_ids}
        missing = tuple(sorted(key_id for identity, key_id in wanted.items() if identity not in held))
        if missing != before and run:
            found.append(_shortfall(before, run))
            run = []
        before = missing
        if missing:
            run.append((tally, envelope))
    if run:
        found.append(_shortfall(before, run))
    return found


def _shortfall(missing: tuple[str, ...], run: Sequence[tuple[Tally, Envelope]]) -> Shortfall:
    last = max((tally for tally, _ in run), key=lambda tally: tally.last_offset)
    first = run[0][0]
    return Shortfall(
        missing,
        sum(tally.records for tally, _ in run),
        len({envelope.commitment for _, envelope in run}),
        first.first_offset,
        last.last_offset,
        first.first_time,
        last.last_time,
    )

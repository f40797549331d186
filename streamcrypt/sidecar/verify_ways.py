"""The two ways of comparing one partition, pure: record by record, or the newest record of each key."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

from streamcrypt.envelope.framing import split_frame
from streamcrypt.sidecar.verify_opening import Opened

__all__ = ["Counts", "Differs", "EachRecord", "NewestPerKey", "digest_of"]

_MOST_DIFFERENCES = 10
_LOOK_AHEAD = 1_000
_KEY_BYTES = 16

Differs = Callable[[int, int, str], None]
"""Told of a difference: offset on the source, offset on the target (-1 where that side has none), and what it is."""


@dataclass(slots=True)
class Counts:
    """What was found.

    Attributes:
        compared: Records that are the same on both sides.
        unreadable: Records that do not open on the source either.
        replaced: Records of which compaction has left the new one alone; it opens.
        expired: Records on the target whose source retention has taken.
    """

    compared: int = 0
    unreadable: int = 0
    replaced: int = 0
    expired: int = 0

    def add(self, other: Counts) -> None:
        """Add those of another partition."""
        self.compared += other.compared
        self.unreadable += other.unreadable
        self.replaced += other.replaced
        self.expired += other.expired


class EachRecord:
    """Record by record, in order.

    Args:
        counts: Filled.
        differs: Told of differences; after ten of them the partition is not compared further.
        same_bytes: Whether the sealed bytes and the place of the envelope must be the same, too.
    """

    def __init__(self, counts: Counts, differs: Differs, *, same_bytes: bool) -> None:
        self._counts = counts
        self._tell = differs
        self._same_bytes = same_bytes
        self._differences = 0
        self._ahead: deque[Opened] = deque()
        self._target: Iterator[Opened] = iter(())

    def run(
        self,
        source: Iterable[Opened],
        target: Iterable[Opened],
        *,
        overtaken: bool = False,
        passed: Callable[[int], None] = lambda _offset: None,
    ) -> None:
        """Compare two partitions.

        Args:
            source: Its records.
            target: Its records.
            overtaken: Whether retention has taken records of the source that the target may still have.
            passed: Called with the offset of each source record that was looked at.
        """
        self._target = iter(target)
        for record in source:
            if overtaken:
                overtaken = False
                self._skip_to(record)
            self._compare(record)
            passed(record.offset)
            if self._differences >= _MOST_DIFFERENCES:
                self._tell(record.offset, -1, "more than these: the partition is not compared further")
                return
        while overtaken and self._peek() is not None:
            # Retention has taken all of the source.
            self._counts.expired += 1
            self._ahead.popleft()
        left = self._peek()
        if left is not None:
            self._tell(-1, left.offset, "extra: it and what follows is not on the source")

    @property
    def next_target(self) -> int | None:
        """The offset of the next record on the target; None where there is none, or something differed."""
        ahead = None if self._differences else self._peek()
        return None if ahead is None else ahead.offset

    def _peek(self, at: int = 0) -> Opened | None:
        while len(self._ahead) <= at:
            found = next(self._target, None)
            if found is None:
                return None
            self._ahead.append(found)
        return self._ahead[at]

    def _differs(self, offset: int, target_offset: int, what: str) -> None:
        self._differences += 1
        self._tell(offset, target_offset, what)

    def _skip_to(self, record: Opened) -> None:
        while (there := self._peek()) is not None and _name(there) != _name(record):
            self._counts.expired += 1
            self._ahead.popleft()

    def _compare(self, record: Opened) -> None:
        there = self._peek()
        if there is not None and self._are_alike(record, there):
            self._ahead.popleft()
            self._counts.compared += 1
            return
        if record.failure:
            self._counts.unreadable += 1
            # Where the policy left it behind, the next one stands there already.
            if there is not None and there.failure and _name(there) == _name(record):
                self._ahead.popleft()
            return
        if there is None or _name(there) != _name(record):
            there = self._find(record)
            if there is None:
                self._differs(record.offset, -1, "missing on the target")
                return
        self._ahead.popleft()
        what = self._what_differs(record, there)
        if what:
            self._differs(record.offset, there.offset, what)
        else:
            self._counts.compared += 1

    def _are_alike(self, record: Opened, there: Opened) -> bool:
        return (
            record.key == there.key
            and record.time == there.time
            and record.value == there.value
            and record.headers == there.headers
            and record.sealed == there.sealed
            and not record.failure
            and not there.failure
            and (not self._same_bytes or (record.place == there.place and _same_sealed(record, there)))
        )

    def _find(self, record: Opened) -> Opened | None:
        """Look a little ahead on the target; what stands before it there is extra."""
        for at in range(_LOOK_AHEAD):
            there = self._peek(at)
            if there is None:
                return None
            if _name(there) == _name(record) and not self._what_differs(record, there):
                self._differs(-1, self._ahead[0].offset, f"extra: {at} not on the source, from here on")
                for _ in range(at):
                    self._ahead.popleft()
                return there
        return None

    def _what_differs(self, record: Opened, there: Opened) -> str:
        if there.failure:
            return f"does not open on the target: {there.failure}"
        fields = ["headers"] if record.headers != there.headers else []
        fields += ["value"] if record.value != there.value else []
        fields += ["envelope"] if record.sealed != there.sealed else []
        if self._same_bytes:
            fields += ["sealed bytes"] if not _same_sealed(record, there) else []
            fields += ["place of the envelope"] if record.place != there.place else []
        return ", ".join(fields)


def _name(record: Opened) -> tuple[bytes | None, int | None]:
    return record.key, record.time


def _same_sealed(record: Opened, there: Opened) -> bool:
    if record.place >= 0 or not record.sealed or record.raw is None or there.raw is None:
        return record.raw == there.raw
    return split_frame(record.raw)[1] == split_frame(there.raw)[1]


def digest_of(key: bytes | None) -> bytes | None:
    """Give what a record key is kept by."""
    return None if key is None else blake2b(key, digest_size=_KEY_BYTES).digest()


@dataclass(frozen=True, slots=True)
class _Newest:
    """The newest record of a key, without its content."""

    offset: int
    fingerprint: bytes
    failure: str
    deleted: bool


class NewestPerKey:
    """The newest record of each key: what compaction leaves in the end.

    It takes some 400 bytes of memory for each distinct key of a partition.

    Args:
        counts: Filled.
        differs: Told of differences.
        in_place: Whether the target is the source, rewritten behind its end: each key stands there once, and
            compaction may have taken the record that it replaces.
    """

    def __init__(self, counts: Counts, differs: Differs, *, in_place: bool) -> None:
        self._counts = counts
        self._differs = differs
        self._in_place = in_place
        self._secret = os.urandom(32)

    def run(
        self,
        source: Iterable[Opened],
        target: Iterable[Opened],
        since: Callable[[], Collection[bytes | None]] = frozenset,
    ) -> None:
        """Compare two partitions.

        Args:
            source: The records of one.
            target: The records of the other.
            since: Gives the digests of the keys behind the end of the source; asked where a key is on the target alone.
        """
        there = self._collect(target, once=self._in_place)
        for key, newest in self._collect(source).items():
            self._compare(newest, there.pop(key, None))
        # Compaction takes a record of the source for a newer one of its key, wherever that stands.
        newer = since() if there and not self._in_place else ()
        for key, left in there.items():
            self._left(left, replaced=key in newer)

    def _collect(self, records: Iterable[Opened], *, once: bool = False) -> dict[bytes | None, _Newest]:
        newest: dict[bytes | None, _Newest] = {}
        for record in records:
            key = digest_of(record.key)
            if once and key in newest:
                self._differs(-1, record.offset, "twice: the key was rewritten before")
            fingerprint = b"" if record.failure else self._fingerprint(record)
            newest[key] = _Newest(record.offset, fingerprint, record.failure, record.value is None)
        return newest

    def _fingerprint(self, record: Opened) -> bytes:
        """Give a keyed digest of what a reader sees of a record, so that no plaintext has to be kept."""
        digest = blake2b(key=self._secret, digest_size=_KEY_BYTES)
        value = record.value or b""
        seen = (record.sealed, record.time, record.headers, record.value is None, len(value))
        digest.update(repr(seen).encode(errors="surrogatepass"))
        digest.update(value)
        return digest.digest()

    def _compare(self, here: _Newest, there: _Newest | None) -> None:
        if here.failure:
            self._counts.unreadable += 1
        elif there is None and here.deleted:
            self._counts.compared += 1  # the tombstone did its work and is gone
        elif there is None:
            self._differs(here.offset, -1, "missing on the target")
        elif there.failure:
            self._differs(here.offset, there.offset, f"does not open on the target: {there.failure}")
        elif here.fingerprint != there.fingerprint:
            self._differs(here.offset, there.offset, "value, headers or timestamp")
        else:
            self._counts.compared += 1

    def _left(self, there: _Newest, *, replaced: bool) -> None:
        if there.failure:
            self._differs(-1, there.offset, f"does not open on the target: {there.failure}")
        elif self._in_place or there.deleted or replaced:
            self._counts.replaced += 1
        else:
            self._differs(-1, there.offset, "extra: it is not on the source")

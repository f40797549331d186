"""Holds what arrived against what was sent. Pure: it knows no broker, no clock and no key.

It says what is missing, doubled, out of order, altered, unknown or in plaintext, and which dead letters lie.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tests.chaos.records import MARK, Arrived, Book, Headers, Record

__all__ = ["Checker", "Findings", "Letter", "check_letters", "find_leaks", "split_letter"]

PREFIX = "streamcrypt-dlq-"
ORIGINAL = PREFIX + "original-"
FACTS = ("reason", "class", "topic", "partition", "offset", "time", "pipeline")
_SHOWN = 12


@dataclass
class Findings:
    """What is wrong, by kind; empty where all is well.

    Attributes:
        found: Kind to descriptions, in the order found.
        counts: Facts that are no fault, such as doubles under at-least-once.
    """

    found: dict[str, list[str]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, what: str) -> None:
        """Note one fault."""
        self.found.setdefault(kind, []).append(what)

    def merge(self, other: Findings, prefix: str = "") -> None:
        """Take over the faults and facts of another check."""
        for kind, items in other.found.items():
            self.found.setdefault(prefix + kind, []).extend(items)
        for name, count in other.counts.items():
            self.counts[prefix + name] += count

    def __bool__(self) -> bool:
        return bool(self.found)

    def lines(self) -> list[str]:
        """Say it for people, cut where it is long."""
        said = []
        for kind, items in self.found.items():
            more = f" … and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
            said.append(f"{kind} ({len(items)}): {'; '.join(items[:_SHOWN])}{more}")
        return said


class Checker:
    """Checks one output against the records sent.

    Args:
        book: Makes every record again.
        once: Every record once. Else repeats are counted, and first appearances must be in order.
        partitioned: Whether records keep their partition, and so their order within it, null keys included.
    """

    def __init__(self, book: Book, *, once: bool = True, partitioned: bool = True) -> None:
        self._book = book
        self._once = once
        self._partitioned = partitioned

    def check(self, arrivals: Iterable[Arrived], expected: Iterable[int]) -> Findings:
        """Check opened records, partition by partition in the order of their offsets.

        Args:
            arrivals: What stands on the topic.
            expected: The numbers of the records that must be there.
        """
        findings = Findings()
        wanted = set(expected)
        seen: dict[int, Arrived] = {}
        lasts: dict[object, int] = {}
        for found in arrivals:
            number = self._book.number_of(found)
            if number is None or number not in wanted:
                findings.add("unknown", found.place)
                continue
            sent = self._book.record(number)
            for what in _altered(sent, found, partitioned=self._partitioned):
                findings.add("altered", f"record {number}, its {what}, at {found.place}")
            if number in seen:
                findings.counts["repeats"] += 1
                if self._once:
                    findings.add("doubled", f"record {number} at {seen[number].place} and {found.place}")
                continue
            seen[number] = found
            self._check_order(lasts, sent, found, findings)
        for number in sorted(wanted - seen.keys()):
            sent = self._book.record(number)
            findings.add("missing", f"record {number} of partition {sent.partition}")
        findings.counts["arrived"] = len(seen)
        return findings

    def _check_order(self, lasts: dict[object, int], sent: Record, found: Arrived, findings: Findings) -> None:
        lanes: list[object] = [("key", sent.key)] if sent.key is not None else []
        if self._partitioned:
            lanes.append(found.partition)
        for lane in lanes:
            last = lasts.get(lane, -1)
            if sent.number < last:
                findings.add("disordered", f"record {sent.number} behind {last} of {lane!r} at {found.place}")
            lasts[lane] = max(last, sent.number)


def _altered(sent: Record, found: Arrived, *, partitioned: bool) -> list[str]:
    pairs = [
        ("value", sent.value, found.value),
        ("key", sent.key, found.key),
        ("headers", sent.headers, found.headers),
        ("timestamp", sent.timestamp, found.timestamp),
    ]
    if partitioned:
        pairs.append(("partition", sent.partition, found.partition))
    return [name for name, was, now in pairs if was != now]


def find_leaks(arrivals: Iterable[Arrived]) -> Findings:
    """Search values and headers for pieces of plaintext, as they are and in the usual codings."""
    # base64 of the mark at each of the three alignments, without the characters that its neighbours touch.
    coded = [base64.b64encode(b"\0" * shift + MARK)[4 if shift else 0 : -4] for shift in range(3)]
    needles = (MARK, MARK.hex().encode(), *coded)
    findings = Findings()
    for found in arrivals:
        texts = [found.value or b"", *(value or b"" for _, value in found.headers)]
        findings.counts["searched bytes"] += sum(map(len, texts))
        if any(needle in text for needle in needles for text in texts):
            findings.add("plaintext", found.place)
    return findings


@dataclass(frozen=True)
class Letter:
    """A dead letter that must be there.

    Attributes:
        kind: The error's class.
        words: What its reason must hold.
        value: As it must stand in the letter; None where it is withheld.
        key: The record's.
        headers: The record's own.
        timestamp: The record's.
    """

    kind: str
    words: str
    value: bytes | None
    key: bytes | None
    headers: Headers
    timestamp: int


def split_letter(headers: Headers) -> tuple[dict[str, list[str]], Headers]:
    """Part the headers of a letter into its facts and the record's own."""
    facts: dict[str, list[str]] = {}
    own: list[tuple[str, bytes | None]] = []
    for name, value in headers:
        if name.startswith(ORIGINAL):
            own.append((name.removeprefix(ORIGINAL), value))
        elif name.startswith(PREFIX):
            facts.setdefault(name.removeprefix(PREFIX), []).append((value or b"").decode())
        else:
            own.append((name, value))
    return facts, tuple(own)


def check_letters(
    letters: Sequence[Arrived], expected: Mapping[tuple[str, int, int], Letter], pipeline: str
) -> Findings:
    """Hold dead letters against the truth: each once, with true coordinates, reason and content.

    Args:
        letters: What stands on the dead-letter topic, opened where letters are sealed.
        expected: Source topic, partition and offset to the letter.
        pipeline: Who must have written them.
    """
    findings = Findings()
    seen: Counter[tuple[str, int, int]] = Counter()
    for found in letters:
        facts, own = split_letter(found.headers)
        if any(len(facts.get(name, ())) != 1 for name in FACTS):
            findings.add("letter without facts", f"{found.place} has {sorted(facts)}")
            continue
        fact = {name: values[0] for name, values in facts.items()}
        origin = (fact["topic"], int(fact["partition"]), int(fact["offset"]))
        truth = expected.get(origin)
        if truth is None:
            findings.add("letter of a sound record", f"{found.place} says {origin} {fact['class']}")
            continue
        seen[origin] += 1
        if seen[origin] > 1:
            findings.add("doubled letter", f"{origin} at {found.place}")
        _compare(found, own, fact, truth, pipeline, findings)
    for origin, truth in expected.items():
        if origin not in seen:
            findings.add("missing letter", f"{origin} {truth.kind}")
    findings.counts["letters"] = sum(seen.values())
    return findings


def _compare(
    found: Arrived, own: Headers, fact: Mapping[str, str], truth: Letter, pipeline: str, findings: Findings
) -> None:
    at = f"{found.place} of {fact['topic']}[{fact['partition']}]@{fact['offset']}"
    if fact["class"] != truth.kind or truth.words not in fact["reason"]:
        findings.add("wrong reason", f"{at}: {fact['class']}: {fact['reason']} where {truth.kind} {truth.words!r}")
    if fact["pipeline"] != pipeline:
        findings.add("wrong pipeline", f"{at}: {fact['pipeline']}")
    try:
        datetime.fromisoformat(fact["time"])
    except ValueError:
        findings.add("wrong time", f"{at}: {fact['time']}")
    pairs = [
        ("value", truth.value, found.value),
        ("key", truth.key, found.key),
        ("timestamp", truth.timestamp, found.timestamp),
        ("headers", truth.headers, own),
    ]
    for name, was, now in pairs:
        if was != now:
            findings.add("altered letter", f"{at}: its {name}")

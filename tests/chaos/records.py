"""Every record that a run sends, made from its seed alone: what a checker knows before anything arrives."""

from __future__ import annotations

import random
from dataclasses import dataclass

from confluent_kafka import Message

__all__ = ["MARK", "Arrived", "Book", "Headers", "Record", "arrived"]

Headers = tuple[tuple[str, bytes | None], ...]

MARK = b"PLAINTEXT-DE8937"
"""Every 16 bytes of a value, so that any 31 bytes of it that leak give it away."""


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it is sent.

    Attributes:
        number: Its place in the run; ascending per key and per partition.
        partition: Where it is sent.
        key: Null for some.
        value: Null for some (tombstones); else it begins with the number.
        headers: None at all for most, as most producers do.
        timestamp: Milliseconds, its own, so that a record without key, value and headers is known again.
    """

    number: int
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: int


@dataclass(frozen=True, slots=True)
class Arrived:
    """A record as it stands on a topic."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: int

    @property
    def place(self) -> str:
        """Where it stands, for people."""
        return f"{self.topic}[{self.partition}]@{self.offset}"


@dataclass(frozen=True)
class Book:
    """The records of one run.

    Args:
        seed: Gives values, keys and sizes.
        epoch: Milliseconds since 1970 of record 0; record n is n milliseconds later.
        partitions: Of the source topic.
        keys: How many keys there are.
        largest: Bytes of the largest values.
        large_every: One value in so many is that large; 0: none is.
        tombstones: Whether there are null values.
    """

    seed: int
    epoch: int
    partitions: int = 4
    keys: int = 200
    largest: int = 0
    large_every: int = 0
    tombstones: bool = True

    def record(self, number: int) -> Record:
        """Give one record; always the same one."""
        dice = random.Random(self.seed * 1_000_003 + number)
        owner = dice.randrange(self.keys)
        keyless = dice.random() < 0.03
        key = None if keyless else b"key-%05d" % owner
        partition = number % self.partitions if keyless else owner % self.partitions
        headers: Headers = ()
        if dice.random() < 0.2:
            headers = (("trace", b"%016x" % dice.getrandbits(64)), ("trace", None), ("n", b"%d" % number))
        value = self._value(dice, number)
        if key is not None and self.tombstones and dice.random() < 0.02:
            value = None
        return Record(number, partition, key, value, headers, self.epoch + number)

    def _value(self, dice: random.Random, number: int) -> bytes:
        size = dice.choice((16, 60, 150, 400))
        if self.large_every and number % self.large_every == self.large_every - 1:
            size = self.largest
        elif dice.random() < 0.01:
            return b""
        return (b"%012d:" % number + MARK * (size // len(MARK) + 1))[: max(size, 29)]

    def number_of(self, found: Arrived) -> int | None:
        """Say which record this is: by its value, else by its timestamp; None where by neither."""
        number = found.timestamp - self.epoch
        if found.value is not None and found.value[12:13] == b":" and found.value[:12].isdigit():
            return int(found.value[:12])
        return number if number >= 0 else None


def arrived(message: Message) -> Arrived:
    """Take down what a consumer read."""
    headers = tuple(message.headers() or ())
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    # A letter is as old as its writing, and names its record's time in a header.
    own = dict(headers).get("streamcrypt-dlq-timestamp")
    timestamp = message.timestamp()[1] if own is None else int(own)
    return Arrived(topic, partition, offset, message.key(), message.value(), headers, timestamp)

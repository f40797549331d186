"""Writes what confluent-kafka cannot: records with a header whose name is not UTF-8."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Record = tuple[bytes | None, bytes, list[Any], bool]


class _NotUTF8(str):
    """A header name whose bytes are no text."""

    __slots__ = ()

    def encode(self, *_arguments: str) -> bytes:
        """Give the bytes that are sent."""
        return b"\xff\xfe"


def send(bootstrap: str, topic: str, records: Iterable[Record]) -> None:
    """Writes records to partition 0 of a topic: value, key, headers, and whether an odd header is added."""
    # Imported here: it warns, and no other test needs it.
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=bootstrap)
    for value, key, headers, odd in records:
        producer.send(topic, value, key, [*headers, (_NotUTF8("odd"), b"")] if odd else headers, partition=0)
    producer.close(timeout=10)

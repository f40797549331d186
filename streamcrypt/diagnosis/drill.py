"""The disaster drill: which records of a partition open, by a sample of its oldest, its newest and those between."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from streamcrypt.audit.tally import Place
from streamcrypt.clients.headers import headers_of
from streamcrypt.clients.lone import without_membership
from streamcrypt.diagnosis.findings import Check, Finding, fail, ok, warn
from streamcrypt.envelope.codec import decode_header
from streamcrypt.envelope.framing import MAGIC, split_frame
from streamcrypt.envelope.header import HEADER_NAME
from streamcrypt.errors import EnvelopeError, PlaintextRejected, StreamcryptError

__all__ = ["NEWEST", "Closed", "PartitionDrill", "Sampler", "drill_partition", "judge_partition", "spots"]

NEWEST = 10
"""Records before the end that are all read: what is written now is what a disaster meets first."""
_PATIENCE = 10.0
_POLL = 0.5
_EOF = KafkaError._PARTITION_EOF  # noqa: SLF001 - a public code of the library
_PASSING = frozenset(
    {
        KafkaError._TRANSPORT,  # noqa: SLF001
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.GROUP_AUTHORIZATION_FAILED,  # no group is used
    }
)
_SHOWN = 3


def spots(start: int, end: int, most: int) -> list[int]:
    """Choose the offsets to look at: the first, the last ones, and evenly between. Ascending, each once.

    Args:
        start: The first offset that is there.
        end: The offset behind the last.
        most: How many at most; above zero.
    """
    count = end - start
    if count <= most:
        return list(range(start, end))
    tail = min(NEWEST, max(1, most // 2))
    between = most - tail
    step = (count - tail) / between if between else 0.0
    return [start + int(step * n) for n in range(between)] + list(range(end - tail, end))


@dataclass(frozen=True, slots=True)
class Closed:
    """An envelope that did not open.

    Attributes:
        offset: Of the first record in the sample that has it.
        error: The class of the failure.
        text: Its text.
        key_ids: The KEKs that the envelope names.
    """

    offset: int
    error: str
    text: str
    key_ids: tuple[str, ...] = ()


@dataclass(slots=True)
class PartitionDrill:
    """What came of one partition.

    Attributes:
        topic, partition: Which.
        records: How many were looked at.
        bare: Those without an envelope, which no KEK is needed for: plaintext and plain tombstones.
        opened: Distinct envelopes that opened.
        closed: Distinct envelopes that did not.
        unread: Why reading ended early; empty where it did not.
    """

    topic: str
    partition: int
    records: int = 0
    bare: int = 0
    opened: int = 0
    closed: list[Closed] = field(default_factory=list)
    unread: str = ""


class Sampler:
    """Reads single records by their offsets. No group is joined and nothing is committed.

    Args:
        consumer_config: librdkafka properties of a reader.

    Raises:
        KafkaException: librdkafka refuses a property.
    """

    def __init__(self, consumer_config: Mapping[str, Any]) -> None:
        config = without_membership(consumer_config)
        self._consumer = Consumer(
            {
                **config,
                "enable.partition.eof": "true",
                "enable.auto.commit": "false",
                "enable.auto.offset.store": "false",
                # Retention may overtake a spot: the next record that is there stands in.
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                # One record is taken and the rest thrown away.
                "queued.min.messages": "1",
            }
        )

    def sample(self, place: Place, most: int) -> Iterator[Any]:
        """Read records of a partition, ascending, each once; at an offset without a record the next one stands in.

        Args:
            place: The partition, its first offset and its end.
            most: How many records at most.

        Raises:
            TimeoutError: The cluster fell silent.
            KafkaException: The partition cannot be read.
        """
        reached, at = place.start, -1
        for spot in spots(place.start, place.end, most):
            if spot < reached:
                continue
            if spot != at:
                self._go_to(place, spot)
            message = self._next(place)
            if message is None:
                break
            reached = at = message.offset() + 1
            yield message
        if reached <= place.end - NEWEST:
            yield from self._newest(place, reached)

    def _newest(self, place: Place, reached: int) -> Sequence[Any]:
        """Give the last records that stand before a tail of control records and aborted ones."""
        length = NEWEST
        found: deque[Any] = deque(maxlen=NEWEST)
        while not found and place.end - length > reached:
            length *= 4
            self._go_to(place, max(reached, place.end - length))
            while (message := self._next(place)) is not None:
                found.append(message)
        return found

    def _go_to(self, place: Place, offset: int) -> None:
        self._consumer.assign([TopicPartition(place.topic, place.partition, offset)])

    def _next(self, place: Place) -> Any:
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            message: Any = self._consumer.poll(_POLL)
            if message is None:
                continue
            error = message.error()
            if error is None:
                return message if message.offset() < place.end else None
            if error.code() == _EOF:
                return None
            if error.code() not in _PASSING:
                raise KafkaException(error)
        raise TimeoutError(f"nothing arrived for {_PATIENCE:.0f} s")

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()


def drill_partition(sampler: Sampler, place: Place, most: int, opens: Callable[[Any], object]) -> PartitionDrill:
    """Open a sample of a partition; each distinct envelope that does not open is tried once.

    Args:
        sampler: Reads.
        place: The partition.
        most: How many records at most.
        opens: Opens a message; raises a StreamcryptError where it does not.
    """
    done = PartitionDrill(place.topic, place.partition)
    seen: dict[bytes, bool] = {}
    try:
        for message in sampler.sample(place, most):
            done.records += 1
            header = _header_of(message)
            if header is None:
                done.bare += 1
                continue
            if seen.get(header) is False:
                continue
            try:
                opens(message)
            except StreamcryptError as error:
                if isinstance(error, PlaintextRejected):
                    done.bare += 1
                    continue
                seen[header] = False
                text = str(error) or type(error).__name__
                done.closed.append(Closed(message.offset(), type(error).__name__, text, _key_ids(header)))
            else:
                seen[header] = True
    except TimeoutError as error:
        done.unread = str(error)
    except KafkaException as error:
        done.unread = str(error.args[0].str())
    done.opened = sum(seen.values())
    return done


def _header_of(message: Any) -> bytes | None:
    found: bytes | None = next((value for name, value in headers_of(message) or () if name == HEADER_NAME), None)
    if found is not None:
        return found
    value = message.value()
    if value is None or value[: len(MAGIC)] != MAGIC:
        return None
    try:
        return split_frame(value)[0]
    except EnvelopeError:
        # Told apart by its bytes; opening it says what is wrong.
        return bytes(value[:64])


def _key_ids(header: bytes) -> tuple[str, ...]:
    try:
        return tuple(dict.fromkeys(key.key_id for key in decode_header(header).keys))
    except EnvelopeError:
        return ()


def judge_partition(region: str, done: PartitionDrill) -> Finding:
    """Say whether a partition opens with one region alone.

    Args:
        region: The region.
        done: What came of the drill.
    """
    subject = f"{done.topic}[{done.partition}]"
    sample = f"{done.records} records in the sample, {done.bare} without an envelope"
    if done.closed:
        first = done.closed[0]
        total = done.opened + len(done.closed)
        needed = dict.fromkeys(key_id for closed in done.closed for key_id in closed.key_ids)
        seen = (
            f"{len(done.closed)} of {total} envelopes do not open with {region} alone, the first at offset "
            f"{first.offset}: {first.error}: {first.text}. Needed: {_few(list(needed)) or 'no KEK could be read'}"
        )
        remedy = (
            "Give that KEK a replica in the region (mrk-), or wrap the records for a KEK there too: add it to key_id, "
            "then streamcrypt reencrypt --rewrap."
        )
        return fail(Check.DRILL_OPENS, subject, seen, remedy)
    if done.unread:
        return fail(Check.DRILL_OPENS, subject, f"could not be read: {done.unread}", "Mend that and drill again.")
    if not done.opened:
        seen = f"nothing to open: {sample}"
        if done.records:
            return warn(Check.DRILL_OPENS, subject, seen, "Is this the topic with the sealed records?")
        return ok(Check.DRILL_OPENS, subject, seen)
    return ok(Check.DRILL_OPENS, subject, f"{done.opened} data keys opened with {region} alone; {sample}")


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"

"""Dead letters on their way back, exactly once, after the cause is gone.

Every letter up to the end that the topic had at the start is looked at once. One that cannot or shall not go back is
written to the end of the dead-letter topic again, in the same transaction, so that none is lost and none comes twice.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from streamcrypt.clients.headers import UNREADABLE, headers_of
from streamcrypt.decryptor import Decryptor
from streamcrypt.encryptor import HeaderList, header_list
from streamcrypt.errors import ConfigError, KeyServiceError, RecordTooLarge, StreamcryptError
from streamcrypt.events import Observer
from streamcrypt.sidecar.dead_letters import DeadLetters, MalformedLetter, Origin, without_our_headers
from streamcrypt.sidecar.failures import (
    ENDING,
    ConnectionLost,
    PipelineHalted,
    UnitFailed,
    blames_record,
    from_kafka,
    refused,
)
from streamcrypt.sidecar.ledger import Progress
from streamcrypt.sidecar.spec import PipelineSpec
from streamcrypt.sidecar.topics import RouteProblem, Routes
from streamcrypt.sidecar.transactions import Transactions
from streamcrypt.sidecar.transform import Transform

__all__ = ["Replay", "Replayed"]

_BATCH = 500
_FETCH = 1.0
_TIMEOUT = 10.0
_PATIENCE = 60.0
_PARTITION_BY_KEY = -1
_NOW = 0
_FEWER = 4
_TRIES = 5


@dataclass(slots=True)
class Replayed:
    """What a replay did.

    Attributes:
        back: Letters whose record went to its target.
        kept: Why letters stay on the dead-letter topic, and how many: ``filtered``, ``foreign``, ``malformed``,
            ``withheld`` (refused as plaintext: nothing but coordinates was kept), or the class of the new failure.
    """

    back: int = 0
    kept: Counter[str] = field(default_factory=Counter)


class Replay:
    """Sends the dead letters of one pipeline back through it.

    Args:
        spec: The pipeline, with its dead-letter topic.
        consumer_config: librdkafka properties, with a consumer group of the replay's own.
        producer_config: librdkafka properties, with a transactional id of the pipeline's replays, wherever they run,
            so that two of them fence each other instead of sending a letter twice.
        transform: The pipeline's; its owner closes it.
        letters: Writes a letter anew, where its record fails again.
        opener: Opens sealed letters; None where the pipeline's letters are as they were read.
        observer: Told of commits and of trouble with the broker.
    """

    def __init__(
        self,
        spec: PipelineSpec,
        consumer_config: Mapping[str, Any],
        producer_config: Mapping[str, Any],
        transform: Transform,
        letters: DeadLetters,
        opener: Decryptor | None,
        observer: Observer,
    ) -> None:
        self._spec = spec
        self._transform = transform
        self._letters = letters
        self._opener = opener
        self._stop = threading.Event()
        self._delivery = Transactions(spec.name, producer_config, observer, self._alive, self._alive)
        self._consumer = Consumer(dict(consumer_config))
        self._routes = Routes(spec, {})
        self._reason: str | None = None
        self._done = Replayed()

    def run(
        self, stop: threading.Event, reason: str | None = None, compacted: Callable[[str], bool] | None = None
    ) -> Replayed:
        """Send letters back until the end that the topic has now, or until ``stop`` is set.

        Args:
            stop: Set it to end after the batch under way.
            reason: Only letters of this error class, or whose reason contains this text.
            compacted: Says whether a target is compacted; a replay is refused then, since an older value would
                overwrite a newer one. None: go on all the same.

        Raises:
            ConfigError: A target is compacted; nothing was begun.
            KeyServiceError, RouteProblem: The cause is not gone; what was begun is rolled back.
            ConnectionLost, PipelineHalted: The brokers.
        """
        self._stop, self._reason = stop, reason
        try:
            self._routes = Routes.discover(self._delivery.producer, self._spec)
            if compacted is not None:
                self._refuse_compacted(compacted)
            self._delivery.start()
            ends = self._assign()
            self._until(ends)
        except UnitFailed as failure:
            self._delivery.give_up(failure)
            raise ConnectionLost(f"replay of {self._letters.topic!r}: {failure}") from None
        except KafkaException as error:
            raise from_kafka(error, f"replay of {self._letters.topic!r}") from None
        except StreamcryptError:
            with suppress(StreamcryptError, UnitFailed, KafkaException):
                self._delivery.give_up(ENDING)
            raise
        finally:
            self._consumer.close()
            self._delivery.close()
        return self._done

    def _refuse_compacted(self, compacted: Callable[[str], bool]) -> None:
        for target in sorted({self._spec.target_of(source) for source in self._routes.sources}):
            if compacted(target):
                raise ConfigError(
                    f"{target!r} is compacted: a replayed record lands behind later ones of its key and would replace "
                    "them",
                    remedy="Pass --allow-stale where that is wanted.",
                )

    def _alive(self) -> None:
        """Nothing else waits for this loop."""

    def _assign(self) -> Progress:
        topic = self._letters.topic
        if topic not in self._routes.partitions:
            raise RouteProblem(f"the dead-letter topic {topic!r} does not exist", remedy="Check its name.")
        places = [TopicPartition(topic, number) for number in range(self._routes.partitions[topic])]
        ends: Progress = {}
        starts = self._consumer.committed(places, timeout=_TIMEOUT)
        for place in starts:
            low, high = self._consumer.get_watermark_offsets(place, timeout=_TIMEOUT)
            place.offset = max(place.offset, low) if place.offset >= 0 else OFFSET_BEGINNING
            if max(place.offset, low) < high:
                ends[place.topic, place.partition] = high
        self._consumer.assign([place for place in starts if (place.topic, place.partition) in ends])
        return ends

    def _until(self, ends: Progress) -> None:
        waiting = time.monotonic() + _PATIENCE
        while ends and not self._stop.is_set():
            messages: list[Any] = self._consumer.consume(_BATCH, _FETCH)
            for message in messages:
                if (error := message.error()) is not None:
                    raise from_kafka(error, f"replay of {self._letters.topic!r}")
            wanted = [m for m in messages if m.offset() < ends.get((m.topic(), m.partition()), 0)]
            self._pass(wanted)
            reached = self._reached(ends)
            self._delivery.commit(self._consumer, reached, 0, _TIMEOUT, wait=False)
            for place, offset in reached.items():
                if offset >= ends[place]:
                    self._consumer.pause([TopicPartition(*place)])
                    del ends[place]
            if messages:
                waiting = time.monotonic() + _PATIENCE
            elif time.monotonic() > waiting:
                raise ConnectionLost(f"replay of {self._letters.topic!r}: nothing arrives any more")

    def _pass(self, messages: Sequence[Any]) -> None:
        """Replay letters, as many together as go; the one that a broker refuses alone, and it stays."""
        together, tries = len(messages), 0
        while messages:
            few = messages[:together]
            before = Replayed(self._done.back, Counter(self._done.kept))
            try:
                done = self._unit(few)
            except UnitFailed as failure:
                explained = self._delivery.give_up(failure)
                self._transform.lost()
                self._done.back, self._done.kept = before.back, before.kept
                tries += 1
                if not blames_record(explained.cause):
                    # librdkafka follows a refusal up with "skipped sequence numbers", which the next abort mends.
                    if tries > _TRIES:
                        raise explained from None
                    continue
                if len(few) == 1:
                    self._stays(few[0], refused(explained.cause))
                    messages = messages[1:]
                together = max(1, len(few) // _FEWER)
            else:
                messages, tries = messages[done:], 0
                together = min(_BATCH, 2 * together)

    def _unit(self, messages: Sequence[Any], failure: StreamcryptError | None = None) -> int:
        """Replay letters in one transaction, as far as it may last; say how many that were."""
        ahead: Progress = {}
        done = 0
        for message in messages:
            self._delivery.begin()
            self._replay(message, failure)
            ahead[message.topic(), message.partition()] = message.offset() + 1
            done += 1
            if self._delivery.overdue:
                break
        self._delivery.commit(self._consumer, ahead, done, _TIMEOUT, wait=False)
        return done

    def _stays(self, message: Any, failure: StreamcryptError) -> None:
        for _ in range(_TRIES):
            try:
                self._unit([message], failure)
            except UnitFailed as again:
                explained = self._delivery.give_up(again)
                self._transform.lost()
                if blames_record(explained.cause):
                    at = f"{message.topic()}[{message.partition()}] offset {message.offset()}"
                    raise PipelineHalted(f"the letter at {at} cannot be written again: {explained}") from None
            else:
                return
        raise ConnectionLost(f"replay of {self._letters.topic!r}: {explained}")

    def _reached(self, ends: Progress) -> Progress:
        places = [TopicPartition(*place) for place in ends]
        return {
            (p.topic, p.partition): min(p.offset, ends[p.topic, p.partition])
            for p in self._consumer.position(places)
            if p.offset >= 0
        }

    def _replay(self, message: Any, refusal: StreamcryptError | None = None) -> None:
        key, found = message.key(), headers_of(message)
        # What cannot be read cannot be kept.
        headers = [] if found is UNREADABLE else header_list(found)
        try:
            origin = Origin.read(headers)
        except MalformedLetter:
            self._keep("malformed", message, headers)
            return
        why = self._why_not(origin, message.value())
        if why:
            self._keep(why, message, headers)
            return
        place = (origin.topic, origin.partition)
        try:
            value, own = self._restore(message.value(), key, headers)
        except StreamcryptError as error:
            if isinstance(error, KeyServiceError):
                raise
            self._keep(type(error).__name__, message, headers)
            return
        target = self._routes.target_of(*place)
        lane = origin.partition if self._spec.keep_partition else None
        try:
            if refusal is not None:
                raise refusal
            sent, sent_headers = self._transform.work(*place, target, lane).one(value, key, own)
            partition = _PARTITION_BY_KEY if lane is None else lane
            self._send(target, sent, key, partition, origin.timestamp, sent_headers)
        except (KeyServiceError, ConfigError, ConnectionLost, PipelineHalted):
            raise
        except StreamcryptError as error:
            letter = self._letters.letter(place, origin.offset, (value, key, own), origin.timestamp, error)
            self._send(self._letters.topic, letter.value, key, _PARTITION_BY_KEY, _NOW, letter.headers)
            self._done.kept[type(error).__name__] += 1
            return
        self._done.back += 1

    def _why_not(self, origin: Origin, value: bytes | None) -> str:
        # Headers can be forged: only what this pipeline reads may be written to where it writes.
        partitions = self._routes.partitions.get(origin.topic, 0) if self._spec.reads(origin.topic) else 0
        if origin.pipeline != self._spec.name or not 0 <= origin.partition < partitions:
            return "foreign"
        if self._reason is not None and self._reason != origin.kind and self._reason not in origin.reason:
            return "filtered"
        if value is None and origin.kind == "PlaintextRejected":
            return "withheld"
        return ""

    def _restore(self, value: bytes | None, key: bytes | None, headers: HeaderList) -> tuple[bytes | None, HeaderList]:
        rest: HeaderList | None = headers
        if self._opener is not None:
            value, rest = self._opener.open(self._letters.topic, value, key, headers, None)
        return value, without_our_headers(rest or ())

    def _keep(self, why: str, message: Any, headers: HeaderList) -> None:
        self._send(self._letters.topic, message.value(), message.key(), _PARTITION_BY_KEY, _NOW, headers)
        self._done.kept[why] += 1

    def _send(
        self, topic: str, value: bytes | None, key: bytes | None, partition: int, sent_at: int, headers: Any
    ) -> None:
        record = (value, key, partition, None, None, sent_at, headers)
        try:
            try:
                self._delivery.producer.produce(topic, *record)
            except BufferError:
                self._delivery.offer_again(topic, *record)
        except KafkaException as error:
            self._transform.lost()
            self._delivery.not_produced(error.args[0])
            if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE or topic == self._letters.topic:
                raise
            raise RecordTooLarge("the record is over the producer's message.max.bytes") from None

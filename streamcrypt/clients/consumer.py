"""A ``confluent_kafka.Consumer`` that hands over plaintext.

Rule 1: a record that cannot be opened is handed over as an error, and its neighbours are unharmed.
Rule 2: where no record is at fault, nothing moves on: the partition waits at the record, and no offset past it is
        stored. What else was read of that partition is dropped and read again.
Rule 3: whatever is raised out of here loses no record and opens none twice: what was read and not handed over is held
        for the next call, and what a record becomes is written down before it becomes that.
Rule 4: librdkafka keeps a partition paused over a rebalance and over ``assign()`` (measured), so what was paused here
        is resumed before it is given back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Literal, get_args

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from streamcrypt.clients.headers import UNREADABLE, headers_of, read_headers, unreadable
from streamcrypt.clients.messages import StreamcryptKafkaError, failure_of, mark_failed, properties_of
from streamcrypt.clients.pausing import PartitionKey, Wait, WaitingPartitions
from streamcrypt.clients.storing import StoringConsumer, partition_of
from streamcrypt.decryptor import Decryptor
from streamcrypt.errors import (
    AuthenticationFailed,
    ConfigError,
    ContextMismatch,
    EnvelopeError,
    KeyDisabled,
    StreamcryptError,
    UntrustedKey,
    again,
)
from streamcrypt.events import Observer, PartitionPaused, PartitionResumed, RecordFailed

__all__ = ["DecryptingConsumer", "OnError"]

OnError = Literal["return", "skip", "raise"]
_ACTIONS = {"return": "return", "skip": "skip", "raise": "halt"}
_BLOCK = 250
_RECORD_FAULTS = (EnvelopeError, UntrustedKey, ContextMismatch, AuthenticationFailed, KeyDisabled)
# What opening some records gave: the number of the first one in its batch, their values and their headers.
_Opened = tuple[int, Sequence[bytes | None], Sequence[Any]]
_NOTHING: _Opened = (-1, (), ())
# A record on its way: the message, and True once it is done, what opening it gave or the error, or None before that.
_Held = tuple[Message, StreamcryptError | _Opened | Literal[True] | None]


class DecryptingConsumer(StoringConsumer):
    """A consumer whose messages hold plaintext and not our headers; otherwise :class:`confluent_kafka.Consumer`.

    Args:
        config: As the base class; further properties may be given by keyword.
        decryptor: Opens. It may be shared between consumers and is not closed by them.
        on_error: What becomes of a record that cannot be opened. ``return`` (default): a ``Message`` with value None
            whose ``error().code()`` is ``KafkaError._VALUE_DESERIALIZATION``; :func:`streamcrypt.failure_of` gives the
            reason and the sealed bytes. ``skip``: it is dropped, an event says so. ``raise``: ``poll()`` or
            ``consume()`` raises the reason, after the records before it were handed over; its offset is stored when
            the application goes on polling, so that one that ends here meets the record again.
        observer: Told of failed records and of waiting partitions; default: the decryptor's.
        clock: Seconds, for the times between tries.

    Raises:
        ConfigError: ``on_error`` is none of the three. KafkaException: As the base class.

    While the key service is away or refuses, the partition is paused and sought back to the record; ``error_cb`` and
    a :class:`~streamcrypt.events.PartitionPaused` say so once. It is tried again after 0.5 to 10 s, while the
    application keeps polling, and goes on by itself. The partitions that the application paused stay paused.

    Offsets are stored after a record was handed over: at the next ``poll()`` or ``consume()`` but at most ten times a
    second, and before ``commit()``, a rebalance and ``close()``.
    """

    def __init__(
        self,
        config: dict[str, Any] | None = None,
        /,
        *,
        decryptor: Decryptor,
        on_error: OnError = "return",
        observer: Observer | None = None,
        clock: Callable[[], float] = monotonic,
        **properties: Any,
    ) -> None:
        if on_error not in get_args(OnError):
            raise ConfigError(f"on_error is {' or '.join(get_args(OnError))}, not {on_error!r}")
        given = properties_of(config, properties)
        self._decryptor = decryptor
        self._open = decryptor.open
        self._on_error = on_error
        self._observer = decryptor.observer if observer is None else observer
        self._error_cb = given.get("error_cb")
        self._group = str(given.get("group.id", ""))
        self._misses = decryptor.misses
        self._waits = WaitingPartitions(clock)
        self._held: deque[_Held] = deque()
        self._owed: deque[KafkaError] = deque()
        self._raised: Message | None = None
        # Whether any of the four above has something: all that the hot path looks at.
        self._busy = False
        super().__init__(given)

    @classmethod
    def bound(cls, decryptor: Decryptor, **options: Any) -> type[DecryptingConsumer]:
        """Make a subclass that takes the configuration alone, for classes that build their consumer themselves.

        ``class C(DeserializingConsumer, DecryptingConsumer.bound(decryptor))`` opens, then deserializes.
        """

        class BoundDecryptingConsumer(cls):  # type: ignore[valid-type,misc]  # a class factory
            """A :class:`DecryptingConsumer` with its decryptor bound."""

            def __init__(self, config: dict[str, Any] | None = None, /, **properties: Any) -> None:
                super().__init__(config, decryptor=decryptor, **options, **properties)

        return BoundDecryptingConsumer

    def poll(self, timeout: float = -1) -> Message | None:
        """Give the next record, opened; argument for argument as the base class.

        Raises:
            StreamcryptError: With ``on_error="raise"``, a record cannot be opened. Others: as the base class.
        """
        started = monotonic()
        if self._busy:
            return self._poll_on(started, timeout)
        if self._done:
            if started >= self._store_at:
                self._store_done()
            message = super().poll(0)
            if message is None:
                # There is time now, and perhaps none for long.
                self._store_done()
                message = super().poll(timeout)
        else:
            message = super().poll(timeout)
        if message is None:
            return None
        try:
            if message.error() is not None:
                return message
            topic, partition = message.topic(), message.partition()
            value, headers = self._open(topic, message.value(), message.key(), headers_of(message), partition)  # type: ignore[arg-type]
        except BaseException as error:  # noqa: BLE001  looked at there
            self._hold([(message, None)], 0, error)
            return self._poll_on(started, timeout)
        try:
            message.set_value(value)
            message.set_headers(headers)  # type: ignore[arg-type]
        except BaseException:
            self._held.append((message, (0, (value,), (headers,))))
            self._busy = True
            raise
        if self._auto_store:
            self._done[topic, partition] = message  # type: ignore[index]
        return message

    def consume(self, num_messages: int = 1, timeout: float = -1) -> list[Message]:
        """Give the next records, opened; argument for argument as the base class.

        Raises:
            StreamcryptError: With ``on_error="raise"``, the first record cannot be opened. Others: as the base class.
        """
        started = monotonic()
        if not self._busy:
            self._store_done()
            batch = super().consume(num_messages, timeout)
            try:
                if self._open_all(batch):
                    return batch
            except BaseException:
                self._hold_unopened(batch)
                raise
        return self._go_on(num_messages, started, timeout, super().consume)

    def _open_all(self, batch: list[Message]) -> bool:
        """Open a batch in place; where one record fails, hold the batch as it stands and give False."""
        done: dict[PartitionKey, Message] = {}
        places = _runs(batch)
        if self._decryptor.misses != self._misses:
            try:
                self._look_ahead(batch, places)
            except BaseException:
                self._hold_unopened(batch)
                raise
        at, opened = 0, _NOTHING
        try:
            for start, end in places:
                topic, partition = partition_of(batch[start])
                at = start
                while at < end:
                    block = batch[at : min(end, at + _BLOCK)]
                    opened = self._open_block(at, topic, partition, block) or self._open_one(
                        at, topic, partition, block[0]
                    )
                    _fill(block, opened)
                    at += len(opened[1])
                done[topic, partition] = batch[end - 1]
            if self._auto_store:
                self._done.update(done)
        except BaseException as error:  # noqa: BLE001  looked at there
            for key in done:
                self._done.pop(key, None)
            if opened[0] == at:
                # Interrupted while it was filled in, perhaps: once more does no harm, but to open it again would.
                _fill(batch[at:], opened)
                at += len(opened[1])
            self._hold([(other, True if index < at else None) for index, other in enumerate(batch)], at, error)
            return False
        return True

    def _look_ahead(self, batch: list[Message], places: list[tuple[int, int]]) -> None:
        """Have the data keys of a batch unwrapped together: those of the last one were new one after the other."""
        misses, begun = self._decryptor.misses, 0
        for start, end in places:
            topic, partition = partition_of(batch[start])
            run = batch[start:end]
            values = list(map(Message.value, run))
            begun += self._decryptor.look_ahead(topic, read_headers(run), partition, values)
        # Where some were new, the next batch is looked at as well, though no record had to wait.
        self._misses = -1 if begun else misses

    def _open_block(self, at: int, topic: str, partition: int, block: list[Message]) -> _Opened | None:
        """Open as many of the first records of one partition as can be opened together; None where none can."""
        headers = read_headers(block)
        values, keys = list(map(Message.value, block)), list(map(Message.key, block))
        opened = self._decryptor.open_block(topic, values, keys, headers, partition)
        return None if opened is None or not opened[0] else (at, *opened)

    def _open_one(self, at: int, topic: str, partition: int, message: Message) -> _Opened:
        value, headers = self._open(topic, message.value(), message.key(), headers_of(message), partition)
        return at, (value,), (headers,)

    def _hold_unopened(self, batch: list[Message]) -> None:
        """Hold what was read, nothing of which was looked at yet, where it is not held already."""
        if not self._held:
            self._held.extend((message, None) for message in batch)
            self._busy = True

    def _hold(self, records: list[_Held], failed: int, error: BaseException) -> None:
        """Hold what was read, the ``failed``-th of which raised ``error``; raise what is not about keys or records."""
        self._busy = True
        self._held.extend(records)
        reason = _reason(error)
        if failed == len(records):
            raise reason
        self._held[failed] = (records[failed][0], reason)

    def _poll_on(self, started: float, timeout: float) -> Message | None:
        poll = super().poll

        def read(_count: int, seconds: float) -> list[Message]:
            message = poll(seconds)
            return [] if message is None else [message]

        found = self._go_on(1, started, timeout, read)
        return found[0] if found else None

    def _go_on(
        self, count: int, started: float, timeout: float, read: Callable[[int, float], list[Message]]
    ) -> list[Message]:
        """Give ``count`` records, or what came within ``timeout``, where something is held, owed or waiting."""
        self._store_done()
        deadline = started + timeout if timeout >= 0 else float("inf")
        found: list[Message] = []
        done: list[Message] = []
        noted: dict[PartitionKey, Message] = {}
        fresh: list[Message] = []
        has_read = False
        try:
            while True:
                self._attend()
                if not self._take_held(count, deadline, found, done) or len(found) >= count:
                    break
                left = deadline - monotonic()
                if has_read and left <= 0:
                    break
                seconds = max(0.0, min(left, self._waits.seconds_left()))
                fresh = read(count - len(found), -1 if seconds == float("inf") else seconds)
                self._held.extend([(message, None) for message in fresh])
                fresh, has_read = [], True
            self._busy = bool(self._waits or self._held or self._owed or self._raised)
            if self._auto_store:
                noted = {partition_of(message): message for message in done}
                self._done.update(noted)
            # Nothing is called from here on: no interrupt comes between, and what is noted is handed over.
            return found  # noqa: TRY300  an interrupt at an `else` would be past the handler
        except BaseException:
            for key in noted:
                self._done.pop(key, None)
            if fresh and not (self._held and self._held[-1][0] is fresh[-1]):
                self._held.extend([(message, None) for message in fresh])
            if found and self._held and self._held[0][0] is found[-1]:
                found.pop()
            self._held.extendleft([(message, True) for message in reversed(found)])
            self._busy = True
            raise

    def _take_held(self, count: int, deadline: float, found: list[Message], done: list[Message]) -> bool:
        """Move held records to ``found``; False where that is all for now.

        So it is where the next record raises, so that those before it go first, and where a key service that is away
        took all the time there was: other partitions may have to ask it too, and the application must keep polling.
        """
        while self._held and len(found) < count:
            message, state = self._held[0]
            if state is None:
                state = self._opened(message)
                self._held[0] = (message, state)
            if isinstance(state, tuple):
                _fill([message], state)
                state = True
                self._held[0] = (message, state)
            record_fault = isinstance(state, _RECORD_FAULTS)
            if record_fault and self._on_error == "raise" and found:
                return False
            if isinstance(state, StreamcryptError):
                if not record_fault:
                    # There it is let go, with what else is held of its partition.
                    self._begin_wait(message, state)
                    if monotonic() >= deadline:
                        return False
                    continue
                self._report(message, state)
            is_ours = failure_of(message) is not None
            if is_ours or message.error() is None:
                done.append(message)
            if not is_ours or self._on_error == "return":
                found.append(message)
            # Last: whatever is raised before, it is held still.
            self._held.popleft()
        return True

    def _opened(self, message: Message) -> StreamcryptError | _Opened | Literal[True]:
        """Open one record: what came of it, or its error; True where there is nothing to open."""
        if message.error() is not None:
            return True
        try:
            return self._open_one(0, *partition_of(message), message)
        except Exception as error:  # noqa: BLE001  looked at there
            return _reason(error)

    def _report(self, message: Message, state: StreamcryptError) -> None:
        """Tell of the first record that is held, and mark it, where that is not done; raise the reason if asked to."""
        failure = failure_of(message)
        if failure is None:
            failure = unreadable() if headers_of(message) is UNREADABLE else again(state)
            where = (*partition_of(message), message.offset() or 0)
            event = RecordFailed(self._group, *where, type(failure).__name__, str(failure), _ACTIONS[self._on_error])
            try:
                # Not held meanwhile: an observer may pause the partition, and what is held of it is read again then.
                self._held.popleft()
                self._observer(event)
            finally:
                if not self._held or self._held[0][0] is not message:
                    self._held.appendleft((message, state))
            mark_failed(message, failure)
        if self._on_error == "raise":
            self._raised = message
            self._held.popleft()
            raise failure from None

    def _attend(self) -> None:
        """Do what is due before reading on: a raised record to pass, an error to tell, a wait to try again."""
        if self._raised is not None:
            if self._auto_store:
                self._done[partition_of(self._raised)] = self._raised
            self._raised = None
        while self._owed:
            error = self._owed.popleft()
            if self._error_cb is not None:
                self._error_cb(error)
        # One at a time: a key service that is away takes its time to say so.
        wait = self._waits.next_due()
        if wait is not None:
            self._try_again(wait)

    def _begin_wait(self, message: Message, error: StreamcryptError) -> None:
        key = partition_of(message)
        offset = message.offset() or 0
        sealed: Any = (message.value(), message.key(), headers_of(message))
        wait = self._waits.begin(key, offset, sealed)
        self._drop_held(key)
        self._store_done()
        super().pause([TopicPartition(*key)])
        self._seek_back(wait)
        self._owed.append(StreamcryptKafkaError(KafkaError._VALUE_DESERIALIZATION, again(error)))  # noqa: SLF001  its name
        why = (type(error).__name__, str(error), error.remedy, error.request_id)
        self._observer(PartitionPaused(self._group, *key, offset, *why))

    def _try_again(self, wait: Wait) -> None:
        if not self._key_is_there(wait) or not (wait.sought or self._seek_back(wait)):
            self._waits.postpone(wait)
            return
        seconds = self._end_wait(wait.key)
        self._observer(PartitionResumed(self._group, *wait.key, seconds))

    def _key_is_there(self, wait: Wait) -> bool:
        topic, partition = wait.key
        try:
            # The plaintext is thrown away: the record is read again, as are those behind it.
            self._open(topic, *wait.sealed, partition)
        except StreamcryptError as error:
            # Where the key service has spoken, the record will be handed over as what it is.
            return isinstance(_reason(error), _RECORD_FAULTS)
        return True

    def _end_wait(self, key: PartitionKey) -> float:
        seconds = self._waits.end(key)
        if seconds is not None and not self._waits.is_users(key):
            super().resume([TopicPartition(*key)])
        return seconds or 0.0

    def _seek_back(self, wait: Wait) -> bool:
        with suppress(KafkaException):
            self._seek_and_keep_stored(wait.key, wait.offset)
            wait.sought = True
        return wait.sought

    def position(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        """Give positions as the base class: of the next record to hand over, also where it is held or waited for."""
        positions = super().position(partitions)
        if self._busy:
            for place in positions:
                first = self._first_unseen((place.topic, place.partition))
                place.offset = place.offset if first is None else first
        return positions

    def pause(self, partitions: list[TopicPartition]) -> None:
        """Pause as the base class."""
        super().pause(partitions)
        keys = [(place.topic, place.partition) for place in partitions]
        self._waits.user_paused(keys)
        for key in keys:
            self._put_back_held(key)

    def resume(self, partitions: list[TopicPartition]) -> None:
        """Resume as the base class; a partition that waits for the key service goes on when it is there."""
        if self._waits:
            super().resume([place for place in partitions if (place.topic, place.partition) not in self._waits])
        else:
            super().resume(partitions)
        self._waits.user_resumed((place.topic, place.partition) for place in partitions)

    def close(self) -> None:
        """Close as the base class. The decryptor stays open."""
        try:
            super().close()
        finally:
            self._held.clear()
            self._owed.clear()
            self._waits.clear()
            self._raised = None
            self._busy = False

    def _known(self) -> set[PartitionKey]:
        return super()._known() | set(self._waits) | {partition_of(message) for message, _ in self._held}

    def _forget(self, keys: Iterable[PartitionKey]) -> None:
        keys = list(keys)
        super()._forget(keys)
        for key in keys:
            self._drop_held(key)
            if self._raised is not None and partition_of(self._raised) == key:
                self._raised = None
            self._end_wait(key)

    def _drop_held(self, key: PartitionKey) -> None:
        if self._held:
            self._held = deque(held for held in self._held if partition_of(held[0]) != key)

    def _put_back_held(self, key: PartitionKey) -> None:
        """Let what is held of a partition be read again, once it goes on."""
        first = self._first_held(key)
        if first is None:
            return
        self._drop_held(key)
        wait = self._waits.get(key)
        if wait is None:
            self._seek_and_keep_stored(key, first)
        else:
            wait.offset, wait.sought = first, False
            self._seek_back(wait)

    def _first_held(self, key: PartitionKey) -> int | None:
        return next((message.offset() for message, _ in self._held if partition_of(message) == key), None)

    def _first_unseen(self, key: PartitionKey) -> int | None:
        first, wait = self._first_held(key), self._waits.get(key)
        return wait.offset if first is None and wait is not None else first


def _fill(messages: list[Message], opened: _Opened) -> None:
    """Put what opening gave into the first of these messages; as often as you like."""
    _, values, headers = opened
    set_headers: Any = Message.set_headers
    # In C: a loop in Python would cost half of what opening does.
    deque(map(Message.set_value, messages, values), 0)
    deque(map(set_headers, messages, headers), 0)


def _runs(batch: list[Message]) -> list[tuple[int, int]]:
    """Give first and last index, exclusive, of each run of records of one partition, errors left out."""
    places: list[Any] = list(zip(map(Message.topic, batch), map(Message.partition, batch), strict=True))
    if batch and not any(map(Message.error, batch)) and places.count(places[0]) == len(places):
        return [(0, len(places))]
    marks = [None if message.error() is not None else place for message, place in zip(batch, places, strict=True)]
    runs: list[tuple[int, int]] = []
    for index, mark in enumerate(marks):
        if mark is None:
            continue
        if runs and runs[-1][1] == index and marks[index - 1] == mark:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    return runs


def _reason(error: BaseException) -> StreamcryptError:
    """Give what opening a record raised as one of our errors; anything else is raised and moves nothing on."""
    if isinstance(error, StreamcryptError):
        # Its frames would keep this consumer and the record alive with it.
        return error.with_traceback(None)
    raise error

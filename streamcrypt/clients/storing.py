"""A consumer that stores an offset after its record was handed over, and not while it is read.

Rule 1: librdkafka's ``enable.auto.offset.store`` stores the offset of a whole batch at once while it is read, so that
        records not yet opened would be committed behind our back. It is switched off and done here.
Rule 2: ``seek()`` makes librdkafka forget the stored offset (measured), so it is stored again where a seek is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from streamcrypt.clients.messages import failure_of
from streamcrypt.clients.pausing import PartitionKey

__all__ = ["StoringConsumer", "partition_of"]

Rebalanced = Callable[[Consumer, list[TopicPartition]], Any]

STORE_SECONDS = 0.1
_AUTO_STORE = "enable.auto.offset.store"


class StoringConsumer(Consumer):
    """What a reading subclass needs of offsets: it notes in ``_done`` what it handed over, and drops in ``_forget``.

    Args:
        properties: The whole configuration. With ``enable.auto.offset.store`` (default true) offsets are stored here;
            else the application stores them, as ever.
    """

    def __init__(self, properties: dict[str, Any]) -> None:
        self._auto_store = str(properties.get(_AUTO_STORE, True)).lower() in {"true", "t", "1"}
        self._done: dict[PartitionKey, Message] = {}
        self._store_at = 0.0
        self._stored: dict[PartitionKey, TopicPartition] = {}
        super().__init__({**properties, _AUTO_STORE: False} if self._auto_store else properties)

    def _store_done(self) -> None:
        """Store the offsets of what was handed over."""
        if not self._done:
            return
        self._store_at = monotonic() + STORE_SECONDS
        offsets = [_after(message) for message in self._done.values()]
        self._done.clear()
        self._stored.update({(offset.topic, offset.partition): offset for offset in offsets})
        # A partition that was taken away is somebody else's now.
        with suppress(KafkaException):
            super().store_offsets(offsets=offsets)

    def _seek_and_keep_stored(self, key: PartitionKey, offset: int) -> None:
        super().seek(TopicPartition(*key, offset))
        if key in self._stored:
            with suppress(KafkaException):
                super().store_offsets(offsets=[self._stored[key]])

    def _forget(self, keys: Iterable[PartitionKey]) -> None:
        for key in keys:
            self._done.pop(key, None)
            self._stored.pop(key, None)

    def _known(self) -> set[PartitionKey]:
        return set(self._stored)

    def commit(self, message: Any = None, offsets: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Commit as the base class, a failed message of ours too."""
        if offsets is None and failure_of(message) is not None:
            message, offsets = None, [_after(message)]
        elif message is None and offsets is None:
            self._store_done()
        return super().commit(message, offsets, *args, **kwargs)  # type: ignore[call-overload]  # positional too

    def store_offsets(self, message: Any = None, offsets: Any = None) -> None:
        """Store as the base class, a failed message of ours too."""
        if self._auto_store and (message is None) is not (offsets is None):
            code = KafkaError._INVALID_ARG  # noqa: SLF001  its name
            raise KafkaException(KafkaError(code, "StoreOffsets failed: Local: Invalid argument or configuration"))
        if offsets is None and isinstance(message, Message) and (message.error() is None or failure_of(message)):
            message, offsets = None, [_after(message)]
        super().store_offsets(message, offsets)
        self._stored.update({(offset.topic, offset.partition): offset for offset in offsets})

    def seek(self, partition: TopicPartition) -> None:
        """Seek as the base class; a wait at the partition ends."""
        super().seek(partition)
        self._forget([(partition.topic, partition.partition)])

    def subscribe(
        self,
        topics: list[str],
        on_assign: Rebalanced | None = None,
        on_revoke: Rebalanced | None = None,
        on_lost: Rebalanced | None = None,
    ) -> None:
        """Subscribe as the base class."""
        for name, given in (("on_revoke", on_revoke), ("on_lost", on_lost)):
            if given is not None and not callable(given):
                raise TypeError(f"{name} expects a callable")
        callbacks: dict[str, Any] = {} if on_assign is None else {"on_assign": on_assign}
        # These hold no reference to this consumer, so that it is freed when its last user lets go.
        callbacks["on_revoke"] = partial(_revoked, on_revoke, False)
        callbacks["on_lost"] = partial(_revoked, on_lost or on_revoke, True)
        super().subscribe(topics, **callbacks)

    def unsubscribe(self) -> None:
        """Unsubscribe as the base class."""
        self._store_done()
        super().unsubscribe()

    def assign(self, partitions: list[TopicPartition]) -> None:
        """Assign as the base class."""
        self._store_done()
        self._forget(self._known())
        super().assign(partitions)

    def unassign(self) -> None:
        """Unassign as the base class."""
        self._store_done()
        self._forget(self._known())
        super().unassign()

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None:
        """Unassign as the base class."""
        self._store_done()
        self._forget((place.topic, place.partition) for place in partitions)
        super().incremental_unassign(partitions)

    def close(self) -> None:
        """Close as the base class. The decryptor stays open."""
        self._store_done()
        super().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        # The base class would call its own close().
        self.close()

    def _give_back(self, partitions: list[TopicPartition], *, lost: bool) -> None:
        keys = [(place.topic, place.partition) for place in partitions]
        if lost:
            for key in keys:
                self._done.pop(key, None)
        self._store_done()
        self._forget(keys)


def partition_of(message: Message) -> PartitionKey:
    """Give the topic and partition of a message; only messages that are no records lack a topic."""
    return message.topic() or "", message.partition() or 0


def _revoked(then: Rebalanced | None, lost: bool, consumer: StoringConsumer, partitions: list[TopicPartition]) -> None:
    consumer._give_back(partitions, lost=lost)  # noqa: SLF001  of this module
    if then is not None:
        then(consumer, partitions)


def _after(message: Message) -> TopicPartition:
    topic, partition = partition_of(message)
    offset, epoch = (message.offset() or 0) + 1, message.leader_epoch()
    # The base class takes no None here.
    return TopicPartition(topic, partition, offset, **({} if epoch is None else {"leader_epoch": epoch}))  # type: ignore[arg-type]

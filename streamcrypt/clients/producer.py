"""A ``confluent_kafka.Producer`` that seals every value before it is queued."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streamcrypt.clients.messages import StreamcryptKafkaError, payload, properties_of, sent_headers
from streamcrypt.encryptor import LANE_UNKNOWN, MAX_LANE, Encryptor, HeaderList, TopicSealer
from streamcrypt.envelope.framing import MAGIC, split_frame
from streamcrypt.envelope.header import HEADER_NAME, TOMBSTONE_HEADER_NAME
from streamcrypt.errors import KeyServiceError, RecordTooLarge, StreamcryptError

__all__ = ["DeliveryWatch", "EncryptingProducer"]

Report = Callable[[Any, Any], Any]
# A header that tells the data key: delivery reports come without headers, so it is bound to the callback.
_Header = tuple[str, bytes | None]

_IDEMPOTENCE = "enable.idempotence"
_PURGED = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})  # noqa: SLF001  their names


class DeliveryWatch:
    """Retires the data key of a topic to which a record was not delivered. spec: 7

    Args:
        encryptor: Whose data keys are retired.

    It holds no reference to the producer, so that a producer is freed when its last user lets go.
    """

    def __init__(self, encryptor: Encryptor) -> None:
        self._encryptor = encryptor

    def report(self, header: _Header | None, error: KafkaError | None, message: Message) -> None:
        """Take the delivery report of a record for which the caller gave no callback."""
        if error is not None:
            self._undelivered(header, error, message)

    def relay(self, header: _Header | None, callback: Report, error: KafkaError | None, message: Message) -> None:
        """Take a delivery report and pass it on to the caller's callback."""
        if error is not None:
            self._undelivered(header, error, message)
        callback(error, message)

    def retire(self, topic: str) -> None:
        """Let the current data key of ``topic`` seal nothing more."""
        self._encryptor.retire(topic, "failure")

    def _undelivered(self, header: _Header | None, error: KafkaError, message: Message) -> None:
        # Purging retires the key itself, before any later record is sealed.
        if error.code() in _PURGED:
            return
        # Of a burst that fails under one data key, the first report retires it; the others name a key that is gone.
        envelope = _envelope(header, message.value())
        if envelope is not None:
            self._encryptor.retire(message.topic() or "", "failure", envelope)


def _envelope(header: _Header | None, value: Any) -> bytes | None:
    """Give the envelope header of a record; None where it took no number: a plain tombstone."""
    if header is not None and header[0] == HEADER_NAME:
        return header[1]
    return split_frame(value)[0] if value is not None and value.startswith(MAGIC) else None


class _Topic:
    """What is looked up for each record of a topic: how to seal, and the callback under the last data key."""

    __slots__ = ("report", "seal", "sealer")

    def __init__(self, sealer: TopicSealer, report: tuple[_Header | None, Report]) -> None:
        self.sealer = sealer
        self.seal = sealer.seal
        # One tuple: another thread may change it at any moment.
        self.report = report


class EncryptingProducer(Producer):
    """A producer whose records carry sealed values and the ``streamcrypt`` header; otherwise its base class.

    Args:
        config: As :class:`confluent_kafka.Producer`; further properties may be given by keyword.
        encryptor: Seals. It may be shared between producers and is not closed by them.

    Raises:
        KafkaException: As the base class.

    What differs from the base class:

    - ``enable.idempotence`` is on unless the configuration decides otherwise, by itself or through a setting that
      excludes it (``acks=1``, ``max.in.flight`` over 5, ``retries=0``).
    - Delivery reports show what was sent: the sealed value.
    - ``on_delivery`` counts also where ``callback`` is None by position, where the base class drops it.
    - A record that carries a ``streamcrypt`` header already raises AlreadySealed; one too large once sealed raises
      RecordTooLarge before anything is sent; a data key that is due and cannot be had raises KeyUnavailable or
      KeyRefused, and nothing is sent.
    - ``BufferError`` comes as ever; the same call again seals again, under a new number.
    - A failed delivery, any other exception of ``produce()``, ``purge()`` and an abort retire the topic's data key.
    - Delivery reports pass through Python also where no callback was given, a quarter of a microsecond each; with
      ``delivery.report.only.error`` only the failed ones do.
    """

    def __init__(self, config: dict[str, Any] | None = None, /, *, encryptor: Encryptor, **properties: Any) -> None:
        self._encryptor = encryptor
        self._topics: dict[str, _Topic] = {}
        self._watch = DeliveryWatch(encryptor)
        # Looked up once, as super() would for each record; unbound, so that no cycle keeps this producer.
        self._produce: Any = super(EncryptingProducer, type(self)).produce
        given = properties_of(config, properties)
        self._transactional = "transactional.id" in given
        self._on_delivery: Report | None = given.get("on_delivery")
        if _IDEMPOTENCE in given:
            super().__init__(given)
            return
        try:
            super().__init__({**given, _IDEMPOTENCE: True})
        except KafkaException as error:
            if error.args[0].code() != KafkaError._INVALID_ARG:  # noqa: SLF001  its name
                raise
            # A setting excludes it, and the user's word holds; or one is wrong in itself, and this says so.
            super().__init__(given)

    @classmethod
    def bound(cls, encryptor: Encryptor) -> type[EncryptingProducer]:
        """Make a subclass that takes the configuration alone, for classes that build their producer themselves.

        ``class P(SerializingProducer, EncryptingProducer.bound(encryptor))`` serializes, then seals.
        """

        class BoundEncryptingProducer(cls):  # type: ignore[valid-type,misc]  # a class factory
            """An :class:`EncryptingProducer` with its encryptor bound."""

            def __init__(self, config: dict[str, Any] | None = None, /, **properties: Any) -> None:
                super().__init__(config, encryptor=encryptor, **properties)

        return BoundEncryptingProducer

    def produce(
        self,
        topic: str,
        value: str | bytes | None = None,
        key: str | bytes | None = None,
        partition: int = -1,
        callback: Report | None = None,
        on_delivery: Report | None = None,
        timestamp: int = 0,
        headers: Any = None,
    ) -> None:
        """Seal ``value`` and queue the record; argument for argument as the base class.

        Raises:
            AlreadySealed: The record carries an envelope.
            RecordTooLarge: Sealed, it passes ``message.max.bytes``.
            KeyUnavailable, KeyRefused: A data key is due and cannot be had. ConfigError: The encryptor is closed.
            BufferError, KafkaException, TypeError: As the base class.
        """
        if callback is None:
            callback = on_delivery
        # Plain bytes without headers, the common case, pass without a further call.
        if value.__class__ is not bytes or headers is not None or not (key is None or key.__class__ is bytes):
            value, key, headers = payload(value, 2), payload(key, 3), sent_headers(headers)
        state = self._topics.get(topic) or self._topic(topic)
        if partition > MAX_LANE:
            raise OverflowError("signed integer is greater than maximum")
        lane = partition if partition >= 0 else LANE_UNKNOWN
        sealed: bytes | None = None
        if value is None:
            sent = state.sealer.seal_tombstone(key, headers, lane)
            header = sent[-2] if sent and sent[-1][0] == TOMBSTONE_HEADER_NAME else None
        else:
            sealed, sent = state.seal(value, key, headers, lane)
            header = sent[-1] if sent else None
        if callback is not None:
            callback = partial(self._watch.relay, header, callback)
        else:
            known = state.report
            callback = known[1] if known[0] is header else self._report(state, header)
        try:
            self._produce(self, topic, sealed, key, partition, callback, None, timestamp, sent)
        except BufferError:
            raise
        except BaseException as error:
            self._not_queued(topic, error)
            raise

    def produce_batch(
        self,
        topic: str,
        messages: list[dict[str, Any]],
        partition: int = -1,
        callback: Report | None = None,
        on_delivery: Report | None = None,
    ) -> int:
        """Seal and queue each record of ``messages``; argument for argument as the base class.

        A record that is not queued is marked ``_error`` in its dict, as the base class does; :func:`failure_of` gives
        our reason. Unlike the base class, which leaves both out, each record's ``headers`` and ``partition`` are sent.

        Returns:
            How many records were queued.

        Raises:
            KeyUnavailable, KeyRefused: There is no data key at the beginning; nothing was queued.
            TypeError, ValueError, NotImplementedError: As the base class; nothing was queued.
        """
        if not isinstance(topic, str):
            raise TypeError(f"argument 1 must be str, not {type(topic).__name__}")
        if not isinstance(messages, list):
            raise TypeError("messages must be a list")
        default = on_delivery if callback is None else callback
        # As in the base class, no record is queued unless all of them are well-formed.
        records = [_batch_record(index, message, partition, default) for index, message in enumerate(messages)]
        if records:
            self._encryptor.ready(topic)
        queued = 0
        refusal: StreamcryptError | None = None
        for message, (value, key, lane, report, headers) in zip(messages, records, strict=True):
            try:
                if refusal is not None:
                    raise refusal
                EncryptingProducer.produce(self, topic, value, key, lane, report, None, 0, headers)
                queued += 1
            except RecordTooLarge as error:
                message["_error"] = StreamcryptKafkaError(KafkaError.MSG_SIZE_TOO_LARGE, error, "Message failed: ")
            except StreamcryptError as error:
                code = KafkaError._VALUE_SERIALIZATION  # noqa: SLF001  its name
                message["_error"] = StreamcryptKafkaError(code, error, "Message failed: ")
                # A key service that is away is asked once a batch, not once a record.
                refusal = error if isinstance(error, KeyServiceError) else None
            except BufferError as error:
                code = KafkaError._QUEUE_FULL  # noqa: SLF001  its name
                message["_error"] = KafkaError(code, f"Message failed: {error}")
            except KafkaException as error:
                message["_error"] = error.args[0]
        return queued

    def purge(self, in_queue: bool = True, in_flight: bool = True, blocking: bool = True) -> None:
        """Purge as the base class; the data keys of this producer's topics are retired."""
        try:
            super().purge(in_queue, in_flight, blocking)
        finally:
            self._retire_all()

    def abort_transaction(self, timeout: float = -1) -> None:
        """Abort as the base class; the data keys of this producer's topics are retired."""
        try:
            super().abort_transaction(timeout)
        finally:
            self._retire_all()

    def close(self) -> bool:
        """Close as the base class, which aborts a transaction in progress. The encryptor stays open."""
        try:
            return super().close()
        finally:
            if self._transactional:
                self._retire_all()

    def __exit__(self, *_exc: object) -> None:
        # The base class would call its own close().
        self.close()

    def _not_queued(self, topic: str, error: BaseException) -> None:
        if isinstance(error, KafkaException) and error.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE:
            raise RecordTooLarge(f"sealed, the record passes message.max.bytes (topic {topic})") from None
        self._watch.retire(topic)

    def _topic(self, topic: str) -> _Topic:
        if not isinstance(topic, str):
            raise TypeError(f"argument 1 must be str, not {type(topic).__name__}")
        state = self._topics[topic] = _Topic(self._encryptor.topic(topic), (None, self._made_report(None)))
        return state

    def _report(self, state: _Topic, header: _Header | None) -> Report:
        """Make the callback of records that have none of their own, under another data key than before."""
        report = self._made_report(header)
        state.report = header, report
        return report

    def _made_report(self, header: _Header | None) -> Report:
        watch, default = self._watch, self._on_delivery
        return partial(watch.report, header) if default is None else partial(watch.relay, header, default)

    def _retire_all(self) -> None:
        for topic in list(self._topics):
            self._watch.retire(topic)


def _batch_record(
    index: int, message: Any, partition: int, callback: Report | None
) -> tuple[bytes | None, bytes | None, int, Report | None, HeaderList | None]:
    """Read one dict of a batch, refusing what the base class refuses in its words."""
    if not isinstance(message, dict):
        raise TypeError(f"Message at index {index} must be a dict")
    value, key, lane = message.get("value"), message.get("key"), message.get("partition")
    for name, given in (("value", value), ("key", key)):
        if not isinstance(given, bytes | str | None):
            raise TypeError(f"Message {name} at index {index} must be bytes or str")
    if not isinstance(lane, int | None):
        raise TypeError(f"Message partition at index {index} must be int")
    if message.get("timestamp") is not None:
        raise NotImplementedError("Message timestamps are not currently supported in batch mode")
    try:
        headers = sent_headers(message.get("headers"))
    except TypeError:
        raise ValueError(f"Invalid headers at index {index}") from None
    report = message.get("callback")
    return (
        payload(value, 1),
        payload(key, 1),
        partition if lane is None else lane,
        callback if report is None else report,
        headers,
    )

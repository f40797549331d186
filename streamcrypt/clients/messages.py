"""What a confluent-kafka ``Message`` says in our terms: plaintext, or the error for which there is none.

Behaviour relied on, of confluent-kafka 2.16: ``Message.set_value``, ``set_headers`` and ``set_error`` exist; a
``KafkaError`` subclass survives ``set_error()`` and ``error()`` as the same object.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message

from streamcrypt.clients.headers import UNREADABLE, headers_of
from streamcrypt.encryptor import HeaderList
from streamcrypt.errors import StreamcryptError

__all__ = [
    "StreamcryptKafkaError",
    "failure_of",
    "mark_failed",
    "payload",
    "properties_of",
    "sent_headers",
]


class StreamcryptKafkaError(KafkaError):
    """One of our errors where confluent-kafka's API has room for a ``KafkaError`` only.

    Args:
        code: The code by which confluent-kafka code tells errors apart.
        failure: Our error; its text becomes ``str()``, its class decides ``retriable()``.
        context: Words put before the text.
    """

    failure: StreamcryptError

    def __init__(self, code: int, failure: StreamcryptError, context: str = "") -> None:
        super().__init__(code, f"{context}{type(failure).__name__}: {failure}", False, failure.retriable)
        self.failure = failure

    def __reduce__(self) -> tuple[Any, ...]:
        return StreamcryptKafkaError, (self.code(), self.failure)


def failure_of(source: Message | KafkaError | BaseException | None) -> StreamcryptError | None:
    """Tell why streamcrypt refused a record.

    Args:
        source: What a :class:`~streamcrypt.DecryptingConsumer` returned, the ``KafkaError`` in it or in a
            ``produce_batch`` mark or an ``error_cb`` call, or the exception that confluent-kafka made of it
            (``ConsumeError``).

    Returns:
        Our error, with the sealed bytes in ``sealed_value`` where a record could not be opened; None where the
        source carries no failure of ours.
    """
    error: Any = source.error() if isinstance(source, Message) else source
    if isinstance(error, StreamcryptError):
        return error
    if isinstance(error, KafkaException):
        error = error.args[0] if error.args else None
    return error.failure if isinstance(error, StreamcryptKafkaError) else None


def mark_failed(message: Message, failure: StreamcryptError) -> None:
    """Turn a record that cannot be opened into an error message: no value, headers and key as they were.

    Headers that cannot be read are None then.
    """
    if headers_of(message) is UNREADABLE:
        message.set_headers(None)  # type: ignore[arg-type]
    failure.sealed_value = message.value()
    failure.add_note(f"record: topic {message.topic()}, partition {message.partition()}, offset {message.offset()}")
    message.set_error(StreamcryptKafkaError(KafkaError._VALUE_DESERIALIZATION, failure))  # noqa: SLF001  its name
    message.set_value(None)


def payload(given: Any, position: int) -> bytes | None:
    """Give a key or a value as the bytes that ``Producer.produce`` would send: text as UTF-8, None as null.

    Args:
        given: What the caller passed.
        position: Its place among the arguments, for the text of the error.

    Raises:
        TypeError: It is neither str nor bytes; UnicodeEncodeError: it is text that has no UTF-8.
    """
    if given is None or isinstance(given, bytes):
        return given
    if isinstance(given, str):
        return given.encode()
    raise TypeError(f"argument {position} must be str, bytes or None, not {type(given).__name__}")


def sent_headers(headers: Any) -> HeaderList | None:
    """Give headers as ``Producer.produce`` would send them: a dict or a list of pairs, text as UTF-8.

    Raises:
        TypeError: As the base class: no dict or list, no pairs, or a value that is not None, bytes or str.
    """
    if headers is None:
        return None
    if isinstance(headers, dict):
        headers = list(headers.items())
    if not isinstance(headers, list):
        raise TypeError(f"expected headers to be dict or list of (key, value) tuples, not {type(headers).__name__}")
    pairs: HeaderList = []
    for pair in headers:
        if not isinstance(pair, tuple) or len(pair) != 2:  # noqa: PLR2004  a pair
            raise TypeError("Headers are expected to be a list of (key, value) tuples")
        name, value = pair
        if isinstance(value, str):
            value = value.encode()
        elif value is not None and not isinstance(value, bytes):
            raise TypeError(f"expected header value to be None, binary, or unicode string, not {type(value).__name__}")
        # The base class takes any object as a name and sends its str().
        pairs.append((name if isinstance(name, str) else str(name), value))
    return pairs


def properties_of(config: Any, by_keyword: Mapping[str, Any]) -> dict[str, Any]:
    """Merge a client's configuration as the base classes do: keywords win, ``default.topic.config`` above all.

    Raises:
        TypeError: ``config`` is not a dict.
    """
    if not isinstance(config, dict | None):
        raise TypeError("expected configuration dict")
    merged = {**(config or {}), **by_keyword}
    if isinstance(topic_level := merged.get("default.topic.config"), dict):
        del merged["default.topic.config"]
        merged.update(topic_level)
    return merged

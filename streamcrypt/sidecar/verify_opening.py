"""Records opened for comparison: each distinct header is proven by itself, and a failure is a finding, not an end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from operator import methodcaller
from typing import Any, TypeVar

from confluent_kafka import Message

from streamcrypt.clients.headers import headers_of
from streamcrypt.crypto.data_key import DataKey
from streamcrypt.decryptor import Decryptor
from streamcrypt.encryptor import HeaderList
from streamcrypt.envelope.codec import derivation_info
from streamcrypt.envelope.framing import MAGIC, split_frame
from streamcrypt.envelope.header import HEADER_NAME, OUR_HEADERS, EncryptedDataKey
from streamcrypt.errors import ConfigError, KeyServiceError, KeyUnavailable, StreamcryptError
from streamcrypt.keys.provider import KeyProvider
from streamcrypt.sidecar.cutover import Cutover, is_bare

__all__ = ["Opened", "Opener", "Wait"]

_BLOCK = 250

_value, _key, _headers, _offset, _timestamp = map(methodcaller, ("value", "key", "headers", "offset", "timestamp"))
_T = TypeVar("_T")
Wait = Callable[[str, int, int, KeyUnavailable], None]


def _give_up(_topic: str, _partition: int, _offset: int, error: KeyUnavailable) -> None:
    raise error


@dataclass(slots=True, repr=False)
class Opened:
    """One record as its readers see it.

    Attributes:
        offset: Where it stands.
        key: Its key.
        time: Its timestamp in milliseconds; None where it has none.
        headers: Its headers without ours.
        value: The plaintext; None for a tombstone.
        sealed: Whether it has an envelope.
        raw: The value as it stands on the topic.
        place: Where our header stands among the others; -1 where there is none.
        failure: The class of the error where it does not open; empty otherwise.
    """

    offset: int
    key: bytes | None
    time: int | None
    headers: HeaderList
    value: bytes | None
    sealed: bool
    raw: bytes | None
    place: int
    failure: str = ""

    def __repr__(self) -> str:
        return f"Opened(offset={self.offset}, failure={self.failure!r})"


class Opener:
    """Opens the records of one topic.

    Args:
        decryptor: With a cache of its own, which shares no data key between headers; closed with this opener.
        keys: The decryptor's key service.
        cutover: Which records may be without an envelope.
        thorough: Whether every wrapped key of a header that is trusted has to open, not only the first one.
        remembered: How many headers that were proven so are remembered.
        wait: Called where the key service is away, with topic, partition, offset and the error: it waits before the
            next try, or raises to give up. Default: it raises.
    """

    def __init__(
        self,
        decryptor: Decryptor,
        keys: KeyProvider,
        cutover: Cutover | None = None,
        *,
        thorough: bool = False,
        remembered: int = 10_000,
        wait: Wait | None = None,
    ) -> None:
        self._wait = wait or _give_up
        self._decryptor = decryptor
        self._keys = keys
        self._cutover = cutover
        self._thorough = thorough
        self._remembered = remembered
        # By the full header: what one is worth says nothing of another with the same commitment.
        self._proven: dict[bytes, str] = {}

    def open(self, topic: str, partition: int, messages: Sequence[Message]) -> Iterator[Opened]:
        """Give every record, opened or with why it does not open.

        Raises:
            KeyRefused, ConfigError: The key service; no record is to blame.
        """
        at = 0
        while at < len(messages):
            block: Sequence[Any] = messages[at : at + _BLOCK]
            values, headers = list(map(_value, block)), list(map(_headers, block))
            keys = list(map(_key, block))
            opened = None
            with suppress(KeyServiceError):
                opened = self._decryptor.open_block(topic, values, keys, headers, partition)
            done = len(opened[0]) if opened else 0
            if opened is not None:
                times = map(_timestamp, block)
                records = zip(block, map(_offset, block), keys, times, values, headers, *opened, strict=False)
                for message, offset, key, (kind, time), raw, pairs, plain, rest in records:
                    place = 0 if len(pairs) == 1 else _place_of(pairs)
                    failure = self._failure(topic, partition, message, pairs[place][1]) if self._thorough else ""
                    seen = None if failure else plain
                    yield Opened(offset, key, time if kind else None, rest or [], seen, True, raw, place, failure)
            if done < len(block):
                message = block[done]
                yield self._patiently(topic, partition, message, partial(self._one, topic, partition, message))
                done += 1
            at += done

    def _failure(self, topic: str, partition: int, message: Any, header: bytes) -> str:
        known = self._proven.get(header)
        if known is not None:
            return known
        return self._patiently(topic, partition, message, partial(self._prove, topic, header))

    def _patiently(self, topic: str, partition: int, message: Any, work: Callable[[], _T]) -> _T:
        while True:
            try:
                return work()
            except KeyUnavailable as error:
                self._wait(topic, partition, message.offset(), error)

    def _one(self, topic: str, partition: int, message: Any) -> Opened:
        value, headers = message.value(), headers_of(message) or []
        bare = is_bare(value, headers)
        if bare and self._may_be_bare(topic, partition, message):
            return _as_seen(message, value, headers, value)
        try:
            plain, _ = self._decryptor.open(topic, value, message.key(), headers, partition)
        except (KeyServiceError, ConfigError):
            raise
        except StreamcryptError as error:
            return _as_seen(message, value, headers, None, type(error).__name__)
        failure = ""
        if self._thorough and not bare:
            header = next((held for name, held in headers if name == HEADER_NAME), None)
            failure = self._prove(topic, header or split_frame(value or b"")[0])
        return _as_seen(message, value, headers, None if failure else plain, failure)

    def _may_be_bare(self, topic: str, partition: int, message: Any) -> bool:
        return self._cutover is None or self._cutover.passes(topic, partition, message.offset())

    def _prove(self, topic: str, header: bytes) -> str:
        known = self._proven.get(header)
        if known is not None:
            return known
        try:
            self._open_every_key(topic, header)
            found = ""
        except (KeyServiceError, ConfigError):
            raise
        except StreamcryptError as error:
            found = type(error).__name__
        if len(self._proven) >= self._remembered:
            self._proven.pop(next(iter(self._proven)))
        self._proven[header] = found
        return found

    def _open_every_key(self, topic: str, header_bytes: bytes) -> None:
        header = self._decryptor.examine(header_bytes, topic)
        trusted = self._decryptor.candidates(header)
        entries = {encrypted.key_id: encrypted for encrypted, _ in trusted}
        if len(entries) == 1:
            return  # it is the one that the decryptor opened
        info = derivation_info(header.suite, header.context, header.bound, header.content)
        for encrypted in entries.values():
            # A multi-region key may be called in several places; one that answers is enough.
            places = [key_id for other, key_id in trusted if other is encrypted]
            dek = self._unwrap(encrypted, places, dict(header.context))
            DataKey(dek, header.suite, info, header.commitment)

    def _unwrap(self, encrypted: EncryptedDataKey, places: Sequence[str], context: Mapping[str, str]) -> bytearray:
        for key_id in places[:-1]:
            with suppress(KeyServiceError):
                return self._keys.decrypt_data_key(encrypted, key_id, context)
        return self._keys.decrypt_data_key(encrypted, places[-1], context)

    def close(self) -> None:
        """Drop every data key."""
        self._decryptor.close()


def _as_seen(message: Any, raw: bytes | None, headers: HeaderList, plain: bytes | None, failure: str = "") -> Opened:
    place = _place_of(headers)
    framed = raw is not None and raw[:4] == MAGIC
    rest = [pair for pair in headers if pair[0] not in OUR_HEADERS]
    sealed = place >= 0 or (framed and plain != raw)
    return Opened(message.offset(), message.key(), _time_of(message), rest, plain, sealed, raw, place, failure)


def _place_of(headers: HeaderList) -> int:
    for place, pair in enumerate(headers):
        if pair[0] == HEADER_NAME:
            return place
    return -1


def _time_of(message: Any) -> int | None:
    kind, milliseconds = message.timestamp()
    return milliseconds if kind else None

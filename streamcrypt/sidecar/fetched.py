"""Records of one partition that were fetched together; their fields are taken out of the messages once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from confluent_kafka import Message

from streamcrypt.clients.headers import read_headers
from streamcrypt.encryptor import HeaderList

__all__ = ["Block", "Fetched"]


class Block(NamedTuple):
    """Neighbours among them: each field a list of equal length."""

    messages: Sequence[Any]
    values: list[bytes | None]
    keys: list[bytes | None]
    headers: list[HeaderList | None]

    def first(self, count: int) -> Block:
        """Give the first ``count`` of them."""
        return Block(self.messages[:count], self.values[:count], self.keys[:count], self.headers[:count])


class Fetched:
    """Records of one partition in the order of their offsets.

    However often passing stops, at a record that fails or at a tombstone, no field is asked for twice.

    Args:
        messages: As a consumer gives them, without those that carry an error.
    """

    __slots__ = ("_headers", "_keys", "_values", "messages")

    def __init__(self, messages: Sequence[Any]) -> None:
        self.messages = messages
        self._values: list[bytes | None] = []
        self._keys: list[bytes | None] = []
        self._headers: list[HeaderList | None] = []

    def __len__(self) -> int:
        return len(self.messages)

    def block(self, start: int, end: int) -> Block:
        """Give the records from ``start`` to before ``end``, or to the last."""
        known = len(self._values)
        if known < end:
            # Block by block, while the messages are in the processor's cache.
            fresh = self.messages[known:end]
            self._values += map(Message.value, fresh)
            self._keys += map(Message.key, fresh)
            self._headers += read_headers(fresh)
        return Block(self.messages[start:end], self._values[start:end], self._keys[start:end], self._headers[start:end])

"""Bound record fields to AAD bytes. spec: 5.2.1, 5.2.2, 5.2.3"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct

from streamcrypt.envelope.header import BOUND_HEADER_PREFIX, BOUND_KEY

__all__ = [
    "KIND_TOMBSTONE",
    "KIND_VALUE",
    "AADBuilder",
    "BlockAADBuilder",
    "Headers",
    "KeyPrefixes",
    "aad_builder",
    "block_aad_builder",
]

Headers = Sequence[tuple[str, bytes | None]]
"""A record's headers in order, as Kafka keeps them: names may repeat, values may be null."""

AADBuilder = Callable[[bytes | None, Headers | None], bytes]
"""``build(key, headers)`` gives the AAD of one record."""

KIND_VALUE = b"\x01"
KIND_TOMBSTONE = b"\x02"

_NULL = b"\x00"

BlockAADBuilder = Callable[[Sequence[bytes | None], Sequence[Headers | None]], list[bytes]]
"""``build(keys, headers)`` gives the AADs of a block of records."""

_MOST_PREFIXES = 256
_length = Struct(">BI").pack  # 01 and the length that follows it
_count = Struct(">I").pack


def aad_builder(bound: tuple[str, ...], kind: bytes = KIND_VALUE) -> AADBuilder:
    """Choose the function that builds the AAD for one bound list, once per data key."""
    if not bound:
        return lambda _key, _headers: kind
    if bound == (BOUND_KEY,):
        return _key_only(kind)
    return _general(bound, kind)


def block_aad_builder(bound: tuple[str, ...], kind: bytes = KIND_VALUE) -> BlockAADBuilder:
    """Choose the function that builds the AADs of a block of records; the same bytes as :func:`aad_builder`."""
    one = aad_builder(bound, kind)
    if bound != (BOUND_KEY,):
        return lambda keys, headers: list(map(one, keys, headers))
    null_key, prefixes = kind + _NULL, KeyPrefixes(kind)
    return lambda keys, _headers: [null_key if key is None else prefixes[len(key)] + key for key in keys]


class KeyPrefixes(dict[int, bytes]):
    """Length of a record key to the AAD bytes before it: the same few lengths come again and again.

    Args:
        kind: What the AAD is of.
    """

    def __init__(self, kind: bytes) -> None:
        super().__init__()
        self._kind = kind

    def __missing__(self, length: int) -> bytes:
        prefix = self._kind + _length(1, length)
        if len(self) < _MOST_PREFIXES:
            self[length] = prefix
        return prefix


def _key_only(kind: bytes) -> AADBuilder:
    null_key, prefixes = kind + _NULL, KeyPrefixes(kind)
    return lambda key, _headers: null_key if key is None else prefixes[len(key)] + key


def _general(bound: tuple[str, ...], kind: bytes) -> AADBuilder:
    # None stands for the record key; a name for a header.
    items = [None if item == BOUND_KEY else item.removeprefix(BOUND_HEADER_PREFIX) for item in bound]

    def build(key: bytes | None, headers: Headers | None) -> bytes:
        parts = [kind]
        for name in items:
            if name is None:
                parts.append(_NULL if key is None else _length(1, len(key)) + key)
                continue
            values = [value for header, value in headers or () if header == name]
            parts.append(_count(len(values)))
            parts.extend(_NULL if value is None else _length(1, len(value)) + value for value in values)
        return b"".join(parts)

    return build

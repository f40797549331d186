"""Names of KEKs with placeholders for fields of a record, and how the values of those fields are taken. spec: 9.3"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from streamcrypt.envelope.header import BOUND_HEADER_PREFIX, BOUND_KEY, build_bound
from streamcrypt.errors import ConfigError

__all__ = ["INPUT_CHARACTERS", "TOPIC_FIELD", "KEKTemplate", "Raw", "as_input", "is_template"]

TOPIC_FIELD = "topic"
INPUT_CHARACTERS = "1 to 64 of A-Z, a-z, 0-9, '_' and '-'"
"""What a field's value may consist of: nothing that means something in an alias, an ARN or a policy."""

_INPUT = re.compile(rb"[A-Za-z0-9_-]{1,64}")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_FORMS = "Placeholders are {topic}, {key} and {header:NAME}; the name of a header is 1 to 64 of A-Z, a-z, 0-9, . _ -"

Headers = Sequence[tuple[str, bytes | None]]
Raw = bytes | tuple[bytes | None, ...] | None
"""The fields of one record as they stand there: hashable, and None where the only one is absent, null or double."""
Take = Callable[[bytes | None, Headers | None], Raw]


def is_template(names: Sequence[str]) -> bool:
    """Say whether any of these names of KEKs has a placeholder."""
    return any("{" in name for name in names)


def as_input(raw: bytes | None) -> str | None:
    """Give a field's value as text; None where it may not choose a KEK."""
    return raw.decode() if raw is not None and _INPUT.fullmatch(raw) else None


class KEKTemplate:
    """One or more names of KEKs, at least one of which has placeholders.

    Args:
        names: Such as ``alias/tenant-{header:tenant}``. With several, each data key is wrapped under all of them.

    Attributes:
        fields: The fields that choose: ``topic``, ``key``, ``header:<name>``, in the order of their first appearance.
        bound: Those of them that belong to the record, and so have to be bound. spec: 9.3.1
        take: ``take(key, headers)`` gives what the record says, unchecked; fast, and the same for equal fields.

    Raises:
        ConfigError: There is no placeholder, or one that is not known.
    """

    def __init__(self, names: str | Sequence[str]) -> None:
        self.names = (names,) if isinstance(names, str) else tuple(names)
        found: dict[str, None] = {}
        for name in self.names:
            found.update(dict.fromkeys(_fields_of(name)))
        if not found:
            raise ConfigError("key_id has no placeholder, so that there is nothing to map", remedy=_FORMS)
        self.fields = tuple(found)
        self.bound = build_bound(field for field in self.fields if field != TOPIC_FIELD)
        self._of_record = tuple(field for field in self.fields if field != TOPIC_FIELD)
        self.take = _taker(self._of_record)

    def render(self, values: Sequence[str]) -> tuple[str, ...]:
        """Put values into the place of the fields, given in the order of :attr:`fields`."""
        by_field = dict(zip(self.fields, values, strict=True))
        return tuple(_PLACEHOLDER.sub(lambda match: by_field[match[1]], name) for name in self.names)

    def values_of(self, topic: str, raw: Raw) -> Mapping[str, str | None]:
        """Give each field's value for a record: None where it may not choose a KEK. spec: 9.3.2"""
        parts = raw if isinstance(raw, tuple) else (raw,)
        values = dict(zip(self._of_record, map(as_input, parts), strict=False))
        return {field: as_input(topic.encode()) if field == TOPIC_FIELD else values[field] for field in self.fields}

    def raw_of(self, values: Mapping[str, str]) -> Raw:
        """Give what :attr:`take` gives for a record with these values."""
        raws = tuple(values[field].encode() for field in self._of_record)
        return raws[0] if len(raws) == 1 else raws

    def __repr__(self) -> str:
        return f"KEKTemplate({', '.join(map(repr, self.names))})"


def _fields_of(name: str) -> list[str]:
    fields = _PLACEHOLDER.findall(name)
    for field in fields:
        header = field.removeprefix(BOUND_HEADER_PREFIX)
        if field not in {TOPIC_FIELD, BOUND_KEY} and (header == field or not _HEADER_NAME.fullmatch(header)):
            raise ConfigError(f"key_id: {{{field}}} is no placeholder", remedy=_FORMS)
    if "{" in _PLACEHOLDER.sub("", name) or "}" in _PLACEHOLDER.sub("", name):
        raise ConfigError(f"key_id: {name!r} has a brace that belongs to no placeholder", remedy=_FORMS)
    return fields


def _taker(fields: tuple[str, ...]) -> Take:
    takes = [_take_key if field == BOUND_KEY else _header_taker(field) for field in fields]
    if len(takes) == 1:
        return takes[0]
    return lambda key, headers: tuple([take(key, headers) for take in takes])


def _take_key(key: bytes | None, _headers: Headers | None) -> bytes | None:
    return key


def _header_taker(field: str) -> Callable[[bytes | None, Headers | None], bytes | None]:
    wanted = field.removeprefix(BOUND_HEADER_PREFIX)

    def take(_key: bytes | None, headers: Headers | None) -> bytes | None:
        found, times = None, 0
        for name, value in headers or ():
            if name == wanted:
                found, times = value, times + 1
        return found if times == 1 else None

    return take

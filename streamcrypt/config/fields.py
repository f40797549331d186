"""Types of single settings: quantities, names, enumerations and frozen maps, each refusing with a remedy."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

from streamcrypt.config.librdkafka import KNOWN, REFUSED, is_known
from streamcrypt.config.problems import nearest
from streamcrypt.errors import ConfigError
from streamcrypt.keys.rotation import parse_duration, parse_size

__all__ = [
    "REFUSAL",
    "TOPIC_PLACEHOLDER",
    "ClientProperties",
    "Duration",
    "DurationOrZero",
    "FrozenMap",
    "Name",
    "Size",
    "Sources",
    "TargetTemplate",
    "Texts",
    "TopicName",
    "Whole",
    "check_topic",
    "freeze",
    "is_topic_name",
    "not_empty",
    "refusal",
    "refused_as_setting",
]

REFUSAL = "streamcrypt"
TOPIC_PLACEHOLDER = "{topic}"

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}", re.ASCII)
_T = TypeVar("_T")

_PLACEHOLDER = re.compile(r"\{[^{}]*\}")


def refusal(message: str, remedy: str) -> PydanticCustomError:
    """Make an error that a validator raises: what is wrong, and what to do."""
    return PydanticCustomError(REFUSAL, "{message}", {"message": message, "remedy": remedy})


@contextmanager
def refused_as_setting(prefix: str = "", remedy: str = "") -> Iterator[None]:
    """Turn a ConfigError of the core into a refusal at the setting's own place.

    Args:
        prefix: What the core puts before its text, and the listing repeats.
        remedy: What to do, where the error does not say.
    """
    try:
        yield
    except ConfigError as error:
        raise refusal(str(error).removeprefix(prefix), error.remedy or remedy) from None


def _quantity(parse: Callable[[Any], float], units: str, example: str) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        with refused_as_setting(remedy=f"Write a number with one of {units}, such as {example}."):
            return parse(value)

    return read


def _above_zero(value: float) -> float:
    if not value > 0:
        raise refusal(f"{value} is not above zero", "Write a positive number.")
    return value


def _not_below_zero(value: float) -> float:
    if not 0 <= value < math.inf:
        raise refusal(f"{value} is below zero", "Write a duration such as 1m, or 0 for none.")
    return value


def _no_boolean(value: Any) -> Any:
    # bool is a subclass of int: 'port: true' would be port 1.
    if isinstance(value, bool):
        raise refusal(f"{str(value).lower()} is no number", "Write a whole number.")
    return value


def is_topic_name(name: str) -> bool:
    """Say whether Kafka accepts a topic of this name (org.apache.kafka.common.internals.Topic)."""
    return _TOPIC.fullmatch(name) is not None and name not in {".", ".."}


def check_topic(name: str) -> str:
    """Refuse a name that no topic can have; an error that carries a remedy."""
    if not is_topic_name(name):
        remedy = "Use 1 to 249 of A-Z, a-z, 0-9, '.', '_' and '-'; a regex begins with '^', several topics are a list."
        raise refusal(f"{name!r} is no topic name", remedy)
    return name


def _check_name(name: str) -> str:
    if not _TOPIC.fullmatch(name):
        raise refusal(f"{name!r} is no name", "Use 1 to 249 of A-Z, a-z, 0-9, '.', '_' and '-'.")
    return name


def _check_source(item: str) -> str:
    if not item.startswith("^"):
        return check_topic(item)
    try:
        re.compile(item)
    except re.error as error:
        raise refusal(
            f"{item!r} is no regular expression: {error}", "Mend it; it has to match a whole topic name."
        ) from None
    return item


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _no_repeats(items: tuple[str, ...]) -> tuple[str, ...]:
    repeated = sorted({item for item in items if items.count(item) > 1})
    if repeated:
        raise refusal(f"{repeated[0]!r} stands in the list twice", "Keep one of the two.")
    return items


def not_empty(items: tuple[_T, ...]) -> tuple[_T, ...]:
    """Refuse an empty list. Pydantic's own min_length also counts items that were refused, and reports twice."""
    if not items:
        raise refusal("the list is empty", "Name at least one.")
    return items


def _check_template(template: str) -> str:
    for placeholder in _PLACEHOLDER.findall(template):
        if placeholder != TOPIC_PLACEHOLDER:
            raise refusal(f"{placeholder} is no placeholder", f"Use {TOPIC_PLACEHOLDER}, the name of the source topic.")
    if template.count(TOPIC_PLACEHOLDER) > 1:
        raise refusal(f"{TOPIC_PLACEHOLDER} stands there twice", "Use it once.")
    check_topic(template.replace(TOPIC_PLACEHOLDER, "x"))
    return template


def _check_property(name: str) -> str:
    if name in REFUSED:
        reason, remedy = REFUSED[name]
        raise refusal(f"is set by streamcrypt itself: {reason}", remedy)
    if not is_known(name):
        near = nearest(name, KNOWN - REFUSED.keys())
        remedy = f"Did you mean '{near}'?" if near else "See CONFIGURATION.md of librdkafka for the names."
        raise refusal("is no property of librdkafka", remedy)
    return name


def _client_value(value: Any) -> Any:
    # librdkafka reads text; the text of a value is never quoted back, it may be a password.
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if value is None:
        raise refusal("has no value", "Write one, or remove the line.")
    if not isinstance(value, str):
        raise refusal("is a section or a list", "Write properties with dots, such as bootstrap.servers: HOST:PORT.")
    return value


def freeze(value: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Give a map that cannot be changed."""
    return MappingProxyType(dict(value))


_DURATION_SCHEMA = {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^\d+(\.\d+)?\s*(ms|s|m|h|d)?$"}]}
_SIZE_SCHEMA = {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": r"^\d+(\.\d+)?\s*(B|KiB|MiB|GiB)?$"}]}

Duration = Annotated[
    float,
    BeforeValidator(_quantity(parse_duration, "ms, s, m, h, d", "5m")),
    AfterValidator(_above_zero),
    WithJsonSchema(_DURATION_SCHEMA),
]
"""Seconds, above zero; read from ``5m`` or a bare number."""

DurationOrZero = Annotated[
    float,
    BeforeValidator(_quantity(parse_duration, "ms, s, m, h, d", "1m")),
    AfterValidator(_not_below_zero),
    WithJsonSchema(_DURATION_SCHEMA),
]
"""Seconds, zero included; read as :data:`Duration`."""

Size = Annotated[
    int,
    BeforeValidator(_quantity(parse_size, "B, KiB, MiB, GiB", "16GiB")),
    AfterValidator(_above_zero),
    WithJsonSchema(_SIZE_SCHEMA),
]
"""Bytes, above zero; read from ``16GiB`` or a bare number."""

Whole = Annotated[int, BeforeValidator(_no_boolean)]
"""A whole number, never a boolean."""

Name = Annotated[str, AfterValidator(_check_name)]
"""A name of a pipeline, group or instance: fit for group ids, transactional ids, metric labels and headers."""

TopicName = Annotated[str, AfterValidator(check_topic)]
"""A name that Kafka accepts for a topic."""

Sources = Annotated[
    tuple[Annotated[str, AfterValidator(_check_source)], ...],
    BeforeValidator(_one_or_many),
    AfterValidator(_no_repeats),
]
"""Topics and regexes (``^…``, each for a whole name); a single one needs no list."""

TargetTemplate = Annotated[str, AfterValidator(_check_template)]
"""A topic, or a template with ``{topic}``."""

Texts = Annotated[
    tuple[str, ...], BeforeValidator(_one_or_many), AfterValidator(not_empty), AfterValidator(_no_repeats)
]
"""One text or a list of texts, never empty, without repeats."""

PropertyName = Annotated[str, AfterValidator(_check_property)]
"""A librdkafka property that streamcrypt does not set itself."""

ClientValue = Annotated[str, BeforeValidator(_client_value)]
"""The value of a librdkafka property, as text."""

FrozenMap = Annotated[Mapping[str, str], AfterValidator(freeze), PlainSerializer(dict, return_type=dict[str, str])]
"""Text to text, read-only."""

ClientProperties = Annotated[
    Mapping[PropertyName, ClientValue], AfterValidator(freeze), PlainSerializer(dict, return_type=dict[str, str])
]
"""librdkafka properties, read-only."""

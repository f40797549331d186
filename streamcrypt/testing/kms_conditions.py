"""Internal: the Condition element of a policy, as far as KMS requests can meet it.

Source: IAM user guide, "IAM JSON policy elements: Condition operators" and "Multivalued context keys".
Condition keys are compared without regard to case; values with it.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Condition", "Facts", "PolicyError", "arn_like", "like", "parse_conditions"]

Facts = Mapping[str, tuple[str, ...]]
"""What is known about a request: condition key in lower case to its values. An absent key is not there."""

_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_ARN_COLONS = 5


class PolicyError(ValueError):
    """A policy document that IAM would refuse; the text says why."""


def _segments(pattern: str, facts: Facts) -> list[tuple[str, bool]] | None:
    # Text and whether wildcards in it count; None where a policy variable has no value.
    parts: list[tuple[str, bool]] = []
    for place, part in enumerate(_VARIABLE.split(pattern)):
        if place % 2 == 0:
            parts.append((part, True))
            continue
        values = (part,) if part in {"*", "?", "$"} else facts.get(part.lower(), ())
        if len(values) != 1:
            return None
        parts.append((values[0], False))
    return parts


def like(pattern: str, text: str, facts: Facts) -> bool:
    """Whether text matches a pattern with ``*``, ``?`` and policy variables."""
    parts = _segments(pattern, facts)
    if parts is None:
        return False
    translated = "".join(
        "".join({"*": ".*", "?": "."}.get(letter, re.escape(letter)) for letter in part) if wild else re.escape(part)
        for part, wild in parts
    )
    return re.fullmatch(translated, text, re.DOTALL) is not None


def arn_like(pattern: str, text: str, facts: Facts) -> bool:
    """Whether an ARN matches a pattern; a wildcard does not reach over one of the first five colons."""
    if pattern == "*":
        return True
    wanted, given = pattern.split(":", _ARN_COLONS), text.split(":", _ARN_COLONS)
    return len(wanted) == len(given) and all(map(like, wanted, given, [facts] * len(wanted)))


def _equals(pattern: str, text: str, facts: Facts) -> bool:
    parts = _segments(pattern, facts)
    return parts is not None and "".join(part for part, _ in parts) == text


def _equals_ignoring_case(pattern: str, text: str, facts: Facts) -> bool:
    return _equals(pattern.casefold(), text.casefold(), facts)


def _number(text: str) -> float:
    return float(text)


def _date(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        moment = dt.datetime.fromisoformat(text)
        return moment.replace(tzinfo=moment.tzinfo or dt.UTC).timestamp()


def _compared(read: Callable[[str], float], test: Callable[[float, float], bool]) -> Callable[[str, str, Facts], bool]:
    def compare(pattern: str, text: str, _facts: Facts) -> bool:
        try:
            return test(read(text), read(pattern))
        except ValueError:
            return False

    return compare


def _in_network(pattern: str, text: str, _facts: Facts) -> bool:
    return ipaddress.ip_address(text) in ipaddress.ip_network(pattern, strict=False)


_ORDERS: Mapping[str, Callable[[float, float], bool]] = {
    "Equals": lambda given, wanted: given == wanted,
    "LessThan": lambda given, wanted: given < wanted,
    "LessThanEquals": lambda given, wanted: given <= wanted,
    "GreaterThan": lambda given, wanted: given > wanted,
    "GreaterThanEquals": lambda given, wanted: given >= wanted,
}
_OPERATORS: Mapping[str, Callable[[str, str, Facts], bool]] = {
    "StringEquals": _equals,
    "StringEqualsIgnoreCase": _equals_ignoring_case,
    "StringLike": like,
    "ArnEquals": arn_like,
    "ArnLike": arn_like,
    "Bool": lambda pattern, text, _facts: pattern.lower() == text.lower(),
    "IpAddress": _in_network,
    **{f"Numeric{name}": _compared(_number, test) for name, test in _ORDERS.items()},
    **{f"Date{name}": _compared(_date, test) for name, test in _ORDERS.items()},
}
_NEGATED = {
    "StringNotEquals": "StringEquals",
    "StringNotEqualsIgnoreCase": "StringEqualsIgnoreCase",
    "StringNotLike": "StringLike",
    "ArnNotEquals": "ArnEquals",
    "ArnNotLike": "ArnLike",
    "NumericNotEquals": "NumericEquals",
    "DateNotEquals": "DateEquals",
    "NotIpAddress": "IpAddress",
}
_QUALIFIERS = {"", "ForAllValues", "ForAnyValue"}


@dataclass(frozen=True, slots=True)
class Condition:
    """One line of a Condition block: an operator, a condition key and the values of which one must match."""

    qualifier: str
    operator: str
    if_exists: bool
    key: str
    values: tuple[str, ...]

    def holds(self, facts: Facts) -> bool:
        """Whether the request meets the condition."""
        given = facts.get(self.key)
        if self.operator == "Null":
            return all((given is None) == (value.lower() == "true") for value in self.values)
        negated = self.operator in _NEGATED
        if given is None:
            return negated or self.if_exists or self.qualifier == "ForAllValues"
        test = _OPERATORS[_NEGATED.get(self.operator, self.operator)]
        hits = [any(test(value, text, facts) for value in self.values) != negated for text in given]
        # Without a qualifier a second value is not let through beside the first.
        return any(hits) if self.qualifier == "ForAnyValue" else all(hits)


def parse_conditions(block: Any) -> tuple[Condition, ...]:
    """Read a Condition block.

    Raises:
        PolicyError: It is malformed, or has an operator that does not exist.
    """
    if not isinstance(block, Mapping):
        raise PolicyError("Condition is not an object")
    return tuple(_parse_line(name, key, values) for name, lines in block.items() for key, values in _lines(name, lines))


def _lines(name: str, lines: Any) -> list[tuple[str, Any]]:
    if not isinstance(lines, Mapping):
        raise PolicyError(f"Condition {name} is not an object")
    return list(lines.items())


def _parse_line(name: str, key: str, values: Any) -> Condition:
    qualifier, _, operator = name.rpartition(":")
    if_exists = operator.endswith("IfExists")
    operator = operator.removesuffix("IfExists")
    if qualifier not in _QUALIFIERS or operator not in {*_OPERATORS, *_NEGATED, "Null"}:
        raise PolicyError(f"unknown condition operator {name}")
    listed = values if isinstance(values, list | tuple) else [values]
    if not all(isinstance(value, str | bool | int | float) for value in listed):
        raise PolicyError(f"Condition {name} {key}: a value is neither text, number nor boolean")
    texts = tuple(str(value).lower() if isinstance(value, bool) else str(value) for value in listed)
    return Condition(qualifier, operator, if_exists, key.lower(), texts)

"""Which logical topics a pipeline seals or opens, as values that a policy's condition can hold.

An encryption context names one topic. Topics by name become exact values. A regular expression becomes patterns for
StringLike, which knows ``*`` and ``?`` only: each of them is as wide as the expression or wider, never narrower.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from os.path import commonprefix
from typing import Any

__all__ = ["Topics", "patterns_of", "topics_between"]

_PLACEHOLDER = "{topic}"
_MOST_PATTERNS = 32  # a managed IAM policy ends at 6,144 characters
_MOST_REPEATS = 32
_MOST_LITERALS = 8
# The parser of the standard library, so that an expression means here what it means to the sidecar.
_parser: Any = import_module("re._parser")
_token: Any = import_module("re._constants")
_NO_WIDTH = {_token.AT, _token.ASSERT, _token.ASSERT_NOT}
_REPEATS = {_token.MAX_REPEAT, _token.MIN_REPEAT, _token.POSSESSIVE_REPEAT}


@dataclass(frozen=True, slots=True)
class Topics:
    """Logical topics.

    Attributes:
        exact: Names.
        like: Patterns in which ``*`` stands for any characters and ``?`` for one.
        never: Names that a pattern matches and that are not meant.
    """

    exact: tuple[str, ...] = ()
    like: tuple[str, ...] = ()
    never: tuple[str, ...] = ()

    def __or__(self, other: Topics) -> Topics:
        """Give the topics of both."""
        exact, like = {*self.exact, *other.exact}, {*self.like, *other.like}
        # What one of the two means is meant.
        never = {name for name in {*self.never, *other.never} if not _meant(name, self, other)}
        return Topics(tuple(sorted(exact)), tuple(sorted(like)), tuple(sorted(never)))

    def __bool__(self) -> bool:
        return bool(self.exact or self.like)

    @property
    def values(self) -> tuple[str, ...]:
        """Names and patterns together, for StringLike: no topic name holds a wildcard."""
        return (*self.exact, *self.like)

    def holds(self, name: str) -> bool:
        """Say whether a policy made of these topics lets a logical topic through."""
        if name in self.never:
            return False
        return name in self.exact or any(re.fullmatch(_as_expression(pattern), name) for pattern in self.like)


def _meant(name: str, *of: Topics) -> bool:
    return any(topics.holds(name) for topics in of)


def _as_expression(pattern: str) -> str:
    return "".join({"*": ".*", "?": "."}.get(character, re.escape(character)) for character in pattern)


def topics_between(
    sources: Iterable[str],
    template: str = _PLACEHOLDER,
    *,
    topic_names: Mapping[str, str] | None = None,
    exclude: Iterable[str] = (),
) -> Topics:
    """Give the logical topics that a pipeline's records are bound to.

    Args:
        sources: As in ``from``: topics, and regular expressions that begin with ``^`` and mean the whole name.
        template: As in ``to`` for the topics written; by default the sources themselves, for a pipeline that opens.
        topic_names: Physical topic to logical topic.
        exclude: As in the pipeline: topics never read. Expressions among them do not narrow anything: a pattern wider
            than the expression would lock out topics that are meant.
    """
    names = dict(topic_names or {})
    given = list(sources)
    exact = {template.replace(_PLACEHOLDER, source) for source in given if not source.startswith("^")}
    expressions = [source for source in given if source.startswith("^")]
    like: set[str] = set()
    for expression in expressions:
        if _PLACEHOLDER in template:
            like |= {_narrow(template.replace(_PLACEHOLDER, pattern)) for pattern in patterns_of(expression)}
        else:
            exact.add(template)
    renamed = {names[topic] for topic in names if topic not in exact and _written(topic, template, expressions)}
    logical = {names.get(topic, topic) for topic in exact} | renamed
    # A pattern without wildcards is a name.
    plain = {names.get(pattern, pattern) for pattern in like if "*" not in pattern and "?" not in pattern}
    like = {pattern for pattern in like if "*" in pattern or "?" in pattern}
    topics = Topics(tuple(sorted(logical | plain)), tuple(sorted(like)))
    unwanted = {template.replace(_PLACEHOLDER, topic) for topic in exclude if not topic.startswith("^")}
    meant = {*topics.exact, *names.values()}
    never = {topic for topic in unwanted if topic not in meant and topics.holds(topic)}
    return Topics(topics.exact, topics.like, tuple(sorted(never)))


def _written(topic: str, template: str, expressions: list[str]) -> bool:
    """Say whether a topic is written by the template from a source that an expression matches."""
    first, *rest = [re.escape(part) for part in template.split(_PLACEHOLDER)]
    # The same source stands at each place of the placeholder.
    shape = first + "".join(("(?P<topic>.+)" if place == 0 else "(?P=topic)") + part for place, part in enumerate(rest))
    match = re.fullmatch(shape, topic)
    return bool(rest and match) and any(re.fullmatch(expression, match["topic"]) for expression in expressions if match)


def patterns_of(expression: str) -> tuple[str, ...]:
    """Turn a regular expression for a whole name into StringLike patterns, at most 32 of them.

    Every name that the expression matches is matched by one of the patterns.
    """
    tree = _parser.parse(expression)
    folds = bool(tree.state.flags & re.IGNORECASE)
    found = {_narrow(pattern) for pattern in _sequence(tree, folds=folds)}
    return tuple(sorted(_few(found)))


def _narrow(pattern: str) -> str:
    # '*?*' is '?*', and '**' is '*'.
    def shorten(run: re.Match[str]) -> str:
        return "?" * run[0].count("?") + ("*" if "*" in run[0] else "")

    return re.sub(r"[*?]+", shorten, pattern)


def _few(patterns: set[str]) -> set[str]:
    if len(patterns) <= _MOST_PATTERNS:
        return patterns
    if len({len(pattern) for pattern in patterns}) == 1 and not any("*" in pattern for pattern in patterns):
        columns = [set(column) for column in zip(*patterns, strict=True)]
        return {"".join(column.pop() if len(column) == 1 else "?" for column in columns)}
    start = commonprefix(sorted(patterns))  # noqa: RUF071 - characters are meant
    end = commonprefix(sorted(pattern[len(start) :][::-1] for pattern in patterns))[::-1]  # noqa: RUF071
    return {_narrow(f"{start}*{end}")}


def _sequence(items: Any, *, folds: bool) -> set[str]:
    found = {""}
    for operation, argument in items:
        choices = _choices(operation, argument, folds=folds)
        found = _few({_narrow(head + tail) for head, tail in product(found, choices)})
    return found


def _choices(operation: Any, argument: Any, *, folds: bool) -> set[str]:
    if operation in _NO_WIDTH:
        return {""}
    if operation is _token.LITERAL:
        return {"?" if folds and chr(argument).isalpha() else chr(argument)}
    if operation is _token.IN:
        if len(argument) > _MOST_LITERALS or any(kind is not _token.LITERAL for kind, _ in argument):
            return {"?"}
        return set().union(*(_choices(*literal, folds=folds) for literal in argument))
    if operation in {_token.ANY, _token.NOT_LITERAL}:
        return {"?"}
    if operation is _token.BRANCH:
        return set().union(*(_sequence(branch, folds=folds) for branch in argument[1]))
    if operation is _token.SUBPATTERN:
        _, added, _, inner = argument
        return _sequence(inner, folds=folds or bool(added & re.IGNORECASE))
    if operation in _REPEATS:
        return _repeated(*argument, folds=folds)
    return {"*"}


def _repeated(least: int, most: Any, inner: Any, *, folds: bool) -> set[str]:
    once = _sequence(inner, folds=folds)
    if least == 0 and most == 1:
        return {"", *once}
    found = {""}
    for _ in range(min(least, _MOST_REPEATS)):
        found = _few({_narrow(head + tail) for head, tail in product(found, once)})
    return found if least == most and least <= _MOST_REPEATS else {_narrow(pattern + "*") for pattern in found}

"""When a data key is too old, and how its limits are written."""

from __future__ import annotations

import dataclasses
import math

import pytest

from streamcrypt.errors import ConfigError
from streamcrypt.keys.rotation import CachePolicy, RotationPolicy, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5m", 300),
        ("250ms", 0.25),
        ("1.5h", 5400),
        ("2d", 172_800),
        ("300", 300),
        (" 7 s ", 7),
        (300, 300),
        (0.5, 0.5),
        ("0", 0),
    ],
)
def test_durations_are_numbers_of_seconds_or_have_a_unit(text: float | str, seconds: float) -> None:
    """A bare number is seconds."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "size"), [("16GiB", 2**34), ("1KiB", 1024), ("0.5MiB", 2**19), ("12B", 12), ("1024", 1024), (7, 7)]
)
def test_sizes_are_numbers_of_bytes_or_have_a_unit(text: int | str, size: int) -> None:
    """A bare number is bytes, and the result is a whole number."""
    assert parse_size(text) == size
    assert type(parse_size(text)) is int


@pytest.mark.parametrize(
    "wrong",
    ["", "5 minutes", "m", "-5m", "5M", "1e3", "٣s", "5m5s", "inf", "nan", None, True, [], b"5m", "9" * 5000, "5\n5"],
)
def test_what_is_no_duration_is_refused_by_type(wrong: object) -> None:
    """Never by an exception of Python's own parsers."""
    with pytest.raises(ConfigError):
        parse_duration(wrong)


@pytest.mark.parametrize(
    "wrong", ["", "5GB", "5kib", "0.3B", "1.0001KiB", "-1", 1.5, math.inf, math.nan, None, True, "9" * 5000, "5m"]
)
def test_what_is_no_size_is_refused_by_type(wrong: object) -> None:
    """A fraction of a byte included."""
    with pytest.raises(ConfigError):
        parse_size(wrong)


def test_policies_read_units() -> None:
    """Python takes the strings of the config file."""
    rotation = RotationPolicy(max_age="2m", max_bytes="1MiB")
    assert (rotation.max_age, rotation.max_bytes) == (120, 2**20)
    cache = CachePolicy(ttl="1h", refusal_ttl="500ms")
    assert (cache.ttl, cache.refusal_ttl) == (3600, 0.5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_messages": 0},
        {"max_messages": -1},
        {"max_messages": 2**32 + 1},
        {"max_messages": 1.5},
        {"max_messages": True},
        {"max_messages": "5"},
        {"max_bytes": 0},
        {"max_bytes": 64 * 2**30 + 1},
        {"max_bytes": "65GiB"},
        {"max_bytes": math.inf},
        {"max_age": 0},
        {"max_age": -1},
        {"max_age": math.nan},
        {"max_age": "0s"},
    ],
)
def test_no_rotation_policy_passes_the_ceilings(wrong: dict[str, object]) -> None:
    """The ceilings of the suites, and nothing without a positive limit. spec: 7.1.1"""
    with pytest.raises(ConfigError):
        RotationPolicy(**wrong)


def test_the_ceilings_themselves_are_allowed() -> None:
    """2^32 records and 64 GiB. spec: 7.1.1"""
    policy = RotationPolicy(max_messages=2**32, max_bytes="64GiB", max_age="365d")
    assert policy.due(2**32 - 1, 0, 0.0, 1) is None
    assert policy.due(2**32, 0, 0.0, 1) == "messages"
    assert policy.due(1, 2**36 - 1, 0.0, 1) is None
    assert policy.due(1, 2**36, 0.0, 1) == "bytes"


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_entries": 0},
        {"max_entries": 1.5},
        {"max_entries": "10"},
        {"max_entries": True},
        {"ttl": 0},
        {"ttl": math.nan},
        {"refusal_ttl": -1},
        {"refused_misses_per_minute": 0},
        {"refused_misses_per_minute": "many"},
    ],
)
def test_a_cache_policy_is_positive(wrong: dict[str, object]) -> None:
    """And its counts are whole numbers."""
    with pytest.raises(ConfigError):
        CachePolicy(**wrong)


def test_a_policy_cannot_be_changed() -> None:
    """A limit that was checked stays."""
    policy = RotationPolicy()
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.max_messages = 2**40


@pytest.mark.parametrize(
    ("messages", "used", "age", "size", "reason"),
    [
        (0, 0, 0.0, 1, None),
        (9, 0, 0.0, 1, None),
        (10, 0, 0.0, 1, "messages"),
        (1, 90, 0.0, 10, None),
        (1, 90, 0.0, 11, "bytes"),
        (0, 0, 0.0, 1000, None),
        (0, 0, 59.999, 1, None),
        (0, 0, 60.0, 1, "age"),
    ],
)
def test_a_key_is_due_before_the_record_that_would_pass_a_limit(
    messages: int, used: int, age: float, size: int, reason: str | None
) -> None:
    """A record larger than max_bytes still fits a key that has sealed nothing. spec: 7.1.1, 7.2.1"""
    policy = RotationPolicy(max_messages=10, max_bytes=100, max_age=60)
    assert policy.due(messages, used, age, size) == reason

"""Durations and sizes as people write them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcrypt.errors import ConfigError
from streamcrypt.keys.rotation import parse_duration, parse_size

SECONDS = {"": 1, "ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
BYTES = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
spaces = st.sampled_from(["", " ", "  "])


@given(st.integers(0, 10**6), st.sampled_from(sorted(SECONDS)), spaces)
def test_a_duration_is_its_number_times_its_unit(number: int, unit: str, space: str) -> None:
    """Bare numbers are seconds, as text or not."""
    assert parse_duration(f"{number}{space}{unit}") == pytest.approx(number * SECONDS[unit])
    assert parse_duration(number) == parse_duration(str(number)) == number


@given(st.integers(0, 10**6), st.sampled_from(sorted(BYTES)), spaces)
def test_a_size_is_its_number_times_its_unit_exactly(number: int, unit: str, space: str) -> None:
    """Bare numbers are bytes, and the answer is a whole number."""
    size = parse_size(f"{number}{space}{unit}")
    assert size == number * BYTES[unit]
    assert isinstance(size, int)
    assert parse_size(number) == parse_size(str(number)) == number


@given(st.integers(0, 2**30), st.sampled_from(["KiB", "MiB", "GiB"]))
def test_a_fraction_of_a_size_is_whole_bytes_or_refused(eighths: int, unit: str) -> None:
    """1.5KiB is 1536 bytes; 0.3B is none."""
    assert parse_size(f"{eighths / 8}{unit}" if eighths < 2**20 else "0") >= 0
    with pytest.raises(ConfigError):
        parse_size("0.3B")


@given(
    st.text(max_size=12) | st.sampled_from(["5 M", "1kb", "1KB", "5mm", "-1s", "1e3", "٣s", "½h", "inf", "nan", "s"])
)
def test_any_text_is_a_quantity_or_a_config_error(text: str) -> None:
    """Never another exception, never a negative number, never NaN."""
    for parse in (parse_duration, parse_size):
        with contextlib.suppress(ConfigError):
            assert 0 <= parse(text) < float("inf")


@given(st.none() | st.booleans() | st.binary(max_size=3) | st.lists(st.integers(), max_size=1))
def test_what_is_neither_number_nor_text_is_a_config_error(value: object) -> None:
    """True is no second."""
    for parse in (parse_duration, parse_size):
        with pytest.raises(ConfigError):
            parse(value)


@given(st.floats())
def test_any_float_is_a_size_or_a_config_error(value: float) -> None:
    """NaN and infinity included."""
    with contextlib.suppress(ConfigError):
        assert isinstance(parse_size(value), int)

"""Samples of several rounds, and what is said of them: medians with quartiles, and ratios taken round by round."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Samples", "Spread", "added", "collect", "names_under", "percentile", "ratio", "spread"]

Samples = dict[str, list[float]]
"""Name of a figure, such as ``loop/1024/encrypt/records_per_s``, to one value a round, in the order of the rounds."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A median and its quartiles.

    Attributes:
        median: Half of the rounds were below.
        low: First quartile.
        high: Third quartile.
        rounds: How many values there were.
    """

    median: float
    low: float
    high: float
    rounds: int


def spread(values: Sequence[float]) -> Spread:
    """Give median and quartiles (inclusive method: the values are all there are, no sample of more).

    Raises:
        ValueError: There is no value.
    """
    if not values:
        raise ValueError("no value to summarise")
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], 1)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high, len(values))


def ratio(samples: Mapping[str, Sequence[float]], this: str, that: str) -> list[float]:
    """Divide one figure by another, round by round: what slows a whole round down cancels out.

    Empty where either was not measured.
    """
    return [a / b for a, b in zip(samples.get(this, ()), samples.get(that, ()), strict=False)]


def added(samples: Mapping[str, Sequence[float]], this: str, plain: str, unit: str | None = None) -> list[float]:
    """Give what one figure adds to another, round by round, in units of a third where one is named.

    Empty where one of them was not measured.
    """
    units = samples.get(unit, ()) if unit is not None else [1.0] * len(samples.get(this, ()))
    return [(a - b) / u for a, b, u in zip(samples.get(this, ()), samples.get(plain, ()), units, strict=False)]


def collect(samples: Samples, prefix: str, values: Mapping[str, float]) -> None:
    """Append one round's values, each under ``prefix/name``."""
    for name, value in values.items():
        samples.setdefault(f"{prefix}/{name}", []).append(value)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Give the smallest value that at least ``share`` (0 to 1) of the values do not exceed (nearest rank).

    Args:
        ordered: Values in ascending order.
        share: 0.99 for p99.
    """
    rank = -(-len(ordered) * share // 1)  # rounded up
    return ordered[max(0, int(rank) - 1)]


def names_under(samples: Iterable[str], prefix: str) -> list[str]:
    """Give the distinct next parts of the names below a prefix, in the order in which they come."""
    below = (name[len(prefix) + 1 :].split("/")[0] for name in samples if name.startswith(prefix + "/"))
    return list(dict.fromkeys(below))

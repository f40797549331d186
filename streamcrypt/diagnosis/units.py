"""Durations and sizes as people read them."""

from __future__ import annotations

__all__ = ["duration", "size"]

_DAY, _HOUR, _MINUTE = 86_400, 3_600, 60


def duration(milliseconds: int) -> str:
    """Write milliseconds in the largest unit that keeps it short; negative is Kafka's word for no end."""
    if milliseconds < 0:
        return "for ever"
    seconds = milliseconds / 1000
    for length, unit in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")):
        if seconds >= length:
            return f"{seconds / length:.4g} {unit}"
    return f"{seconds:g} s"


def size(count: int) -> str:
    """Write a number of bytes; negative is Kafka's word for no limit."""
    return "without limit" if count < 0 else f"{count:,} B"

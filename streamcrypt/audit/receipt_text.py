"""A receipt as lines of text, to be filed."""

from __future__ import annotations

from collections.abc import Iterator

from streamcrypt.audit.receipt import Fate, Part, Receipt
from streamcrypt.audit.report import rfc3339

__all__ = ["receipt_lines", "summary"]

_FATES = {
    Fate.LOST: ("lost", "no other key of their envelopes opens them"),
    Fate.STILL_OPEN: ("still open", "another key of their envelopes was unwrapped, and opens them"),
    Fate.UNKNOWN: ("not known", "their envelopes name other keys, which could not be tried"),
}


def summary(receipt: Receipt) -> list[tuple[str, str]]:
    """Give the head of a receipt as names and texts."""
    whole = "yes" if not receipt.doubts else "NO, see below"
    return [
        ("KEK", receipt.key_id),
        ("the key service says of it", receipt.state),
        ("made", rfc3339(int(receipt.made.timestamp() * 1000)) or ""),
        ("cluster", receipt.cluster_id or "unknown"),
        ("whole", whole),
        *((name, f"{receipt.total(fate)} records: {text}") for fate, (name, text) in _FATES.items()),
    ]


def receipt_lines(receipt: Receipt) -> Iterator[str]:
    """Write a receipt."""
    yield "RECEIPT: what can no longer be read once a KEK is gone"
    for name, text in summary(receipt):
        yield f"  {name}: {text}"
    for topic, topic_id in receipt.topic_ids.items():
        yield f"topic {topic} (id {topic_id or 'unknown'})"
        for place in receipt.places:
            if place.topic != topic:
                continue
            span = f"offsets {place.start} to {place.end - 1} were read" if place.end > place.start else "empty"
            yield f"  partition {place.partition}: {span}"
            for fate, part in place.parts.items():
                yield f"    {_FATES[fate][0]}: {_part(part)}"
    if receipt.doubts:
        yield "In doubt:"
        yield from (f"  {line}" for line in receipt.doubts)
    yield "Not covered:"
    yield from (f"  {line}" for line in receipt.not_covered)


def _part(part: Part) -> str:
    first, last = rfc3339(part.first_time) or "no time", rfc3339(part.last_time) or "no time"
    return (
        f"{part.records} records, {part.data_keys} data keys,"
        f" offsets {part.first_offset} ({first}) to {part.last_offset} ({last})"
    )

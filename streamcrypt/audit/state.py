"""How far an audit came, as a file: a later run goes on from there. It holds envelope headers, no value and no key."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from streamcrypt.audit.plan import Plan
from streamcrypt.audit.tally import Envelope, HeaderBook, Place, Tally
from streamcrypt.errors import ConfigError, EnvelopeError

__all__ = ["StateFile"]

_FORMAT = 1
_COUNTS = ("start", "end", "high", "position", "records", "plaintext", "malformed", "tombstones", "overtaken")
# Writing takes at most this part of the time.
_SHARE = 20


class StateFile:
    """A file that is replaced as a whole, so that a crash leaves the old one or the new one.

    Args:
        path: Where it is.
        every: Seconds between two writes; more where a write takes long. Default 5. The first is due at once, so that a
            directory that cannot be written to is found out early.
        clock: Returns seconds and only goes forward.
    """

    def __init__(self, path: Path, *, every: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._every = every
        self._clock = clock
        self._due = clock()

    def restore(self, plan: Plan, book: HeaderBook) -> bool:
        """Put what was counted before into a plan; return whether there was a file.

        The ends of the first run stay, so that both runs together count what one alone would have.

        Raises:
            ConfigError: The file is none of ours, or of other topics.
            OSError: It cannot be read.
        """
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return False
        except UnicodeDecodeError:
            text = ""
        try:
            tree = _checked(json.loads(text))
            ids = {str(topic): str(topic_id) for topic, topic_id in tree["topics"].items()}
            envelopes = [book.look_up(base64.b64decode(data, validate=True)) for data in tree["envelopes"]]
            places = [_read(part, envelopes) for part in tree["places"]]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError, EnvelopeError):
            raise ConfigError(
                f"{self._path} is no state of an audit", remedy="Name another file, or remove this one to begin anew."
            ) from None
        if ids != {topic: facts.topic_id for topic, facts in plan.topics.items()}:
            raise ConfigError(
                f"{self._path} is the state of an audit of other topics, or of topics that were made anew since",
                remedy="Name another file, or remove this one to begin anew.",
            )
        for place in places:
            self._go_on(plan, place)
        return True

    def _go_on(self, plan: Plan, place: Place) -> None:
        key = (place.topic, place.partition)
        now = plan.places.get(key)
        if now is None:
            return
        if place.position < min(now.start, place.end):
            place.overtaken, place.position = place.position, min(now.start, place.end)
        plan.places[key] = place

    def write(self, plan: Plan, book: HeaderBook) -> None:
        """Write now.

        Raises:
            OSError: The directory or the disk.
        """
        began = self._clock()
        tree = {
            "format": _FORMAT,
            "topics": {topic: facts.topic_id for topic, facts in plan.topics.items()},
            "envelopes": [base64.b64encode(envelope.data).decode() for envelope in book.envelopes],
            "places": [_write(place) for place in plan.places.values()],
        }
        descriptor, temporary = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(tree, file)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self._path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
            raise
        took = self._clock() - began
        self._due = self._clock() + max(self._every, took * _SHARE)

    def write_if_due(self, plan: Plan, book: HeaderBook) -> None:
        """Write where the last time is long enough ago."""
        if self._clock() >= self._due:
            self.write(plan, book)

    def remove(self) -> None:
        """Remove the file: the audit is done, and the next one begins anew."""
        self._path.unlink(missing_ok=True)


def _write(place: Place) -> dict[str, Any]:
    return {
        "topic": place.topic,
        "partition": place.partition,
        **{name: getattr(place, name) for name in _COUNTS},
        "faults": place.faults,
        "tallies": [
            [i, t.records, t.first_offset, t.first_time, t.last_offset, t.last_time] for i, t in place.tallies.items()
        ],
    }


def _checked(tree: Any) -> Any:
    if tree["format"] != _FORMAT:
        raise ValueError
    return tree


def _read(part: Any, envelopes: Sequence[Envelope]) -> Place:
    counts: Any = {name: int(part[name]) for name in _COUNTS}
    place = Place(str(part["topic"]), int(part["partition"]), **counts)
    place.faults = {str(kind): [int(count), int(offset)] for kind, (count, offset) in part["faults"].items()}
    for index, *tally in part["tallies"]:
        place.tallies[envelopes[index].index] = Tally(*tally)
    return place

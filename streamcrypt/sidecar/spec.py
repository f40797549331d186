"""What one pipeline is to do, as plain values; built from the configuration, or by an application."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from streamcrypt.errors import ConfigError

__all__ = ["Mode", "OnFailure", "PipelineSpec", "Start", "template_pattern"]

_PLACEHOLDER = "{topic}"


class Mode(StrEnum):
    """``encrypt`` seals what it reads, ``decrypt`` opens it, ``reencrypt`` puts it under other keys."""

    ENCRYPT = "encrypt"
    DECRYPT = "decrypt"
    REENCRYPT = "reencrypt"


class Start(StrEnum):
    """Where a consumer group begins that has never committed anything."""

    EARLIEST = "earliest"
    LATEST = "latest"


class OnFailure(StrEnum):
    """What happens to a record that can never be passed on: stop everything, set it aside, or leave it behind."""

    HALT = "halt"
    DEAD_LETTER = "dead_letter"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class PipelineSpec:
    """One pipeline.

    Attributes:
        name: Unique in the process; in logs and metrics.
        mode: Seal, open or both.
        group: The consumer group.
        sources: Topic names, and regular expressions that begin with ``^`` and mean the whole name.
        target: The topic written; ``{topic}`` stands for the source topic.
        never_read: Regular expressions for topics that a regular expression among the sources must not match: our
            own targets.
        start: Where to begin, once, when the group has never committed anything. Default earliest: nothing is lost.
        keep_partition: Write to the partition of the same number (default), else let the key decide.
        commit_interval: Seconds between commits. Default 1: a commit waits for every delivery.
        on_failure: For records that can never pass. Default halt: nobody loses a record unasked.
        dead_letter: Where they go with ``dead_letter``.
        rate: The most records a second; None: as many as go.
        kek_per_record: Whether records of one topic may lead to different KEKs, so that one waits for itself alone.
        in_place: Write onto the topic that is read: for a job that knows where to end.
    """

    name: str
    mode: Mode
    group: str
    sources: tuple[str, ...]
    target: str
    never_read: tuple[str, ...] = ()
    start: Start = Start.EARLIEST
    keep_partition: bool = True
    commit_interval: float = 1.0
    on_failure: OnFailure = OnFailure.HALT
    dead_letter: str = ""
    rate: float | None = None
    in_place: bool = False
    kek_per_record: bool = False

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError(f"pipeline {self.name!r} reads no topic")
        if (self.on_failure is OnFailure.DEAD_LETTER) != bool(self.dead_letter):
            raise ConfigError(
                f"pipeline {self.name!r}: on_failure: dead_letter and a dead_letter topic go together",
                remedy="Set both, or neither.",
            )
        for source in self.sources:
            if self.dead_letter and source == self.dead_letter:
                raise ConfigError(
                    f"pipeline {self.name!r} would read its own dead letters", remedy="Use streamcrypt replay."
                )
            if not source.startswith("^") and self.target_of(source) == source and not self.in_place:
                raise ConfigError(
                    f"pipeline {self.name!r} would write onto its own input topic {source!r}",
                    remedy="Choose another topic in 'to'.",
                )

    def target_of(self, source: str) -> str:
        """Give the topic to which records of ``source`` go."""
        return self.target.replace(_PLACEHOLDER, source)

    def reads(self, topic: str) -> bool:
        """Say whether this pipeline reads ``topic``. Kafka's own topics and our targets never match by expression."""
        if topic in self.sources:
            return True
        if topic.startswith("__") or topic == self.dead_letter or re.fullmatch(template_pattern(self.target), topic):
            return False
        if any(re.fullmatch(pattern, topic) for pattern in self.never_read):
            return False
        return any(source.startswith("^") and re.fullmatch(source, topic) for source in self.sources)


def template_pattern(target: str) -> str:
    """Give the regular expression of every topic that a target template can name."""
    return ".+".join(re.escape(part) for part in target.split(_PLACEHOLDER))

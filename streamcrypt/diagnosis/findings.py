"""What a diagnosis says: findings, each with what was seen and what to do. docs/doctor.md explains every check."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

__all__ = ["Check", "Finding", "Level", "as_tree", "fail", "ok", "warn"]


class Level(IntEnum):
    """How a finding is meant; ordered, so that the worst is the greatest."""

    OK = 0
    WARN = 1
    """It works today and has a price, or it could not be known."""
    FAIL = 2
    """Something does not work, or stops working by itself."""

    def __str__(self) -> str:
        return self.name.lower()


class Check(StrEnum):
    """Every check, by the id that docs/doctor.md and the JSON output name."""

    CONFIG = "config.file"
    BROKER = "broker.reachable"
    TRANSACTIONS = "broker.transactions"
    TOPICS = "topics.exist"
    SIZE = "topics.size"
    COMPRESSION = "topics.compression"
    CLEANUP = "topics.cleanup"
    RETENTION = "topics.retention"
    TIMESTAMPS = "topics.timestamps"
    REPLICAS = "topics.replicas"
    DEAD_LETTERS = "topics.dead_letter"
    TOPIC_ACCESS = "access.topics"
    GROUP_ACCESS = "access.group"
    TRANSACTIONAL_ID = "access.transactional_id"
    GROUP = "group.state"
    OFFSETS = "group.offsets"
    KEY = "key.usable"
    KEY_KIND = "key.kind"
    ALIAS = "key.alias"
    REPLICAS_OF_KEY = "key.replicas"
    ROTATION = "key.rotation"
    ON_DEMAND = "key.on_demand"
    PERMISSION = "key.permission"
    EXCESS = "key.excess"
    TRAIL = "key.trail"
    CREDENTIALS = "aws.credentials"
    CLOCK = "host.clock"
    MEMORY = "host.memory"
    PORT = "http.port"
    DRILL_REGION = "drill.region"
    DRILL_OPENS = "drill.opens"
    DRILL_SEALS = "drill.seals"

    @property
    def group(self) -> str:
        """What stands before the dot, for one narrow column."""
        return self.value.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Finding:
    """One answer.

    Attributes:
        check: Which check.
        level: How it is meant.
        subject: Of what: a topic, a KEK, a pipeline; empty for the whole.
        seen: What was found, one sentence.
        remedy: What to do; empty where all is well.
        where: The place of the setting that is at fault, ``file:line:column``; empty where none is.
        misconfigured: Whether the configuration itself is wrong, not the world around it.
    """

    check: Check
    level: Level
    subject: str
    seen: str
    remedy: str = ""
    where: str = ""
    misconfigured: bool = False

    @property
    def text(self) -> str:
        """Subject and what was seen, as one line."""
        return f"{self.subject}: {self.seen}" if self.subject else self.seen

    def __str__(self) -> str:
        head = "fail" if self.level is Level.FAIL else str(self.level)
        line = f"{head:<6}{self.check.group:<8}{self.text}"
        notes = [f"{'':14}{note}" for note in (self.remedy, self.where and f"set at {self.where}") if note]
        return "\n".join([line, *notes])


def ok(check: Check, subject: str, seen: str) -> Finding:
    """All is well."""
    return Finding(check, Level.OK, subject, seen)


def warn(check: Check, subject: str, seen: str, remedy: str, where: str = "") -> Finding:
    """It works and has a price, or could not be known."""
    return Finding(check, Level.WARN, subject, seen, remedy, where)


def fail(
    check: Check, subject: str, seen: str, remedy: str, where: str = "", *, misconfigured: bool = False
) -> Finding:
    """It does not work, or will stop."""
    return Finding(check, Level.FAIL, subject, seen, remedy, where, misconfigured)


def as_tree(finding: Finding) -> dict[str, Any]:
    """Give a finding as JSON takes it."""
    return {
        "check": finding.check.value,
        "level": str(finding.level),
        "subject": finding.subject,
        "seen": finding.seen,
        "remedy": finding.remedy or None,
        "where": finding.where or None,
    }

"""What a probe is answered: whether all is well, and if not, what is wrong, since when, and what helps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Self

__all__ = ["Reason", "Report"]


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that is wrong, or waited for.

    Attributes:
        reason: In words.
        pipeline: Whose; empty where it is the process.
        since: When it began, in seconds since 1970; None where nobody knows.
        remedy: What helps; empty where it mends itself.
        partitions: The partitions that wait for it, by topic.
        worker: The number of the process, of several.
    """

    reason: str
    pipeline: str = ""
    since: float | None = None
    remedy: str = ""
    partitions: Mapping[str, list[int]] | None = None
    worker: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Give it as an object; ``since`` as RFC 3339 in UTC. What does not apply is left out."""
        since = None
        if self.since is not None:
            since = datetime.fromtimestamp(self.since, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        fields: dict[str, Any] = {"pipeline": self.pipeline or None, "worker": self.worker, "reason": self.reason}
        fields |= {"since": since, "remedy": self.remedy or None, "partitions": self.partitions or None}
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Report:
    """An answer to a probe.

    Attributes:
        ok: Whether the probe passes.
        reasons: Why not.
        waiting: What waits without holding up the rest: it does not make the probe fail.
        names: The pipelines that were asked.
    """

    ok: bool
    reasons: tuple[Reason, ...] = ()
    waiting: tuple[Reason, ...] = ()
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, reasons: Iterable[Reason], waiting: Iterable[Reason] = (), names: Iterable[str] = ()) -> Self:
        """Make one that passes where there is no reason why not."""
        found = tuple(reasons)
        return cls(not found, found, tuple(waiting), tuple(names))

    @classmethod
    def from_worker(cls, worker: int, fields: Mapping[str, Any]) -> Self:
        """Make one of the fields that a worker process sent, and note in each reason which worker it was."""
        reasons, waiting = (
            tuple(replace(Reason(**reason), worker=worker) for reason in fields[part])
            for part in ("reasons", "waiting")
        )
        return cls(bool(fields["ok"]), reasons, waiting, tuple(fields["names"]))

    @classmethod
    def merged(cls, reports: Iterable[Self]) -> Self:
        """Make one of several processes: it passes where all do."""
        parts = list(reports)
        return cls(
            all(part.ok for part in parts),
            tuple(reason for part in parts for reason in part.reasons),
            tuple(reason for part in parts for reason in part.waiting),
            tuple(dict.fromkeys(name for part in parts for name in part.names)),
        )

    @property
    def pipelines(self) -> dict[str, list[str]]:
        """Each pipeline with what is wrong with it in words; an empty list is well."""
        return {name: [r.reason for r in self.reasons if r.pipeline == name] for name in self.names}

    def as_json(self) -> dict[str, Any]:
        """Give the body of the answer."""
        return {
            "status": "ok" if self.ok else "failing",
            "reasons": [reason.as_json() for reason in self.reasons],
            "waiting": [reason.as_json() for reason in self.waiting],
            "pipelines": self.pipelines,
        }

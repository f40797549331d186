"""One result file: what was measured, on what, when, by which command."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.figures import Samples
from bench.targets import judge

__all__ = ["RESULTS", "Result"]

RESULTS = Path(__file__).resolve().parent / "results"
_VERSION = 1


@dataclass
class Result:
    """A run and its samples.

    Attributes:
        command: What was typed.
        made: When it ended, RFC 3339 in UTC.
        seconds: How long each section took.
        rounds: How often each loop of 1 KB ran.
        machine: Processor, libraries, code; see :mod:`bench.machine`.
        samples: Every value of every round.
        absent: What could not be measured, and why.
    """

    command: str
    made: str
    seconds: Mapping[str, float]
    rounds: int
    machine: Mapping[str, Any]
    samples: Samples
    absent: Mapping[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write it as JSON, with the verdicts for whoever reads nothing else."""
        verdicts = [
            {
                "claim": verdict.target.claim,
                "limit": verdict.target.limit,
                "at_least": verdict.target.at_least,
                "measured": None if verdict.measured is None else asdict(verdict.measured),
                "met": verdict.met,
                "command": verdict.target.command,
            }
            for verdict in judge(self.samples)
        ]
        rounded = {name: [float(f"{value:.6g}") for value in values] for name, values in self.samples.items()}
        content = {"version": _VERSION, **asdict(self), "samples": rounded, "targets": verdicts}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Result:
        """Read a result file.

        Raises:
            ValueError: It is not one of this version.
        """
        content = json.loads(path.read_text())
        if content.get("version") != _VERSION:
            raise ValueError(f"{path.name} is not a result of version {_VERSION}")
        return cls(**{name: content[name] for name in cls.__dataclass_fields__})

"""``streamcrypt doctor``: look at everything that a configuration leans on, and say what to do. Nothing is written."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from confluent_kafka import KafkaException
from rich.console import Console
from rich.text import Text

from streamcrypt.cli.check import exit_code, key_findings, quiet_libraries, reach, topic_findings
from streamcrypt.cli.doctor_cluster import Leg, cluster_findings, legs_of
from streamcrypt.cli.doctor_drill import drill_findings
from streamcrypt.cli.doctor_keys import aws_findings
from streamcrypt.cli.exits import Exit
from streamcrypt.cli.form import Form
from streamcrypt.cli.run import keep_keys_out_of_core_dumps
from streamcrypt.config import Settings, load
from streamcrypt.diagnosis.findings import Check, Finding, Level, as_tree, fail, ok
from streamcrypt.diagnosis.host import MemoryFacts, judge_memory
from streamcrypt.errors import ConfigError

__all__ = ["DRILL_RECORDS", "DoctorRequest", "doctor", "memory_facts"]

DRILL_RECORDS = 100
"""Records of each partition that a drill opens, unless told otherwise."""
_WIDE = 160
_STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}
_CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")
_SWAPS = Path("/proc/swaps")


@dataclass(frozen=True, slots=True)
class DoctorRequest:
    """What is asked.

    Attributes:
        form: How it is printed.
        topics: Look at these topics alone; none means all that the pipelines read and write.
        drill: The region that is left in the drill; None: no drill.
        drill_records: Records of each partition that the drill opens.
    """

    form: Form = Form.TABLE
    topics: tuple[str, ...] = ()
    drill: str | None = None
    drill_records: int = DRILL_RECORDS

    @classmethod
    def read(cls, form: str, topics: Sequence[str], drill: str | None, drill_records: int) -> DoctorRequest:
        """Take the options of the command line.

        Raises:
            ConfigError: One of them cannot be.
        """
        if form not in set(Form):
            raise ConfigError(f"--format is one of {', '.join(Form)}, not {form!r}")
        if drill_records < 1:
            raise ConfigError("--drill-records is not above zero")
        return cls(Form(form), tuple(dict.fromkeys(topics)), drill, drill_records)


def doctor(path: Path, request: DoctorRequest) -> Exit:
    """Look and print.

    Args:
        path: The configuration.
        request: What is asked. With a drill only the drill is made, besides what it needs.

    Returns:
        DONE where nothing failed; FAILED where something did; USAGE where the configuration is at fault.

    Raises:
        ConfigError: The configuration or the request cannot be used at all.
    """
    settings = load(path)
    keep_keys_out_of_core_dumps()
    with quiet_libraries():
        findings = list(_findings(settings, path, request))
    if request.form is Form.JSON:
        sys.stdout.write(json.dumps(_as_tree(findings)) + "\n")
    else:
        _show(findings)
    return exit_code(findings)


def _findings(settings: Settings, path: Path, request: DoctorRequest) -> Iterator[Finding]:
    names = ", ".join(pipeline.name for pipeline in settings.pipelines)
    yield ok(Check.CONFIG, str(path), f"pipelines {names}")
    reached = yield from reach(settings)
    if request.drill is not None:
        if reached is None:
            return
        legs = legs_of(settings, reached[0], request.topics)
        _refuse_foreign(request, legs)
        try:
            yield from drill_findings(settings, legs, request.drill, request.drill_records, reached[0])
        except KafkaException as error:
            yield fail(Check.BROKER, "", str(error.args[0].str()), "Is the broker still up?")
        return
    legs = [Leg(pipeline) for pipeline in settings.pipelines]
    if reached is not None:
        legs = legs_of(settings, reached[0], request.topics)
        _refuse_foreign(request, legs)
        for index, pipeline in enumerate(settings.pipelines):
            yield from topic_findings(settings, index, settings.spec(pipeline), *reached)
        yield from cluster_findings(settings, legs, reached[1])
    yield from key_findings(settings)
    if settings.keys.provider == "aws-kms":
        yield from aws_findings(settings, legs, os.environ, datetime.now(UTC))
    yield from judge_memory(memory_facts())


def _refuse_foreign(request: DoctorRequest, legs: Sequence[Leg]) -> None:
    known = {topic for leg in legs for way in leg.ways.items() for topic in way}
    for topic in request.topics:
        if topic not in known:
            raise ConfigError(
                f"--topic {topic}: no pipeline of this file reads or writes it",
                remedy="Leave --topic out to see all of them.",
            )


def memory_facts(core_pattern: Path = _CORE_PATTERN, swaps: Path = _SWAPS) -> MemoryFacts:
    """Read where this host may leave copies of a process's memory."""
    try:
        pattern = core_pattern.read_text(encoding="utf-8").strip()
    except OSError:
        pattern = None
    try:
        lines = swaps.read_text(encoding="utf-8").splitlines()[1:]
    except OSError:
        lines = []
    return MemoryFacts(pattern, tuple(line.split()[0] for line in lines if line.strip()))


def _as_tree(findings: Sequence[Finding]) -> dict[str, object]:
    worst = max((finding.level for finding in findings), default=Level.OK)
    counts = {str(level): sum(finding.level is level for finding in findings) for level in Level}
    return {"worst": str(worst), "counts": counts, "findings": [as_tree(finding) for finding in findings]}


def _show(findings: Sequence[Finding]) -> None:
    console = Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)
    width = max(len(finding.check.value) for finding in findings)
    for finding in findings:
        line = Text.assemble(
            (f"{finding.level!s:<6}", _STYLES[finding.level]), f"{finding.check:<{width}}  {finding.text}"
        )
        # Names stay whole, so that they can be copied and searched for.
        console.print(line, soft_wrap=True)
        for note, style in ((finding.remedy, "bold"), (finding.where and f"set at {finding.where}", "dim")):
            if note:
                console.print(Text(f"{'':{width + 8}}{note}", style=style), soft_wrap=True)
    counts = [f"{sum(f.level is level for f in findings)} {level}" for level in reversed(Level)]
    console.print(Text(", ".join(counts) + "; docs/doctor.md explains every check"))

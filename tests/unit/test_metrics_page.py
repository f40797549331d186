"""docs/metrics.md says of every metric what the process exports: name, type, unit, labels and meaning, both ways."""

from __future__ import annotations

import re
import typing
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from streamcrypt import events
from streamcrypt.observe.metrics import Metrics

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "metrics.md").read_text(encoding="utf-8")
OVER_WORKERS = {"livesum": "sum", "livemax": "largest", "livemin": "smallest"}

SAMPLES: dict[str, Any] = {
    "str": "text",
    "int": 3,
    "float": 0.25,
    "bool": True,
    "tuple[str, ...]": ("a",),
    "tuple[tuple[str, str], ...]": (("app", "billing"),),
    "tuple[tuple[str, int], ...]": (("t", 0),),
    "tuple[tuple[str, int, int], ...]": (("t", 0, 17),),
}
# These take series away that others have set.
FIRST = (events.PipelineStopped, events.PipelineRestarting, events.PartitionsRevoked, events.PartitionsLost)


def exported() -> dict[str, tuple[str, ...]]:
    """Name of each family, as a query names it, to its type, unit, labels and help, after one event of each kind."""
    metrics = Metrics()
    kinds = typing.get_args(events.Event)
    for kind in sorted(kinds, key=lambda kind: (kind not in FIRST, kind.__name__)):
        metrics(kind(**{field.name: SAMPLES[field.type] for field in fields(kind)}))
    families = {}
    for family in metrics.registry.collect():
        counts = family.type == "counter"
        kind = f"gauge, {OVER_WORKERS[metrics.merges[family.name]]}" if family.type == "gauge" else family.type
        (labels,) = {tuple(label for label in sample.labels if label != "le") for sample in family.samples}
        name = f"{family.name}_total" if counts else family.name
        families[name] = (kind, family.unit, ", ".join(labels), family.documentation)
    return families


def documented() -> dict[str, tuple[str, ...]]:
    """The same from the tables of the page."""
    rows = {}
    for line in PAGE.splitlines():
        if line.startswith("| `streamcrypt_"):
            name, kind, unit, labels, meaning, _ = (cell.strip() for cell in line.strip("|").split("|"))
            assert name.strip("`") not in rows
            rows[name.strip("`")] = (kind, unit, labels, meaning)
    return rows


def test_the_page_lists_what_is_exported_and_nothing_else():
    """A name on one side alone, or another type, unit, label or meaning, fails here."""
    page, process = documented(), exported()
    assert sorted(page) == sorted(process)
    for name, facts in process.items():
        assert page[name] == facts, name


@pytest.mark.parametrize("page", ["metrics.md", "operations.md"])
def test_no_page_names_a_metric_that_does_not_exist(page):
    """A full name anywhere in prose is one that the process exports."""
    named = set(re.findall(r"`(streamcrypt_[a-z_]+)", (DOCS / page).read_text(encoding="utf-8")))
    assert sorted(named - exported().keys()) == []


def test_names_end_in_their_units():
    """OpenMetrics: a unit stands at the end of the name, before ``_total``; times are in seconds, sizes in bytes."""
    for name, (_, unit, _, _) in exported().items():
        bare = name.removesuffix("_total")
        assert not unit or bare.endswith(f"_{unit}"), name
        # Of a counter, the thing that is counted is no unit.
        units = {"seconds", "bytes", "ratio"} | ({"records"} if bare == name else set())
        assert unit or bare.rpartition("_")[2] not in units, name


def test_openmetrics_accepts_the_names():
    """The page in OpenMetrics format, which a scraper may ask for, parses again."""
    from prometheus_client.openmetrics.exposition import generate_latest
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    metrics = Metrics()
    metrics(events.BatchDone("p", "t", 10, 100, 200, 0, 0.01, 0.005))
    metrics(events.LagMeasured("p", (("t", 0, 17),)))
    parsed = {
        family.name: family for family in text_string_to_metric_families(generate_latest(metrics.registry).decode())
    }
    assert parsed["streamcrypt_batch_seconds"].unit == "seconds"
    (lag,) = parsed["streamcrypt_consumer_lag_records"].samples
    assert (lag.value, lag.labels) == (17, {"pipeline": "p", "topic": "t", "partition": "0"})

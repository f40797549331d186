"""Claims about config/alerts and config/grafana: each expression asks for metrics and labels that we really export."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from streamcrypt.errors import KeyRefused
from streamcrypt.keys.aws_kms.errors import CLIENT_ERRORS, SERVICE_ERRORS
from streamcrypt.observe.metrics import Metrics
from tests.unit.test_metrics_page import exported

ROOT = Path(__file__).parents[2]
ALERTS = {
    rule["alert"]: rule
    for group in yaml.safe_load((ROOT / "config/alerts/streamcrypt.yaml").read_text())["groups"]
    for rule in group["rules"]
}
DASHBOARDS = {path.name: json.loads(path.read_text()) for path in sorted((ROOT / "config/grafana").glob("*.json"))}
OPERATIONS = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
# Prometheus adds these to every series that it scrapes.
TARGET = {"job", "instance"}


def labels_of() -> dict[str, set[str]]:
    """Name of each series that can be asked for, to its labels."""
    found = {"up": set(TARGET)}
    for name, (kind, _unit, labels, _meaning) in exported().items():
        known = {*filter(None, labels.split(", "))} | TARGET
        if kind == "histogram":
            found |= {f"{name}_bucket": known | {"le"}, f"{name}_sum": known, f"{name}_count": known}
        else:
            found[name] = known
    return found


SERIES = labels_of()


def parts(expression: Any) -> Iterator[Any]:
    """An expression and all that it is made of."""
    yield expression
    for name in ("lhs", "rhs", "expr", "param", "args", "vector_selector"):
        inner = getattr(expression, name, None)
        for part in inner if isinstance(inner, list) else [inner]:
            if type(part).__module__ == "promql_parser":
                yield from parts(part)


def check(text: str) -> set[str]:
    """Assert that an expression asks for what there is; return the names of its series."""
    for variable in ("$__rate_interval", "$__interval"):
        text = text.replace(variable, "5m")
    expression = promql_parser.parse(text)
    names = set()
    for part in parts(expression):
        if type(part).__name__ == "VectorSelector":
            assert part.name in SERIES, f"{part.name} is not exported: {text}"
            asked = {matcher.name for matcher in part.matchers.matchers}
            assert asked <= SERIES[part.name], f"{part.name} has no label {asked - SERIES[part.name]}: {text}"
            names.add(part.name)
    for part in parts(expression):
        if type(part).__name__ == "AggregateExpr" and part.modifier is not None:
            kept = set(part.modifier.labels)
            for inner in parts(part):
                if type(inner).__name__ == "VectorSelector":
                    assert kept <= SERIES[inner.name], f"{inner.name} has no label {kept - SERIES[inner.name]}: {text}"
    assert names, text
    return names


def labels_left(text: str) -> set[str]:
    """The labels of what an expression gives: those it is grouped by, else all of its series."""
    found = list(parts(promql_parser.parse(text.replace("$__rate_interval", "5m"))))
    grouped = [set(p.modifier.labels) for p in found if type(p).__name__ == "AggregateExpr" and p.modifier]
    aggregated = any(type(p).__name__ == "AggregateExpr" for p in found)
    if grouped or aggregated:
        return set().union(*grouped)
    return set().union(*(SERIES[p.name] for p in found if type(p).__name__ == "VectorSelector"))


def anchors() -> set[str]:
    """What a link into docs/operations.md may end in."""
    heads = re.findall(r"^#+ (.+)$", OPERATIONS, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_an_alert_asks_for_what_is_exported_and_says_what_to_do(name):
    """Its expression, the labels in its texts, its severity, and its entry in the operations page."""
    rule = ALERTS[name]
    check(rule["expr"])
    assert rule["labels"]["severity"] in {"page", "ticket", "info"}
    texts = rule["annotations"]
    assert set(texts) == {"summary", "description", "runbook_url"}
    shown = set(re.findall(r"\$labels\.(\w+)", texts["summary"] + texts["description"]))
    assert shown <= labels_left(rule["expr"])
    page, _, anchor = texts["runbook_url"].partition("#")
    assert page == "docs/operations.md"
    assert anchor == name.lower()
    assert anchor in anchors()


def test_every_alert_of_the_page_exists():
    """An entry without its alert would be read by nobody."""
    assert set(re.findall(r"^#+ (Streamcrypt\w+)$", OPERATIONS, re.MULTILINE)) == set(ALERTS)


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


@pytest.mark.parametrize("name", sorted(DASHBOARDS))
def test_a_dashboard_asks_for_what_is_exported(name):
    """Every panel's expressions, the labels of its legends, and the variables' queries."""
    dashboard = DASHBOARDS[name]
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    for panel in panels(dashboard):
        assert panel["title"]
        for target in panel["targets"]:
            check(target["expr"])
            used = set(re.findall(r"\$(?!__)(\w+)", target["expr"]))
            assert used <= variables
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels_left(target["expr"])
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            series, label = re.fullmatch(r"label_values\((\w+)(?:{.*})?, (\w+)\)", variable["definition"]).groups()
            assert label in SERIES[series]


@pytest.mark.parametrize("name", sorted(DASHBOARDS))
def test_a_dashboard_has_panels_that_do_not_overlap_and_ids_of_its_own(name):
    """What Grafana would otherwise put somewhere else, or show once for two."""
    dashboard = DASHBOARDS[name]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({d["uid"] for d in DASHBOARDS.values()}) == len(DASHBOARDS)


def test_what_matters_is_on_a_dashboard_or_has_an_alert():
    """A metric that nobody looks at is named here, with its reason."""
    asked = {name for rule in ALERTS.values() for name in check(rule["expr"])}
    for dashboard in DASHBOARDS.values():
        asked |= {name for panel in panels(dashboard) for t in panel["targets"] for name in check(t["expr"])}
    left_out = {
        "tombstones", "batches", "commits", "committed_records", "loop_turns",  # rates like that of records
        "dead_letters",  # record_failures has them by cause
        "partition_pauses", "partition_pause_seconds", "source_topics", "kafka_client_errors", "broker_token_failures",
        "data_keys_live", "data_key_sealed_bytes", "data_key_graces", "data_key_grace_records",
        "key_service_breaker_openings", "data_keys_rewrapped",  # the log tells of each
        "reencryption_offsets", "reencryption_done", "reencryption_compared",  # a job shows its own progress
        "workers", "http_unprotected",
        "config_reloads", "pipeline_reloads", "control_commands", "control_unavailable",  # the log tells of each
        "pipeline_paused",  # the status page shows it, and StreamcryptNoProgress asks for one that was forgotten
    }  # fmt: skip
    families = {family.name.removeprefix("streamcrypt_") for family in Metrics().registry.collect()}
    shown = {re.sub(r"_(total|bucket|sum|count)$", "", n).removeprefix("streamcrypt_") for n in asked}
    assert sorted(families - shown - left_out) == []
    assert sorted(left_out - families) == []


# What KMS answers to administrators alone.
ADMINISTRATION = {
    "AlreadyExistsException", "ConflictException", "DryRunOperationException", "ExpiredImportTokenException",
    "InvalidImportTokenException", "IncorrectKeyMaterialException", "IncorrectTrustAnchorException",
}  # fmt: skip


def test_the_alert_on_refusals_names_codes_of_kms_that_are_refusals():
    """Each of its patterns fits a code, none that a retry or a record explains, and together they leave none out."""
    outcome = re.search(r'outcome=~"([^"]+)"', ALERTS["StreamcryptKMSRefuses"]["expr"])[1]
    codes = {*SERVICE_ERRORS, *CLIENT_ERRORS}
    refused = {c for table in (SERVICE_ERRORS, CLIENT_ERRORS) for c, f in table.items() if f.kind is KeyRefused}
    for pattern in outcome.split("|"):
        fitting = {code for code in codes if re.fullmatch(pattern, code)}
        assert fitting, pattern
        assert fitting <= refused, pattern
    assert refused - ADMINISTRATION == {code for code in codes if re.fullmatch(outcome, code)}


def test_the_alert_on_sidecars_that_are_away_fires_where_none_is_left():
    """On Kubernetes a pod that is gone takes its series along: nothing would be 0 then."""
    assert "absent(up" in ALERTS["StreamcryptDown"]["expr"]


def test_the_scrape_configuration_finds_the_rules():
    """Job, port and folder are those that alerts, compose and this repository have."""
    prometheus = yaml.safe_load((ROOT / "config/prometheus/prometheus.yaml").read_text())
    (job,) = prometheus["scrape_configs"]
    assert job["job_name"] == "streamcrypt"
    assert all(target.endswith(":9464") for target in job["static_configs"][0]["targets"])
    assert prometheus["rule_files"] == ["/etc/streamcrypt/alerts/*.yaml"]

"""Claims about what operators see: log lines, metrics, probes; every event has a line and a counter."""

from __future__ import annotations

import http.client
import io
import json
import logging
import re
import typing
from dataclasses import fields
from typing import Any

import pytest

from streamcrypt import events
from streamcrypt.observe import fan_out
from streamcrypt.observe.health import Health
from streamcrypt.observe.http import HTTPServer, port_is_free
from streamcrypt.observe.log_rules import raised_level
from streamcrypt.observe.logs import LINES, Logs
from streamcrypt.observe.metrics import Metrics
from streamcrypt.testing import CollectingObserver, ManualClock

KINDS = typing.get_args(events.Event)

SAMPLES: dict[str, Any] = {
    "str": "text",
    "int": 3,
    "float": 0.25,
    "bool": True,
    "tuple[str, ...]": ("a", "b"),
    "tuple[tuple[str, str], ...]": (("app", "billing"), ("streamcrypt:topic", "payments")),
    "tuple[tuple[str, int], ...]": (("payments", 0), ("payments", 1), ("orders", 0)),
    "tuple[tuple[str, int, int], ...]": (("payments", 0, 17), ("orders", 1, 0)),
}


def sample(kind: type[events.Event], **changes: Any) -> events.Event:
    """An event of one kind with some value in every field."""
    return kind(**{field.name: SAMPLES[field.type] for field in fields(kind)} | changes)


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    """The JSON objects that were written, one a line."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


# -- logs --------------------------------------------------------------------------------------------------------------


def test_every_event_has_a_line_with_a_name_of_its_own():
    """The table of lines covers every event, and each has a stable, distinct, dotted name."""
    assert set(LINES) == set(KINDS)
    names = [name for name, _ in LINES.values()]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z_]+\.[a-z_]+", name) for name in names)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_event_becomes_one_json_line(kind):
    """Each event is one JSON object that begins with timestamp, level and event and holds every field."""
    stream = io.StringIO()
    event = sample(kind)
    Logs("debug", stream=stream).observer()(event)
    (line,) = lines_of(stream)
    name, level = LINES[kind]
    level = raised_level(event) or level
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert (line["event"], line["level"]) == (name, level)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["timestamp"])
    assert {field.name for field in fields(kind)} <= set(line)


def test_names_that_alerts_rely_on():
    """The two lines that the documentation promises have their promised names."""
    assert LINES[events.PipelineReady] == ("pipeline.ready", "info")
    assert LINES[events.PipelineStopped] == ("pipeline.stopped", "info")
    assert LINES[events.DataKeyMinted] == ("data_key.minted", "info")
    assert LINES[events.KeyServiceCalled] == ("key_service.called", "info")


def test_context_and_partitions_are_objects():
    """An encryption context is written as name to value, partitions as topic to numbers."""
    stream = io.StringIO()
    observer = Logs("debug", stream=stream).observer()
    observer(sample(events.KeyServiceCalled))
    observer(sample(events.PartitionsAssigned))
    call, assigned = lines_of(stream)
    assert call["context"] == {"app": "billing", "streamcrypt:topic": "payments"}
    assert assigned["partitions"] == {"payments": [0, 1], "orders": [0]}


def test_lines_below_the_level_are_left_out():
    """At level warning, only warnings and errors are written."""
    stream = io.StringIO()
    observer = Logs("warning", stream=stream).observer()
    for kind in KINDS:
        observer(sample(kind))
    assert {line["level"] for line in lines_of(stream)} == {"warning", "error"}


def test_console_lines_are_text():
    """The console style writes text for people, still one line an event."""
    stream = io.StringIO()
    Logs("info", "console", stream).observer()(sample(events.PipelineReady))
    (line,) = stream.getvalue().splitlines()
    assert "pipeline.ready" in line
    assert not line.startswith("{")


def test_control_characters_cannot_forge_lines():
    """A newline in a detail stays within its line, in both styles' JSON."""
    stream = io.StringIO()
    Logs("info", stream=stream).observer()(sample(events.PipelineFailed, detail='x"}\n{"event": "pipeline.ready"}'))
    (line,) = lines_of(stream)
    assert line["event"] == "pipeline.failed"


def test_foreign_libraries_are_folded_in_from_warning_on():
    """Warnings of other libraries become our lines; DEBUG, tracebacks and texts of exceptions are left out."""
    stream = io.StringIO()
    before = logging.getLogger().level
    with Logs("debug", stream=stream):
        logging.getLogger("botocore.parsers").debug("Response body: the data key")
        logging.getLogger("urllib3.connectionpool").warning("Retrying %s", "once")
        try:
            int("the data key")
        except ValueError:
            logging.getLogger("librdkafka").exception("failed")
    logging.getLogger("urllib3.connectionpool").debug("after the end")
    first, second = lines_of(stream)
    assert (first["event"], first["level"], first["logger"]) == ("library.message", "warning", "urllib3.connectionpool")
    assert first["message"] == "Retrying once"
    assert (second["level"], second["error"]) == ("warning", "ValueError")
    assert "data key" not in stream.getvalue()
    assert logging.getLogger().level == before


def test_a_closed_stream_stops_nobody():
    """An observer does not raise where stderr is gone."""
    stream = io.StringIO()
    observer = Logs("info", stream=stream).observer()
    stream.close()
    observer(sample(events.PipelineReady))


# -- metrics -----------------------------------------------------------------------------------------------------------


def test_every_event_is_counted():
    """The table of handlers covers every event, and each changes a metric."""
    assert set(Metrics().handlers) == set(KINDS)
    for kind in KINDS:
        # Before anything else has happened: a gauge that is set again to what it was shows nothing.
        metrics = Metrics()
        before = dump(metrics)
        metrics(sample(kind))
        assert dump(metrics) != before, kind


def dump(metrics: Metrics) -> dict[str, float]:
    """Every sample but the times at which series began."""
    return {
        f"{s.name}{sorted(s.labels.items())}": s.value
        for family in metrics.registry.collect()
        for s in family.samples
        if not s.name.endswith("_created")
    }


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """One sample."""
    return metrics.registry.get_sample_value(f"streamcrypt_{name}", labels)


def test_batches_are_counted_by_pipeline_and_topic():
    """Records, tombstones and bytes in and out add up over batches."""
    metrics = Metrics()
    for _ in range(2):
        metrics(events.BatchDone("p", "t", 100, 1000, 1280, 5, 0.003))
    where = {"pipeline": "p", "topic": "t"}
    assert value(metrics, "records_total", **where) == 200
    assert value(metrics, "tombstones_total", **where) == 10
    assert value(metrics, "value_bytes_total", **where, direction="in") == 2000
    assert value(metrics, "value_bytes_total", **where, direction="out") == 2560
    assert value(metrics, "batches_total", **where) == 2
    assert value(metrics, "batch_seconds_count", pipeline="p") == 2


def test_an_outage_is_seen_in_the_metrics():
    """A breaker and a grace are gauges while they last, and counters afterwards."""
    metrics = Metrics()
    metrics(events.BreakerOpened("eu-west-1", 5, 0.7))
    metrics(events.DataKeyGraceBegan("t", "aa", "age", 60.0, 4000))
    assert value(metrics, "key_service_breaker_open", region="eu-west-1") == 1
    assert value(metrics, "data_keys_in_grace", topic="t") == 1
    metrics(events.DataKeyGraceEnded("t", "aa", "minted", 70, 12.5))
    metrics(events.BreakerClosed("eu-west-1", 12.0))
    assert value(metrics, "key_service_breaker_open", region="eu-west-1") == 0
    assert value(metrics, "key_service_breaker_openings_total", region="eu-west-1") == 1
    assert value(metrics, "data_keys_in_grace", topic="t") == 0
    assert value(metrics, "data_key_graces_total", topic="t", outcome="minted") == 1
    assert value(metrics, "data_key_grace_records_total", topic="t") == 70


def test_keys_and_calls_are_counted():
    """Data keys are counted by how they began and ended, calls by operation, region and outcome."""
    metrics = Metrics()
    metrics(events.DataKeyMinted("t", "aa", ("k",), 0.1, ahead=True))
    metrics(events.DataKeyRetired("t", "aa", "messages", 10, 1000, 1.0))
    metrics(sample(events.DataKeyOpened, shared=False))
    metrics(sample(events.DataKeyRefused, error="UntrustedKey", record_fault=True))
    metrics(sample(events.KeyServiceCalled, operation="Decrypt", region="eu-west-1", outcome="ok", seconds=0.03))
    assert value(metrics, "data_keys_minted_total", topic="t", ahead="true") == 1
    assert value(metrics, "data_keys_retired_total", topic="t", reason="messages") == 1
    assert value(metrics, "decrypt_cache_misses_total", how="unwrapped") == 1
    assert value(metrics, "data_keys_refused_total", error="UntrustedKey", fault="record") == 1
    call = {"operation": "Decrypt", "region": "eu-west-1"}
    assert value(metrics, "key_service_calls_total", **call, outcome="ok") == 1
    assert value(metrics, "key_service_seconds_bucket", **call, le="0.05") == 1
    assert value(metrics, "key_service_seconds_bucket", **call, le="0.02") == 0


def test_gauges_follow_the_loop_and_fall_at_the_end():
    """Assigned and paused partitions are those of the last turn, and none once the pipeline has stopped."""
    metrics = Metrics()
    metrics(events.PipelineReady("p", 4))
    metrics(events.LoopTurned("p", 4, 1))
    names = ("pipeline_ready", "partitions_assigned", "partitions_paused")
    assert [value(metrics, name, pipeline="p") for name in names] == [1, 4, 1]
    metrics(events.PipelineStopped("p", clean=True, records=5))
    assert [value(metrics, name, pipeline="p") for name in names] == [0, 0, 0]


def test_labels_come_from_closed_sets_and_configuration():
    """No label name stands for something that a writer of records chooses: no data key, offset, context or detail."""
    metrics = Metrics()
    for kind in KINDS:
        metrics(sample(kind))
    labels = {label for family in metrics.registry.collect() for s in family.samples for label in s.labels}
    assert labels <= {
        "pipeline", "topic", "direction", "error", "action", "ahead", "reason", "how", "fault", "operation", "region",
        "outcome", "le", "change", "client", "code", "kind", "phase", "mode", "partition", "worker", "command",
        "resource", "version", "python", "confluent_kafka", "cryptography",
    }  # fmt: skip


def test_two_processes_worth_of_metrics_fit_in_one():
    """Each has a registry of its own, so that neither sees the other's numbers."""
    one, other = Metrics(), Metrics()
    one(events.PipelineReady("p", 1))
    assert value(other, "pipeline_ready", pipeline="p") is None


# -- health ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> ManualClock:
    """A clock that moves when told to."""
    return ManualClock()


@pytest.fixture
def health(clock) -> Health:
    """The health of a process with one pipeline that is ready."""
    health = Health(("p",), clock=clock)
    health(events.PipelineStarting("p", "encrypt", "g"))
    health(events.PipelineReady("p", 4))
    return health


def test_a_process_is_ready_once_every_pipeline_is(clock):
    """Until every configured pipeline has its assignment and a key, the process lives but is not ready."""
    health = Health(("a", "b"), clock=clock)
    assert health.liveness().ok
    assert health.readiness().pipelines == {"a": ["not started yet"], "b": ["not started yet"]}
    health(events.PipelineStarting("a", "encrypt", "g"))
    health(events.PipelineReady("a", 1))
    assert not health.readiness().ok
    health(events.PipelineStarting("b", "encrypt", "g"))
    assert health.readiness().pipelines["b"] == ["joining its consumer group"]
    health(events.PipelineReady("b", 1))
    assert health.readiness().ok


def test_a_process_without_pipelines_is_alive_and_not_ready(clock):
    """Nothing started is a reason of its own."""
    health = Health(clock=clock)
    assert health.liveness().ok
    assert [reason.reason for reason in health.readiness().reasons] == ["no pipeline has started"]


def test_a_loop_that_stands_still_is_dead(health, clock):
    """30 s without a turn end liveness, and a turn brings it back."""
    clock.advance(29)
    assert health.liveness().ok
    clock.advance(2)
    report = health.liveness()
    assert not report.ok
    assert report.pipelines["p"] == ["its loop has stood still for 31 s"]
    assert not health.readiness().ok
    health(events.LoopTurned("p", 4, 0))
    assert health.liveness().ok
    clock.advance(31)
    health.tick("p")
    assert health.liveness().ok


def test_waiting_for_a_key_is_alive_and_not_ready(health):
    """A paused partition is named by readiness until it goes on; a restart would not help it."""
    health(events.PartitionPaused("p", "t", 3, 7, "KeyUnavailable", "KMS timed out", ""))
    assert health.liveness().ok
    assert health.readiness().pipelines["p"] == ["t[3] waits: KeyUnavailable: KMS timed out"]
    health(events.PartitionResumed("p", "t", 3, 2.0))
    assert health.readiness().ok


@pytest.mark.parametrize("kind", [events.PartitionsRevoked, events.PartitionsLost])
def test_a_partition_that_went_away_is_waited_for_no_more(health, kind):
    """A partition that another member has now is no hindrance here."""
    health(events.PartitionPaused("p", "t", 3, 7, "KeyUnavailable", "KMS timed out", ""))
    health(kind("p", (("t", 3),)))
    assert health.readiness().ok


def test_a_halted_pipeline_is_dead(health):
    """A pipeline that may not go on fails liveness with its reason."""
    health(events.PipelineFailed("p", "AuthenticationFailed", "t[0]@7", ""))
    health(events.PipelineStopped("p", clean=False, records=0))
    assert health.liveness().pipelines["p"] == ["halted: AuthenticationFailed: t[0]@7"]


def test_a_stopped_pipeline_is_not_ready_and_not_dead(health, clock):
    """After a clean end nothing turns any more, and that is no reason for a restart."""
    health(events.PipelineStopped("p", clean=True, records=9))
    clock.advance(100)
    assert health.liveness().ok
    assert health.readiness().pipelines["p"] == ["stopped"]


def test_a_pipeline_that_starts_again_has_its_time(health, clock):
    """While a pipeline waits to start again it is not ready, and its silence is not counted."""
    health(events.PipelineStopped("p", clean=False, records=9))
    health(events.PipelineRestarting("p", "ConnectionLost", "no broker", 30.0))
    clock.advance(45)
    assert health.liveness().ok
    assert health.readiness().pipelines["p"] == ["starts again: ConnectionLost: no broker"]
    clock.advance(20)
    assert not health.liveness().ok


def test_a_pipeline_whose_clients_are_beyond_repair_is_dead_until_it_has_new_ones(health):
    """Fenced, for example: the probe fails from the event to the new start, and names the reason."""
    health(events.PipelineRestarting("p", "ConnectionLost", "fenced", 1.0, fatal=True))
    assert health.liveness().pipelines["p"] == ["starts again: ConnectionLost: fenced"]
    health(events.PipelineStarting("p", "encrypt", "g"))
    assert health.liveness().ok


# -- http --------------------------------------------------------------------------------------------------------------


def ask(server: HTTPServer, path: str, method: str = "GET") -> tuple[int, str, bytes]:
    """One request: status, content type, body."""
    connection = http.client.HTTPConnection(*server.address, timeout=30)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read()
    finally:
        connection.close()


def test_metrics_and_probes_are_served(health):
    """The three paths answer: Prometheus text, and JSON with reasons and a status that probes understand."""
    metrics = Metrics()
    metrics(events.PipelineReady("p", 4))
    with HTTPServer(metrics.registry, health, port=0) as server:
        status, kind, body = ask(server, "/metrics")
        assert (status, kind.partition(";")[0]) == (200, "text/plain")
        assert b'streamcrypt_pipeline_ready{pipeline="p"} 1.0' in body
        for path in ("/healthz", "/readyz"):
            status, kind, body = ask(server, path)
            assert (status, kind) == (200, "application/json")
            assert json.loads(body) == {"status": "ok", "reasons": [], "waiting": [], "pipelines": {"p": []}}
        health(events.PipelineFailed("p", "KeyRefused", "denied", ""))
        for path in ("/healthz", "/readyz"):
            status, _, body = ask(server, path)
            assert status == 503
            assert json.loads(body)["pipelines"] == {"p": ["halted: KeyRefused: denied"]}


def test_other_paths_and_methods_are_refused(health):
    """What is not served is 404, what is not reading is 405, and HEAD has no body."""
    with HTTPServer(Metrics().registry, health, port=0) as server:
        assert ask(server, "/")[0] == 404
        assert ask(server, "/healthz", "POST")[0] == 405
        status, _, body = ask(server, "/healthz", "HEAD")
        assert (status, body) == (200, b"")


def test_a_closed_server_frees_its_port(health):
    """After close the port can be listened on; before, the refusal names the address."""
    with HTTPServer(Metrics().registry, health, port=0) as server:
        host, port = server.address
        assert "in use" in (port_is_free(host, port) or "")
        with pytest.raises(OSError, match="in use") as caught:
            HTTPServer(Metrics().registry, health, port=port)
        assert caught.value.filename == f"127.0.0.1:{port}"
    assert port_is_free(host, port) is None


def test_it_listens_on_this_host_alone_by_default(health):
    """Metrics name topics and keys, so that nobody else sees them unasked."""
    with HTTPServer(Metrics().registry, health, port=0) as server:
        assert server.address[0] == "127.0.0.1"


# -- fan out -----------------------------------------------------------------------------------------------------------


def test_fan_out_tells_every_observer():
    """Each observer is told each event."""
    one, other = CollectingObserver(), CollectingObserver()
    fan_out([one, other])(events.PipelineReady("p", 1))
    assert one.events == other.events == [events.PipelineReady("p", 1)]

"""Spans: which records they are linked to, what they say, and what they never say."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from confluent_kafka import Message
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from streamcrypt.config import load
from streamcrypt.errors import ConfigError, MalformedEnvelope
from streamcrypt.events import (
    BatchDone,
    CommitFailed,
    KeyServiceCalled,
    OffsetsCommitted,
    PartitionPaused,
    RecordFailed,
    UnitGivenUp,
)
from streamcrypt.keys.waiting import BoundedWait
from streamcrypt.observe.tracing import LINKS, LOOKED_AT, Tracing, incoming

SECRET = b"PLAINTEXT-IBAN-DE89370400440532013000"
PLACE = ("orders", 3)
COMMITTED = OffsetsCommitted("p", 1, 2, 0.5, 1.5)


def parent(number: int = 1, flags: str = "01") -> bytes:
    return f"00-{number:032x}-{number:016x}-{flags}".encode()


def message(offset: int, *headers: tuple[str, bytes | None]) -> Message:
    return Message(
        topic=PLACE[0], partition=PLACE[1], offset=offset, key=b"KEY-" + SECRET, value=SECRET, headers=list(headers)
    )


def called(outcome: str = "ok") -> KeyServiceCalled:
    return KeyServiceCalled("Decrypt", "eu-west-1", "arn:key", "", (("topic", "orders"),), outcome, "request-1", 0.25)


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter, monkeypatch):
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    with Tracing(2, SimpleSpanProcessor(exporter)) as found:
        yield found


def passing(tracing, *events, failure=None, messages=None):
    """Pass one batch, and have these events told meanwhile."""

    def take(_place, _messages):
        for event in events:
            tracing(event)
        if failure is not None:
            raise failure

    given = messages or [message(10, ("traceparent", parent())), message(11)]
    tracing.around("p", "group", "encrypt", take)(PLACE, given)


def spans(exporter):
    return {span.name: span for span in exporter.get_finished_spans()}


def test_a_batch_is_one_consumer_span_with_names_counts_and_offsets(tracing, exporter):
    passing(tracing, BatchDone("p", "orders", 2, 74, 120, 0, 0.1))
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.kind, span.parent) == ("encrypt orders", SpanKind.CONSUMER, None)
    assert dict(span.attributes) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "encrypt",
        "messaging.operation.type": "process",
        "messaging.consumer.group.name": "group",
        "messaging.destination.name": "orders",
        "messaging.destination.partition.id": "3",
        "messaging.batch.message_count": 2,
        "streamcrypt.pipeline": "p",
        "streamcrypt.offset.first": 10,
        "streamcrypt.offset.last": 11,
        "streamcrypt.records.passed": 2,
        "streamcrypt.bytes.in": 74,
        "streamcrypt.bytes.out": 120,
    }
    assert [(link.context.trace_id, link.context.span_id) for link in span.links] == [(1, 1)]
    assert span.resource.attributes["service.name"] == "streamcrypt"
    assert span.resource.attributes["streamcrypt.worker"] == 2


def test_otel_service_name_names_the_service(exporter, monkeypatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "payments-sealing")
    with Tracing(0, SimpleSpanProcessor(exporter)) as tracing:
        passing(tracing)
    assert exporter.get_finished_spans()[0].resource.attributes["service.name"] == "payments-sealing"


def test_the_same_context_is_linked_once_and_never_more_than_the_bound():
    twice = [message(0, ("traceparent", parent(7))), message(1, ("traceparent", parent(7)))]
    assert [context.trace_id for context in incoming(twice)] == [7]
    many = [message(n, ("traceparent", parent(n + 1))) for n in range(LOOKED_AT)]
    assert [context.trace_id for context in incoming(many)] == list(range(1, LINKS + 1))


def test_of_a_large_batch_only_some_records_are_looked_at_from_its_begin_to_its_end():
    batch = [message(n, ("traceparent", parent(n // 100 + 1))) for n in range(1000)]
    assert [context.trace_id for context in incoming(batch)] == list(range(1, 11))
    hidden = [message(n, *([("traceparent", parent())] if n == 1 else [])) for n in range(1000)]
    assert not incoming(hidden)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        None,
        b"\xff" * 55,
        b"00-zz",
        SECRET,
        parent(0),
        parent().upper().replace(b"0", b"G"),
        b"ff" + parent()[2:],
        parent() + b"-more",
        b"cc" + parent()[2:] + b"-" + b"x" * 1000,
    ],
    ids=["empty", "null", "bytes", "short", "text", "zero", "no-hex", "version-ff", "version-0-longer", "too-long"],
)
def test_what_is_no_traceparent_is_ignored(value):
    found = incoming([message(0, ("traceparent", value)), message(1, ("traceparent", parent(5)))])
    assert [context.trace_id for context in found] == [5]


def test_a_later_version_of_traceparent_is_linked_and_tracestate_is_left_out():
    headers = [("tracestate", b"vendor=" + SECRET), ("traceparent", b"cc" + parent(9)[2:] + b"-more")]
    (context,) = incoming([message(0, *headers)])
    assert context.trace_id == 9
    assert context.is_remote
    assert not context.trace_state


def test_a_call_to_kms_is_a_child_of_the_batch_that_waits_for_it(tracing, exporter):
    passing(tracing, called())
    found = spans(exporter)
    call, batch = found["KMS/Decrypt"], found["encrypt orders"]
    assert call.parent.span_id == batch.context.span_id
    assert dict(call.attributes) == {
        "rpc.system.name": "aws-api",
        "rpc.method": "KMS/Decrypt",
        "cloud.region": "eu-west-1",
        "aws.request_id": "request-1",
    }
    assert call.end_time - call.start_time == pytest.approx(0.25e9, rel=0.5)


def test_a_call_that_is_waited_for_on_another_thread_is_a_child_too(tracing, exporter):
    waiting = BoundedWait(10.0)
    tracing.around("p", "g", "decrypt", lambda *_: waiting.run("key", lambda: tracing(called())))(PLACE, [message(0)])
    waiting.close()
    found = spans(exporter)
    assert found["KMS/Decrypt"].parent.span_id == found["decrypt orders"].context.span_id


def test_a_call_made_ahead_stands_alone_and_links_to_the_open_batch(tracing, exporter):
    def take(_place, _messages):
        ahead = threading.Thread(target=tracing, args=(called(),))
        ahead.start()
        ahead.join()

    tracing.around("p", "g", "decrypt", take)(PLACE, [message(0)])
    found = spans(exporter)
    assert found["KMS/Decrypt"].parent is None
    assert [link.context for link in found["KMS/Decrypt"].links] == [found["decrypt orders"].context]


def test_a_call_that_failed_is_an_error_by_its_code(tracing, exporter):
    tracing(called("AccessDeniedException"))
    (call,) = exporter.get_finished_spans()
    assert call.status.status_code is StatusCode.ERROR
    assert call.attributes["error.type"] == "AccessDeniedException"


def test_a_commit_is_linked_to_the_batches_since_the_last_one(tracing, exporter):
    passing(tracing)
    passing(tracing)
    tracing(COMMITTED)
    tracing(COMMITTED)
    *batches, first, second = exporter.get_finished_spans()
    assert [link.context for link in first.links] == [batch.context for batch in batches]
    assert not second.links
    assert (first.name, first.kind) == ("commit p", SpanKind.CLIENT)
    assert first.attributes["messaging.operation.type"] == "settle"
    assert first.attributes["messaging.batch.message_count"] == 2
    assert first.attributes["streamcrypt.transaction.milliseconds"] == 1500


@pytest.mark.parametrize(
    ("event", "name"),
    [(CommitFailed("p", "_TIMED_OUT", "x"), "commit p"), (UnitGivenUp("p", "_TIMED_OUT", "x"), "abort p")],
    ids=["commit", "abort"],
)
def test_a_commit_that_failed_is_an_error_by_its_code(tracing, exporter, event, name):
    tracing(event)
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.attributes["error.type"]) == (name, "_TIMED_OUT")
    assert span.status.status_code is StatusCode.ERROR


def test_failures_are_told_by_class_and_nothing_of_a_record_is_in_any_span(tracing, exporter):
    text = SECRET.decode()
    failed = RecordFailed("p", *PLACE, 11, "MalformedEnvelope", text, "skip")
    paused = PartitionPaused("p", *PLACE, 11, "KeyUnavailable", text, text)
    given = [message(10, ("traceparent", SECRET), ("tracestate", SECRET), ("traceparent", parent()))]
    with pytest.raises(MalformedEnvelope):
        passing(tracing, failed, paused, called(), failure=MalformedEnvelope(text), messages=given)
    tracing(CommitFailed("p", "X", text))
    batch = spans(exporter)["encrypt orders"]
    assert [(event.name, event.attributes["error.type"]) for event in batch.events] == [
        ("streamcrypt.record.failed", "MalformedEnvelope"),
        ("streamcrypt.partition.paused", "KeyUnavailable"),
    ]
    assert batch.attributes["error.type"] == "MalformedEnvelope"
    assert batch.status.status_code is StatusCode.ERROR
    everything = "".join(span.to_json() for span in exporter.get_finished_spans())
    assert "PLAINTEXT" not in everything
    assert "KEY-" not in everything


def test_the_headers_of_a_batch_that_is_not_sampled_are_not_read(exporter, monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    taken = []
    with Tracing(0, SimpleSpanProcessor(exporter)) as tracing:
        take = tracing.around("p", "g", "encrypt", lambda _place, messages: taken.append(len(messages)))

        class Unread(Message):
            def headers(self):
                raise AssertionError

        take(PLACE, [Unread(topic="orders", partition=3, offset=0)])
    assert taken == [1]
    assert not exporter.get_finished_spans()


def test_without_the_extra_an_enabled_configuration_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr("streamcrypt.config.sections._OTLP", "opentelemetry_that_is_not_here.sdk")
    path = tmp_path / "c.yaml"
    path.write_text("tracing: {enabled: true}\n")
    with pytest.raises(ConfigError, match="OpenTelemetry") as raised:
        load(path)
    assert "streamcrypt[sidecar,otel]" in str(raised.value) + raised.value.remedy


def test_while_it_is_off_nothing_of_opentelemetry_is_loaded():
    code = "import sys, streamcrypt.cli.running, streamcrypt.cli.worker; print('opentelemetry' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

"""Spans of batches, KMS calls and commits for OpenTelemetry: the only importer of its API, SDK and exporter.

Off by default and an extra, ``otel``. Where it is off nothing of this module is loaded and nothing stands in the loop.

Names follow the semantic conventions for messaging and for Kafka
(https://opentelemetry.io/docs/specs/semconv/messaging/kafka/), which are not stable yet. Incoming trace context is
that of W3C Trace Context, https://www.w3.org/TR/trace-context/, section 3.2. An attribute holds counts, offsets, names
and classes of errors: nothing of a record, nor of its key, nor the text of an exception.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    get_current_span,
    use_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from streamcrypt.clients.headers import read_headers
from streamcrypt.events import (
    BatchDone,
    CommitFailed,
    Event,
    KeyServiceCalled,
    OffsetsCommitted,
    PartitionPaused,
    RecordFailed,
    UnitGivenUp,
)
from streamcrypt.sidecar.passing import Take

__all__ = ["LINKS", "LOOKED_AT", "Tracing", "incoming"]

LOOKED_AT = 64
"""Records of a batch whose headers are looked at for ``traceparent``, evenly spread over it."""
LINKS = 32
"""Links of a span at the most: further trace contexts are left out. The SDK itself allows 128."""

_TRACEPARENT = "traceparent"
# Version 00 has 55 characters; later versions may append to it, within reason.
_LONGEST = 128
_SERVICE = "streamcrypt"
# Docker kills 10 s after SIGTERM, and the pipelines take up to 9 s of that.
_LAST_EXPORT = 1.0
_FORMAT = TraceContextTextMapPropagator()
_NOTHING = Context()


class Tracing:
    """Makes spans of what happens: an observer of events, and a frame around each batch.

    Settings are OpenTelemetry's own environment variables, ``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_SERVICE_NAME``,
    ``OTEL_TRACES_SAMPLER`` and the others of the SDK and of the OTLP exporter over HTTP. Use it as a context manager.

    Args:
        worker: Number of this process among the workers, from 0.
        processor: Where ended spans go, by default in batches on a thread of its own to the OTLP endpoint.
    """

    def __init__(self, worker: int = 0, processor: SpanProcessor | None = None) -> None:
        self._provider = TracerProvider(resource=_resource(worker), shutdown_on_exit=False)
        self._provider.add_span_processor(processor or BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer(_SERVICE)
        # By pipeline; each is written on its pipeline's thread alone.
        self._open: dict[str, SpanContext] = {}
        self._since_commit: dict[str, deque[SpanContext]] = defaultdict(lambda: deque(maxlen=LINKS))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Send what is left, for at most a second: an endpoint that is away must not hold up the end."""
        last = threading.Thread(target=self._provider.shutdown, name="streamcrypt-traces", daemon=True)
        last.start()
        last.join(_LAST_EXPORT)

    def around(self, pipeline: str, group: str, mode: str, take: Take) -> Take:
        """Give ``take`` with a span around each call.

        Args:
            pipeline: The pipeline's name.
            group: Its consumer group.
            mode: What it does to records, the name of the operation: encrypt, decrypt, reencrypt.
            take: Passes the records of one batch of one partition, on the pipeline's thread.
        """
        fixed = {
            **_messaging(pipeline, mode, "process"),
            "messaging.consumer.group.name": group,
        }

        def traced(place: tuple[str, int], messages: Sequence[Any]) -> None:
            topic, partition = place
            # Its own trace: a batch has records of many.
            span = self._tracer.start_span(
                f"{mode} {topic}", _NOTHING, SpanKind.CONSUMER, _batch(fixed, topic, partition, messages)
            )
            if not span.is_recording():
                take(place, messages)
                return
            for context in incoming(messages):
                span.add_link(context)
            self._open[pipeline] = span.get_span_context()
            try:
                with use_span(span, record_exception=False, set_status_on_exception=False):
                    take(place, messages)
            except BaseException as error:
                _fail(span, type(error).__name__)
                raise
            finally:
                self._open.pop(pipeline, None)
                self._since_commit[pipeline].append(span.get_span_context())
                span.end()

        return traced

    def __call__(self, event: Event) -> None:
        """Take an event, on whatever thread it happens."""
        match event:
            case KeyServiceCalled():
                self._key_service_called(event)
            case BatchDone():
                get_current_span().set_attributes(
                    {
                        "streamcrypt.records.passed": event.records,
                        "streamcrypt.bytes.in": event.bytes_in,
                        "streamcrypt.bytes.out": event.bytes_out,
                    }
                )
            case RecordFailed() | PartitionPaused():
                _note(event)
            case OffsetsCommitted():
                self._committed(event)
            case CommitFailed():
                self._settled(event.pipeline, "commit", error=event.code)
            case UnitGivenUp():
                self._settled(event.pipeline, "abort", error=event.code)

    def _key_service_called(self, event: KeyServiceCalled) -> None:
        inside = get_current_span().get_span_context().is_valid
        attributes = {
            "rpc.system.name": "aws-api",
            "rpc.method": f"KMS/{event.operation}",
            "cloud.region": event.region,
            "aws.request_id": event.request_id,
        }
        # Called ahead, or on another thread: nobody's child, but it may be what these wait for.
        links = [] if inside else [Link(context) for context in list(self._open.values())[:LINKS]]
        span = self._past(f"KMS/{event.operation}", event.seconds, attributes, links, _NOTHING if not inside else None)
        if event.outcome != "ok":
            _fail(span, event.outcome)
        span.end()

    def _committed(self, event: OffsetsCommitted) -> None:
        more = {"messaging.batch.message_count": event.records, "streamcrypt.partitions": event.partitions}
        if event.transaction_seconds:
            more["streamcrypt.transaction.milliseconds"] = round(event.transaction_seconds * 1000)
        self._settled(event.pipeline, "commit", more, event.seconds)

    def _settled(
        self,
        pipeline: str,
        operation: str,
        more: Mapping[str, int] | None = None,
        seconds: float = 0.0,
        error: str = "",
    ) -> None:
        batches = self._since_commit[pipeline]
        attributes = {**_messaging(pipeline, operation, "settle"), **(more or {})}
        span = self._past(f"{operation} {pipeline}", seconds, attributes, [Link(batch) for batch in batches], _NOTHING)
        if error:
            _fail(span, error)
        span.end()
        batches.clear()

    def _past(
        self,
        name: str,
        seconds: float,
        attributes: Mapping[str, str | int],
        links: Sequence[Link],
        context: Context | None,
    ) -> Span:
        began = time.time_ns() - round(seconds * 1e9)
        return self._tracer.start_span(name, context, SpanKind.CLIENT, attributes, links, began)


def incoming(messages: Sequence[Any]) -> Sequence[SpanContext]:
    """Give the trace contexts that records of a batch came with: distinct, at most :data:`LINKS` of them.

    At most :data:`LOOKED_AT` records are looked at. What is no ``traceparent`` by W3C Trace Context is ignored, and
    ``tracestate``, which may hold anything, is not looked at.

    Args:
        messages: Of one partition, in order.
    """
    step = -(-len(messages) // LOOKED_AT) or 1
    values = dict.fromkeys(_traceparents(messages[::step]))
    found: dict[tuple[int, int], SpanContext] = {}
    for value in values:
        context = _parsed(value)
        if context is not None:
            found.setdefault((context.trace_id, context.span_id), context)
            if len(found) == LINKS:
                break
    return list(found.values())


def _traceparents(messages: Sequence[Any]) -> Iterator[bytes]:
    for headers in read_headers(messages):
        for name, value in headers or ():
            if name == _TRACEPARENT and value is not None and len(value) <= _LONGEST:
                yield value


def _parsed(value: bytes) -> SpanContext | None:
    try:
        text = value.decode("ascii")
    except UnicodeDecodeError:
        return None
    context = get_current_span(_FORMAT.extract({_TRACEPARENT: text}, _NOTHING)).get_span_context()
    if not context.is_valid:
        return None
    return SpanContext(context.trace_id, context.span_id, is_remote=True, trace_flags=TraceFlags(context.trace_flags))


def _batch(
    fixed: Mapping[str, str | int], topic: str, partition: int, messages: Sequence[Any]
) -> Mapping[str, str | int]:
    return {
        **fixed,
        "messaging.destination.name": topic,
        "messaging.destination.partition.id": str(partition),
        "messaging.batch.message_count": len(messages),
        "streamcrypt.offset.first": messages[0].offset(),
        "streamcrypt.offset.last": messages[-1].offset(),
    }


def _messaging(pipeline: str, operation: str, kind: str) -> Mapping[str, str | int]:
    return {
        "messaging.system": "kafka",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "streamcrypt.pipeline": pipeline,
    }


def _note(event: RecordFailed | PartitionPaused) -> None:
    name = "streamcrypt.record.failed" if isinstance(event, RecordFailed) else "streamcrypt.partition.paused"
    attributes: dict[str, str | int] = {"error.type": event.error, "streamcrypt.offset": event.offset}
    if isinstance(event, RecordFailed):
        attributes["streamcrypt.action"] = event.action
    get_current_span().add_event(name, attributes)


def _fail(span: Span, error: str) -> None:
    span.set_attribute("error.type", error)
    span.set_status(Status(StatusCode.ERROR))


def _resource(worker: int) -> Resource:
    found = Resource.create()
    ours: dict[str, str | int] = {"streamcrypt.worker": worker}
    # What the SDK puts where OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say nothing.
    if str(found.attributes.get(SERVICE_NAME, "unknown_service")).startswith("unknown_service"):
        ours[SERVICE_NAME] = _SERVICE
    return found.merge(Resource(ours))

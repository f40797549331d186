"""A sidecar that sends spans to a collector: over OTLP, as a process, with a real broker and a key service."""

from __future__ import annotations

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from streamcrypt.testing import KMSServer
from tests.sidecar import Sidecar, config_of, kms_keys, marked

PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HEADERS = [("traceparent", PARENT), ("tracestate", b"rojo=00f067aa0ba902b7, congo = t61rcWkgMzE "), ("other", b"\xff")]


class Collector(BaseHTTPRequestHandler):
    """Takes spans as an OpenTelemetry collector does."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.bodies.append(body)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def collector():
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        server.bodies = []
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_batches_are_linked_to_the_traces_of_their_records_and_the_headers_pass_unchanged(broker, tmp_path, collector):
    """Through an encrypting and a decrypting pipeline; what is left at the end is sent on SIGTERM."""
    source, sealed, opened = (broker.create_topic() for _ in range(3))
    values = [marked(number) for number in range(10)]
    broker.produce(source, [{"key": b"k", "value": value, "headers": HEADERS} for value in values])
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        "OTEL_BSP_SCHEDULE_DELAY": "60000",
    }
    ways = ({"mode": "encrypt", "from": source, "to": sealed}, {"mode": "decrypt", "from": sealed, "to": opened})
    with KMSServer() as kms:
        kms.create_key("alias/payments")
        config = config_of(broker.bootstrap, kms_keys(kms), *ways, tracing={"enabled": True})
        with Sidecar(tmp_path, config, env=env) as sidecar:
            sidecar.committed(20)
            assert sidecar.stop() == 0
    for topic in (sealed, opened):
        kept = [[h for h in m.headers() if h[0] != "streamcrypt"] for m in broker.read(topic)]
        assert kept == [HEADERS] * 10
    assert not [value for value in values for body in collector.bodies if value in body]
    sent = [
        span
        for body in collector.bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    names = {span.name.split()[0] for span in sent}
    assert {"encrypt", "decrypt", "commit", "KMS/GenerateDataKey", "KMS/Decrypt"} <= names
    batches = [span for span in sent if span.name in {f"encrypt {source}", f"decrypt {sealed}"}]
    assert {link.trace_id.hex() for span in batches for link in span.links} == {PARENT.decode().split("-")[1]}

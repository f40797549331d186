"""Internal: the socket side of the test KMS, HTTP/1.1 with connections kept alive."""

from __future__ import annotations

import contextlib
import socket
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

__all__ = ["Listener", "Service"]

_CONTENT_TYPE = "application/x-amz-json-1.1"
_MAX_REQUEST_BYTES = 1 << 20


class Service(Protocol):
    """What stands behind the socket."""

    def answer(self, target: str, authorization: str, body: bytes, request_id: str) -> tuple[int, bytes] | None:
        """Answer one request: status and body, or None to close the connection."""
        ...


class Listener(ThreadingHTTPServer):
    """One thread per connection, every connection known, so that closing ends them all."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], kms: Service) -> None:
        super().__init__(address, _Handler)
        self.kms = kms
        self._changed = threading.Condition()
        self._open: set[socket.socket] = set()

    def connected(self, connection: socket.socket) -> None:
        """Take note of a new connection."""
        with self._changed:
            self._open.add(connection)

    def disconnected(self, connection: socket.socket) -> None:
        """Take note of the end of a connection."""
        with self._changed:
            self._open.discard(connection)
            self._changed.notify_all()

    def end_connections(self, seconds: float) -> None:
        """End every connection; wait at most ``seconds`` for their threads."""
        with self._changed:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._open, seconds)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing about clients that went away: that is what the faults are for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "streamcrypt-test-kms"
    disable_nagle_algorithm = True
    wbufsize = -1  # status, headers and body leave in one segment
    server: Listener

    def setup(self) -> None:
        super().setup()
        self.server.connected(self.connection)

    def finish(self) -> None:
        try:
            with contextlib.suppress(OSError):
                super().finish()
        finally:
            self.server.disconnected(self.connection)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if length > _MAX_REQUEST_BYTES:
            self.close_connection = True
            self._send(413, b"", "")
            return
        body = self.rfile.read(length)
        request_id = str(uuid.uuid4())
        target, authorization = self.headers.get("X-Amz-Target", ""), self.headers.get("Authorization", "")
        answer = self.server.kms.answer(target, authorization, body, request_id)
        if answer is None:
            self.close_connection = True
            return
        self._send(*answer, request_id)

    def do_GET(self) -> None:
        """Answer health checks."""
        self._send(200, b"{}", "")

    def _send(self, status: int, body: bytes, request_id: str) -> None:
        self.send_response(status)
        if request_id:
            self.send_header("x-amzn-RequestId", request_id)
        self.send_header("Content-Type", _CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: Any) -> None:
        """Keep no access log: the call log is the record."""

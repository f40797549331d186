"""``/metrics``, ``/healthz`` and ``/readyz`` over HTTP, on the WSGI server of the standard library."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import TCPServer, ThreadingMixIn
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from streamcrypt.observe.health import Health, Report

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

__all__ = ["HTTPServer", "port_is_free"]

_NO_CACHE = ("Cache-Control", "no-store")


class HTTPServer:
    """Serves a process's metrics and health from a thread of its own, until closed. A context manager.

    Args:
        registry: The metrics.
        health: What the probes ask.
        host: Address to listen on. Default 127.0.0.1: metrics name topics and keys, so nobody else sees them unasked.
        port: TCP port; 0 takes any free one.

    Raises:
        OSError: The address is not free, or not one of this host.
    """

    def __init__(self, registry: CollectorRegistry, health: Health, host: str = "127.0.0.1", port: int = 9464) -> None:
        self._server = _server(host, port)
        self._server.set_app(_application(registry, health))
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="streamcrypt-http", daemon=True
        )
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it listens on."""
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    def close(self) -> None:
        """Stop listening. Requests under way get up to a second."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=1.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def port_is_free(host: str, port: int) -> str | None:
    """Try to listen; return None where it works, else the reason in the system's words."""
    try:
        _server(host, port).server_close()
    except OSError as error:
        return error.strerror or str(error)
    return None


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    # A client that hangs must not keep the process from ending.
    block_on_close = False

    def server_bind(self) -> None:
        # The parent asks DNS for its own name, which takes seconds where DNS is away.
        TCPServer.server_bind(self)
        host, port = self.server_address[:2]
        self.server_name, self.server_port = str(host), int(port)
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that went away is no matter for the log."""


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = 10  # seconds for a client to send its request

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing: a probe every few seconds would drown the log."""


def _server(host: str, port: int) -> _Server:
    kind = _ServerV6 if ":" in host else _Server
    try:
        return kind((host, port), _Handler)
    except OSError as error:
        # The system's words name no address; as a file name they are printed with one.
        raise OSError(error.errno, error.strerror or str(error), f"{host}:{port}") from None


def _application(registry: CollectorRegistry, health: Health) -> Callable[..., Iterable[bytes]]:
    metrics = make_wsgi_app(registry)
    probes = {"/healthz": health.liveness, "/readyz": health.readiness}

    def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if environ.get("REQUEST_METHOD") not in {"GET", "HEAD"}:
            return _answer(environ, start, "405 Method Not Allowed", {"error": "GET only"})
        if path == "/metrics":
            page: Iterable[bytes] = metrics(environ, start)
            return page
        if probe := probes.get(path):
            report: Report = probe()
            status = "200 OK" if report.ok else "503 Service Unavailable"
            return _answer(environ, start, status, report.as_json())
        return _answer(environ, start, "404 Not Found", {"error": "not found: try /metrics, /healthz, /readyz"})

    return application


def _answer(environ: WSGIEnvironment, start: StartResponse, status: str, body: dict[str, Any]) -> Iterable[bytes]:
    content = json.dumps(body).encode() + b"\n"
    start(status, [("Content-Type", "application/json"), ("Content-Length", str(len(content))), _NO_CACHE])
    return [] if environ.get("REQUEST_METHOD") == "HEAD" else [content]

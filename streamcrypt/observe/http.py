"""The status page, ``/metrics``, ``/healthz`` and ``/readyz`` over HTTP, on the WSGI server of the standard library.

Read-only. Who may read is decided in ``http_access.py``; docs/adr/0023-status-page.md says why it is built so.
"""

from __future__ import annotations

import io
import json
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from socketserver import TCPServer, ThreadingMixIn
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from streamcrypt.observe.health import Probes, Report
from streamcrypt.observe.http_access import Access
from streamcrypt.observe.page import HEADERS, page, policy
from streamcrypt.observe.page_words import sentences

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

__all__ = ["HTTPServer", "Snapshot", "port_is_free"]

Snapshot = Callable[[], Mapping[str, Any]]
"""Gives what the page shows: :meth:`streamcrypt.observe.status.Status.snapshot`, or several merged."""

MOST_CONNECTIONS = 32
"""A scraper, some probes and a few browsers need less; each costs a thread."""


class HTTPServer:
    """Serves a process's metrics, health and status from a thread of its own, until closed. A context manager.

    Args:
        registry: The metrics.
        health: What the probes ask.
        host: Address to listen on. Default 127.0.0.1: metrics name topics and keys, so nobody else sees them unasked.
        port: TCP port; 0 takes any free one.
        status: What the status page shows; without it there is none.
        token: What a reader must show to see more than the status of the probes; None: nothing.

    Raises:
        OSError: The address is not free, or not one of this host.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        health: Probes,
        host: str = "127.0.0.1",
        port: int = 9464,
        *,
        status: Snapshot | None = None,
        token: str | None = None,
    ) -> None:
        self._access = Access(host, token)
        self._server = _server(host, port)
        self._server.set_app(_Application(registry, health, status, self._access))
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="streamcrypt-http", daemon=True
        )
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it listens on."""
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    def change_token(self, token: str | None) -> None:
        """Ask readers for another token from now on; None: for nothing."""
        self._access.change_token(token)

    @property
    def unprotected(self) -> bool:
        """Whether others than this host may see names of topics and keys without a token."""
        return self._access.unprotected

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
    request_queue_size = MOST_CONNECTIONS

    def __init__(self, *args: Any) -> None:
        self._open: dict[socket.socket, None] = {}
        self._open_lock = threading.Lock()
        super().__init__(*args)

    def server_bind(self) -> None:
        # The parent asks DNS for its own name, which takes seconds where DNS is away.
        TCPServer.server_bind(self)
        host, port = self.server_address[:2]
        self.server_name, self.server_port = str(host), int(port)
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve on a thread of its own. Of too many the oldest is ended: one that hangs, not a probe that just came."""
        oldest = None
        with self._open_lock:
            self._open[request] = None
            if len(self._open) > MOST_CONNECTIONS:
                oldest = next(iter(self._open))
                del self._open[oldest]
        if oldest is not None:
            with suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        with self._open_lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that went away is no matter for the log."""


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = 10  # seconds for a client to send its request

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing: a probe every few seconds would drown the log."""

    def get_stderr(self) -> Any:
        """Swallow tracebacks: a client that reads too slowly is no matter for the log either."""
        return io.StringIO()


def _server(host: str, port: int) -> _Server:
    kind = _ServerV6 if ":" in host else _Server
    try:
        return kind((host, port), _Handler)
    except OSError as error:
        # The system's words name no address; as a file name they are printed with one.
        raise OSError(error.errno, error.strerror or str(error), f"{host}:{port}") from None


class _Answer(NamedTuple):
    status: str
    kind: str
    content: bytes
    headers: tuple[tuple[str, str], ...] = ()


class _Application:
    """The WSGI application: who may read what, then the answer. HEAD is GET without its content."""

    def __init__(self, registry: CollectorRegistry, health: Probes, status: Snapshot | None, access: Access) -> None:
        self._metrics = make_wsgi_app(registry)
        self._access = access
        self._status = status
        self._open: Mapping[str, Callable[[WSGIEnvironment], _Answer]] = {
            "/healthz": lambda environ: self._probe(health.liveness(), environ),
            "/readyz": lambda environ: self._probe(health.readiness(), environ),
        }
        self._guarded: dict[str, Callable[[WSGIEnvironment], _Answer]] = {"/metrics": self._scrape}
        if status is not None:
            self._guarded |= {"/": _page, "/status.json": self._status_json}

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        try:
            answer = self._answer(environ)
        except Exception as error:  # noqa: BLE001  whatever it is, the client hears of it and the log of nothing secret
            answer = _json("500 Internal Server Error", {"error": type(error).__name__})
        given = {name for name, _ in answer.headers}
        start(
            answer.status,
            [
                ("Content-Type", answer.kind),
                ("Content-Length", str(len(answer.content))),
                # Else the standard library names itself and its version.
                ("Server", "streamcrypt"),
                *answer.headers,
                *(header for header in HEADERS if header[0] not in given),
            ],
        )
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [answer.content]

    def _answer(self, environ: WSGIEnvironment) -> _Answer:
        path = environ.get("PATH_INFO", "")
        if not self._access.knows_host(environ.get("HTTP_HOST")):
            text = "this address is served under the names of this host only: localhost, 127.0.0.1 or [::1]"
            return _json("421 Misdirected Request", {"error": text})
        if environ.get("REQUEST_METHOD") not in {"GET", "HEAD"}:
            return _json("405 Method Not Allowed", {"error": "GET only"}, ("Allow", "GET, HEAD"))
        if found := self._open.get(path):
            return found(environ)
        if found := self._guarded.get(path):
            if self._access.allows(environ.get("HTTP_AUTHORIZATION")):
                return found(environ)
            text = "send the token: 'Authorization: Bearer TOKEN', or as the password of a browser's question"
            return _json("401 Unauthorized", {"error": text}, *self._access.challenges)
        known = ", ".join([*self._guarded, *self._open])
        return _json("404 Not Found", {"error": f"not found: try {known}"})

    def _probe(self, report: Report, environ: WSGIEnvironment) -> _Answer:
        body = report.as_json()
        # An orchestrator needs the code alone; the reasons name topics, and errors quote brokers.
        if not self._access.allows(environ.get("HTTP_AUTHORIZATION")):
            body = {"status": body["status"]}
        return _json("200 OK" if report.ok else "503 Service Unavailable", body)

    def _scrape(self, environ: WSGIEnvironment) -> _Answer:
        given: dict[str, str] = {}

        def start(_status: str, headers: list[tuple[str, str]], *_: Any) -> Callable[[bytes], object]:
            given.update(headers)
            return lambda _content: None

        content = b"".join(self._metrics({**environ, "REQUEST_METHOD": "GET"}, start))
        kind = given.pop("Content-Type")
        return _Answer("200 OK", kind, content, tuple(given.items()))

    def _status_json(self, _environ: WSGIEnvironment) -> _Answer:
        assert self._status is not None
        status = self._status()
        return _json("200 OK", {"version": 1, "release": _release(), **status, "sentences": sentences(status)})


@cache
def _release() -> str:
    try:
        return version("streamcrypt")
    except PackageNotFoundError:
        return ""


def _page(_environ: WSGIEnvironment) -> _Answer:
    return _Answer("200 OK", "text/html; charset=utf-8", page(), (("Content-Security-Policy", policy()),))


def _json(status: str, body: Mapping[str, Any], *headers: tuple[str, str]) -> _Answer:
    return _Answer(status, "application/json", json.dumps(body).encode() + b"\n", headers)

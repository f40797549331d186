"""The way over a container, on machines without a Docker engine: an engine that only listens, before a real broker."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from tests.broker import BOOTSTRAP_VARIABLE, KAFKA_VERSION
from tests.kafka_process import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

ID = "c" * 64


class Engine(ThreadingHTTPServer):
    """Answers the few calls of the Docker API that starting a container takes, and notes them.

    A started container is a forwarder from its published port to ``behind``; a stopped one refuses connections.
    """

    daemon_threads = True

    def __init__(self, behind: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Api)
        self.behind = behind
        self.calls: list[str] = []
        self.created: dict[str, Any] = {}
        self._door: socket.socket | None = None
        self._pipes: list[socket.socket] = []

    def start_container(self) -> None:
        """Begins to forward."""
        [bound] = self.created["HostConfig"]["PortBindings"]["9092/tcp"]
        self._door = socket.create_server((bound["HostIp"], int(bound["HostPort"])))
        threading.Thread(target=self._forward, args=(self._door,), daemon=True).start()

    def stop_container(self) -> None:
        """Ends every connection and the door itself."""
        door, self._door = self._door, None
        for pipe in (door, *self._pipes):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.shutdown(socket.SHUT_RDWR)
                pipe.close()
        self._pipes.clear()

    def _forward(self, door: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                inside, _ = door.accept()
                self._pipes.append(inside)
                outside = socket.create_connection(self.behind)
                self._pipes.append(outside)
                for here, there in ((inside, outside), (outside, inside)):
                    threading.Thread(target=_copy, args=(here, there), daemon=True).start()


def _copy(here: socket.socket, there: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := here.recv(65536):
            there.sendall(data)
        there.shutdown(socket.SHUT_RDWR)


class _Api(BaseHTTPRequestHandler):
    server: Engine

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        path = path.partition("/v1.44")[2] or path
        self.server.calls.append(f"{self.command} {path.replace(ID, 'ID')}")
        match self.command, path.replace(ID, "ID"):
            case _, "/_ping":
                self._say(200, "OK", "text/plain")
            case _, "/version":
                self._say(200, {"ApiVersion": "1.44", "MinAPIVersion": "1.24", "Version": "27.0"})
            case "GET", image if image.startswith("/images/"):
                self._say(200, {"Id": "sha256:" + ID, "RepoTags": []})
            case "POST", "/containers/create":
                self.server.created = json.loads(body)
                self._say(201, {"Id": ID, "Warnings": []})
            case "GET", "/containers/ID/json":
                self._say(200, {"Id": ID, "Name": "/kafka", "State": {"Status": "running"}, "Config": {}})
            case "POST", "/containers/ID/start":
                self.server.start_container()
                self._say(204)
            case "POST", "/containers/ID/stop" | "/containers/ID/kill":
                self.server.stop_container()
                self._say(204)
            case "DELETE", "/containers/ID":
                self._say(204)
            case _:
                self._say(404, {"message": f"no answer to {self.command} {path}"})

    def _say(self, status: int, content: object = None, kind: str = "application/json") -> None:
        body = b"" if content is None else (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing to say."""


@pytest.fixture
def engine(mock_cluster) -> Iterator[Engine]:
    """A Docker engine whose containers all are the mock cluster."""
    host, port = mock_cluster.split(":")
    with Engine((host, int(port))) as listening:
        serving = threading.Thread(target=listening.serve_forever)
        serving.start()
        yield listening
        listening.shutdown()
        listening.stop_container()
        serving.join()


def _with_engine(engine: Engine, code: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k not in {BOOTSTRAP_VARIABLE, "DOCKER_CONTEXT"}}
    environment = kept | {
        "DOCKER_HOST": f"tcp://127.0.0.1:{engine.server_port}",
        "TESTCONTAINERS_RYUK_DISABLED": "true",
    }
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)


def test_where_an_engine_answers_the_broker_is_a_container_that_can_be_stopped_and_started(engine):
    done = _with_engine(
        engine,
        "from tests.broker import shared_broker; b = shared_broker(); print(type(b).__name__, b.bootstrap, flush=True);"
        "b.restart(); b.kill(); b.start(); b.close(); b.close()",
    )
    assert done.returncode == 0, done.stderr + "\n".join(engine.calls)
    kind, bootstrap = done.stdout.split()
    assert kind == "ContainerBroker"
    assert engine.created["Image"] == f"apache/kafka:{KAFKA_VERSION}"
    [bound] = engine.created["HostConfig"]["PortBindings"]["9092/tcp"]
    assert f"{bound['HostIp']}:{bound['HostPort']}" == bootstrap
    told = dict(variable.split("=", 1) for variable in engine.created["Env"])
    assert told["KAFKA_ADVERTISED_LISTENERS"] == f"PLAINTEXT://{bootstrap}"
    assert told["KAFKA_LISTENERS"] == "PLAINTEXT://0.0.0.0:9092,CONTROLLER://127.0.0.1:9093"
    assert told["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
    steps = [call.rsplit("/", 1)[1] for call in engine.calls if call.startswith(("POST", "DELETE"))]
    assert steps == ["create", "start", "stop", "start", "kill", "start", "ID"]


def test_a_container_whose_broker_never_answers_is_removed_again(engine):
    engine.behind = ("127.0.0.1", 1)
    done = _with_engine(
        engine, "import tests.broker as b, tests.kafka_container as c; c.START_SECONDS = 2; b.private_broker()"
    )
    assert "an answer of the container" in done.stderr
    assert engine.calls[-1] == "DELETE /containers/ID"

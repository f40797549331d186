"""What a running process shows over HTTP, composed from the configuration: for one process and for several workers."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from streamcrypt.cli.compose import build_rotation
from streamcrypt.config import Settings
from streamcrypt.events import HTTPUnprotected, Observer
from streamcrypt.observe.health import Probes
from streamcrypt.observe.http import HTTPServer, Snapshot
from streamcrypt.observe.status import Status

__all__ = ["build_status", "serve"]


def build_status(settings: Settings, worker: int | None = None) -> Status:
    """Make the status of a process that runs the pipelines of a configuration.

    Args:
        settings: The configuration.
        worker: Number of this process among several; None: it is the only one.
    """
    return Status([settings.spec(pipeline) for pipeline in settings.pipelines], build_rotation(settings), worker=worker)


def serve(
    settings: Settings, registry: CollectorRegistry, health: Probes, status: Snapshot, observer: Observer
) -> HTTPServer:
    """Serve where ``http`` of a configuration says; tell of a port that is open to everybody.

    Raises:
        ConfigError: ``http.token_file`` holds no token.
        OSError: The port is not free.
    """
    where = settings.http
    server = HTTPServer(registry, health, where.host, where.port, status=status, token=where.read_token())
    if server.unprotected:
        observer(HTTPUnprotected(*server.address))
    return server

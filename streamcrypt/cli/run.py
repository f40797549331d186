"""``streamcrypt run``: the container between topics."""

from __future__ import annotations

import os
import resource
import signal
import threading
from pathlib import Path
from types import FrameType

from streamcrypt.cli.compose import (
    build_decryptor,
    build_encryptor,
    build_provider,
    consumer_config,
    producer_config,
    unusable_client,
)
from streamcrypt.cli.exits import Exit, complain
from streamcrypt.config import PipelineSettings, Settings, load
from streamcrypt.events import Observer
from streamcrypt.keys.provider import KeyProvider
from streamcrypt.observe import fan_out
from streamcrypt.observe.health import Health
from streamcrypt.observe.http import HTTPServer
from streamcrypt.observe.logs import Logs
from streamcrypt.observe.metrics import Metrics
from streamcrypt.sidecar.loop import Pipeline
from streamcrypt.sidecar.supervisor import PipelineFactory, Supervisor
from streamcrypt.sidecar.transform import Open, Seal, Transform

__all__ = ["factory", "run"]


def run(path: Path) -> int:
    """Run the pipelines of a configuration until SIGTERM or SIGINT; a second signal ends at once.

    Returns:
        The exit code: 0 where everything begun was delivered and committed, 1 where a pipeline halted.

    Raises:
        ConfigError: The configuration, or a client property in it, is wrong.
        OSError: The port of the health endpoint is not free.
    """
    settings = load(path)
    _keep_keys_out_of_core_dumps()
    stop = threading.Event()
    _end_on_signals(stop)
    health, metrics = Health(tuple(p.name for p in settings.pipelines)), Metrics()
    with (
        Logs(settings.log.level, settings.log.format) as logs,
        HTTPServer(metrics.registry, health, settings.http.host, settings.http.port),
    ):
        observer = fan_out((logs.observer(), metrics, health))
        providers = [build_provider(settings.keys, observer, trusted_keys=p.trusted_keys) for p in settings.pipelines]
        try:
            factories = [
                factory(settings, pipeline, provider, observer)
                for pipeline, provider in zip(settings.pipelines, providers, strict=True)
            ]
            failures = Supervisor(factories, observer, stop).run()
        finally:
            for provider in providers:
                provider.close()
    for error in failures:
        complain(str(error), error.remedy)
    return Exit.FAILED if failures else Exit.DONE


def factory(
    settings: Settings, pipeline: PipelineSettings, provider: KeyProvider, observer: Observer
) -> PipelineFactory:
    """Compose one pipeline of a configuration.

    Raises:
        ConfigError: The installed cryptography library cannot do the suite.
    """
    transform: Transform
    if pipeline.mode == "encrypt":
        transform = Seal(build_encryptor(settings, pipeline, provider, observer))
    else:
        transform = Open(build_decryptor(settings, pipeline, provider, observer))
    spec = settings.spec(pipeline)
    consumer, producer = consumer_config(settings, pipeline), producer_config(settings, pipeline)

    def build() -> Pipeline:
        from confluent_kafka import KafkaException

        try:
            return Pipeline(spec, consumer, producer, transform, observer)
        except KafkaException as error:
            raise unusable_client(settings, error) from None

    return PipelineFactory(pipeline.name, transform, build)


def _end_on_signals(stop: threading.Event) -> None:
    def end(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(Exit.INTERRUPTED)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def _keep_keys_out_of_core_dumps() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

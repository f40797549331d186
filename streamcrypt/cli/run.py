"""``streamcrypt run``: the container between topics."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from streamcrypt.cli.compose import (
    MAX_WAIT,
    admin_config,
    build_decryptor,
    build_encryptor,
    build_letter_encryptor,
    build_letter_provider,
    consumer_config,
    producer_config,
    unusable_client,
)
from streamcrypt.cli.compose_reencrypt import build_reencryption
from streamcrypt.cli.exits import Exit, complain
from streamcrypt.cli.hangups import remember_hangups
from streamcrypt.cli.serving import build_status, serve
from streamcrypt.config import PipelineSettings, Settings, load
from streamcrypt.envelope.sequence import SequenceMode
from streamcrypt.errors import ConfigError, StreamcryptError
from streamcrypt.events import Observer
from streamcrypt.keys.provider import KeyProvider
from streamcrypt.observe import fan_out
from streamcrypt.observe.health import Health
from streamcrypt.observe.logs import Logs
from streamcrypt.observe.metrics import Metrics
from streamcrypt.sidecar.dead_letters import DeadLetters
from streamcrypt.sidecar.loop import Pipeline
from streamcrypt.sidecar.passing import Take
from streamcrypt.sidecar.safeguards import Evidence, Safeguards
from streamcrypt.sidecar.supervisor import PipelineFactory
from streamcrypt.sidecar.transform import Open, Seal, Transform

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

__all__ = [
    "build_safeguards",
    "compose",
    "end_on_signals",
    "exit_code",
    "factory",
    "keep_keys_out_of_core_dumps",
    "run",
]


def run(path: Path) -> int:
    """Run the pipelines of a configuration until SIGTERM or SIGINT; a second signal ends at once.

    Returns:
        The exit code: 0 where everything begun was delivered and committed, 1 where a pipeline halted, 2 where the
        configuration turned out to be wrong.

    Raises:
        ConfigError: The configuration, or a client property in it, is wrong.
        OSError: The port of the health endpoint is not free.
    """
    remember_hangups()
    # They need this module's own.
    from streamcrypt.cli.commands import Commands
    from streamcrypt.cli.control_server import controlled
    from streamcrypt.cli.reloading import Reloader, reload_on_hangup
    from streamcrypt.cli.running import Running

    threads = set(threading.enumerate())
    settings = load(path)
    keep_keys_out_of_core_dumps()
    if settings.worker_count > 1:
        from streamcrypt.cli.workers import run_workers

        return run_workers(path, settings)
    stop = threading.Event()
    end_on_signals(stop)
    health, metrics = Health(tuple(p.name for p in settings.pipelines)), Metrics()
    status = build_status(settings)
    with Logs(settings.log.level, settings.log.format) as logs:
        # The log last: who acts on a line finds /readyz and /metrics to agree with it.
        observer = fan_out((health, metrics, status, logs.observer()))
        running = Running(settings, observer, stop, logs=logs, status=status)
        reloader = Reloader(path, settings, running, observer, stop)
        commands = Commands(running, reloader, status.snapshot)
        with (
            serve(settings, metrics.registry, health, status.snapshot, observer) as server,
            controlled(path, settings, commands, observer),
            reload_on_hangup(reloader.reload),
        ):
            reloader.serves(server)
            failures = running.run()
    for error in failures:
        complain(str(error), error.remedy)
    code = exit_code(failures)
    if set(threading.enumerate()) - threads:
        # A call to the key service or a broker still hangs, and the interpreter would wait for its thread.
        sys.stderr.flush()
        os._exit(code)
    return code


def exit_code(failures: Sequence[StreamcryptError]) -> Exit:
    """Give the exit code for why pipelines halted: that of the first, which as a rule is the cause."""
    if not failures:
        return Exit.DONE
    return Exit.USAGE if isinstance(failures[0], ConfigError) else Exit.FAILED


def factory(
    settings: Settings,
    pipeline: PipelineSettings,
    provider: KeyProvider,
    observer: Observer,
    worker: int = 0,
    release: Callable[[], None] = lambda: None,
    trace: Callable[[Take], Take] | None = None,
) -> PipelineFactory:
    """Compose one pipeline of a configuration, as the member of its group that ``worker`` is.

    Args:
        settings: The configuration.
        pipeline: The pipeline.
        provider: Its key service.
        observer: Told of everything.
        worker: Number of this process among the workers.
        release: Called once the pipeline has ended for good.
        trace: As for :class:`streamcrypt.sidecar.loop.Pipeline`.

    Raises:
        ConfigError: The installed cryptography library cannot do the suite.
    """
    transform, letters = compose(settings, pipeline, provider, observer)
    spec = replace(settings.spec(pipeline), kek_per_record=settings.keys.template is not None)
    safeguards = build_safeguards(pipeline, letters, observer, lambda: _admin(settings, pipeline))
    consumer, producer = (config(settings, pipeline, worker, observer) for config in (consumer_config, producer_config))

    def build() -> Pipeline:
        from confluent_kafka import KafkaException

        try:
            return Pipeline(spec, consumer, producer, transform, observer, safeguards, trace)
        except KafkaException as error:
            raise unusable_client(settings, error) from None

    return PipelineFactory(pipeline.name, transform, build, release)


def compose(
    settings: Settings,
    pipeline: PipelineSettings,
    provider: KeyProvider,
    observer: Observer,
    *,
    max_wait: float | None = MAX_WAIT,
) -> tuple[Transform, DeadLetters | None]:
    """Compose what a pipeline does to records, and to those that cannot pass.

    Args:
        settings: The configuration.
        pipeline: The pipeline.
        provider: Its key service.
        observer: Told of what happens.
        max_wait: As for :func:`streamcrypt.cli.compose.build_encryptor`.

    Raises:
        ConfigError: The installed cryptography library cannot do the suite, or the dead-letter key is none.
    """
    topic = pipeline.dead_letter
    if pipeline.mode != "encrypt":
        opener: Transform
        if pipeline.mode == "reencrypt":
            opener = build_reencryption(settings, pipeline, provider, observer)
        else:
            opener = Open(build_decryptor(settings, pipeline, provider, observer, max_wait=max_wait))
        return opener, DeadLetters(pipeline.name, topic, None) if topic else None
    letter_provider = build_letter_provider(settings, pipeline, provider, observer)
    sealer = build_letter_encryptor(settings, pipeline, letter_provider, observer, max_wait=max_wait)
    own = None if letter_provider is provider else letter_provider
    transform = Seal(build_encryptor(settings, pipeline, provider, observer, max_wait=max_wait), sealer, own)
    if topic is None or sealer is None:
        return transform, None
    return transform, DeadLetters(pipeline.name, topic, sealer.topic(topic))


def build_safeguards(
    pipeline: PipelineSettings, letters: DeadLetters | None, observer: Observer, admin: Callable[[], AdminClient]
) -> Safeguards:
    """Compose a pipeline's policies besides sealing and opening.

    Args:
        pipeline: The pipeline.
        letters: Its dead letters.
        observer: Told of sequence findings.
        admin: Makes the client that looks at topics.
    """
    mode = SequenceMode(pipeline.sequence)
    evidence = None if mode is SequenceMode.OFF else Evidence(pipeline.name, mode, observer)
    return Safeguards(letters, pipeline.cutover, evidence, admin)


def _admin(settings: Settings, pipeline: PipelineSettings) -> AdminClient:
    from confluent_kafka.admin import AdminClient

    return AdminClient(admin_config(settings, pipeline))


def end_on_signals(stop: threading.Event, at_once: Callable[[], object] = lambda: None) -> None:
    """Set ``stop`` on SIGTERM and SIGINT; on a second one call ``at_once`` and end."""
    signals = 0

    def end(_number: int, _frame: FrameType | None) -> None:
        nonlocal signals
        signals += 1
        # Counted here: a pipeline that halts sets `stop` as well, and the first signal after that is still the first.
        if signals > 1:
            at_once()
            os._exit(Exit.INTERRUPTED)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def keep_keys_out_of_core_dumps() -> None:
    """Have a crash of this process leave no core file, which would hold data keys."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

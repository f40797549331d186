"""``streamcrypt replay``: dead letters back through their pipeline, once the cause is gone."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from confluent_kafka.admin import AdminClient

from streamcrypt.cli.compose import (
    admin_config,
    build_decryptor,
    build_letter_provider,
    build_provider,
    consumer_config,
    producer_config,
)
from streamcrypt.cli.exits import Exit
from streamcrypt.cli.run import compose, end_on_signals, keep_keys_out_of_core_dumps
from streamcrypt.clients.lone import without_membership
from streamcrypt.config import PipelineSettings, Settings, load
from streamcrypt.envelope.framing import Framing, Tombstones
from streamcrypt.errors import ConfigError
from streamcrypt.observe.logs import Logs
from streamcrypt.sidecar.dead_letters import LETTER_BOUND
from streamcrypt.sidecar.replay import Replay, Replayed
from streamcrypt.sidecar.topics import is_compacted

__all__ = ["as_letter", "replay"]


def replay(path: Path, dead_letters: str, reason: str | None, *, allow_stale: bool) -> int:
    """Replay the dead letters that stand on a topic now; replayed records land behind later ones of their key.

    Args:
        path: The configuration.
        dead_letters: The dead-letter topic of one of its pipelines.
        reason: Only letters of this error class, or whose reason contains this text.
        allow_stale: Replay onto compacted topics as well.

    Returns:
        The exit code: 0 once every letter was looked at; those that stay are counted by cause.

    Raises:
        ConfigError: No pipeline writes there, or a target is compacted.
        StreamcryptError: The cause is not gone; what was begun is rolled back.
    """
    settings = load(path)
    pipeline = _pipeline(settings, dead_letters)
    keep_keys_out_of_core_dumps()
    stop = threading.Event()
    end_on_signals(stop)
    with Logs(settings.log.level, settings.log.format) as logs:
        observer = logs.observer()
        provider = build_provider(settings.keys, observer, trusted_keys=pipeline.trusted_keys)
        # No consumer group waits for this: a key service that is slow, or a busy host, must not end it.
        transform, letters = compose(settings, pipeline, provider, observer, max_wait=None)
        if letters is None:
            raise ConfigError(f"pipeline {pipeline.name!r} writes no dead letters")
        admin = AdminClient(admin_config(settings, pipeline))
        # One instance, wherever it runs: a second replay fences the first.
        own = pipeline.model_copy(
            update={"group": f"{pipeline.group}.replay", "instance": "replay", "delivery": "exactly_once"}
        )
        consumer = without_membership(consumer_config(settings, own))
        opener = None
        letter_provider = provider
        if pipeline.mode == "encrypt":
            letter_provider = build_letter_provider(settings, pipeline, provider, observer)
            opener = build_decryptor(settings, as_letter(pipeline), letter_provider, observer, max_wait=None)
        try:
            done = Replay(
                settings.spec(pipeline),
                consumer,
                producer_config(settings, own),
                transform,
                letters,
                opener,
                observer,
            ).run(stop, reason, None if allow_stale else lambda target: is_compacted(admin, target))
        finally:
            transform.close()
            if opener is not None:
                opener.close()
            if letter_provider is not provider:
                letter_provider.close()
            provider.close()
    _say(done, dead_letters)
    return Exit.DONE


def _pipeline(settings: Settings, dead_letters: str) -> PipelineSettings:
    for pipeline in settings.pipelines:
        if pipeline.dead_letter == dead_letters:
            return pipeline
    known = ", ".join(p.dead_letter for p in settings.pipelines if p.dead_letter) or "none"
    raise ConfigError(f"no pipeline writes dead letters to {dead_letters!r}", remedy=f"There are: {known}.")


def as_letter(pipeline: PipelineSettings) -> PipelineSettings:
    """Give the settings under which letters are sealed; see :func:`streamcrypt.cli.compose.build_letter_encryptor`."""
    return pipeline.model_copy(
        update={"bound": LETTER_BOUND, "framing": Framing.HEADER, "tombstones": Tombstones.AUTHENTICATED}
    )


def _say(done: Replayed, dead_letters: str) -> None:
    lines = [f"{done.back} records sent back; they stand behind later ones of their key"]
    lines += [f"{count} letters stay on {dead_letters}: {why}" for why, count in sorted(done.kept.items())]
    sys.stdout.write("\n".join(lines) + "\n")

"""Who reads a topic: the pipeline whose keys, trust and rules open its records, and what is expected there."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from streamcrypt.cli.compose import build_decryptor, build_letter_provider, build_provider
from streamcrypt.cli.compose_reencrypt import for_sources
from streamcrypt.cli.replay import as_letter
from streamcrypt.config import PipelineSettings, Settings
from streamcrypt.decryptor import Decryptor
from streamcrypt.envelope.framing import Framing, Tombstones
from streamcrypt.sidecar.spec import template_pattern

__all__ = ["Expect", "Opener", "TopicReader", "build_opener", "choose_reader"]


class Expect(StrEnum):
    """What stands on a topic, as far as the configuration tells."""

    SEALED = "sealed"
    """Sealed records: without an envelope is what the pipeline's ``plaintext`` lets through."""
    PLAINTEXT = "plaintext"
    """What an encrypting pipeline reads or a decrypting one writes."""
    SEALED_LETTERS = "sealed letters"
    """Dead letters of an encrypting pipeline."""
    LETTERS_AS_READ = "letters as read"
    """Dead letters of another: each the record as it stood on its topic."""


@dataclass(frozen=True, slots=True)
class TopicReader:
    """Who reads a topic.

    Attributes:
        pipeline: Its settings; those of the reader where no pipeline of the file knows the topic.
        expects: What stands there.
        known: Whether a pipeline of the file knows the topic.
        is_source: Whether the pipeline reads it.
    """

    pipeline: PipelineSettings
    expects: Expect
    known: bool = True
    is_source: bool = False


@dataclass(frozen=True, slots=True)
class Opener:
    """A decryptor, and what it leans on.

    Attributes:
        decryptor: Opens.
        close: Drops its data keys and closes its key services.
    """

    decryptor: Decryptor
    close: Callable[[], None]


def choose_reader(settings: Settings, topic: str) -> TopicReader:
    """Choose who reads a topic: a pipeline that opens it, before one that seals it, before one that has it in clear.

    A topic that no pipeline knows is read with every KEK that is trusted anywhere in the file, in either framing, and
    with no field that has to be bound.
    """
    reading = [pipeline for pipeline in settings.pipelines if settings.spec(pipeline).reads(topic)]
    for mode in ("decrypt", "reencrypt"):
        for pipeline in reading:
            if pipeline.mode == mode:
                return TopicReader(pipeline, Expect.SEALED, is_source=True)
    for pipeline in settings.pipelines:
        if pipeline.dead_letter == topic:
            sealed = pipeline.mode == "encrypt"
            return TopicReader(pipeline, Expect.SEALED_LETTERS if sealed else Expect.LETTERS_AS_READ)
    writing = [p for p in settings.pipelines if re.fullmatch(template_pattern(p.to), topic)]
    for pipeline in writing:
        if pipeline.mode != "decrypt":
            return TopicReader(pipeline, Expect.SEALED)
    for pipeline in [*reading, *writing]:
        return TopicReader(pipeline, Expect.PLAINTEXT)
    anyone = {"bound": (), "framing": Framing.SELF_CONTAINED, "tombstones": Tombstones.PLAIN, "plaintext": "reject"}
    trusted = {"trusted_keys": _everywhere(settings), "mode": "decrypt"}
    return TopicReader(settings.pipelines[0].model_copy(update={**anyone, **trusted}), Expect.SEALED, known=False)


def _everywhere(settings: Settings) -> tuple[str, ...]:
    trusted = [*settings.keys.trusted_keys]
    for pipeline in settings.pipelines:
        trusted += pipeline.trusted_keys or ()
    return tuple(dict.fromkeys(trusted))


def build_opener(settings: Settings, reader: TopicReader) -> Opener:
    """Build what opens the records of a topic; nothing else waits, so a record waits for its key as long as it takes.

    Raises:
        ConfigError: A keyring cannot be read, or settings contradict each other.
    """
    pipeline = reader.pipeline
    provider = build_provider(settings.keys, trusted_keys=pipeline.trusted_keys)
    closing, used = [provider], provider
    if reader.expects is Expect.SEALED_LETTERS:
        used = build_letter_provider(settings, pipeline, provider)
        pipeline = as_letter(pipeline)
        closing += [used] if used is not provider else []
    elif pipeline.mode == "reencrypt" and reader.is_source:
        used = for_sources(pipeline, provider)
    decryptor = build_decryptor(settings, pipeline, used, max_wait=None)

    def close() -> None:
        decryptor.close()
        for one in closing:
            one.close()

    return Opener(decryptor, close)

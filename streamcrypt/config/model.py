"""The whole configuration as one frozen model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Discriminator, Field, PrivateAttr, Tag, field_validator

from streamcrypt.config.fields import FrozenMap, check_topic, not_empty, refused_as_setting
from streamcrypt.config.pipelines import PipelineSettings
from streamcrypt.config.sections import (
    CacheSettings,
    ControlSettings,
    Count,
    HTTPSettings,
    KafkaSettings,
    KeysSettings,
    LogSettings,
    RotationSettings,
    Section,
    TracingSettings,
    no_pairs,
)
from streamcrypt.config.source import Source
from streamcrypt.envelope.header import build_context
from streamcrypt.sidecar.cpus import usable_cpus
from streamcrypt.sidecar.spec import Mode, OnFailure, PipelineSpec, Start, template_pattern

__all__ = ["Settings"]


class Settings(Section):
    """Everything that one process is told."""

    kafka: KafkaSettings = Field(description="The brokers, and any other property of librdkafka.")
    keys: KeysSettings = Field(description="The key service.")
    rotation: RotationSettings = Field(default=RotationSettings(), description="When a data key is replaced.")
    cache: CacheSettings = Field(default=CacheSettings(), description="Data keys kept for opening.")
    context: FrozenMap = Field(
        default_factory=no_pairs,
        description="Pairs of the KMS encryption context: added when sealing, required when opening. They are in clear"
        " in CloudTrail and in every record.",
    )
    topic_names: FrozenMap = Field(
        default_factory=no_pairs, description="Physical topic to logical topic, for mirrored and renamed topics."
    )
    workers: Annotated[
        Annotated[Count, Tag("count")] | Annotated[Literal["auto"], Tag("auto")],
        Discriminator(lambda value: "auto" if value == "auto" else "count"),
    ] = Field(
        default=1,
        description="Processes, each one member of the consumer groups; auto: one for each usable CPU. More"
        " than the source has partitions have nothing to do. See docs/operations.md.",
    )
    http: HTTPSettings = Field(default=HTTPSettings(), description="Metrics and health.")
    log: LogSettings = Field(default=LogSettings(), description="Log lines.")
    control: ControlSettings = Field(default=ControlSettings(), description="The socket of 'streamcrypt ctl'.")
    tracing: TracingSettings = Field(default=TracingSettings(), description="Spans for OpenTelemetry.")
    pipelines: Annotated[tuple[PipelineSettings, ...], AfterValidator(not_empty)] = Field(
        description="The ways from topics to topics."
    )

    _source: Source | None = PrivateAttr(default=None)

    @field_validator("context")
    @classmethod
    def _check_context(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        with refused_as_setting("encryption context: ", "Rename or remove the pair."):
            build_context(value, "any")
        return value

    @field_validator("topic_names")
    @classmethod
    def _check_topic_names(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        for physical, logical in value.items():
            check_topic(physical)
            check_topic(logical)
        return value

    @property
    def worker_count(self) -> int:
        """How many processes that makes here, at least 1."""
        return usable_cpus() if self.workers == "auto" else self.workers

    @property
    def text(self) -> str:
        """The file as it was read, for a process that is to run with the same settings. It may hold passwords."""
        return self._source.text if self._source else ""

    def where(self, *path: str | int) -> str:
        """Give the place of a setting, ``file:line:column`` or the name of a variable, for messages.

        Args:
            path: As in the file: ``where("pipelines", 0, "from")``.
        """
        return self._source.where(path) if self._source else "settings"

    def spec(self, pipeline: PipelineSettings) -> PipelineSpec:
        """Give a pipeline of this file as the sidecar takes it.

        A regex never reads what a pipeline of the same mode writes, nor what a decrypting one writes, and an encrypting
        one never what is sealed already; so a decrypting regex may read what an encrypting pipeline of the same file
        writes, and records never run in a circle.
        """
        apart = {pipeline.mode, "decrypt"} | ({"reencrypt"} if pipeline.mode == "encrypt" else set())
        never = [p.to for p in self.pipelines if p.mode in apart]
        excluded = [item if item.startswith("^") else re.escape(item) for item in pipeline.exclude]
        letters = [re.escape(p.dead_letter) for p in self.pipelines if p.dead_letter]
        return PipelineSpec(
            name=pipeline.name,
            mode=Mode(pipeline.mode),
            group=pipeline.group,
            sources=pipeline.source,
            target=pipeline.to,
            never_read=(*dict.fromkeys(template_pattern(to) for to in never), *letters, *excluded),
            start=Start(pipeline.start),
            keep_partition=pipeline.partition == "keep",
            commit_interval=pipeline.commit_interval,
            on_failure=OnFailure(pipeline.on_failure),
            dead_letter=pipeline.dead_letter or "",
            rate=pipeline.rate,
        )

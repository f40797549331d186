"""One pipeline of the file. Field descriptions are the text of the configuration reference."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from streamcrypt.config.fields import (
    Duration,
    Name,
    Sources,
    TargetTemplate,
    TopicName,
    not_empty,
    refusal,
    refused_as_setting,
)
from streamcrypt.config.sections import Section, check_key_arns
from streamcrypt.crypto.suites import Suite
from streamcrypt.envelope.framing import Framing
from streamcrypt.envelope.header import build_bound

__all__ = ["PassUntil", "PipelineSettings", "default_instance"]


def default_instance(environ: Mapping[str, str] = os.environ) -> str:
    """Name this process among its peers: ``POD_NAME`` where Kubernetes sets it, else the host name."""
    return environ.get("POD_NAME", "").strip() or socket.gethostname()


class PassUntil(Section):
    """Records without an envelope pass up to these offsets, for the day on which a topic began to be encrypted."""

    section: ClassVar[str] = "pass_until"

    pass_until: Mapping[str, Mapping[int, int]] = Field(description="Topic to partition to offset.")


def _plaintext(value: Any) -> Any:
    if isinstance(value, Mapping) or value == "reject":
        return value
    raise refusal(f"{value!r} is neither 'reject' nor a pass_until section", "Write 'plaintext: reject'.")


class PipelineSettings(Section):
    """One way from topics to topics."""

    section: ClassVar[str] = "pipelines"

    name: Name = Field(
        examples=["protect-payments"], description="Name in logs, metrics and headers; unique in the file."
    )
    mode: Literal["encrypt", "decrypt", "reencrypt"] = Field(
        examples=["encrypt"],
        description="encrypt: seal what is read; decrypt: open it. reencrypt is not delivered yet.",
    )
    how: Literal["rewrap", "reseal"] | None = Field(
        default=None, description="With mode reencrypt: rewrap the data keys only, or reseal. Not delivered yet."
    )
    source: Annotated[Sources, AfterValidator(not_empty)] = Field(
        alias="from",
        examples=["payments"],
        description="A topic, a list, or ^regex, which has to match a whole name.",
    )
    to: TargetTemplate = Field(
        examples=["payments.encrypted"],
        description='A topic, or a template such as "{topic}.encrypted". It must exist.',
    )
    exclude: Sources = Field(
        default=(), description="Topics and ^regexes never read. A regex never reads our own targets either."
    )
    start: Literal["earliest", "latest"] = Field(
        default="earliest", description="Where to begin, only where the group has no commit: earliest or latest."
    )
    partition: Literal["keep", "by_key"] = Field(
        default="keep",
        description="keep: a record stays in its partition, the target has as many or more. by_key: by hash of key.",
    )
    group: Name = Field(default="", description="The consumer group; by default streamcrypt-<name>.")
    instance: Name = Field(
        default_factory=default_instance,
        description="This process among its peers; by default POD_NAME, then the host name.",
    )
    delivery: Literal["exactly_once", "at_least_once"] = Field(
        default="at_least_once",
        description="at_least_once: after a crash the last records may be written twice. exactly_once is not delivered"
        " yet, and will be the default once it is.",
    )
    commit_interval: Duration = Field(default=0.1, description="How often offsets of delivered records are committed.")
    suite: Suite = Field(
        default=Suite.AES_256_GCM,
        description="AES_256_GCM, or AES_256_GCM_SIV for hosts that are snapshotted, cloned or restored while running.",
    )
    bound: tuple[str, ...] = Field(
        default=("key",),
        description="Record fields bound to the value, each key or header:<name>; when decrypting, those required.",
    )
    framing: Framing = Field(
        default=Framing.HEADER,
        description="header: the envelope rides in a Kafka header. self_contained: in the value, for sinks that drop"
        " headers.",
    )
    tombstones: Literal["plain", "authenticated"] = Field(
        default="plain", description="plain: a null value stays null. authenticated is not delivered yet."
    )
    plaintext: Annotated[Literal["reject"] | PassUntil, BeforeValidator(_plaintext)] = Field(
        default="reject",
        description="When decrypting, a record without an envelope: reject. pass_until is not delivered yet.",
    )
    sequence: Literal["off", "report", "enforce"] = Field(
        default="off", description="Evidence of loss and replay. report and enforce are not delivered yet."
    )
    on_failure: Literal["halt", "dead_letter", "skip"] = Field(
        default="halt",
        description="What a failure of the record does: halt the pipeline, or skip the record. dead_letter is not"
        " delivered yet.",
    )
    dead_letter: TopicName | None = Field(default=None, description="The dead-letter topic. Not delivered yet.")
    trusted_keys: tuple[str, ...] | None = Field(
        default=None, description="ARNs of KEKs that opening may use, instead of keys.trusted_keys."
    )

    @model_validator(mode="before")
    @classmethod
    def _name_group(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("group") is None:
            return {**value, "group": f"streamcrypt-{value.get('name')}"}
        return value

    @field_validator("bound")
    @classmethod
    def _check_bound(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        with refused_as_setting("bound: ", "Write a list such as [key, 'header:type']."):
            return build_bound(value)

    @field_validator("trusted_keys")
    @classmethod
    def _check_trusted(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return value if value is None else check_key_arns(value)

    @property
    def topics(self) -> tuple[str, ...]:
        """The sources that are topics by name."""
        return tuple(item for item in self.source if not item.startswith("^"))

    def member(self, worker: int = 0) -> str:
        """Give the static name of one member of the group: ``<group>.<instance>.<worker>``."""
        return f"{self.group}.{self.instance}.{worker}"

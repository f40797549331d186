"""One pipeline of the file. Field descriptions are the text of the configuration reference."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    PlainSerializer,
    Tag,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from streamcrypt.config.fields import (
    Duration,
    Name,
    Sources,
    TargetTemplate,
    TopicName,
    freeze,
    not_empty,
    refusal,
    refused_as_setting,
)
from streamcrypt.config.sections import Count, Section, check_key_arns
from streamcrypt.crypto.suites import Suite
from streamcrypt.envelope.framing import Framing, Tombstones
from streamcrypt.envelope.header import build_bound
from streamcrypt.sidecar.cutover import NO_TOPIC_ID, Cutover, TopicCutover

__all__ = ["PassUntil", "PipelineSettings", "default_instance"]

_TOPIC_ID = re.compile(r"[A-Za-z0-9_-]{22}", re.ASCII)
_URL_SAFE = str.maketrans("+/", "-_")


def default_instance(environ: Mapping[str, str] = os.environ) -> str:
    """Name this process among its peers: ``POD_NAME`` where Kubernetes sets it, else the host name."""
    return environ.get("POD_NAME", "").strip() or socket.gethostname()


def _read_cutover(value: Any) -> Any:
    if isinstance(value, TopicCutover):
        return value
    remedy = "Take what 'streamcrypt cutover CONFIG TOPIC' prints."
    if not isinstance(value, Mapping):
        raise refusal("is no section of an id and offsets", remedy)
    offsets: dict[int, int] = {}
    for name, offset in value.items():
        if name == "id":
            continue
        if not str(name).isdecimal() or int(name) in offsets:
            raise refusal(f"{name!r} is neither 'id' nor the number of a partition, each once", remedy)
        if isinstance(offset, bool) or not str(offset).isdecimal():
            raise refusal(f"the offset of partition {name} is no whole number", remedy)
        offsets[int(name)] = int(offset)
    topic_id = str(value.get("id", "")).translate(_URL_SAFE)
    if not _TOPIC_ID.fullmatch(topic_id) or topic_id == NO_TOPIC_ID:
        raise refusal("has no 'id' of the topic, 22 characters of base64, to which the offsets belong", remedy)
    return TopicCutover(topic_id, MappingProxyType(offsets))


_TopicCutover = Annotated[
    TopicCutover,
    BeforeValidator(_read_cutover),
    WithJsonSchema(
        {
            "type": "object",
            "properties": {"id": {"type": "string", "description": "The topic's id, as Kafka's tools print it."}},
            "required": ["id"],
            "additionalProperties": {"type": "integer"},
        }
    ),
]


class PassUntil(Section):
    """Records without an envelope pass up to these offsets, for the day on which a topic began to be encrypted."""

    pass_until: Annotated[
        Mapping[TopicName, _TopicCutover],
        AfterValidator(freeze),
        PlainSerializer(lambda topics: {t: {"id": cut.topic_id, **cut.offsets} for t, cut in topics.items()}),
    ] = Field(
        examples=['{payments: {id: "gX3v…", 0: 1200, 1: 800}}'],
        description="Topic to its id and, for each partition, the first offset at which every record must be sealed."
        " 'streamcrypt cutover CONFIG TOPIC' prints it.",
    )


def _plaintext(value: Any) -> Any:
    if isinstance(value, (Mapping, PassUntil)) or value == "reject":
        return value
    raise refusal(f"{value!r} is neither 'reject' nor a pass_until section", "Write 'plaintext: reject'.")


def _per_second(value: Any) -> Any:
    return value.strip().removesuffix("/s") if isinstance(value, str) else value


def _kind_of_plaintext(value: Any) -> str:
    return "reject" if isinstance(value, str) else "pass_until"


class PipelineSettings(Section):
    """One way from topics to topics."""

    name: Name = Field(
        examples=["protect-payments"], description="Name in logs, metrics and headers; unique in the file."
    )
    mode: Literal["encrypt", "decrypt", "reencrypt"] = Field(
        examples=["encrypt"],
        description="encrypt: seal what is read; decrypt: open it; reencrypt: put it under the KEKs in 'keys', from"
        " those in trusted_keys.",
    )
    how: Literal["rewrap", "reseal"] | None = Field(
        default=None,
        description="With mode reencrypt. rewrap: the data keys go under the KEKs in 'keys', values stay as they are."
        " reseal: open and seal anew, under new data keys and the target's context. See docs/reencryption.md.",
    )
    rate: Annotated[Count, BeforeValidator(_per_second)] | None = Field(
        default=None,
        examples=["5000/s"],
        description="With mode reencrypt: the most records a second, such as 5000/s; by default as many as go.",
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
        default="exactly_once",
        description="exactly_once: records and offsets are committed in one Kafka transaction. at_least_once: after a"
        " crash the last records may be written twice.",
    )
    commit_interval: Duration = Field(default=0.1, description="How often offsets of delivered records are committed.")
    suite: Suite = Field(
        default=Suite.AES_256_GCM,
        description="AES_256_GCM, or AES_256_GCM_SIV for hosts that are snapshotted, cloned or restored while running.",
    )
    bound: tuple[str, ...] = Field(
        default=("key",),
        description="Record fields bound to the value, each key or header:<name>; when decrypting, those required,"
        " and when re-encrypting both.",
    )
    framing: Framing = Field(
        default=Framing.HEADER,
        description="header: the envelope rides in a Kafka header. self_contained: in the value, for sinks that drop"
        " headers.",
    )
    tombstones: Tombstones = Field(
        default=Tombstones.PLAIN,
        description="plain: a null value goes as it is. authenticated: it carries headers that prove it, and a"
        " decrypting pipeline takes no other.",
    )
    plaintext: Annotated[
        Annotated[Literal["reject"], Tag("reject")] | Annotated[PassUntil, Tag("pass_until")],
        Discriminator(_kind_of_plaintext),
        BeforeValidator(_plaintext),
    ] = Field(
        default="reject",
        description="When decrypting, a record without an envelope: reject, or {pass_until: …}: let it through below"
        " the given offsets, for a topic that began to be encrypted.",
    )
    sequence: Literal["off", "report", "enforce"] = Field(
        default="off",
        description="When decrypting what a sidecar sealed exactly once: look for records missing, repeated, out of"
        " order or moved. report: as events; enforce: they fail as well.",
    )
    on_failure: Literal["halt", "dead_letter", "skip"] = Field(
        default="halt",
        description="What a failure of the record does: halt the pipeline, send the record to dead_letter, or skip it.",
    )
    dead_letter: TopicName | None = Field(
        default=None,
        description="With on_failure dead_letter: the topic for records that cannot pass, one a pipeline. Letters"
        " of an encrypting pipeline are sealed; those of a decrypting one are as they were read.",
    )
    dead_letter_key: str | None = Field(
        default=None,
        min_length=1,
        description="Encrypting pipelines with the aws-kms provider: the KEK for dead letters; by default that of the"
        " records.",
    )
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

    @property
    def cutover(self) -> Cutover:
        """Which records may pass without an envelope."""
        return Cutover(self.plaintext.pass_until) if isinstance(self.plaintext, PassUntil) else Cutover()

    def member(self, worker: int = 0) -> str:
        """Give the static name of one member of the group: ``<group>.<instance>.<worker>``."""
        return f"{self.group}.{self.instance}.{worker}"

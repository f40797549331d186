"""The sections of the file besides the pipelines. Field descriptions are the text of the configuration reference."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from streamcrypt.config.fields import (
    ClientProperties,
    Duration,
    DurationOrZero,
    FrozenMap,
    Size,
    Texts,
    Whole,
    refusal,
    refused_as_setting,
)
from streamcrypt.config.msk import MSKIAMSettings, check_alone
from streamcrypt.config.tenants import Mapping_, mapped_keks
from streamcrypt.config.tokens import check_token, read_token
from streamcrypt.crypto.suites import MAX_BYTES_PER_DATA_KEY, MAX_RECORDS_PER_DATA_KEY
from streamcrypt.keys.aws_kms.names import check_endpoint, check_region, parse_key_arn, parse_key_name
from streamcrypt.keys.rotation import MAX_GRACE_FACTOR
from streamcrypt.keys.tenants import DEFAULT_MAX_LIVE, DEFAULT_NEW_KEYS_PER_MINUTE
from streamcrypt.keys.tenants_template import KEKTemplate, is_template

__all__ = [
    "CONTROL_DEFAULT",
    "CacheSettings",
    "ControlSettings",
    "Count",
    "HTTPSettings",
    "KafkaSettings",
    "KeysSettings",
    "LogSettings",
    "RotationSettings",
    "Section",
    "TracingSettings",
    "check_key_arns",
    "no_pairs",
]


def no_pairs() -> Mapping[str, str]:
    """Give an empty read-only map; a function, since a mapping proxy cannot be copied as a default."""
    return MappingProxyType({})


class Section(BaseModel):
    """A section of the file: frozen, and closed to unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class KafkaSettings(Section):
    """Properties of librdkafka, passed on as they are; a few are refused because they undo guarantees."""

    # repr=False: passwords stand among the properties.
    properties: ClientProperties = Field(
        default_factory=no_pairs, repr=False, description="Any librdkafka property, for consumers and producers."
    )
    consumer: ClientProperties = Field(
        default_factory=no_pairs,
        repr=False,
        description="Further properties for consumers only; they win over the common ones.",
    )
    producer: ClientProperties = Field(
        default_factory=no_pairs,
        repr=False,
        description="Further properties for producers only; they win over the common ones.",
    )

    msk_iam: MSKIAMSettings | None = Field(
        default=None,
        description="Log in at Amazon MSK by IAM: security.protocol and sasl.mechanisms are set by themselves. Needs"
        " the extra msk. See docs/broker-security.md.",
    )

    @model_validator(mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise refusal("is no section", "Write lines such as bootstrap.servers: HOST:PORT below it.")
        overlays = {name: value[name] for name in ("consumer", "producer", "msk_iam") if name in value}
        return {"properties": {k: v for k, v in value.items() if k not in overlays}, **overlays}

    @model_validator(mode="after")
    def _knows_a_broker(self) -> Self:
        names = {"bootstrap.servers", "metadata.broker.list", "test.mock.num.brokers"}
        if any(names.isdisjoint({*self.properties, *overlay}) for overlay in (self.consumer, self.producer)):
            raise refusal("bootstrap.servers is missing", "Add 'bootstrap.servers: HOST:PORT' below 'kafka'.")
        for properties in (self.properties, self.consumer, self.producer):
            check_alone(properties, self.msk_iam)
        return self

    @property
    def bootstrap_servers(self) -> str:
        """The brokers as they were configured, for messages."""
        merged = {**self.properties, **self.consumer}
        return merged.get("bootstrap.servers") or merged.get("metadata.broker.list") or "the mock cluster"


def _at_least_one(value: int) -> int:
    if value < 1:
        raise refusal(f"{value} is below 1", "Write a positive whole number.")
    return value


Count = Annotated[Whole, AfterValidator(_at_least_one)]


def _endpoint(value: Any) -> Any:
    if value is None or isinstance(value, (str, Mapping)):
        return value
    raise refusal("is neither a URL nor a map from region to URL", "Write one URL.")


class KeysSettings(Section):
    """The key service that holds the KEKs."""

    provider: Literal["aws-kms", "local"] = Field(
        default="aws-kms", description="aws-kms, or local: a keyring file, for development and tests only."
    )
    keyring: str | None = Field(
        default=None,
        min_length=1,
        description='Local provider only: path of the keyring, a file {"primary": ID, "keys": {ID: base64 of 32 bytes}}'
        " of mode 0600. A relative path starts at the directory of the configuration file.",
    )
    key_id: Texts | None = Field(
        default=None,
        examples=["alias/payments"],
        description="The KEK: a key ARN, alias ARN or alias; or a list in order of preference, at most 8, each of which"
        " wraps every data key, so that any one opens. See docs/regions.md. A template such as"
        " alias/tenant-{header:tenant} picks a KEK for each record, by {topic}, {key} and {header:NAME}: see"
        " docs/tenants.md. With the local provider: a template over the key ids of the keyring.",
    )
    mapping: Mapping_ | None = Field(
        default=None,
        examples=["{acme: alias/tenant-acme, globex: null}"],
        description="With a key_id template: every value that may choose a KEK, to that KEK; null: as the template"
        " says. The values of several placeholders are joined by /. The records of every other value are refused.",
    )
    max_live: Count | None = Field(
        default=None,
        description="With a key_id template: data keys kept at hand for sealing, one for each topic and value; the"
        f" least recently used goes first. By default {DEFAULT_MAX_LIVE}.",
    )
    new_keys_per_minute: Count | None = Field(
        default=None,
        description="With a key_id template: data keys minted in a minute for values that have none at hand; past it,"
        f" records wait. By default {DEFAULT_NEW_KEYS_PER_MINUTE}.",
    )
    disabled: Literal["fail", "wait"] | None = Field(
        default=None,
        description="With a key_id template, what a disabled, deleted or pending KEK means. fail (the default): its"
        " records fail, and on_failure says what becomes of them; others go on. wait: they wait, and so do those behind"
        " them.",
    )
    require: Literal["all", "any"] | None = Field(
        default=None,
        description="With several key ids: all (the default): sealing waits while one is away; any: it goes on with"
        " those that answer, and tells of each data key that was wrapped for fewer.",
    )
    region: str | None = Field(
        default=None,
        min_length=1,
        description="The AWS region of a KEK that is no ARN, and the first one for multi-region keys; by default that"
        " of the AWS environment.",
    )
    regions: tuple[str, ...] = Field(
        default=(),
        description="Further regions, in order of preference, that hold a replica of the multi-region keys (mrk-)"
        " configured: the first that is up seals and opens.",
    )
    endpoint_url: Annotated[str | FrozenMap | None, BeforeValidator(_endpoint)] = Field(
        default=None, description="URL of a local KMS, or {region: URL}. By default AWS's own endpoint."
    )
    insecure_endpoint: bool = Field(
        default=False,
        description="Allow http:// to a host other than this one. Data keys then cross the network in clear: for"
        " compose files and closed test networks only.",
    )
    trusted_keys: tuple[str, ...] = Field(
        default=(), description="ARNs of KEKs that opening may use, besides the configured one."
    )

    @field_validator("key_id")
    @classmethod
    def _check_key_id(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        with refused_as_setting("key_id: "):
            if value is not None and is_template(value):
                KEKTemplate(value)
                return value
            for key_id in value or ():
                parse_key_name(key_id)
        return value

    @field_validator("region")
    @classmethod
    def _check_region(cls, value: str | None) -> str | None:
        with refused_as_setting("region: ", "Write a region such as eu-west-1."):
            return value if value is None else check_region(value)

    @field_validator("regions")
    @classmethod
    def _check_regions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for region in value:
            with refused_as_setting("regions: ", "Write regions such as [eu-west-1, eu-central-1]."):
                check_region(region, "regions")
        return value

    @field_validator("endpoint_url")
    @classmethod
    def _check_endpoint(cls, value: str | Mapping[str, str] | None) -> str | Mapping[str, str] | None:
        for url in [value] if isinstance(value, str) else (value or {}).values():
            # Whether http:// may go beyond this host depends on insecure_endpoint: see rules.py.
            with refused_as_setting("endpoint_url: ", "Write one such as https://kms.example.com:8443."):
                check_endpoint(url, insecure=True)
        return value

    @field_validator("trusted_keys")
    @classmethod
    def _check_trusted(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return check_key_arns(value)

    @property
    def template(self) -> KEKTemplate | None:
        """The template that picks a KEK for each record; None where all records share their KEKs."""
        return KEKTemplate(self.key_id) if self.key_id and is_template(self.key_id) else None

    @property
    def kek_names(self) -> tuple[str, ...]:
        """Every KEK that seals, by name, each once: those of ``key_id``, or of the mapping of a template."""
        if self.template is None:
            return self.key_id or ()
        return tuple(dict.fromkeys(name for kek in mapped_keks(self).values() for name in kek.key_id))

    @property
    def endpoint_urls(self) -> tuple[str, ...]:
        """Every endpoint configured, as URLs."""
        if self.endpoint_url is None:
            return ()
        return (self.endpoint_url,) if isinstance(self.endpoint_url, str) else tuple(self.endpoint_url.values())


def check_key_arns(arns: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse what is no key ARN among trusted keys; an error that carries a remedy."""
    for arn in arns:
        with refused_as_setting("trusted_keys: "):
            parse_key_arn(arn, "trusted_keys")
    return arns


def _at_most(limit: int, text: str) -> AfterValidator:
    def check(value: int) -> int:
        if value > limit:
            raise refusal(f"{value} is above {text}, the ceiling of the algorithm suites", f"Write at most {text}.")
        return value

    return AfterValidator(check)


def _grace_factor(value: float) -> float:
    if not 1 <= value <= MAX_GRACE_FACTOR:
        raise refusal(f"{value} is not 1 to {MAX_GRACE_FACTOR}", "Write a number such as 4.")
    return value


class RotationSettings(Section):
    """When a data key is replaced: whichever limit is reached first."""

    max_messages: Annotated[Count, _at_most(MAX_RECORDS_PER_DATA_KEY, str(MAX_RECORDS_PER_DATA_KEY))] = Field(
        default=1_000_000, description="Records sealed under one data key."
    )
    max_age: Duration = Field(default=300.0, description="Age of a data key, from minting.")
    max_bytes: Annotated[Size, _at_most(MAX_BYTES_PER_DATA_KEY, "64GiB")] = Field(
        default=16 * 2**30, description="Bytes sealed under one data key."
    )
    grace: DurationOrZero = Field(
        default=60.0,
        description="How long a data key that is due seals on while KMS is away and gives no successor; 0: not at all."
        " A refusal by KMS ends it at once. See docs/operations.md.",
    )
    grace_factor: Annotated[float, AfterValidator(_grace_factor)] = Field(
        default=4.0,
        description="In that time, how often over max_messages and max_bytes a data key may be used, 1 to 100; never"
        " past the ceiling of the algorithm suites.",
    )


class CacheSettings(Section):
    """The data keys that a decrypting pipeline keeps."""

    max_entries: Count = Field(default=10_000, description="Data keys kept; the least recently used goes first.")
    ttl: Duration = Field(
        default=900.0, description="How long a data key is kept: within this time a revoked permission stops reading."
    )


_OTLP = "opentelemetry.exporter.otlp.proto.http"


def _with_opentelemetry(value: bool) -> bool:
    if value and not _is_installed(_OTLP):
        raise refusal("tracing needs OpenTelemetry's SDK", "pip install 'streamcrypt[sidecar,otel]'")
    return value


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        # One of its parents is missing.
        return False


class HTTPSettings(Section):
    """Where the status page, metrics and health are served, and to whom."""

    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 is all of IPv4.")
    port: Annotated[Whole, Field(ge=0, le=65535)] = Field(
        default=9464, description="Port of the status page, /metrics, /healthz and /readyz; 0 takes any free one."
    )
    # repr=False: it is a password.
    token: Annotated[str, AfterValidator(check_token)] | None = Field(
        default=None,
        repr=False,
        description="What a reader must show to see the status page and /metrics: as bearer token, or as the password"
        " that a browser asks for; at least 16 characters. /healthz and /readyz tell anybody whether it is well, and"
        " why only with it."
        " By default none.",
    )
    token_file: str | None = Field(
        default=None,
        min_length=1,
        description="Path of a file that holds the token, instead of token; read at the start. A relative path starts"
        " at the directory of the configuration file.",
    )

    @model_validator(mode="after")
    def _one_token(self) -> Self:
        if self.token is not None and self.token_file is not None:
            raise refusal("token and token_file are both set", "Keep one of them.")
        return self

    def read_token(self) -> str | None:
        """Give the token, from its file where it stands in one.

        Raises:
            ConfigError: The file cannot be read, or holds no token.
        """
        return self.token if self.token_file is None else read_token(self.token_file)


CONTROL_DEFAULT = "auto"


class ControlSettings(Section):
    """How a running process is steered."""

    socket: str | None = Field(
        default=CONTROL_DEFAULT,
        min_length=1,
        description="Path of the Unix socket over which 'streamcrypt ctl' talks to the process, of at most 107 bytes;"
        " null: none. auto: one named after the path of the configuration file, in a directory of mode 0700 below"
        " XDG_RUNTIME_DIR, or /tmp. A relative path starts at the directory of the configuration file.",
    )


class TracingSettings(Section):
    """Spans for OpenTelemetry. All else is in its own environment variables. Needs the extra ``otel``."""

    enabled: Annotated[bool, AfterValidator(_with_opentelemetry)] = Field(
        default=False,
        description="Send a span for each batch, KMS call and commit to OTEL_EXPORTER_OTLP_ENDPOINT. Needs the extra"
        " otel. See docs/tracing.md.",
    )


class LogSettings(Section):
    """Log lines on stderr."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="The lowest level shown.")
    format: Literal["json", "console"] = Field(
        default="json", description="json: one object a line; console: text for people."
    )

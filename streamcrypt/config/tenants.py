"""The mapping of a ``key_id`` template: which values may choose a KEK, and which one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, WithJsonSchema

from streamcrypt.config.fields import freeze, refusal
from streamcrypt.errors import ConfigError
from streamcrypt.keys.aws_kms.plan import Plan
from streamcrypt.keys.tenants_mapping import MappedKEK, read_mapping
from streamcrypt.keys.tenants_template import KEKTemplate, is_template

if TYPE_CHECKING:
    from streamcrypt.config.sections import KeysSettings

__all__ = ["Mapping_", "mapped_keks", "mapping_findings"]

_REMEDY = "Write VALUE: KEK, a list of KEKs, null (as the template says), or {key_id: KEK, trusted_keys: [ARN]}."
_ENTRY = {"key_id", "trusted_keys"}
_TEMPLATE_ONLY = ("mapping", "max_live", "new_keys_per_minute", "disabled")


def _read(value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise refusal("is no section of values and KEKs", _REMEDY)
    return {name: _entry(name, entry) for name, entry in value.items()}


def _entry(name: str, entry: Any) -> MappedKEK:
    if isinstance(entry, MappedKEK):
        return entry
    if isinstance(entry, Mapping):
        if not entry or not set(entry) <= _ENTRY:
            raise refusal(f"{name!r} is mapped to something else than key_id and trusted_keys", _REMEDY)
        return MappedKEK(
            _names(name, entry.get("key_id")),
            _names(name, entry.get("trusted_keys")),
        )
    return MappedKEK(_names(name, entry))


def _names(name: str, given: Any) -> tuple[str, ...]:
    names = () if given is None else (given,) if isinstance(given, str) else given
    if not isinstance(names, (list, tuple)) or not all(isinstance(item, str) and item for item in names):
        raise refusal(f"{name!r} is mapped to no name of a KEK", _REMEDY)
    if given is not None and not names:
        raise refusal(f"{name!r} is mapped to an empty list", _REMEDY)
    return tuple(names)


def _written(mapping: Mapping[str, MappedKEK] | None) -> Any:
    if mapping is None:
        return None
    return {n: {"key_id": list(m.key_id) or None, "trusted_keys": list(m.trusted_keys)} for n, m in mapping.items()}


_TEXTS = {"anyOf": [{"type": "null"}, {"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_SCHEMA = {
    "type": "object",
    "additionalProperties": {
        "anyOf": [
            *_TEXTS["anyOf"],
            {
                "type": "object",
                "properties": {"key_id": _TEXTS, "trusted_keys": _TEXTS},
                "additionalProperties": False,
            },
        ]
    },
}

Mapping_ = Annotated[
    Mapping[str, MappedKEK],
    BeforeValidator(_read),
    AfterValidator(freeze),
    PlainSerializer(_written),
    WithJsonSchema(_SCHEMA),
]
"""Value to KEK, read-only."""


def mapped_keks(keys: KeysSettings) -> dict[tuple[str, ...], MappedKEK]:
    """Give the KEKs of a template's mapping, every name spelled out, by the values of its fields; {} without template.

    Raises:
        ConfigError: Template or mapping are malformed.
    """
    if not is_template(keys.key_id or ()):
        return {}
    return read_mapping(KEKTemplate(keys.key_id or ()), keys.mapping or {})


def mapping_findings(keys: KeysSettings) -> Iterator[tuple[tuple[str | int, ...], str, str]]:
    """Hold a template and its mapping against each other and against the key service."""
    if not is_template(keys.key_id or ()):
        for name in _TEMPLATE_ONLY:
            if name in keys.model_fields_set and getattr(keys, name) is not None:
                message = "goes with a key_id template only"
                yield ("keys", name), message, "Remove it, or write one such as alias/tenant-{header:tenant}."
        return
    if keys.mapping is None:
        message = "is missing: without it a key_id template leads nowhere"
        yield ("keys", "mapping"), message, "Map every value that may choose a KEK; the records of others are refused."
        return
    if keys.trusted_keys:
        message = "would be trusted for every tenant"
        yield ("keys", "trusted_keys"), message, "Put each under its tenant: VALUE: {trusted_keys: [ARN]} in mapping."
    try:
        mapped = mapped_keks(keys)
        for kek in mapped.values() if keys.provider == "aws-kms" else ():
            _check_names(keys, kek)
    except ConfigError as error:
        text = str(error).removeprefix("mapping: ").removeprefix("key_id: ")
        yield ("keys", "mapping"), text, error.remedy
        return
    if keys.provider == "local" and any(len(kek.key_id) > 1 for kek in mapped.values()):
        message = "maps to several KEKs, and a keyring wraps each data key under one"
        yield ("keys", "mapping"), message, "Name one key id of the keyring for each value."


def _check_names(keys: KeysSettings, kek: MappedKEK) -> None:
    Plan.lenient(
        kek.key_id,
        region=keys.region,
        regions=keys.regions,
        trusted_keys=kek.trusted_keys,
        require=keys.require or "all",
    )

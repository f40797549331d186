"""Which values of a record may choose a KEK, and which one: the mapping as it is written, spelled out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from streamcrypt.errors import ConfigError
from streamcrypt.keys.tenants_template import INPUT_CHARACTERS, KEKTemplate, as_input

__all__ = ["MappedKEK", "Values", "read_mapping"]

_ENTRY_FORMS = "Write an alias or ARN, a list of them, or null for the name that the template gives."

Values = tuple[str, ...]
"""One value for each field of a template, in its order."""


@dataclass(frozen=True, slots=True)
class MappedKEK:
    """What the mapping gives for one value.

    Attributes:
        key_id: The KEK, or several that each data key is wrapped under; empty (the default): as the template names it.
        trusted_keys: KEKs that records of this value may be opened under besides, such as an earlier one.
    """

    key_id: tuple[str, ...] = ()
    trusted_keys: tuple[str, ...] = ()


def read_mapping(
    template: KEKTemplate, mapping: Mapping[str, str | Sequence[str] | MappedKEK | None]
) -> dict[Values, MappedKEK]:
    """Turn a mapping as it is written into one from values to KEKs, every name spelled out.

    Raises:
        ConfigError: It is empty, or an entry is malformed.
    """
    if not mapping:
        raise ConfigError(
            "mapping: a key_id template needs one", remedy="Map every value that may choose a KEK; others are refused."
        )
    keks: dict[Values, MappedKEK] = {}
    for text, given in mapping.items():
        values = tuple(text.split("/")) if isinstance(text, str) else ()
        if len(values) != len(template.fields) or any(as_input(_encoded(value)) is None for value in values):
            order = "/".join(f"{{{field}}}" for field in template.fields)
            raise ConfigError(
                f"mapping: {text!r} is no value of {order}", remedy=f"Write {order}, each {INPUT_CHARACTERS}."
            )
        keks[values] = _mapped(text, given, template.render(values))
    return keks


def _mapped(text: str, given: str | Sequence[str] | MappedKEK | None, rendered: tuple[str, ...]) -> MappedKEK:
    if given is None:
        return MappedKEK(rendered)
    entry = given if isinstance(given, MappedKEK) else MappedKEK((given,) if isinstance(given, str) else tuple(given))
    if not isinstance(given, MappedKEK) and not entry.key_id:
        raise ConfigError(f"mapping: {text!r} is mapped to an empty list", remedy=_ENTRY_FORMS)
    if not all(isinstance(name, str) and name and "{" not in name for name in (*entry.key_id, *entry.trusted_keys)):
        raise ConfigError(f"mapping: {text!r} is mapped to no name of a KEK", remedy=_ENTRY_FORMS)
    return entry if entry.key_id else replace(entry, key_id=rendered)


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogatepass")

"""Which key material of a KEK wraps the data keys: what an on-demand rotation left behind.

Source: AWS KMS API reference, Decrypt: ``KeyMaterialId`` is the material that decrypted the ciphertext.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streamcrypt.audit.tally import HeaderBook, Place
from streamcrypt.audit.unwrapping import Unwrapping, trusted_entries
from streamcrypt.envelope.codec import decode_header
from streamcrypt.errors import ConfigError, KeyServiceError
from streamcrypt.keys.provider import KeyProvider

__all__ = ["MaterialCount", "Materials", "by_material", "find_materials"]

Materials = Mapping[int, Mapping[str, str]]
"""Index of an envelope to its KEKs, as it names them, each with the id of its key material."""


@dataclass(frozen=True, slots=True)
class MaterialCount:
    """Records of one partition whose data keys one key material wraps; ``material`` is empty where it is unknown."""

    material: str
    records: int
    data_keys: int


def find_materials(book: HeaderBook, keys: KeyProvider, unwrapping: Unwrapping) -> Materials:
    """Unwrap what each envelope holds for trusted KEKs, once, and note the key material.

    What is not trusted, does not open or cannot be asked for stays unknown.
    """
    found: dict[int, dict[str, str]] = {}
    for envelope in book.envelopes:
        header = decode_header(envelope.data)
        try:
            trusted = trusted_entries(keys, header, header.keys)
        except (KeyServiceError, ConfigError):
            continue
        for encrypted, arn in trusted:
            attempt = unwrapping.attempt(keys, header, encrypted, arn)
            if attempt.material:
                found.setdefault(envelope.index, {})[encrypted.key_id] = attempt.material
    return found


def by_material(place: Place, book: HeaderBook, key_id: str, materials: Materials) -> list[MaterialCount]:
    """Count a KEK's records of a partition by key material, by first offset."""
    records: dict[str, int] = {}
    data_keys: dict[str, set[bytes]] = {}
    for index, tally in sorted(place.tallies.items(), key=lambda item: item[1].first_offset):
        envelope = book.envelopes[index]
        if key_id in envelope.key_ids:
            material = materials.get(index, {}).get(key_id, "")
            records[material] = records.get(material, 0) + tally.records
            data_keys.setdefault(material, set()).add(envelope.commitment)
    return [MaterialCount(material, count, len(data_keys[material])) for material, count in records.items()]

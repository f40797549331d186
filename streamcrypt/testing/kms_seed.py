"""Internal: keys that the test KMS has from its start, so that what it sealed opens after a restart.

::

    {"account": "111122223333",
     "keys": [{"id": "1234abcd-12ab-34cd-56ef-1234567890ab", "region": "eu-west-1",
               "material": "<base64 of 32 bytes, or a list of them, the current one last>",
               "aliases": ["alias/payments"]}]}
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from pathlib import Path
from typing import Any

from streamcrypt.errors import ConfigError
from streamcrypt.testing.kms_call import World
from streamcrypt.testing.kms_model import KEY_ID, KeyMaterial, KMSKey
from streamcrypt.testing.kms_operations import ALIAS_NAME

__all__ = ["plant", "read_seed"]

_MATERIAL_BYTES = 32
_KEY_FIELDS = {"id", "region", "material", "aliases", "description"}


def read_seed(path: str | Path) -> dict[str, Any]:
    """Read a seed file.

    Raises:
        ConfigError: It cannot be read or is not a JSON object with ``keys``.
    """
    try:
        seed = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"seed file {path}: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"seed file {path}: not JSON") from None
    if not isinstance(seed, dict) or not isinstance(seed.get("keys"), list) or set(seed) > {"account", "keys"}:
        raise ConfigError(f"seed file {path}: not an object with 'keys' and, at will, 'account'")
    return seed


def plant(world: World, seed: dict[str, Any]) -> list[str]:
    """Put the keys of a seed into a world; return their ARNs.

    Raises:
        ConfigError: A key is malformed. The text names its place, never its material.
    """
    return [_plant_key(world, entry, f"keys[{place}]") for place, entry in enumerate(seed["keys"])]


def _plant_key(world: World, entry: Any, place: str) -> str:
    if not isinstance(entry, dict) or not {"id", "region", "material"} <= set(entry) <= _KEY_FIELDS:
        raise ConfigError(f"{place}: needs id, region and material, may have aliases and description, nothing else")
    if not isinstance(entry["id"], str) or not KEY_ID.fullmatch(entry["id"]):
        raise ConfigError(f"{place}.id: neither a UUID nor mrk- and 32 hexadecimal digits")
    region = world.region(str(entry["region"]))
    stored = entry["material"] if isinstance(entry["material"], list) else [entry["material"]]
    materials = [_material(text, f"{place}.material") for text in stored]
    key = KMSKey(
        entry["id"],
        region.name,
        world.account,
        world.clock(),
        materials,
        description=str(entry.get("description", "")),
    )
    for alias in entry.get("aliases", []):
        if not isinstance(alias, str) or not ALIAS_NAME.fullmatch(alias):
            raise ConfigError(f"{place}.aliases: not an alias name: {alias!r}")
        region.aliases[alias] = key.id
    return region.add(key).arn


def _material(text: Any, place: str) -> KeyMaterial:
    try:
        secret = base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError):
        secret = b""
    if len(secret) != _MATERIAL_BYTES:
        raise ConfigError(f"{place}: not base64 of {_MATERIAL_BYTES} bytes")
    # Derived, so that a blob still finds its material after a restart.
    return KeyMaterial(hashlib.sha256(b"streamcrypt test KMS material id" + secret).hexdigest(), secret)

"""Internal: what the test KMS has from its start, so that what it sealed opens after a restart.

::

    {"account": "111122223333",
     "keys": [{"id": "mrk-1234abcd12ab34cd56ef1234567890ab", "region": "eu-west-1",
               "material": "<base64 of 32 bytes, or a list of them, the current one last>",
               "aliases": ["alias/payments"], "replicas": ["eu-central-1"], "policy": {"Statement": [...]}}],
     "identities": [{"access_key_id": "AKIASEALER", "name": "sealer", "policies": [{"Statement": [...]}]}]}

Aliases and policy are given to every replica too. Once there are identities, every request is judged.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from pathlib import Path
from typing import Any

from streamcrypt.errors import ConfigError
from streamcrypt.testing.kms_attributes import ALIAS_NAME
from streamcrypt.testing.kms_conditions import PolicyError
from streamcrypt.testing.kms_model import KeyMaterial, KMSKey, SharedKey
from streamcrypt.testing.kms_policy import Policy
from streamcrypt.testing.kms_region import KEY_ID, World, default_policy

__all__ = ["plant", "read_seed"]

_MATERIAL_BYTES = 32
_KEY_FIELDS = {"id", "region", "material", "aliases", "description", "replicas", "policy"}
_IDENTITY_FIELDS = {"access_key_id", "name", "policies"}
_FIELDS = {"account", "keys", "identities"}


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
    if not isinstance(seed, dict) or not isinstance(seed.get("keys"), list) or not set(seed) <= _FIELDS:
        raise ConfigError(f"seed file {path}: not an object with 'keys' and, at will, 'account' and 'identities'")
    return seed


def plant(world: World, seed: dict[str, Any]) -> list[str]:
    """Put the keys and identities of a seed into a world; return the ARNs of the keys, without replicas.

    Raises:
        ConfigError: An entry is malformed. The text names its place, never its material.
    """
    planted = [_plant_key(world, entry, f"keys[{place}]") for place, entry in enumerate(seed["keys"])]
    for place, entry in enumerate(seed.get("identities", [])):
        if not isinstance(entry, dict) or not {"access_key_id", "policies"} <= set(entry) <= _IDENTITY_FIELDS:
            raise ConfigError(f"identities[{place}]: needs access_key_id and policies, may have name, nothing else")
        for policy in entry["policies"]:
            world.access.allow(str(entry["access_key_id"]), policy, str(entry.get("name", "")))
    return planted


def _plant_key(world: World, entry: Any, place: str) -> str:
    if not isinstance(entry, dict) or not {"id", "region", "material"} <= set(entry) <= _KEY_FIELDS:
        raise ConfigError(
            f"{place}: needs id, region and material, may have {', '.join(sorted(_KEY_FIELDS))}, nothing else"
        )
    if not isinstance(entry["id"], str) or not KEY_ID.fullmatch(entry["id"]):
        raise ConfigError(f"{place}.id: neither a UUID nor mrk- and 32 hexadecimal digits")
    regions = [str(entry["region"]), *map(str, entry.get("replicas", []))]
    if len(regions) > 1 and not entry["id"].startswith("mrk-"):
        raise ConfigError(f"{place}.replicas: only a key with an mrk- id has replicas")
    stored = entry["material"] if isinstance(entry["material"], list) else [entry["material"]]
    materials = [_material(text, f"{place}.material") for text in stored]
    shared = SharedKey(entry["id"], world.account, regions[0], materials)
    policy = _policy(entry, world.account, f"{place}.policy")
    keys = [
        KMSKey(shared, name, world.clock(), policy, description=str(entry.get("description", ""))) for name in regions
    ]
    for key in keys:
        region = world.region(key.region)
        for alias in entry.get("aliases", []):
            if not isinstance(alias, str) or not ALIAS_NAME.fullmatch(alias):
                raise ConfigError(f"{place}.aliases: not an alias name: {alias!r}")
            region.aliases[alias] = key.id
        region.add(key)
    return keys[0].arn


def _policy(entry: dict[str, Any], account: str, place: str) -> str:
    if "policy" not in entry:
        return default_policy(account)
    try:
        Policy.parse(entry["policy"], of_key=True)
    except PolicyError as error:
        raise ConfigError(f"{place}: {error}") from None
    return json.dumps(entry["policy"])


def _material(text: Any, place: str) -> KeyMaterial:
    try:
        secret = base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError):
        secret = b""
    if len(secret) != _MATERIAL_BYTES:
        raise ConfigError(f"{place}: not base64 of {_MATERIAL_BYTES} bytes")
    # Derived, so that a blob still finds its material after a restart.
    return KeyMaterial(hashlib.sha256(b"streamcrypt test KMS material id" + secret).hexdigest(), secret)

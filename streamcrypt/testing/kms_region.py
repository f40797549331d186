"""Internal: the regions of the test KMS, each with keys and aliases of its own, and the account that they make up."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator

from streamcrypt.testing.kms_access import Access
from streamcrypt.testing.kms_blob import material_of
from streamcrypt.testing.kms_model import Grant, KeyMaterial, KMSKey, ServiceError, SharedKey

__all__ = ["KEY_ID", "REGION_NAME", "KMSRegion", "World", "default_policy"]

KEY_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|mrk-[0-9a-f]{32}")
REGION_NAME = re.compile(r"([a-z]+-){2,3}\d+", re.ASCII)
_ARN = re.compile(r"arn:(aws|aws-cn|aws-us-gov):kms:([a-z0-9-]+):(\d{12}):(key|alias)/([a-zA-Z0-9:/_-]+)", re.ASCII)


def default_policy(account: str) -> str:
    """The key policy of a key that was created without one: IAM policies of the account decide."""
    statement = {
        "Sid": "Enable IAM User Permissions",
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam::{account}:root"},
        "Action": "kms:*",
        "Resource": "*",
    }
    return json.dumps({"Version": "2012-10-17", "Id": "key-default-1", "Statement": [statement]}, indent=2)


class KMSRegion:
    """The keys and aliases of one region. The caller holds the server's lock.

    Args:
        name: Such as ``eu-west-1``.
        world: The account that the region belongs to.
    """

    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self.world = world
        self.aliases: dict[str, str] = {}
        self._keys: dict[str, KMSKey] = {}

    def add(self, key: KMSKey) -> KMSKey:
        """Take a key into the region."""
        self._keys[key.id] = key
        key.shared.members[self.name] = key
        self.world.remember(key.shared)
        return key

    def get(self, key_id: str) -> KMSKey | None:
        """Return the key of that id after what was due by now; None where there is none, or none any more."""
        key = self._keys.get(key_id)
        if key is None:
            return None
        if key.shared.due(self.world.clock()):
            self.world.remember(key.shared)
        if key.shared.members.get(self.name) is key:
            return key
        del self._keys[key_id]
        self.aliases = {name: target for name, target in self.aliases.items() if target != key_id}
        return None

    def __iter__(self) -> Iterator[KMSKey]:
        """Walk over the keys, in order of creation."""
        for key_id in list(self._keys):
            if key := self.get(key_id):
                yield key

    def resolve(self, key_id: str) -> KMSKey:
        """Find the key that a KeyId, key ARN, alias name or alias ARN means.

        Raises:
            ServiceError: NotFoundException or InvalidArnException.
        """
        if not key_id.startswith("arn:"):
            return self._resolve_name(key_id)
        match = _ARN.fullmatch(key_id)
        if match is None or match[1] != "aws":
            raise ServiceError("InvalidArnException", f"Invalid arn {key_id}")
        _, region, account, kind, name = match.groups()
        if region != self.name:
            raise ServiceError("NotFoundException", f"Invalid arn {region}", key_arn=key_id)
        if account != self.world.account:
            # KMS answers this way for a key of another account that has not let the caller in.
            raise ServiceError("AccessDeniedException", f"no resource-based policy allows {key_id}", key_arn=key_id)
        return self._resolve_name(f"alias/{name}" if kind == "alias" else name, shown=key_id)

    def _resolve_name(self, name: str, shown: str = "") -> KMSKey:
        if name.startswith("alias/"):
            target = self.aliases.get(name) or self._create_aws_managed(name)
            if not target:
                raise ServiceError("NotFoundException", f"Alias {shown or self.alias_arn(name)} is not found.")
            return self._resolve_name(target)
        if not KEY_ID.fullmatch(name):
            raise ServiceError("NotFoundException", f"Invalid keyId '{name}'", key_arn=shown)
        found = self.get(name)
        if found is None:
            arn = shown or f"arn:aws:kms:{self.name}:{self.world.account}:key/{name}"
            raise ServiceError("NotFoundException", f"Key '{arn}' does not exist", key_arn=arn)
        return found

    def _create_aws_managed(self, alias: str) -> str:
        # DescribeKey of an AWS alias creates its key, says the API reference.
        if not alias.startswith("alias/aws/"):
            return ""
        account = self.world.account
        shared = SharedKey(str(uuid.uuid4()), account, self.name, [KeyMaterial.generate()], manager="AWS")
        key = KMSKey(shared, self.name, self.world.clock(), default_policy(account))
        self.aliases[alias] = self.add(key).id
        return key.id

    def aliases_of(self, key: KMSKey) -> tuple[str, ...]:
        """The names of the aliases that point to a key."""
        return tuple(sorted(name for name, target in self.aliases.items() if target == key.id))

    def alias_arn(self, alias: str) -> str:
        """The ARN of an alias name."""
        return f"arn:aws:kms:{self.name}:{self.world.account}:{alias}"


class World:
    """Every region of the account.

    Args:
        account: Twelve digits.
        clock: Returns seconds since 1970.
    """

    def __init__(self, account: str, clock: Callable[[], float]) -> None:
        self.account = account
        self.clock = clock
        self.access = Access(account)
        self.stores_away: set[str] = set()
        self.tokens: dict[str, tuple[KMSKey, Grant]] = {}
        self._regions: dict[str, KMSRegion] = {}
        self._by_material: dict[str, SharedKey] = {}

    def region(self, name: str) -> KMSRegion:
        """Return a region; its first use makes it."""
        return self._regions.setdefault(name, KMSRegion(name, self))

    def remember(self, shared: SharedKey) -> None:
        """Take note of the materials of a key, so that its blobs are known anywhere."""
        for material in shared.materials:
            self._by_material[material.id] = shared

    def owner(self, blob: bytes) -> SharedKey | None:
        """Find the key that made ``blob``, deleted ones included."""
        shared = self._by_material.get(material_of(blob))
        if shared is not None and shared.due(self.clock()):
            self.remember(shared)
        return shared

    def move_store(self, store_id: str, *, away: bool) -> None:
        """Take a custom key store away, or bring it back, with all keys in it."""
        (self.stores_away.add if away else self.stores_away.discard)(store_id)
        for shared in self._by_material.values():
            if shared.custom_key_store_id == store_id:
                for key in shared.members.values():
                    key.store_is_away = away

"""What the tests of KEKs per record share: a keyring of tenants, and a key service over it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from streamcrypt import LocalKeyProvider, TenantKeys

if TYPE_CHECKING:
    from collections.abc import Iterable

TEMPLATE = "tenant-{header:tenant}"
HEADERS = {name: [("tenant", name.encode())] for name in ("acme", "globex", "initech")}


def keyring(*tenants: str) -> LocalKeyProvider:
    """A keyring with a KEK ``tenant-<name>`` for each tenant, and a primary that is nobody's."""
    ids = ["main", *(f"tenant-{name}" for name in tenants)]
    return LocalKeyProvider({key_id: hashlib.sha256(key_id.encode()).digest() for key_id in ids}, "main")


def tenant_keys(*tenants: str, template: str = TEMPLATE, **options: Any) -> TenantKeys:
    """Tenants by their header, each with the KEK that the template names."""
    return TenantKeys(keyring(*tenants), template, dict.fromkeys(tenants), **options)


def of(tenant: str | bytes, *more: tuple[str, bytes | None]) -> list[tuple[str, bytes | None]]:
    """Headers that lead to a tenant."""
    return [*more, ("tenant", tenant.encode() if isinstance(tenant, str) else tenant)]


def envelopes(headers: Iterable[tuple[str, bytes | None]]) -> list[bytes | None]:
    """The values of the ``streamcrypt`` headers."""
    return [value for name, value in headers if name == "streamcrypt"]

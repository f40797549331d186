"""Internal: every operation of the test KMS by name, from request members to response members, without HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from streamcrypt.testing.kms_attributes import ATTRIBUTES
from streamcrypt.testing.kms_call import Call, Members
from streamcrypt.testing.kms_cryptography import CRYPTOGRAPHY
from streamcrypt.testing.kms_grants import GRANTS
from streamcrypt.testing.kms_keys import KEYS
from streamcrypt.testing.kms_rotation import ROTATION

__all__ = ["OPERATIONS"]

OPERATIONS: Mapping[str, Callable[[Call], Members | None]] = {
    **ATTRIBUTES,
    **CRYPTOGRAPHY,
    **GRANTS,
    **KEYS,
    **ROTATION,
}

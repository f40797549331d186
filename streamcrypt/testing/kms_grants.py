"""Internal: grants of the test KMS. They are in force at once; AWS may take some minutes, or the grant token.

Source: the AWS KMS API reference (2014-11-01); KMS developer guide, "Grants in AWS KMS".
"""

from __future__ import annotations

import base64
import os
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from streamcrypt.testing.kms_call import Call, Members, invalid, page
from streamcrypt.testing.kms_conditions import Facts
from streamcrypt.testing.kms_model import Grant, KMSKey, ServiceError

__all__ = ["GRANTS"]

_OPERATIONS = (
    "Decrypt",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyWithoutPlaintext",
    "ReEncryptFrom",
    "ReEncryptTo",
    "CreateGrant",
    "RetireGrant",
    "DescribeKey",
    "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext",
)
_PRINCIPAL = re.compile(r"arn:aws:(iam|sts)::\d{12}:(root|(user|role|assumed-role|federated-user)/.+)", re.ASCII)
_CONSTRAINTS = {"EncryptionContextEquals", "EncryptionContextSubset"}
_MAX_PAIRS = 8
_MAX_VALUE_CHARACTERS = 384
_TOKEN_BYTES = 96


def _principal(call: Call, name: str) -> str:
    value = call.text(name)
    if not _PRINCIPAL.fullmatch(value):
        raise ServiceError("InvalidArnException", f"{name} is not the ARN of a principal: {value}")
    return value


def _operations(call: Call) -> tuple[str, ...]:
    value = call.members.get("Operations")
    if not isinstance(value, list) or not value or not set(value) <= set(_OPERATIONS):
        raise invalid("Operations", f"Member must satisfy enum value set: [{', '.join(_OPERATIONS)}]")
    return tuple(value)


def _constraints(call: Call) -> dict[str, dict[str, str]]:
    value: Any = call.members.get("Constraints") or {}
    if not isinstance(value, dict) or not set(value) <= _CONSTRAINTS:
        raise invalid("Constraints", "The test KMS has EncryptionContextEquals and EncryptionContextSubset only")
    for name, pairs in value.items():
        if not isinstance(pairs, dict) or len(pairs) > _MAX_PAIRS:
            raise invalid(name, f"Member must have at most {_MAX_PAIRS} pairs")
        if any(len(str(text)) > _MAX_VALUE_CHARACTERS for text in pairs.values()):
            raise invalid(name, f"Member must have values of at most {_MAX_VALUE_CHARACTERS} characters")
    return value


def _create_grant(call: Call) -> Members:
    operations, constraints = _operations(call), _constraints(call)
    grantee = _principal(call, "GranteePrincipal")
    retiring = _principal(call, "RetiringPrincipal") if call.members.get("RetiringPrincipal") else ""
    key = call.key(facts=_facts(grantee, retiring, operations, constraints))
    key.require_state(enabled=True, usable=True)
    if call.grants and not any(_within(key.grants[grant], operations, constraints) for grant in call.grants):
        raise key.error("AccessDeniedException", "A grant allows to grant only what it allows itself.")
    call.stop_if_dry_run(key)
    name = str(call.members.get("Name", ""))
    wanted = (name, grantee, retiring, operations, constraints)
    grant = next((grant for grant in key.grants.values() if name and _terms(grant) == wanted), None)
    if grant is None:
        token = base64.b64encode(os.urandom(_TOKEN_BYTES)).decode("ascii")
        grant = Grant(
            secrets.token_hex(32), name, call.world.clock(), grantee, retiring, operations, constraints, token
        )
        key.grants[grant.id] = grant
        call.world.tokens[token] = (key, grant)
    return {"GrantId": grant.id, "GrantToken": grant.token}


def _facts(grantee: str, retiring: str, operations: tuple[str, ...], constraints: Mapping[str, Any]) -> Facts:
    known: dict[str, tuple[str, ...]] = {
        "kms:GranteePrincipal": (grantee,),
        "kms:GrantIsForAWSResource": ("false",),
        "kms:GrantOperations": operations,
    }
    if retiring:
        known["kms:RetiringPrincipal"] = (retiring,)
    if constraints:
        known["kms:GrantConstraintType"] = tuple(constraints)
    return known


def _terms(grant: Grant) -> tuple[Any, ...]:
    return grant.name, grant.grantee, grant.retiring, grant.operations, grant.constraints


def _within(parent: Grant, operations: tuple[str, ...], constraints: Mapping[str, Mapping[str, str]]) -> bool:
    equals = constraints.get("EncryptionContextEquals")
    subset = constraints.get("EncryptionContextSubset", {}) if equals is None else equals
    wanted_equals = parent.constraints.get("EncryptionContextEquals")
    wanted_subset = parent.constraints.get("EncryptionContextSubset", {})
    if not set(operations) <= set(parent.operations) or wanted_equals not in (None, equals):
        return False
    return wanted_subset.items() <= subset.items()


def _shown(key: KMSKey, grant: Grant) -> Members:
    shown: Members = {
        "KeyId": key.arn,
        "GrantId": grant.id,
        "CreationDate": grant.created,
        "GranteePrincipal": grant.grantee,
        "IssuingAccount": f"arn:aws:iam::{key.shared.account}:root",
        "Operations": list(grant.operations),
    }
    optional = {"Name": grant.name, "RetiringPrincipal": grant.retiring, "Constraints": grant.constraints}
    return shown | {name: value for name, value in optional.items() if value}


def _list_grants(call: Call) -> Members:
    key = call.key()
    wanted_id, wanted_grantee = call.members.get("GrantId"), call.members.get("GranteePrincipal")
    listed = [
        _shown(key, grant)
        for grant in key.grants.values()
        if wanted_id in {None, grant.id} and wanted_grantee in {None, grant.grantee}
    ]
    return page(call, listed, "Grants", 50, 100)


def _list_retirable_grants(call: Call) -> Members:
    call.authorize("ListRetirableGrants")
    principal = _principal(call, "RetiringPrincipal")
    listed = [_shown(key, grant) for key in call.region for grant in key.grants.values() if grant.retiring == principal]
    return page(call, listed, "Grants", 50, 100)


def _drop(call: Call, key: KMSKey, grant: Grant) -> None:
    call.stop_if_dry_run(key)
    del key.grants[grant.id]
    call.world.tokens.pop(grant.token, None)


def _grant_of(call: Call, key: KMSKey) -> Grant:
    grant_id = call.text("GrantId")
    if grant_id not in key.grants:
        raise key.error("NotFoundException", f"Grant ID {grant_id} not found")
    return key.grants[grant_id]


def _revoke_grant(call: Call) -> None:
    key = call.key()
    _drop(call, key, _grant_of(call, key))


def _retire_grant(call: Call) -> None:
    if call.members.get("GrantToken"):
        found = call.world.tokens.get(call.text("GrantToken"))
        if found is None:
            raise ServiceError("InvalidGrantTokenException", "The grant token is not valid.")
        key, grant = found
        call.key_arn = key.arn
    else:
        key = call.find()
        grant = _grant_of(call, key)
    principal = call.world.access.principal(call.access_key_id)
    by_grant = principal == grant.retiring or (principal == grant.grantee and "RetireGrant" in grant.operations)
    if not by_grant:
        call.authorize("RetireGrant", key)
    _drop(call, key, grant)


GRANTS: Mapping[str, Callable[[Call], Members | None]] = {
    "CreateGrant": _create_grant,
    "ListGrants": _list_grants,
    "ListRetirableGrants": _list_retirable_grants,
    "RetireGrant": _retire_grant,
    "RevokeGrant": _revoke_grant,
}

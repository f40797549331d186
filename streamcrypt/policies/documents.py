"""Needs as policy documents: identity policies for roles, key policies for keys.

Source: AWS IAM User Guide, "IAM JSON policy elements"; AWS KMS Developer Guide, "Creating a key policy".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from streamcrypt.envelope.header import TOPIC_CONTEXT
from streamcrypt.policies.needs import Context, Need

__all__ = [
    "ADMINISTRATOR",
    "ADMINISTRATOR_ACTIONS",
    "MAX_IDENTITY_POLICY",
    "MAX_KEY_POLICY",
    "Document",
    "Statement",
    "identity_policy",
    "is_placeholder",
    "key_placeholder",
    "key_policy",
    "principal_placeholder",
    "too_long",
    "unnameable",
]

VERSION = "2012-10-17"
MAX_IDENTITY_POLICY = 6144
"""Characters without white space of a managed policy (IAM quotas)."""
MAX_KEY_POLICY = 32_768
"""Bytes of a key policy."""

ADMINISTRATOR = "administrator"
ADMINISTRATOR_ACTIONS: tuple[str, ...] = (
    "kms:CancelKeyDeletion",
    "kms:CreateAlias",
    "kms:DeleteAlias",
    "kms:DescribeKey",
    "kms:DisableKey",
    "kms:DisableKeyRotation",
    "kms:EnableKey",
    "kms:EnableKeyRotation",
    "kms:GetKeyPolicy",
    "kms:GetKeyRotationStatus",
    "kms:ListGrants",
    "kms:ListKeyPolicies",
    "kms:ListKeyRotations",
    "kms:ListResourceTags",
    "kms:PutKeyPolicy",
    "kms:RevokeGrant",
    "kms:RotateKeyOnDemand",
    "kms:ScheduleKeyDeletion",
    "kms:TagResource",
    "kms:UntagResource",
    "kms:UpdateAlias",
    "kms:UpdateKeyDescription",
)
"""What keeps a key manageable, and nothing that uses it: no kms:CreateGrant, which could hand out Decrypt."""
_REPLICATING = ("kms:ReplicateKey", "kms:UpdatePrimaryRegion")

_MARK = "REPLACE-ME"
_MOST_IN_NAME = 2
# What IAM and KMS take in a policy document.
_PERMITTED = re.compile(r"[\t\n\r\x20-\x7e\xa1-\xff]*")

Condition = tuple[str, str, tuple[str, ...]]
"""Operator, condition key, values."""


def key_placeholder(name: str) -> str:
    """Stand in for a key ARN that is not known. Neither IAM nor KMS takes it: it is no ARN."""
    return f"{_MARK}:key-arn-of:{name}"


def principal_placeholder(role: str) -> str:
    """Stand in for the ARN of a role. KMS does not take it: no such principal exists."""
    return f"{_MARK}:arn-of-the:{role}"


def is_placeholder(value: str) -> bool:
    """Say whether a value stands in for one that is not known."""
    return value.startswith(f"{_MARK}:")


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement that allows something.

    Attributes:
        role: Whom it is for.
        actions: Ascending.
        resources: Key ARNs.
        conditions: All of them have to hold.
        principals: ARNs, in a key policy; empty in an identity policy.
        sid: Letters and digits, unique in its document.
    """

    role: str
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    conditions: tuple[Condition, ...] = ()
    principals: tuple[str, ...] = ()
    sid: str = ""

    def as_tree(self) -> dict[str, Any]:
        """Give the statement as JSON takes it."""
        tree: dict[str, Any] = {"Sid": self.sid, "Effect": "Allow"}
        if self.principals:
            tree["Principal"] = {"AWS": _one_or_list(self.principals)}
        tree |= {"Action": list(self.actions), "Resource": list(self.resources)}
        if self.conditions:
            grouped: dict[str, dict[str, Any]] = {}
            for operator, key, values in self.conditions:
                # Sets take lists; a single value stays a string, since the key has one value.
                many = operator.startswith("ForAllValues")
                grouped.setdefault(operator, {})[key] = list(values) if many else _one_or_list(values)
            tree["Condition"] = grouped
        return tree


@dataclass(frozen=True, slots=True)
class Document:
    """A policy document.

    Attributes:
        statements: In order of their names.
    """

    statements: tuple[Statement, ...]

    def as_tree(self) -> dict[str, Any]:
        """Give the document as JSON takes it."""
        return {"Version": VERSION, "Statement": [statement.as_tree() for statement in self.statements]}

    @property
    def placeholders(self) -> tuple[str, ...]:
        """What stands in for values that are not known."""
        values = [value for s in self.statements for value in (*s.resources, *s.principals)]
        return tuple(dict.fromkeys(value for value in values if is_placeholder(value)))


def identity_policy(needs: Iterable[Need]) -> Document:
    """Make the identity policy of one role from what it needs."""
    return Document(_named(_joined(_statement(need, need.keys) for need in needs)))


def key_policy(
    key: str, needs: Iterable[Need], principals: Mapping[str, Sequence[str]], *, administrator: bool = True
) -> Document:
    """Make the whole policy of one key: its administrator, and each role that uses it.

    ``Resource`` is the key's own ARN. AWS documents ``*``, which means "this key" there, too; the ARN says the same,
    and a policy that is put on another key by mistake then allows nothing.

    Args:
        key: Its ARN.
        needs: Of all roles; those on other keys are left out.
        principals: Role, or ``administrator``, to the ARNs of the identities that have it.
        administrator: Whether to include who keeps the key manageable; not for a key of somebody else, whose own
            policy has that already.
    """
    statements = [
        replace(
            _statement(need, (key,)),
            principals=tuple(principals.get(need.role) or (principal_placeholder(need.role),)),
        )
        for need in needs
        if key in need.keys
    ]
    joined = _joined(statements)
    if administrator:
        actions = ADMINISTRATOR_ACTIONS
        if "/mrk-" in key or is_placeholder(key):
            actions = tuple(sorted({*actions, *_REPLICATING}))
        who = tuple(principals.get(ADMINISTRATOR) or (principal_placeholder(ADMINISTRATOR),))
        joined = [Statement(ADMINISTRATOR, actions, (key,), (), who), *joined]
    return Document(_named(joined))


def too_long(document: Document, *, of_key: bool) -> int:
    """Give by how much a document is over the limit of AWS; 0 where it fits."""
    text = json.dumps(document.as_tree(), separators=(",", ":"), ensure_ascii=False)
    return max(0, len(text.encode("latin-1", "replace")) - (MAX_KEY_POLICY if of_key else MAX_IDENTITY_POLICY))


def unnameable(names: Mapping[str, str]) -> tuple[str, ...]:
    """Give the names of pairs that no policy can require: a policy holds printable Latin-1 only."""
    return tuple(name for name, value in names.items() if not (_PERMITTED.fullmatch(name + value)))


def _statement(need: Need, keys: tuple[str, ...]) -> Statement:
    conditions: tuple[Condition, ...] = ()
    if need.context is not None:
        conditions = _context_conditions(need.context)
    elif need.alias:
        conditions = (("StringEquals", "kms:RequestAlias", (_literal(need.alias),)),)
    return Statement(need.role, (need.action,), keys, conditions)


def _context_conditions(context: Context) -> tuple[Condition, ...]:
    topic = f"kms:EncryptionContext:{TOPIC_CONTEXT}"
    topics = context.topics
    operator = "StringLike" if topics.like else "StringEquals"
    conditions: list[Condition] = [(operator, topic, topics.values)]
    if topics.never:
        conditions.append(("StringNotEquals", topic, topics.never))
    pairs = dict(context.pairs)
    hidden = unnameable(pairs)
    conditions += [
        ("StringEquals", f"kms:EncryptionContext:{name}", (_literal(value),))
        for name, value in context.pairs
        if name not in hidden
    ]
    if not hidden:
        conditions.append(("ForAllValues:StringEquals", "kms:EncryptionContextKeys", context.names))
    return tuple(sorted(conditions, key=lambda condition: condition[0]))


def _literal(text: str) -> str:
    # '${' begins a policy variable; '${$}' is a dollar sign.
    return text.replace("${", "${$}{")


def _joined(statements: Iterable[Statement]) -> list[Statement]:
    """Join statements that differ in their action only, and then those that differ in their keys only."""
    by_keys: dict[tuple[object, ...], Statement] = {}
    for given in statements:
        key = (given.role, given.resources, given.conditions, given.principals)
        before = by_keys.get(key)
        actions = {*given.actions, *(before.actions if before else ())}
        by_keys[key] = replace(given, actions=tuple(sorted(actions)))
    by_actions: dict[tuple[object, ...], Statement] = {}
    for given in by_keys.values():
        key = (given.role, given.actions, given.conditions, given.principals)
        before = by_actions.get(key)
        resources = dict.fromkeys([*(before.resources if before else ()), *given.resources])
        by_actions[key] = replace(given, resources=tuple(resources))
    return list(by_actions.values())


def _named(statements: Sequence[Statement]) -> tuple[Statement, ...]:
    """Name each statement by role and action, with a number from the second of a name on."""
    seen: dict[str, int] = {}
    named = []
    for statement in statements:
        actions = [action.removeprefix("kms:") for action in statement.actions]
        sid = _camel(statement.role) + ("".join(actions) if len(actions) <= _MOST_IN_NAME else "")
        count = seen[sid] = seen.get(sid, 0) + 1
        named.append(replace(statement, sid=f"{sid}{count}" if count > 1 else sid))
    return tuple(named)


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("-"))


def _one_or_list(values: Sequence[str]) -> str | list[str]:
    return values[0] if len(values) == 1 else list(values)

"""Internal: policy documents of IAM and of keys, parsed and matched against one action on one resource.

Source: IAM user guide, "IAM JSON policy element reference"; KMS developer guide, "Key policies in AWS KMS".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from streamcrypt.testing.kms_conditions import Condition, Facts, PolicyError, arn_like, like, parse_conditions

__all__ = ["Policy", "Statement"]

_VERSIONS = {"2012-10-17", "2008-10-17"}
_ELEMENTS = {"Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition"}
_PRINCIPAL_ELEMENTS = {"Principal", "NotPrincipal"}


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement. Of each pair of elements, one is None."""

    deny: bool
    actions: tuple[str, ...] | None
    not_actions: tuple[str, ...] | None
    resources: tuple[str, ...] | None
    not_resources: tuple[str, ...] | None
    principals: tuple[str, ...] | None
    not_principals: tuple[str, ...] | None
    conditions: tuple[Condition, ...]

    def covers(self, action: str, resource: str, facts: Facts) -> bool:
        """Whether action, resource and conditions are this statement's. ``action``: such as ``kms:Decrypt``."""
        return (
            _either(self.actions, self.not_actions, lambda item: like(item.lower(), action.lower(), {}))
            and _either(self.resources, self.not_resources, lambda item: arn_like(item, resource, facts))
            and all(condition.holds(facts) for condition in self.conditions)
        )

    def names(self, principal: str, account: str) -> bool:
        """Whether the statement speaks of the principal itself, or of everybody."""
        return _either(self.principals, self.not_principals, lambda item: item in {"*", principal}) and not (
            self.not_principals is not None and self._has_account(self.not_principals, account)
        )

    def names_account(self, account: str) -> bool:
        """Whether the statement speaks of the account, which leaves it to the identity policies there."""
        return self.principals is not None and self._has_account(self.principals, account)

    @staticmethod
    def _has_account(items: tuple[str, ...], account: str) -> bool:
        return any(item in {account, f"arn:aws:iam::{account}:root"} for item in items)


def _either(wanted: tuple[str, ...] | None, unwanted: tuple[str, ...] | None, hits: Any) -> bool:
    if wanted is not None:
        return any(map(hits, wanted))
    return unwanted is None or not any(map(hits, unwanted))


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy document."""

    statements: tuple[Statement, ...]

    @classmethod
    def parse(cls, document: str | Mapping[str, Any], *, of_key: bool) -> Policy:
        """Read a document. ``of_key``: a key policy, whose statements name principals.

        Raises:
            PolicyError: IAM would refuse it. The text says which statement and why.
        """
        if isinstance(document, str):
            try:
                document = json.loads(document)
            except ValueError:
                raise PolicyError("not JSON") from None
        if not isinstance(document, Mapping) or not set(document) <= {"Version", "Id", "Statement"}:
            raise PolicyError("not an object of Version, Id and Statement")
        if document.get("Version", "2008-10-17") not in _VERSIONS:
            raise PolicyError(f"unknown Version {document['Version']!r}")
        listed = document.get("Statement")
        statements = [listed] if isinstance(listed, Mapping) else listed
        if not isinstance(statements, list | tuple) or not statements:
            raise PolicyError("no Statement")
        return cls(tuple(_parse(item, f"Statement {place}", of_key) for place, item in enumerate(statements)))

    def decide(self, action: str, resource: str, facts: Facts) -> str:
        """Return ``deny``, ``allow`` or ``""`` for an identity policy."""
        covering = [statement for statement in self.statements if statement.covers(action, resource, facts)]
        if any(statement.deny for statement in covering):
            return "deny"
        return "allow" if covering else ""


def _parse(item: Any, place: str, of_key: bool) -> Statement:
    allowed = _ELEMENTS | (_PRINCIPAL_ELEMENTS if of_key else set())
    if not isinstance(item, Mapping) or not set(item) <= allowed:
        raise PolicyError(f"{place}: not an object of {', '.join(sorted(allowed))}")
    if item.get("Effect") not in {"Allow", "Deny"}:
        raise PolicyError(f"{place}: Effect is neither Allow nor Deny")
    pairs = [("Action", "NotAction"), ("Resource", "NotResource")] + [("Principal", "NotPrincipal")] * of_key
    for one, other in pairs:
        if (one in item) == (other in item):
            raise PolicyError(f"{place}: needs either {one} or {other}")
    return Statement(
        deny=item["Effect"] == "Deny",
        actions=_texts(item, "Action", place),
        not_actions=_texts(item, "NotAction", place),
        resources=_texts(item, "Resource", place),
        not_resources=_texts(item, "NotResource", place),
        principals=_principals(item, "Principal", place),
        not_principals=_principals(item, "NotPrincipal", place),
        conditions=parse_conditions(item.get("Condition", {})),
    )


def _texts(item: Mapping[str, Any], name: str, place: str) -> tuple[str, ...] | None:
    if name not in item:
        return None
    value = item[name]
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or not listed or not all(isinstance(text, str) for text in listed):
        raise PolicyError(f"{place}: {name} is not text or a list of texts")
    return tuple(listed)


def _principals(item: Mapping[str, Any], name: str, place: str) -> tuple[str, ...] | None:
    value = item.get(name)
    if value is None or value == "*":
        return None if value is None else ("*",)
    if not isinstance(value, Mapping) or not set(value) <= {"AWS", "Service", "Federated"}:
        raise PolicyError(f"{place}: {name} is not '*' or an object of AWS, Service and Federated")
    # A service or a federation calls nothing here.
    return _texts(value, "AWS", place) or ()

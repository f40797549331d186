"""Internal: who may do what at the test KMS: identity policies, key policies and grants together.

Source: KMS developer guide, "Policy evaluation", "Default key policy" and "Grants in AWS KMS". One account only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from streamcrypt.errors import ConfigError
from streamcrypt.testing.kms_conditions import Facts, PolicyError
from streamcrypt.testing.kms_model import Grant, KMSKey, ServiceError
from streamcrypt.testing.kms_policy import Policy

__all__ = ["Access", "Question", "grant_fits"]

# A constraint binds the grants that CreateGrant makes, not the request itself.
_CONTEXT_FREE = {"CreateGrant", "DescribeKey", "RetireGrant"}


@dataclass(frozen=True, slots=True)
class Question:
    """May the principal do this?

    Attributes:
        access_key_id: Of the request's signature.
        action: Such as ``Decrypt`` or ``ReEncryptFrom``.
        resource: The ARN of the key or alias; ``*`` for the account as a whole.
        key: The key, where it is about one.
        facts: The condition keys of the request.
        context: The encryption context, for grants; None where the operation has none.
    """

    access_key_id: str
    action: str
    resource: str
    key: KMSKey | None
    facts: Facts
    context: Mapping[str, str] | None


class Access:
    """The identities of the account and their policies. Nothing is judged before the first :meth:`allow`.

    Args:
        account: Twelve digits.
    """

    def __init__(self, account: str) -> None:
        self._account = account
        self._names: dict[str, str] = {}
        self._policies: dict[str, list[Policy]] = {}
        self._parsed: dict[str, Policy] = {}

    @property
    def enforced(self) -> bool:
        """Whether requests are judged."""
        return bool(self._names)

    def allow(self, access_key_id: str, policy: Mapping[str, Any] | str, name: str) -> None:
        """Attach an identity policy.

        Raises:
            ConfigError: IAM would refuse the policy.
        """
        try:
            parsed = Policy.parse(policy, of_key=False)
        except PolicyError as error:
            raise ConfigError(f"identity policy of {name or access_key_id}: {error}") from None
        self._names[access_key_id] = name or self._names.get(access_key_id, access_key_id)
        self._policies.setdefault(access_key_id, []).append(parsed)

    def disallow(self, access_key_id: str) -> None:
        """Detach every policy of an identity, which can then do nothing that key policies or grants do not allow."""
        self._names.setdefault(access_key_id, access_key_id)
        self._policies[access_key_id] = []

    def principal(self, access_key_id: str) -> str:
        """The ARN of an identity."""
        return f"arn:aws:iam::{self._account}:role/{self._names.get(access_key_id, access_key_id)}"

    def judge(self, question: Question) -> tuple[str, ...]:
        """Return the ids of the grants that allow it, if it takes one.

        Raises:
            ServiceError: AccessDeniedException, with the reason in AWS's words.
        """
        identity = self._decide_identity(question)
        if identity == "deny":
            raise self._denied(question, "with an explicit deny in an identity-based policy")
        if question.key is None:
            if identity != "allow":
                raise self._denied(question, self._because("identity", question))
            return ()
        resource = self._decide_key(question, question.key)
        if resource == "deny":
            raise self._denied(question, "with an explicit deny in a resource-based policy")
        if resource == "allow" or (resource == "delegate" and identity == "allow"):
            return ()
        principal = self.principal(question.access_key_id)
        grants = question.key.grants.values()
        if fitting := tuple(grant.id for grant in grants if grant_fits(grant, principal, question)):
            return fitting
        raise self._denied(question, self._because("identity" if resource == "delegate" else "resource", question))

    def may_still(self, policy: Policy, question: Question) -> bool:
        """Whether the question would be answered with yes if ``policy`` were the key's."""
        decided = self._decide_document(question, policy)
        return decided == "allow" or (decided == "delegate" and self._decide_identity(question) == "allow")

    def _decide_identity(self, question: Question) -> str:
        decisions = {
            policy.decide(f"kms:{question.action}", question.resource, question.facts)
            for policy in self._policies.get(question.access_key_id, [])
        }
        return next((decision for decision in ("deny", "allow") if decision in decisions), "")

    def _decide_key(self, question: Question, key: KMSKey) -> str:
        if key.policy not in self._parsed:
            self._parsed[key.policy] = Policy.parse(key.policy, of_key=True)
        return self._decide_document(question, self._parsed[key.policy])

    def _decide_document(self, question: Question, policy: Policy) -> str:
        principal = self.principal(question.access_key_id)
        decided = ""
        for statement in policy.statements:
            if not statement.covers(f"kms:{question.action}", question.resource, question.facts):
                continue
            named = statement.names(principal, self._account)
            account = statement.names_account(self._account)
            if statement.deny and (named or account):
                return "deny"
            if named:
                decided = "allow"
            elif account:
                decided = decided or "delegate"
        return decided

    @staticmethod
    def _because(kind: str, question: Question) -> str:
        return f"because no {kind}-based policy allows the kms:{question.action} action"

    def _denied(self, question: Question, reason: str) -> ServiceError:
        target = f" on resource: {question.resource}" if question.resource != "*" else ""
        return ServiceError(
            "AccessDeniedException",
            f"User: {self.principal(question.access_key_id)} is not authorized to perform: kms:{question.action}"
            f"{target} {reason}",
            key_arn=question.key.arn if question.key else "",
        )


def grant_fits(grant: Grant, principal: str, question: Question) -> bool:
    """Whether a grant allows what is asked."""
    if grant.grantee != principal or question.action not in grant.operations:
        return False
    if question.action in _CONTEXT_FREE or not grant.constraints:
        return True
    # In a grant constraint the names of the pairs ignore case, the values do not.
    given = {name.lower(): value for name, value in (question.context or {}).items()}
    equals = grant.constraints.get("EncryptionContextEquals")
    subset = grant.constraints.get("EncryptionContextSubset", {})
    return (equals is None or given == _lowered(equals)) and _lowered(subset).items() <= given.items()


def _lowered(pairs: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in pairs.items()}

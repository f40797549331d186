"""``streamcrypt policy``: least-privilege policies for the roles and keys of a configuration."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from streamcrypt.cli.exits import Exit
from streamcrypt.cli.policy_needs import KeyFinder, needs_of
from streamcrypt.config import load
from streamcrypt.errors import ConfigError
from streamcrypt.keys.aws_kms.names import parse_key_arn
from streamcrypt.policies.documents import (
    ADMINISTRATOR,
    Document,
    identity_policy,
    key_policy,
    too_long,
    unnameable,
)
from streamcrypt.policies.needs import Need, Role, merged
from streamcrypt.policies.terraform import as_terraform

__all__ = ["INCOMPLETE", "Form", "Kind", "PolicyRequest", "choice", "pairs", "policy", "read_request"]

INCOMPLETE = 3
"""Exit code where something stands in for a value that is not known: printed, and not ready for use."""
_AT_WILL = frozenset({Role.AUDITOR, Role.DOCTOR, Role.KEY_ROTATOR})


class Form(StrEnum):
    """How policies are written."""

    JSON = "json"
    TERRAFORM = "terraform"


class Kind(StrEnum):
    """Which policies are printed."""

    IAM = "iam"
    KEY = "key"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class PolicyRequest:
    """What is asked.

    Attributes:
        roles: Only these; none means every role that the configurations give work to, and those with a principal.
        kind: Identity policies, key policies, or both.
        form: How they are written.
        key: The key policy of this key only.
        key_arns: Name of a KEK, as it is configured, to its key ARN.
        principals: Role, or ``administrator``, to the ARNs of the identities that have it.
        further_names: Names that the encryption context of records to open may have besides those configured.
        offline: Make no call to AWS: a name that is no ARN needs ``key_arns``.
    """

    roles: tuple[Role, ...] = ()
    kind: Kind = Kind.BOTH
    form: Form = Form.JSON
    key: str | None = None
    key_arns: Mapping[str, str] = field(default_factory=dict)
    principals: Mapping[str, Sequence[str]] = field(default_factory=dict)
    further_names: tuple[str, ...] = ()
    offline: bool = False

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            ConfigError: A role or an ARN is none.
        """
        for name in self.principals:
            if name not in {ADMINISTRATOR, *Role}:
                raise ConfigError(
                    f"--principal: {name!r} is no role", remedy=f"Roles: {', '.join(Role)}, {ADMINISTRATOR}."
                )
        for name, arns in self.principals.items():
            for arn in arns:
                if not arn.startswith("arn:") or ":iam::" not in arn:
                    raise ConfigError(f"--principal {name}: {arn!r} is no ARN of a role or user")
        for arn in [*self.key_arns.values(), *([self.key] if self.key else [])]:
            parse_key_arn(arn, "--key" if arn == self.key else "--key-arn")
        if self.key and self.kind is Kind.IAM:
            raise ConfigError("--key goes with key policies", remedy="Leave out --kind iam.")


def read_request(
    roles: Iterable[str] | None,
    kind: str,
    form: str,
    key: str | None,
    key_arns: Iterable[str] | None,
    principals: Iterable[str] | None,
    context_names: Iterable[str] | None,
    *,
    offline: bool,
) -> PolicyRequest:
    """Read the arguments of the command line.

    Raises:
        ConfigError: One of them is none of the choices, or not of the form ``NAME=ARN``.
    """
    arns = pairs("--key-arn", key_arns)
    if twice := [name for name, values in arns.items() if len(values) > 1]:
        raise ConfigError(f"--key-arn: {twice[0]} is there twice")
    request = PolicyRequest(
        tuple(choice("--role", Role, role) for role in dict.fromkeys(roles or ())),
        choice("--kind", Kind, kind),
        choice("--format", Form, form),
        key,
        {name: values[0] for name, values in arns.items()},
        pairs("--principal", principals),
        tuple(context_names or ()),
        offline,
    )
    request.check()
    return request


_Choice = TypeVar("_Choice", bound=StrEnum)


def choice(option: str, choices: type[_Choice], text: str) -> _Choice:
    """Read an option that is one of a few words.

    Raises:
        ConfigError: It is none of them.
    """
    try:
        return choices(text)
    except ValueError:
        raise ConfigError(f"{option}: {text!r} is none of {', '.join(choices)}") from None


def pairs(option: str, texts: Iterable[str] | None) -> dict[str, list[str]]:
    """Read options of the form ``NAME=VALUE``, each as often as it is given.

    Raises:
        ConfigError: One is not of that form.
    """
    pairs: dict[str, list[str]] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise ConfigError(f"{option}: {text!r} is not of the form NAME=ARN")
        pairs.setdefault(name, []).append(value)
    return pairs


def policy(paths: Sequence[Path], request: PolicyRequest) -> int:
    """Print the policies of one or several configurations together.

    Returns:
        DONE; or 3 where something stands in for a value that is not known, which standard error names.

    Raises:
        ConfigError: A configuration or an argument is wrong, or the keys are no AWS KMS keys.
    """
    finder = KeyFinder(request.key_arns, offline=request.offline)
    needs: list[Need] = []
    hidden: set[str] = set()
    for path in paths:
        settings = load(path)
        if settings.keys.provider == "local":
            raise ConfigError(
                f"{settings.where('keys', 'provider')}: a local keyring has no policies",
                remedy="Ask for a configuration with 'provider: aws-kms'.",
            )
        needs += needs_of(settings, finder, request.further_names)
        hidden |= set(unnameable(settings.context))
    chosen = _chosen(merged(needs), request)
    roles = {} if request.kind is Kind.KEY else _identity_policies(chosen)
    keys = {} if request.kind is Kind.IAM else _key_policies(chosen, request, finder)
    _print(roles, keys, request)
    notes = [*finder.notes, *_notes(roles, keys, hidden)]
    unknown = dict.fromkeys(p for document in [*roles.values(), *keys.values()] for p in document.placeholders)
    incomplete = bool(unknown) and request.form is Form.JSON
    if incomplete:
        notes += [f"{placeholder} stands in for what is not known; {_remedy(placeholder)}" for placeholder in unknown]
    sys.stderr.writelines(f"streamcrypt: {note}\n" for note in notes)
    return INCOMPLETE if incomplete else Exit.DONE


def _chosen(needs: Sequence[Need], request: PolicyRequest) -> list[Need]:
    if request.roles:
        chosen = [need for need in needs if need.role in request.roles]
        if missing := [role for role in request.roles if role not in {need.role for need in chosen}]:
            raise ConfigError(
                f"--role {missing[0]}: no pipeline gives that role work",
                remedy=f"There are: {', '.join(dict.fromkeys(need.role for need in needs))}.",
            )
        return chosen
    return [need for need in needs if need.role not in _AT_WILL or need.role in request.principals]


def _identity_policies(needs: Sequence[Need]) -> dict[str, Document]:
    roles = dict.fromkeys(need.role for need in needs)
    return {str(role): identity_policy(need for need in needs if need.role is role) for role in roles}


def _key_policies(needs: Sequence[Need], request: PolicyRequest, finder: KeyFinder) -> dict[str, Document]:
    keys = dict.fromkeys(key for need in needs for key in need.keys)
    if request.key is not None and request.key not in keys:
        raise ConfigError(f"--key: {request.key} is none of the keys in use", remedy=f"There are: {', '.join(keys)}.")
    return {
        key: key_policy(key, needs, request.principals, administrator=finder.is_ours(key))
        for key in keys
        if request.key in {None, key}
    }


def _print(roles: Mapping[str, Document], keys: Mapping[str, Document], request: PolicyRequest) -> None:
    if request.form is Form.TERRAFORM:
        sys.stdout.write(as_terraform(roles, keys))
        return
    alone = None
    if request.kind is Kind.IAM and len(request.roles) == 1:
        alone = next(iter(roles.values()))
    elif request.kind is Kind.KEY and request.key is not None:
        alone = next(iter(keys.values()))
    tree = alone.as_tree() if alone else {}
    if alone is None:
        if request.kind is not Kind.KEY:
            tree["iam"] = {role: document.as_tree() for role, document in roles.items()}
        if request.kind is not Kind.IAM:
            tree["keys"] = {key: document.as_tree() for key, document in keys.items()}
    sys.stdout.write(json.dumps(tree, indent=2, ensure_ascii=False) + "\n")


def _notes(roles: Mapping[str, Document], keys: Mapping[str, Document], hidden: Iterable[str]) -> Iterator[str]:
    for name in sorted(hidden):
        yield (
            f"context {name!r}: AWS takes only Latin-1 in a policy, so the pair is not required there, and no other"
            " name is forbidden"
        )
    for role, document in roles.items():
        if over := too_long(document, of_key=False):
            yield f"{role}: {over} characters over what a managed IAM policy may have; split the topics between roles"
    for key, document in keys.items():
        if over := too_long(document, of_key=True):
            yield f"{key}: {over} bytes over what a key policy may have; split the topics between keys"
    wide = {
        statement.role
        for document in [*roles.values(), *keys.values()]
        for statement in document.statements
        for _, key, values in statement.conditions
        if key.startswith("kms:EncryptionContext:") and "*" in values
    }
    for role in sorted(wide):
        yield f"{role}: a 'from' matches every topic, and so does the policy; name topics, or a narrower expression"


def _remedy(placeholder: str) -> str:
    _, what, name = placeholder.split(":", 2)
    return f"pass --key-arn {name}=ARN" if what == "key-arn-of" else f"pass --principal {name}=ARN"

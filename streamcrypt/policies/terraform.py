"""Policy documents as Terraform: ``aws_iam_policy`` for roles, ``aws_kms_key_policy`` for keys.

What is not known becomes a variable without default, so that Terraform asks for it.
Source: Terraform Registry, provider hashicorp/aws, ``aws_iam_policy_document``, ``aws_kms_key_policy``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from streamcrypt.errors import ConfigError
from streamcrypt.policies.documents import Document, Statement, is_placeholder
from streamcrypt.policies.needs import region_of

__all__ = ["as_terraform"]

_WIDTH = 100

_HEAD = """\
# Made by `streamcrypt policy`. Needs hashicorp/aws 6.0 or newer, which takes `region` on a resource.
"""


def as_terraform(roles: Mapping[str, Document], keys: Mapping[str, Document]) -> str:
    """Write policies as HCL.

    Args:
        roles: Role to its identity policy.
        keys: Key ARN, or its placeholder, to the key policy.

    Raises:
        ConfigError: A value holds ``&{``, for which the provider has no escape.
    """
    documents = [*roles.values(), *keys.values()]
    unknown = dict.fromkeys(placeholder for document in documents for placeholder in document.placeholders)
    blocks = [_variable(placeholder) for placeholder in unknown]
    for role, document in roles.items():
        name = f"streamcrypt_{_name(role)}"
        blocks.append(_data(name, document))
        lines = [f"name = {_text(f'streamcrypt-{role}')}", f"policy = data.aws_iam_policy_document.{name}.json"]
        blocks.append(_block(f'resource "aws_iam_policy" "{name}"', lines))
    for number, (key, document) in enumerate(keys.items(), start=1):
        name = f"streamcrypt_key_{number}"
        blocks.append(_data(name, document))
        lines = [f"key_id = {_value(key)}", f"policy = data.aws_iam_policy_document.{name}.json"]
        if region := region_of(key):
            lines.insert(0, f"region = {_text(region)}")
        blocks.append(_block(f'resource "aws_kms_key_policy" "{name}"', lines))
    return _HEAD + "\n" + "\n".join(blocks)


def _variable(placeholder: str) -> str:
    _, what, name = placeholder.split(":", 2)
    described = f"{what.replace('-', ' ')} {name}"
    return _block(f'variable "{_variable_name(placeholder)}"', ["type = string", f"description = {_text(described)}"])


def _variable_name(placeholder: str) -> str:
    _, what, name = placeholder.split(":", 2)
    return _name(f"{what}_{name}")


def _data(name: str, document: Document) -> str:
    lines: list[str] = []
    for place, statement in enumerate(document.statements):
        lines += [""] * (place > 0) + _nested("statement", _statement(statement))
    return _block(f'data "aws_iam_policy_document" "{name}"', lines)


def _statement(statement: Statement) -> list[str]:
    lines = [f"sid = {_text(statement.sid)}"]
    lines += [*_listed("actions", statement.actions), *_listed("resources", statement.resources)]
    if statement.principals:
        lines += _nested("principals", ['type = "AWS"', *_listed("identifiers", statement.principals)])
    for operator, key, values in statement.conditions:
        test = [f"test = {_text(operator)}", f"variable = {_text(key)}", *_listed("values", values)]
        lines += _nested("condition", test)
    return lines


def _listed(name: str, values: Sequence[str]) -> list[str]:
    line = f"{name} = [{', '.join(_value(value) for value in values)}]"
    if len(line) <= _WIDTH:
        return [line]
    return [f"{name} = [", *(f"  {_value(value)}," for value in values), "]"]


def _nested(name: str, lines: Iterable[str]) -> list[str]:
    return [f"{name} {{", *(f"  {line}" if line else "" for line in _aligned(lines)), "}"]


def _block(head: str, lines: Iterable[str]) -> str:
    return "\n".join([f"{head} {{", *(f"  {line}" if line else "" for line in _aligned(lines)), "}", ""])


def _aligned(lines: Iterable[str]) -> list[str]:
    """Align the equals signs of neighbouring arguments, as ``terraform fmt`` does."""
    aligned: list[str] = []
    run: list[tuple[str, str]] = []
    for line in [*lines, ""]:
        name, equals, value = line.partition(" = ")
        if equals and re.fullmatch(r"[a-z_]+", name):
            run.append((name, value))
            continue
        width = max((len(name) for name, _ in run), default=0)
        aligned += [f"{name.ljust(width)} = {value}" for name, value in run]
        run = []
        aligned.append(line)
    return aligned[:-1]


def _value(value: str) -> str:
    return f"var.{_variable_name(value)}" if is_placeholder(value) else _text(value)


def _text(text: str) -> str:
    if "&{" in text:
        raise ConfigError(
            f"{text!r}: the AWS provider of Terraform reads '&{{' as a policy variable",
            remedy="Print JSON, or rename what holds it.",
        )
    # '${' and '%{' begin templates of HCL; what JSON escapes, HCL escapes alike.
    return json.dumps(text, ensure_ascii=False).replace("${", "$${").replace("%{", "%%{")


def _name(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")

"""``streamcrypt policy --acls``: the ACLs that the principals of a configuration need, and no more."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

from streamcrypt.cli.exits import Exit
from streamcrypt.cli.policy import INCOMPLETE, choice, pairs
from streamcrypt.config import PipelineSettings, Settings, load
from streamcrypt.errors import ConfigError
from streamcrypt.policies.acls import ACL, CLUSTER, Feature, Login, Pipe, Resource, acls_of, as_one_login
from streamcrypt.policies.topics import patterns_of

__all__ = ["ACLForm", "acls", "needed_by", "pipe_of"]

_PLACEHOLDER = "User:PRINCIPAL"
_TOPIC = "{topic}"
_OPTIONS = {"topic": "--topic", "group": "--group", "transactional_id": "--transactional-id", "cluster": "--cluster"}
_SAID = {"transactional_id": "transactional id"}
_NAMES_PASSWORD_USER = frozenset({"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"})
_ALL_LOGINS: tuple[Login, ...] = ("consumer", "producer")
# Its groups and ids are made of its arguments.
_JOB = "streamcrypt-reencrypt-"


class ACLForm(StrEnum):
    """How ACLs are written."""

    TABLE = "table"
    COMMANDS = "commands"
    """Calls of ``kafka-acls.sh``."""
    JSON = "json"


def acls(paths: Sequence[Path], features: Sequence[str] = (), form: str = "", principals: Sequence[str] = ()) -> int:
    """Print the ACLs of one or several configurations.

    Args:
        paths: The configurations.
        features: Of :class:`Feature`; none means run.
        form: Of :class:`ACLForm`; by default a table.
        principals: ``consumer``, ``producer`` or ``both``, ``=``, and a principal such as ``User:streamcrypt``; by
            default the user names in the configuration.

    Returns:
        DONE; or 3 where a principal is not known, which standard error says.

    Raises:
        ConfigError: A configuration or an argument is wrong.
    """
    wanted = [choice("--for", Feature, feature) for feature in features] or [Feature.RUN]
    chosen = choice("--format", ACLForm, form or "table")
    given = _principals(pairs("--principal", principals))
    rows: dict[tuple[str, ACL], None] = {}
    for path in paths:
        settings = load(path)
        if settings.kafka.msk_iam is not None:
            raise ConfigError(
                f"{settings.where('kafka', 'msk_iam')}: principals of MSK IAM have IAM policies, not ACLs",
                remedy="docs/broker-security.md has the IAM action for each ACL.",
            )
        who = {login: given.get(login) or _principal(settings, login) for login in _ALL_LOGINS}
        for feature in wanted:
            rows.update(dict.fromkeys(_rows(settings, feature, who)))
    sys.stdout.write({ACLForm.TABLE: _table, ACLForm.COMMANDS: _commands, ACLForm.JSON: _json}[chosen](list(rows)))
    if any(principal == _PLACEHOLDER for principal, _ in rows):
        sys.stderr.write(
            f"streamcrypt: {_PLACEHOLDER} stands in for what the configuration does not say; pass --principal "
            "both=User:NAME\n"
        )
        return INCOMPLETE
    return Exit.DONE


def needed_by(settings: Settings, feature: Feature) -> Iterator[ACL]:
    """Give the ACLs that a feature needs for the pipelines of a configuration, of both logins."""
    for pipeline in settings.pipelines:
        if feature is Feature.REENCRYPT and pipeline.mode == "encrypt":
            continue
        yield from acls_of(feature, pipe_of(pipeline, feature))


def pipe_of(pipeline: PipelineSettings, feature: Feature = Feature.RUN) -> Pipe:
    """Give the names of a pipeline as the brokers see them.

    Args:
        pipeline: Its settings.
        feature: A replay and the job of re-encryption have groups of their own.
    """
    group = Resource("group", pipeline.group)
    member = f"{pipeline.group}."
    if feature is Feature.REPLAY:
        group, member = Resource("group", f"{pipeline.group}.replay"), f"{pipeline.group}.replay.replay.0"
    elif feature is Feature.REENCRYPT:
        group, member = Resource("group", _JOB, "prefixed"), _JOB
    letters = Resource("topic", pipeline.dead_letter) if pipeline.dead_letter else None
    return Pipe(
        tuple(dict.fromkeys(_topic(name) for source in pipeline.source for name in _names(source))),
        tuple(
            dict.fromkeys(
                _topic(pipeline.to.replace(_TOPIC, name)) for source in pipeline.source for name in _names(source)
            )
        ),
        group,
        # Instances are named by their hosts, and workers are numbered.
        Resource("transactional_id", member, "literal" if feature is Feature.REPLAY else "prefixed"),
        letters,
        pipeline.delivery == "exactly_once",
        pipeline.sequence != "off",
    )


def _names(source: str) -> Sequence[str]:
    return patterns_of(source) if source.startswith("^") else (source,)


def _topic(pattern: str) -> Resource:
    """Give the narrowest resource of Kafka's that a pattern with ``*`` and ``?`` goes into: a name, or a beginning."""
    start = pattern.replace("?", "*").partition("*")[0]
    if start == pattern:
        return Resource("topic", pattern)
    return Resource("topic", start, "prefixed") if start else Resource("topic", "*")


def _rows(settings: Settings, feature: Feature, who: Mapping[Login, str]) -> Iterator[tuple[str, ACL]]:
    needed = list(needed_by(settings, feature))
    if who["consumer"] == who["producer"]:
        yield from ((who["consumer"], acl) for acl in as_one_login(needed))
        return
    for login in _ALL_LOGINS:
        yield from (
            (who[login], replace(acl, login=login)) for acl in as_one_login(a for a in needed if a.login == login)
        )


def _principal(settings: Settings, login: Login) -> str:
    given = {**settings.kafka.properties, **getattr(settings.kafka, login)}
    protocol = str(given.get("security.protocol", "plaintext")).lower()
    mechanism = str(given.get("sasl.mechanisms", given.get("sasl.mechanism", ""))).upper()
    name = given.get("sasl.username")
    return (
        f"User:{name}" if name and protocol.startswith("sasl") and mechanism in _NAMES_PASSWORD_USER else _PLACEHOLDER
    )


def _principals(given: Mapping[str, Sequence[str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, values in given.items():
        if name not in {*_ALL_LOGINS, "both"}:
            raise ConfigError(
                f"--principal: {name!r} is no login of --acls", remedy="Write consumer=, producer= or both=User:NAME."
            )
        if ":" not in values[0]:
            raise ConfigError(f"--principal {name}: {values[0]!r} is no principal", remedy="It begins with User:")
        found |= dict.fromkeys(_ALL_LOGINS if name == "both" else (name,), values[0])
    return found


def _table(rows: Sequence[tuple[str, ACL]]) -> str:
    heads = ("PRINCIPAL", "OPERATION", "RESOURCE", "NAME", "FOR")
    lines = [heads, *(_cells(principal, acl) for principal, acl in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n" for line in lines
    )


def _cells(principal: str, acl: ACL) -> tuple[str, ...]:
    name = acl.resource.name + ("*" if acl.resource.pattern == "prefixed" else "")
    why = acl.why + (" (goes on without)" if acl.optional else "")
    return principal, acl.operation, _SAID.get(acl.resource.kind, acl.resource.kind), name, why


def _commands(rows: Sequence[tuple[str, ACL]]) -> str:
    return "".join(command(principal, acl) + "\n" for principal, acl in rows)


def command(principal: str, acl: ACL) -> str:
    """Write the call of ``kafka-acls.sh`` that adds an ACL."""
    option = [_OPTIONS[acl.resource.kind], *([acl.resource.name] if acl.resource.name != CLUSTER else [])]
    pattern = ["--resource-pattern-type", "prefixed"] if acl.resource.pattern == "prefixed" else []
    words = ["--add", "--allow-principal", principal, "--operation", acl.operation, *option, *pattern]
    return 'kafka-acls.sh --bootstrap-server "$BOOTSTRAP" ' + shlex.join(words)


def _json(rows: Sequence[tuple[str, ACL]]) -> str:
    tree = [
        {
            "principal": principal,
            "operation": acl.operation,
            "resource_type": acl.resource.kind,
            "resource_name": acl.resource.name,
            "pattern_type": acl.resource.pattern,
            "optional": acl.optional,
            "why": acl.why,
        }
        for principal, acl in rows
    ]
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"

"""``streamcrypt keys``: the KEKs of a configuration, and the rotation of their material."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamcrypt.cli.doctor_keys import configured_keks, make_inspector
from streamcrypt.cli.exits import Exit, complain
from streamcrypt.config import Settings, load
from streamcrypt.errors import ConfigError, KeyServiceError
from streamcrypt.keys.aws_kms.facts import MAX_ON_DEMAND_ROTATIONS, KeyFacts, RotationFacts
from streamcrypt.keys.aws_kms.inspection import PERIOD_DAYS, KeyInspector

__all__ = ["DEFAULT_PERIOD_DAYS", "RotateRequest", "list_keys", "rotate"]

DEFAULT_PERIOD_DAYS = 365
"""What KMS takes by itself."""
_WIDE = 240
_NEW_KEK = (
    "Make a new KEK and point the alias to it, or put it into key_id; then streamcrypt reencrypt --rewrap moves old "
    "records over."
)
_AFTERWARDS = (
    "Running pipelines notice within a minute and mint their next data keys under the new key material. Everything "
    "sealed before still opens: KMS keeps the old material."
)


@dataclass(frozen=True, slots=True)
class RotateRequest:
    """What ``keys rotate`` is asked.

    Attributes:
        period_days: Rotate by itself every so many days; None: rotate now, on demand.
        only: One KEK of the configuration, as it is named there or by its ARN; None for all.
        confirmed: Ask nobody.
    """

    period_days: int | None = None
    only: str | None = None
    confirmed: bool = False

    @classmethod
    def read(cls, automatic: bool, now: bool, period: int | None, only: str | None, yes: bool) -> RotateRequest:
        """Take the options of the command line.

        Raises:
            ConfigError: They do not go together.
        """
        if automatic == now:
            raise ConfigError(
                "pass either --automatic or --now",
                remedy="--automatic has KMS rotate by itself; --now rotates once, of 25 times in a key's life.",
            )
        if period is not None and not automatic:
            raise ConfigError("--period goes with --automatic")
        shortest, longest = PERIOD_DAYS
        if period is not None and not shortest <= period <= longest:
            raise ConfigError(f"--period is {shortest} to {longest} days, not {period}")
        return cls((period or DEFAULT_PERIOD_DAYS) if automatic else None, only, yes)


@dataclass(frozen=True, slots=True)
class _Kek:
    """A KEK on which rotation is done: of a multi-region key, the primary."""

    name: str
    facts: KeyFacts
    rotation: RotationFacts | None


def rotate(path: Path, request: RotateRequest, confirm: Callable[[str], bool]) -> Exit:
    """Switch automatic rotation on, or rotate on demand, each KEK under which the configuration seals.

    Args:
        path: The configuration.
        request: What is asked.
        confirm: Asks a person; not called where the request is confirmed.

    Returns:
        DONE where it was done for every KEK; FAILED where one cannot be rotated or nobody said yes. Nothing is done
        unless it can be done for all.

    Raises:
        ConfigError: The configuration or the request is wrong.
        KeyServiceError: KMS refused; what was done before is printed.
    """
    settings = load(path)
    with closing(_inspector(settings)) as inspector:
        keks = [_look_up(inspector, name) for name in _chosen(settings, request.only)]
        keks = list({kek.facts.arn: kek for kek in keks}.values())
        refused = [(kek, *why) for kek in keks if (why := _why_not(kek, request.period_days is None))]
        for kek, reason, remedy in refused:
            complain(f"{kek.facts.arn} cannot be rotated: {reason}", remedy)
        if refused:
            return Exit.FAILED
        for kek in keks:
            sys.stdout.write(f"{_plan(kek, request.period_days)}\n")
        if not request.confirmed and not confirm("Go on?"):
            complain("nothing was done")
            return Exit.FAILED
        for kek in keks:
            _do(inspector, kek, request.period_days)
    sys.stdout.write(f"{_AFTERWARDS}\n")
    return Exit.DONE


def _inspector(settings: Settings) -> KeyInspector:
    if settings.keys.provider != "aws-kms":
        raise ConfigError(
            "the keys of a keyring are not rotated by this command",
            remedy='Add a key to the keyring file, name it in "primary", and restart the pipelines.',
        )
    return make_inspector(settings.keys)


def _chosen(settings: Settings, only: str | None) -> Sequence[str]:
    names = configured_keks(settings)
    if only is None:
        return names
    if only not in names:
        raise ConfigError(f"--key {only}: the configuration does not name it", remedy=f"It names {', '.join(names)}.")
    return (only,)


def _look_up(inspector: KeyInspector, name: str) -> _Kek:
    facts = inspector.describe(name)
    if facts.primary and facts.primary != facts.arn:
        # A replica takes over what its primary does, and refuses to do it itself.
        facts = inspector.describe(facts.primary)
    return _Kek(name, facts, None if facts.why_not_rotatable() else inspector.rotation(facts.arn))


def _why_not(kek: _Kek, on_demand: bool) -> tuple[str, str] | None:
    """Say why a KEK is not rotated, with a remedy; None where it can be."""
    if why := kek.facts.why_not_rotatable():
        return why, _NEW_KEK
    if kek.facts.state != "Enabled":
        return f"its state is {kek.facts.state}", f"aws kms enable-key --key-id {kek.facts.arn}"
    rotation = kek.rotation
    if not on_demand:
        return None
    if rotation is None or rotation.on_demand is None:
        why = "this login may not see how many of its 25 rotations on demand are used"
        return why, f"Allow kms:GetKeyRotationStatus and kms:ListKeyRotations on {kek.facts.arn}."
    if rotation.under_way:
        return "a rotation on demand is under way", "Wait for its end: aws kms get-key-rotation-status."
    if rotation.on_demand >= MAX_ON_DEMAND_ROTATIONS:
        why = f"all {MAX_ON_DEMAND_ROTATIONS} rotations on demand of its life are used"
        return why, f"Use --automatic, which does not count. {_NEW_KEK}"
    return None


def _plan(kek: _Kek, period_days: int | None) -> str:
    facts, rotation = kek.facts, kek.rotation
    named = facts.arn if kek.name == facts.arn else f"{facts.arn} ({kek.name})"
    replicas = f", and with it {len(facts.replicas)} replicas" if facts.replicas else ""
    if period_days is not None:
        before = "it does not rotate by itself now"
        if rotation is not None and rotation.automatic:
            before = f"now it is every {rotation.period_days or DEFAULT_PERIOD_DAYS} days"
        return f"{named}: KMS will rotate it every {period_days} days{replicas}; {before}."
    used = rotation.on_demand if rotation is not None and rotation.on_demand is not None else 0
    left = MAX_ON_DEMAND_ROTATIONS - used - 1
    return (
        f"{named}: rotate its key material now{replicas}. {used} of {MAX_ON_DEMAND_ROTATIONS} rotations on demand are "
        f"used; {left} will be left for the rest of its life."
    )


def _do(inspector: KeyInspector, kek: _Kek, period_days: int | None) -> None:
    arn = kek.facts.arn
    if period_days is not None:
        request_id = inspector.rotate_by_itself(arn, period_days)
        text = f"{arn}: KMS rotates it every {period_days} days"
    else:
        request_id = inspector.rotate_now(arn)
        text = f"{arn}: a rotation on demand has begun"
    sys.stdout.write(f"{text} (request {request_id or 'without id'})\n")
    sys.stdout.flush()


def list_keys(path: Path, form: str) -> Exit:
    """Print the KEKs of a configuration: what they are, where they have replicas, how they rotate.

    Args:
        path: The configuration.
        form: ``table`` or ``json``.

    Returns:
        DONE; FAILED where one could not be looked up, which is told.

    Raises:
        ConfigError: The configuration or the arguments are wrong.
    """
    if form not in {"table", "json"}:
        raise ConfigError(f"--format is one of table, json, not {form!r}")
    settings = load(path)
    code = Exit.DONE
    found: list[tuple[str, KeyFacts, RotationFacts | None]] = []
    with closing(_inspector(settings)) as inspector:
        for name in (*configured_keks(settings), *settings.keys.trusted_keys):
            try:
                facts = inspector.describe(name)
                found.append((name, facts, None if facts.why_not_rotatable() else inspector.rotation(facts.arn)))
            except KeyServiceError as error:
                complain(f"{name}: {error}", error.remedy)
                code = Exit.FAILED
    if form == "json":
        tree = [_as_tree(name, facts, rotation) for name, facts, rotation in found]
        sys.stdout.write(json.dumps({"keys": tree}) + "\n")
    else:
        _show(found)
    return code


def _as_tree(name: str, facts: KeyFacts, rotation: RotationFacts | None) -> dict[str, Any]:
    tree = asdict(facts) | {"name": name, "rotation": None if rotation is None else asdict(rotation)}
    return {field: _plain(value) for field, value in tree.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return value


def _show(found: Sequence[tuple[str, KeyFacts, RotationFacts | None]]) -> None:
    console = Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in ("name", "ARN", "state", "rotation", "replicas"):
        table.add_column(head, overflow="fold", no_wrap=not sys.stdout.isatty())
    for name, facts, rotation in found:
        regions = ", ".join(arn.split(":")[3] for arn in facts.replicas)
        cells = (name, facts.arn, facts.state, "; ".join(_rotation(facts, rotation)), regions)
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)


def _rotation(facts: KeyFacts, rotation: RotationFacts | None) -> Iterator[str]:
    if why := facts.why_not_rotatable():
        yield f"not possible: {why}"
    elif rotation is None:
        yield "not known"
    else:
        yield f"every {rotation.period_days or DEFAULT_PERIOD_DAYS} days" if rotation.automatic else "not by itself"
        if rotation.last_time is not None:
            yield f"last {rotation.last_time:%Y-%m-%d}"
        if rotation.on_demand is not None:
            yield f"on demand {rotation.on_demand} of {MAX_ON_DEMAND_ROTATIONS}"

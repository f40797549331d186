"""What goes wrong, and when: schedules that a seed repeats, and the hands that carry them out."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from tests.broker import Broker

if TYPE_CHECKING:
    from tests.chaos.stage import Member, Stage

__all__ = ["FAULTS", "KMS_FAULTS", "WORKER_FAULTS", "Fault", "carry_out", "limit_topic", "schedule"]

# Longer than transaction.timeout.ms and than the session: what sleeps so long is a zombie when it wakes.
_ZOMBIE = 22.0


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a schedule.

    Attributes:
        at: Seconds from the start.
        kind: A name of ``FAULTS``.
        seconds: How long it lasts; 0 for a blow.
        chance: Between 0 and 1, for what the fault itself leaves open.
    """

    at: float
    kind: str
    seconds: float
    chance: float

    def __str__(self) -> str:
        return f"{self.at:.1f} s {self.kind} for {self.seconds:.1f} s"


Hand = Callable[["Stage", float], None]


@dataclass(frozen=True, slots=True)
class _Kind:
    begin: Hand
    end: Hand
    shortest: float
    longest: float


def schedule(
    seed: int, seconds: float, kinds: Sequence[str], *, quiet: tuple[float, float] = (1.0, 6.0), pace: float = 1.0
) -> list[Fault]:
    """Give faults one after the other, with quiet times between; the same ones for the same arguments.

    Every kind comes once before any comes again. The last one ends before ``seconds``.

    Args:
        seed: Of every chance.
        seconds: How long the schedule lasts.
        kinds: Names of ``FAULTS``.
        quiet: The shortest and the longest pause.
        pace: Shortens faults and pauses, for a short form.
    """
    dice, at, made = random.Random(seed), 0.0, []
    deck: list[str] = []
    while True:
        if not deck:
            deck = list(kinds)
            dice.shuffle(deck)
        kind = deck.pop()
        at += dice.uniform(*quiet) * pace
        lasts = dice.uniform(FAULTS[kind].shortest, FAULTS[kind].longest) * pace
        if at + lasts > seconds:
            return made
        made.append(Fault(round(at, 3), kind, round(lasts, 3), dice.random()))
        at += lasts


def carry_out(stage: Stage, faults: Sequence[Fault], load: Callable[[float], None]) -> Iterator[Fault]:
    """Carry a schedule out in real time; give each fault once it is over.

    Args:
        stage: Where.
        faults: What, in order of time.
        load: Called with the seconds since the start, every few hundredths of a second: sends what is due by then.
    """
    began = time.monotonic()

    def until(moment: float) -> None:
        while (now := time.monotonic() - began) < moment:
            load(now)
            time.sleep(min(0.05, max(0.0, moment - now)))

    for fault in faults:
        until(fault.at)
        kind = FAULTS[fault.kind]
        kind.begin(stage, fault.chance)
        try:
            until(fault.at + fault.seconds)
        finally:
            kind.end(stage, fault.chance)
        stage.revive()
        yield fault


def limit_topic(broker: Broker, topic: str, size: int) -> None:
    """Set the largest batch that a topic takes, in bytes."""
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    [done] = broker.admin.incremental_alter_configs([resource]).values()
    done.result(30)


def _nothing(_stage: Stage, _chance: float) -> None:
    """Nothing to do."""


def _heal(stage: Stage, _chance: float) -> None:
    stage.kms.heal()


def _choose(stage: Stage, chance: float) -> Member:
    return stage.members[int(chance * len(stage.members))]


def _kill(stage: Stage, chance: float) -> None:
    member = _choose(stage, chance)
    member.kill()
    member.start()


def _freeze(stage: Stage, chance: float) -> None:
    _choose(stage, chance).signal(signal.SIGSTOP)


def _thaw(stage: Stage, chance: float) -> None:
    _choose(stage, chance).signal(signal.SIGCONT)


def _leave(stage: Stage, chance: float) -> None:
    member = _choose(stage, chance)
    if member.alive:
        member.stop(30)


def _join(stage: Stage, chance: float) -> None:
    """A further member comes; it goes with a kill or a goodbye, and its place stays empty."""
    guest = stage.member(f"guest-{int(chance * 1e6)}")
    stage.guests.append(guest.start())
    stage.guests_made += 1


def _depart(stage: Stage, chance: float) -> None:
    guest = stage.guests.pop()
    if chance * 1e6 % 2 < 1 and guest.alive:
        guest.stop(30)
    guest.close()


def _restart_broker(stage: Stage, chance: float) -> None:
    (stage.broker.stop if chance < 0.5 else stage.broker.kill)()
    stage.broker.start()


def _jump(stage: Stage, chance: float) -> None:
    # Hours ahead or back; suspend only ever adds.
    hours = (chance - 0.5) * 48
    for member in stage.members:
        member.jump(hours * 3600, max(0.0, hours) * 3600)


def _still(stage: Stage, _chance: float) -> None:
    for member in stage.members:
        member.jump(0.0, 0.0)


def _disable(stage: Stage, _chance: float) -> None:
    stage.kms.call("DisableKey", KeyId=stage.key_arn)


def _enable(stage: Stage, _chance: float) -> None:
    stage.kms.call("EnableKey", KeyId=stage.key_arn)


# Below this no batch of a few hundred records fits, but every record by itself.
_NARROW, _WIDE = 4_000, 2_000_000


def _narrow(stage: Stage, _chance: float) -> None:
    limit_topic(stage.broker, stage.sealed, _NARROW)


def _widen(stage: Stage, _chance: float) -> None:
    limit_topic(stage.broker, stage.sealed, _WIDE)


FAULTS: dict[str, _Kind] = {
    "kms throttles half": _Kind(
        lambda stage, _: stage.kms.fail("ThrottlingException", fraction=0.5), _heal, 10.0, 30.0
    ),
    "kms throttles all": _Kind(lambda stage, _: stage.kms.fail("ThrottlingException"), _heal, 5.0, 20.0),
    "kms fails": _Kind(lambda stage, _: stage.kms.fail("KMSInternalException"), _heal, 5.0, 30.0),
    "kms hangs": _Kind(lambda stage, _: stage.kms.hang(), _heal, 5.0, 20.0),
    "kms drops connections": _Kind(lambda stage, _: stage.kms.drop(fraction=0.7), _heal, 5.0, 20.0),
    "kms answers garbage": _Kind(lambda stage, _: stage.kms.garble(), _heal, 5.0, 10.0),
    "kms is slow": _Kind(lambda stage, _: stage.kms.delay(1.5), _heal, 10.0, 30.0),
    "kms refuses connections": _Kind(
        lambda stage, _: stage.gate.close(), lambda stage, _: stage.gate.open(), 5.0, 30.0
    ),
    "kms denies": _Kind(lambda stage, _: stage.kms.fail("AccessDeniedException"), _heal, 5.0, 15.0),
    "key disabled": _Kind(_disable, _enable, 5.0, 15.0),
    "worker killed": _Kind(_kill, _nothing, 0.0, 3.0),
    "worker leaves and comes back": _Kind(_leave, _nothing, 0.0, 4.0),
    "worker frozen": _Kind(_freeze, _thaw, 1.0, 8.0),
    "zombie wakes": _Kind(_freeze, _thaw, _ZOMBIE, _ZOMBIE + 4),
    "guest comes and goes": _Kind(_join, _depart, 3.0, 12.0),
    "broker restarts": _Kind(_restart_broker, _nothing, 0.0, 1.0),
    "clocks jump": _Kind(_jump, _still, 2.0, 8.0),
    "target takes small batches only": _Kind(_narrow, _widen, 2.0, 6.0),
}
"""Every fault by its name: how it begins and ends, and how long it may last."""

KMS_FAULTS = tuple(name for name in FAULTS if name.startswith("k"))
WORKER_FAULTS = tuple(name for name in FAULTS if name not in KMS_FAULTS)

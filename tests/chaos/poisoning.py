"""Poisoned records among sound ones: each becomes one true dead letter, neighbours arrive, replay mends some."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

from confluent_kafka import Consumer, TopicPartition

import streamcrypt as sc
from tests.broker import Broker, unique_name, wait_until
from tests.chaos.checker import Checker, Findings, Letter, check_letters, find_leaks
from tests.chaos.poison import CONTEXT, ELSEWHERE, KINDS, Bottle, Poisoned
from tests.chaos.records import Arrived, Book, Record, arrived
from tests.chaos.scenarios import Context, Outcome
from tests.chaos.traffic import Follower, Loader
from tests.log_scan import SCAN
from tests.sidecar import Sidecar, config_of, environment

__all__ = ["poisoned"]

PARTITIONS = 4
_SLOWEST = 0.8
_DRAIN = 120.0


class _Rig:
    """A decrypting pipeline with dead letters, and the topics around it.

    Args:
        broker: The broker.
        directory: For keyrings, configurations and logs.
        delivery: Of the pipeline.
    """

    def __init__(self, broker: Broker, directory: Path, delivery: str) -> None:
        self.broker, self.directory, self.delivery = broker, directory, delivery
        directory.mkdir(parents=True, exist_ok=True)
        self.sealed, self.opened, self.letters = (
            broker.create_topic(unique_name(name), PARTITIONS) for name in ("sealed", "opened", "letters")
        )
        own, foreign = os.urandom(32), os.urandom(32)
        self.keys = sc.LocalKeyProvider({"own": own}, "own")
        self.foreign = sc.LocalKeyProvider({"foreign": foreign}, "foreign")
        self.both = sc.LocalKeyProvider({"own": own, "foreign": foreign}, "own")
        self.pipeline = unique_name("open")
        self.group = unique_name("g")

    def config(self, keys: sc.LocalKeyProvider, **sections: Any) -> dict[str, Any]:
        """The configuration under one keyring."""
        path = self.directory / f"{unique_name('keyring')}.json"
        keys.save(path)
        pipeline = {
            "name": self.pipeline,
            "group": self.group,
            "mode": "decrypt",
            "from": self.sealed,
            "to": self.opened,
            "delivery": self.delivery,
            "on_failure": "dead_letter",
            "dead_letter": self.letters,
            "instance": "only",
        }
        local = {"provider": "local", "keyring": str(path)}
        log = {"level": "info"}
        return config_of(self.broker.bootstrap, local, pipeline, context=CONTEXT, log=log, http={"port": 0}, **sections)

    def replay(self, reason: str, keys: sc.LocalKeyProvider, **sections: Any) -> subprocess.CompletedProcess[str]:
        """Run ``streamcrypt replay`` with what mends the cause."""
        path = self.directory / f"{unique_name('config')}.yaml"
        path.write_text(json.dumps(self.config(keys, **sections)))
        command = [sys.executable, "-m", "streamcrypt", "replay", str(path), self.letters, "--reason", reason]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=180, check=False)
        SCAN.add(done.stderr)
        return done

    def read(self, topic: str) -> list[Arrived]:
        """Everything on a topic, read committed."""
        return [arrived(message) for message in self.broker.read(topic, timeout=120)]


def poisoned(context: Context, *, records: int, poison: int, rounds: int = 3) -> Outcome:
    """Spread poison of every kind among sound records, let the pipeline pass them, hold letters against the truth,
    compare its speed with that of a clean run, and replay what can be mended.
    """
    outcome = Outcome(f"{poison} poisoned among {records}, {context.delivery}", context.seed)
    speeds: dict[str, list[float]] = {"clean": [], "poisoned": []}
    for number in range(rounds):
        for name, count in (("clean", 0), ("poisoned", poison)):
            rig = _Rig(context.broker, context.directory / f"poison-{number}-{name}", context.delivery)
            book = Book(context.seed + number, int(time.time() * 1000) - 1000, PARTITIONS)
            truth = _fill(rig, book, records, count, random.Random(context.seed + number))
            findings, speed = _run(rig, book, truth, records)
            speeds[name].append(round(speed))
            outcome.findings.merge(findings)
            if count and number == 0:
                # Replaying on each round would show the same again.
                outcome.findings.merge(_mend(rig, book, truth, records, outcome.figures), "replay: ")
                outcome.figures["kinds"] = dict(Counter(kind for _, kind, _ in truth.values()))
    clean, spoiled = median(speeds["clean"]), median(speeds["poisoned"])
    outcome.figures |= {"records/s": speeds, "poisoned to clean": round(spoiled / clean, 3)}
    if records >= 50_000 and spoiled < _SLOWEST * clean:
        outcome.findings.add("slow", f"{spoiled:.0f} records/s with poison, {clean:.0f} without")
    return outcome


Truth = dict[int, tuple[Letter, str, Record]]


def _fill(rig: _Rig, book: Book, records: int, poison: int, dice: random.Random) -> Truth:
    """Put sound and spoiled records on the sealed topic; give number to letter, kind and record of the spoiled."""
    kinds = list(KINDS)
    eligible = [n for n in range(records) if book.record(n).value]
    chosen = dict(
        zip(sorted(dice.sample(eligible, poison)), (kinds[i % len(kinds)] for i in range(poison)), strict=True)
    )
    truth: Truth = {}
    with (
        contextlib.closing(Bottle(rig.sealed, rig.keys, rig.foreign)) as bottle,
        contextlib.closing(Loader(rig.broker.bootstrap, rig.sealed, book)) as loader,
    ):
        for number in range(records):
            record = book.record(number)
            made: Poisoned = bottle.spoiled(record, chosen[number]) if number in chosen else bottle.sound(record)
            if made.letter is not None:
                truth[number] = (made.letter, chosen[number], made.record)
            loader.put(made.record)
        loader.settle()
    return truth


def _run(rig: _Rig, book: Book, truth: Truth, records: int) -> tuple[Findings, float]:
    """Let the pipeline pass all of it; give what is wrong and the records a second."""
    sound = [number for number in range(records) if number not in truth]
    findings = Findings()
    with (
        contextlib.closing(Follower(rig.broker.bootstrap, {rig.letters: PARTITIONS})) as follower,
        contextlib.closing(_Probe(rig)) as probe,
        Sidecar(rig.directory, rig.config(rig.keys)) as sidecar,
    ):
        sidecar.ready()
        began = time.monotonic()
        wait_until(lambda: probe.lag() == 0, "the group to reach the end", _DRAIN)
        seconds = time.monotonic() - began
        wait_until(lambda: follower.distinct(rig.letters) >= len(truth), f"{len(truth)} letters", 60)
        if sidecar.stop() != 0:
            findings.add("did not end cleanly", sidecar.tail())
    opened, letters = rig.read(rig.opened), rig.read(rig.letters)
    findings.merge(Checker(book).check(opened, sound), "opened: ")
    findings.merge(check_letters(letters, _placed(rig, truth), rig.pipeline))
    findings.merge(find_leaks(letters), "letters: ")
    return findings, records / seconds


class _Probe:
    """Asks how far the group is from the end, without joining it."""

    def __init__(self, rig: _Rig) -> None:
        self._consumer = Consumer({"bootstrap.servers": rig.broker.bootstrap, "group.id": rig.group, "log_level": 0})
        self._places = [TopicPartition(rig.sealed, number) for number in range(PARTITIONS)]
        self._ends = [self._consumer.get_watermark_offsets(place, timeout=30)[1] for place in self._places]

    def lag(self) -> int:
        """Give the records between what is committed and the end."""
        committed = self._consumer.committed(self._places, timeout=30)
        return sum(end - max(place.offset, 0) for end, place in zip(self._ends, committed, strict=True))

    def close(self) -> None:
        """End the client."""
        self._consumer.close()


def _placed(rig: _Rig, truth: Truth) -> dict[tuple[str, int, int], Letter]:
    """Say where each spoiled record stands: by its timestamp, which nobody touched."""
    by_time = {letter.timestamp: letter for letter, _, _ in truth.values()}
    return {
        (found.topic, found.partition, found.offset): by_time[found.timestamp]
        for found in rig.read(rig.sealed)
        if found.timestamp in by_time
    }


def _mend(rig: _Rig, book: Book, truth: Truth, records: int, figures: dict[str, Any]) -> Findings:
    """Mend two causes, replay, and hold what came back and what stayed against the truth."""
    findings = Findings()
    before = len(rig.read(rig.letters))
    steps = (
        ("foreign KEK", "UntrustedKey", rig.both, {}),
        ("wrong topic", ELSEWHERE, rig.keys, {"topic_names": {rig.sealed: ELSEWHERE}}),
    )
    sound = [number for number in range(records) if number not in truth]
    mended: list[int] = []
    for kind, reason, keys, sections in steps:
        mended += [number for number, (_, its, _) in truth.items() if its == kind]
        done = rig.replay(reason, keys, **sections)
        figures[f"replay of {kind}"] = done.stdout.strip().splitlines()
        if done.returncode != 0:
            findings.add("replay failed", f"{kind}: exit {done.returncode}: {done.stderr[-1500:]}")
    opened = rig.read(rig.opened)
    # What was replayed lands behind what came later: order is held among the sound, presence among all.
    back = {book.epoch + number for number in mended}
    findings.merge(_unordered(book).check(opened, [*sound, *mended]), "opened: ")
    findings.merge(Checker(book).check([found for found in opened if found.timestamp not in back], sound), "sound: ")
    left = {
        place: letter
        for place, letter in _placed(rig, truth).items()
        if letter.timestamp - book.epoch not in set(mended)
    }
    findings.merge(check_letters(_standing(rig, findings), left, rig.pipeline), "letters: ")
    findings.merge(find_leaks(rig.read(rig.letters)))
    figures["letters before and after"] = (before, len(left))
    return findings


def _standing(rig: _Rig, findings: Findings) -> list[Arrived]:
    """Give the letters that a next replay would look at: those behind what the replays have committed."""
    probe = Consumer({"bootstrap.servers": rig.broker.bootstrap, "group.id": f"{rig.group}.replay", "log_level": 0})
    try:
        places = probe.committed([TopicPartition(rig.letters, number) for number in range(PARTITIONS)], timeout=30)
    finally:
        probe.close()
    starts = {place.partition: place.offset for place in places}
    if min(starts.values()) < 0:
        findings.add("replay committed nothing", str(starts))
    return [found for found in rig.read(rig.letters) if found.offset >= starts[found.partition]]


class _Unordered(Checker):
    """Presence and content only."""

    def _check_order(self, *_arguments: object) -> None:
        return


def _unordered(book: Book) -> Checker:
    return _Unordered(book)

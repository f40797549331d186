"""Claims about ACLs, on a broker that allows nothing else: TLS, SCRAM and StandardAuthorizer."""

from __future__ import annotations

import contextlib
import json
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from streamcrypt import events
from streamcrypt.cli.compose import build_provider
from streamcrypt.cli.policy_acls import needed_by
from streamcrypt.cli.run import factory
from streamcrypt.config import Settings, load
from streamcrypt.envelope.header import HEADER_NAME
from streamcrypt.policies.acls import ACL, Feature, as_one_login
from streamcrypt.sidecar.supervisor import Supervisor
from tests.broker import unique_name, wait_until
from tests.secure_broker import SecureBroker, secure_broker
from tests.sidecar import keyring_at

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

RECORDS = 5
_AT_ONCE = 4
# Describe alone lets these be seen, and so the refusal comes later and in another shape.
_ALSO_SEEN = {("Read", "topic", "consumer"), ("Write", "topic", "producer")}


@pytest.fixture(scope="module")
def broker() -> Iterator[SecureBroker]:
    with secure_broker() as found:
        found.create_topic("orders")
        found.create_topic("letters")
        # One that is sealed already goes to the dead letters.
        sealed = [{"key": b"k", "value": b"v", "headers": [(HEADER_NAME, b"x")]}]
        found.produce("orders", [{"key": b"%d" % n, "value": b"v"} for n in range(RECORDS)] + sealed)
        yield found


class Run:
    """A pipeline in this process, from its start to what becomes of it.

    Args:
        directory: For its configuration.
        broker: Where it logs in.
        consumer, producer: As whom.
        changes: Of its pipeline's settings.
    """

    def __init__(self, directory: Path, broker: SecureBroker, consumer: str, producer: str, **changes: Any) -> None:
        name = unique_name("p")
        pipeline = {"name": name, "group": name, "mode": "encrypt", "from": "orders", "to": f"{name}.sealed"}
        letters = {"on_failure": "dead_letter", "dead_letter": "letters", "commit_interval": "100ms"}
        tree = {
            "kafka": {**broker.login(consumer), "producer": {"sasl.username": producer}},
            "keys": keyring_at(directory),
            "pipelines": [{**pipeline, **letters, **changes}],
        }
        path = directory / f"{name}.yaml"
        path.write_text(json.dumps(tree))
        self.settings: Settings = load(path, {})
        self.target = f"{name}.sealed"
        self.refusals: list[events.BrokerRefused] = []
        self.events: list[events.Event] = []
        self.failures: Sequence[Exception] = ()
        self.stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name)

    @property
    def needs(self) -> list[ACL]:
        """What it needs at least."""
        return [acl for acl in needed_by(self.settings, Feature.RUN) if not acl.optional]

    def begin(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self.stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    @property
    def committed(self) -> int:
        """How many records it has passed for good."""
        return sum(event.records for event in list(self.events) if isinstance(event, events.OffsetsCommitted))

    @property
    def decided(self) -> bool:
        """Whether it was refused, ended, or has passed what there is to pass."""
        passed = self.committed >= RECORDS and any(isinstance(e, events.RecordFailed) for e in list(self.events))
        return bool(self.refusals) or not self._thread.is_alive() or passed

    def next(self, kind: type[Any], after: events.Event) -> Any:
        """The first event of a kind after another one, which is waited for."""
        begin = self.events.index(after)

        def find() -> Iterator[Any]:
            return (event for event in self.events[begin:] if isinstance(event, kind))

        wait_until(lambda: any(True for _ in find()), kind.__name__)
        return next(find())

    def _observe(self, event: events.Event) -> None:
        self.events.append(event)
        if isinstance(event, events.BrokerRefused):
            self.refusals.append(event)

    def _run(self) -> None:
        provider = build_provider(self.settings.keys)
        one = factory(self.settings, self.settings.pipelines[0], provider, self._observe)
        with contextlib.closing(provider):
            self.failures = Supervisor([one], self._observe, self.stop).run()


def run_all(broker: SecureBroker, runs: Mapping[str, Run], acls: Mapping[str, Sequence[ACL]]) -> None:
    """Run pipelines beside each other until each has shown what becomes of it."""
    broker.add_users(*acls)
    broker.create_topics([run.target for run in runs.values()])
    broker.allow_all(acls)
    left = list(runs.values())
    while left:
        # Not all at once: a busy machine would take their answers for outages.
        some, left = left[:_AT_ONCE], left[_AT_ONCE:]
        for run in some:
            run.begin()
        try:
            wait_until(lambda: all(run.decided for run in some), "pipelines to pass records or be refused")  # noqa: B023
        except AssertionError as late:
            raise AssertionError(f"{late}: {_states(runs)}") from None
        finally:
            for run in some:
                run.stop.set()
            for run in some:
                run.close()


def _states(runs: Mapping[str, Run]) -> dict[str, list[str]]:
    """The last events of the pipelines that are not decided."""
    return {case: [repr(event)[:300] for event in run.events[-8:]] for case, run in runs.items() if not run.decided}


def test_a_pipeline_runs_with_the_acls_of_the_table_and_is_told_which_one_is_missing(broker, tmp_path):
    """With all of them records pass; with any one gone, or cut down to Describe, it names who may not do what."""
    runs: dict[str, Run] = {}
    acls: dict[str, list[ACL]] = {}
    missing: dict[str, tuple[str, ACL]] = {}

    def add(case: str, **changes: Any) -> Run:
        run = runs[case] = Run(tmp_path, broker, f"{case}-r", f"{case}-w", **changes)
        acls[f"{case}-r"] = [acl for acl in run.needs if acl.login == "consumer"]
        acls[f"{case}-w"] = [acl for acl in run.needs if acl.login == "producer"]
        return run

    add("complete")
    add("complete-alo", delivery="at_least_once")
    for number in range(len(runs["complete"].needs)):
        acl = runs["complete"].needs[number]
        shapes = ("none", "seen") if (acl.operation, acl.resource.kind, acl.login) in _ALSO_SEEN else ("none",)
        for cut in shapes:
            case = f"{number}-{cut}"
            acl = add(case).needs[number]
            user = f"{case}-r" if acl.login == "consumer" else f"{case}-w"
            acls[user].remove(acl)
            if cut == "seen":
                acls[user].append(replace(acl, operation="Describe"))
            missing[case] = (user, acl)
    run_all(broker, runs, acls)
    for case in ("complete", "complete-alo"):
        assert runs[case].refusals == []
        assert runs[case].failures == []
        assert len(broker.read(runs[case].target)) == RECORDS
    assert len(broker.read("letters")) == 2
    for case, (user, acl) in missing.items():
        [refusal, *_] = runs[case].refusals
        assert (refusal.principal, refusal.operation, refusal.resource) == (
            f"User:{user}",
            acl.operation,
            acl.resource.kind,
        ), case
        # Of a transaction a broker does not say which topic it refused, and transactional ids begin as the ACL says.
        assert acl.resource.name in refusal.name, case
        assert "kafka-acls.sh --add" in refusal.remedy
        assert f"--allow-principal User:{user} --operation {acl.operation} " in refusal.remedy


def test_a_running_pipeline_waits_for_an_acl_that_went_and_goes_on_by_itself(broker, tmp_path):
    """Nothing ends and nothing is lost: it tries again in pauses, and passes what has come meanwhile, once."""
    source = broker.create_topic()
    run = Run(tmp_path, broker, "patient", "patient", **{"from": source})
    broker.add_users("patient")
    broker.create_topics([run.target])
    acls = as_one_login(run.needs)
    broker.allow("patient", acls)
    broker.produce(source, [{"value": b"1"}])
    run.begin()
    with contextlib.closing(run):
        wait_until(lambda: run.committed == 1, "the first record")
        [write] = [acl for acl in acls if acl.resource.name == run.target]
        broker.withdraw("patient", write)
        broker.produce(source, [{"value": b"2"}])
        wait_until(lambda: bool(run.refusals), "a refusal")
        assert run.next(events.PipelineRestarting, after=run.refusals[0]).error == "AccessRefused"
        broker.allow("patient", [write])
        wait_until(lambda: run.committed == 2, "the second record")
    assert run.failures == []
    assert len(broker.read(run.target)) == 2

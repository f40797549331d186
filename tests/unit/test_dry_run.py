"""Claims about ``run --dry-run`` that need no broker: what becomes of a record, and what is printed of it."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
from typer.testing import CliRunner

from streamcrypt import Decryptor, Encryptor, KeyRefused, LocalKeyProvider
from streamcrypt.cli.app import app
from streamcrypt.cli.dry_run import DryRunRequest
from streamcrypt.cli.dry_run_looking import Foreseen, Outcome, Rehearsal, Rehearsed
from streamcrypt.cli.dry_run_table import as_tree, show_table
from streamcrypt.cli.form import Form
from streamcrypt.errors import AuthenticationFailed, ConfigError
from streamcrypt.sidecar.cutover import Cutover, TopicCutover
from streamcrypt.sidecar.dead_letters import DeadLetters
from streamcrypt.sidecar.safeguards import Safeguards
from streamcrypt.sidecar.spec import Mode, OnFailure, PipelineSpec
from streamcrypt.sidecar.topics import Routes
from streamcrypt.sidecar.transform import Open, Seal
from streamcrypt.testing.slow_keys import DECRYPT, ScriptedKeyProvider
from tests.unit.test_cat import Record

SPEC = PipelineSpec("open", Mode.DECRYPT, "g", ("payments.encrypted",), "payments")
SKIPPING = replace(SPEC, on_failure=OnFailure.SKIP)
BURYING = replace(SPEC, on_failure=OnFailure.DEAD_LETTER, dead_letter="dlq")
BARE = Record(b"clear")


class Stage:
    """A decrypting pipeline of two partitions, and a record that it opens."""

    def __init__(self) -> None:
        self.script = ScriptedKeyProvider(LocalKeyProvider.generate())
        self.decryptor = Decryptor(self.script)
        with Encryptor(self.script) as sealer:
            self.sealed = Record(*sealer.encrypt("payments.encrypted", b"secret", b"customer-17"))

    def looking(self, spec: PipelineSpec = SPEC, most: int = 1000, safeguards: Safeguards | None = None, **topics: int):
        """A rehearsal that is given its messages by hand, and so needs no consumer."""
        routes = Routes(spec, {"payments.encrypted": 2, "payments": 2, "dlq": 1} | topics)
        policies = safeguards or Safeguards(DeadLetters("open", "dlq", None) if spec.dead_letter else None)
        nobody: Any = None
        return Rehearsal(spec, Open(self.decryptor), policies, routes, nobody, (), most, threading.Event())


@pytest.fixture
def stage():
    """See :class:`Stage`."""
    made = Stage()
    yield made
    made.decryptor.close()


def test_a_record_that_opens_arrives(stage):
    """With the sizes before and after, and the data key that it stood under."""
    found = stage.looking()._foresee(stage.sealed)
    assert (found.outcome, found.target, found.target_partition) == (Outcome.ARRIVE, "payments", 0)
    assert (found.bytes_in, found.bytes_out) == (6 + 28, 6)
    assert found.envelope.keks == ("local-1",)


@pytest.mark.parametrize(
    ("spec", "outcome", "target"),
    [(SPEC, Outcome.HALT, ""), (SKIPPING, Outcome.SKIP, ""), (BURYING, Outcome.DEAD_LETTER, "dlq")],
)
def test_a_record_that_fails_goes_where_the_policy_says(stage, spec, outcome, target):
    """The reason stands beside it."""
    found = stage.looking(spec)._foresee(BARE)
    assert (found.outcome, found.target, type(found.failure).__name__) == (outcome, target, "PlaintextRejected")


def test_a_record_without_an_envelope_passes_below_the_cut(stage):
    """As it is, and no further."""
    cut = Safeguards(cutover=Cutover({"payments.encrypted": TopicCutover("x" * 22, {0: 13})}))
    looking = stage.looking(safeguards=cut)
    assert looking._foresee(BARE).outcome is Outcome.ARRIVE_AS_IT_IS
    assert looking._foresee(replace_number(BARE, 13)).outcome is Outcome.HALT


def replace_number(record: Record, number: int) -> Record:
    """The same record at another offset."""
    return Record(record.content, record.pairs, record.name, record.record_key, number)


def test_what_stands_behind_a_record_that_waits_waits_too(stage):
    """Whatever it is."""
    stage.script.away(DECRYPT, KeyRefused("denied"))
    looking = stage.looking(SKIPPING)
    assert looking._foresee(stage.sealed).outcome is Outcome.WAIT
    behind = looking._foresee(replace_number(BARE, 13))
    assert (behind.outcome, str(behind.failure)) == (Outcome.WAIT, "it stands behind offset 12, which waits")


def test_a_missing_partition_of_the_target_has_the_record_wait(stage):
    """As the loop's own routes say."""
    found = stage.looking(payments=0)._foresee(stage.sealed)
    assert (found.outcome, type(found.failure).__name__) == (Outcome.WAIT, "RouteProblem")


def test_a_record_over_the_producers_limit_fails(stage):
    """The key counts, too."""
    assert stage.looking(SKIPPING, most=17)._foresee(stage.sealed).outcome is Outcome.ARRIVE
    found = stage.looking(SKIPPING, most=16)._foresee(stage.sealed)
    assert (found.outcome, type(found.failure).__name__) == (Outcome.SKIP, "RecordTooLarge")


def test_sealing_shows_the_envelope_that_it_makes():
    """A data key of its own, for the target."""
    spec = PipelineSpec("seal", Mode.ENCRYPT, "g", ("payments",), "payments.encrypted")
    routes = Routes(spec, {"payments": 1, "payments.encrypted": 1})
    nobody: Any = None
    sealing = Seal(Encryptor(LocalKeyProvider.generate()))
    looking = Rehearsal(spec, sealing, Safeguards(), routes, nobody, (), 10_000, threading.Event())
    found = looking._foresee(Record(b"x" * 50, name="payments"))
    assert (found.bytes_in, found.bytes_out) == (50, 78)
    assert (found.envelope.header.topic, found.envelope.lane, found.envelope.sequence) == ("payments.encrypted", 0, 1)
    sealing.close()


def test_the_table_shows_reasons_and_no_control_character(capsys):
    """A pipeline that would not start, one without records, one with a failure."""
    failed = Foreseen("t", 0, 7, Outcome.HALT, failure=AuthenticationFailed("bad \x1b[31m thing", remedy="look"))
    found = [
        Rehearsed("a", "encrypt", problem=ConfigError("no such key")),
        Rehearsed("b", "decrypt"),
        Rehearsed("c", "decrypt", [failed]),
    ]
    show_table(found)
    shown = capsys.readouterr().out
    assert "would not start: ConfigError: no such key" in shown
    assert "no record to look at" in shown
    assert "t[0] offset 7: AuthenticationFailed: bad \\x1b[31m thing" in shown
    assert "\x1b" not in shown
    assert [one["passes"] for one in as_tree(found)["pipelines"]] == [False, True, False]


@pytest.mark.parametrize("options", [(0, None), (-1, "json"), (5, "xml")])
def test_wrong_options_are_refused(options):
    """As errors of the arguments."""
    with pytest.raises(ConfigError):
        DryRunRequest.read(*options)
    assert DryRunRequest.read(None, None) == DryRunRequest(10, Form.TABLE)


def test_options_of_the_dry_run_need_it():
    """A run that should have been dry must not begin."""
    result = CliRunner().invoke(app, ["run", "missing.yaml", "--records", "5"])
    assert result.exit_code == 2
    assert "--records and --format go with --dry-run" in result.stderr

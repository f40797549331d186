"""Claims about what the status page is told: events folded into a bounded picture, several processes made one."""

from __future__ import annotations

import dataclasses
import json
import typing

import pytest

from streamcrypt import events
from streamcrypt.keys.rotation import RotationPolicy
from streamcrypt.observe.page_words import clock, lasting, sentences
from streamcrypt.observe.status import MOST_FAILURES, Status, merge
from streamcrypt.observe.status_series import SECONDS, Counts, Levels, added
from streamcrypt.sidecar.spec import Mode, PipelineSpec
from tests.unit.test_observe import sample

NOON = 1_800_000_000.0
KEK = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
DATA_KEY = "4f1c8e" + "0" * 58
SPEC = PipelineSpec("protect-payments", Mode.ENCRYPT, "g", ("payments",), "payments.encrypted")
NAME = SPEC.name


class Wall:
    """A clock on the wall that moves when told to."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def status(wall) -> Status:
    """A process with one pipeline that runs with six partitions."""
    status = Status([SPEC], RotationPolicy(), clock=wall)
    status(events.PipelineStarting(NAME, "encrypt", "g"))
    status(events.PipelineReady(NAME, 6))
    status(events.LoopTurned(NAME, 6, 0))
    return status


def pipeline(status: Status) -> dict:
    """The one pipeline of a snapshot."""
    (found,) = status.snapshot()["pipelines"]
    return found


def first(status: Status) -> dict:
    """The sentence on top."""
    return sentences(status.snapshot())[0]


def call(outcome: str, region: str = "eu-west-1", key_id: str = KEK) -> events.KeyServiceCalled:
    return events.KeyServiceCalled("GenerateDataKey", region, key_id, "", (), outcome, "r", 0.02)


def pause(partition: int = 0, error: str = "KeyUnavailable", detail: str = "timed out") -> events.PartitionPaused:
    return events.PartitionPaused(NAME, "payments", partition, 7, error, detail, "Look there.")


# -- series ------------------------------------------------------------------------------------------------------------


def test_counts_are_kept_second_by_second_and_forgotten_after_two_minutes():
    counts = Counts()
    counts.add(1000, 3)
    counts.add(1000, 4)
    counts.add(1002, 5)
    assert counts.until(1002)[-3:] == [7, 0, 5]
    assert counts.until(1000 + SECONDS - 1)[0] == 7
    assert sum(counts.until(1000 + SECONDS)) == 5
    assert sum(counts.until(1_000_000)) == 0


def test_a_clock_set_back_loses_no_count():
    counts = Counts()
    counts.add(1000, 1)
    counts.add(400, 2)
    assert counts.until(1000)[-1] == 3


def test_a_level_stays_until_something_else_is_said():
    levels = Levels()
    levels.set(1000, 8)
    levels.set(1003, 2)
    assert levels.until(1004)[-6:] == [None, 8, 8, 8, 2, 2]


def test_series_of_processes_are_added_by_the_second_they_belong_to():
    one = {"until": 1001, "x": [0] * (SECONDS - 2) + [1, 2]}
    other = {"until": 1000, "x": [None] * (SECONDS - 1) + [10]}
    total = added([one, other], "x")
    assert len(total) == SECONDS
    assert total[-3:] == [0, 11, 2]


# -- pipelines ---------------------------------------------------------------------------------------------------------


def test_a_pipeline_that_was_configured_is_shown_before_it_starts(wall):
    (found,) = Status([SPEC], clock=wall).snapshot()["pipelines"]
    assert (found["state"], found["mode"], found["from"], found["to"]) == (
        "not_started",
        "encrypt",
        ["payments"],
        "payments.encrypted",
    )


def test_batches_commits_and_lag_become_numbers_and_series(status, wall):
    for _ in range(10):
        wall.now += 1
        status(events.BatchDone(NAME, "payments", 100, 1000, 1280, 0, 0.01))
    status(events.LagMeasured(NAME, (("payments", 0, 17), ("payments", 1, 3))))
    status(events.OffsetsCommitted(NAME, 2, 1000, 0.01))
    wall.now += 1
    found = pipeline(status)
    assert (found["records"], found["bytes_in"], found["rate"], found["lag"]) == (1000, 10_000, 100.0, 20)
    assert found["series"]["records"][-3:] == [100, 100, 0]
    assert found["series"]["lag"][-3:] == [None, 20, 20]
    assert found["committed_at"] == NOON + 10


def test_a_partition_that_waits_makes_the_pipeline_wait_since_then(status, wall):
    wall.now += 5
    status(pause(1))
    wall.now += 5
    status(pause(0))
    found = pipeline(status)
    assert (found["state"], found["since"], found["held"]) == ("waiting", NOON + 5, 2)
    assert [(w["partition"], w["offset"]) for w in found["waiting"]] == [(1, 7), (0, 7)]
    status(events.PartitionResumed(NAME, "payments", 1, 5.0))
    status(events.PartitionsRevoked(NAME, (("payments", 0),)))
    assert pipeline(status)["state"] == "running"


def test_a_partition_told_of_again_waits_for_something_else_since_it_first_waited(status, wall):
    status(pause(0))
    wall.now += 30
    status(pause(0, "KeyRefused", "AccessDenied"))
    [waiting] = pipeline(status)["waiting"]
    assert (waiting["since"], waiting["error"]) == (NOON, "KeyRefused")


def test_a_pipeline_that_starts_again_and_again_is_in_trouble_since_the_first_time(status, wall):
    for seconds in (1.0, 2.0):
        wall.now += 10
        status(events.PipelineRestarting(NAME, "ConnectionLost", "no broker", seconds))
        status(events.PipelineStarting(NAME, "encrypt", "g"))
    found = pipeline(status)
    assert (found["state"], found["since"], found["restarts"]) == ("starting", NOON + 10, 2)
    assert "out of work since" in first(status)["text"]
    status(events.PipelineReady(NAME, 6))
    assert pipeline(status)["why"] is None


def test_a_halt_outlives_the_stop_that_follows_it(status):
    status(events.PipelineFailed(NAME, "AuthenticationFailed", "payments[0]@7: altered", "Find who writes there."))
    status(events.PipelineStopped(NAME, clean=False, records=1))
    found = pipeline(status)
    assert (found["state"], found["why"]["remedy"]) == ("halted", "Find who writes there.")


def test_a_loop_that_stands_still_is_seen(status, wall):
    wall.now += 31
    assert pipeline(status)["state"] == "stalled"
    assert "stands still" in first(status)["text"]


def test_brokers_that_are_away_are_told_of_until_one_answers(status):
    status(events.KafkaClientError(NAME, "consumer", "_ALL_BROKERS_DOWN", "2/2 brokers are down"))
    assert "reaches no Kafka broker" in first(status)["text"]
    status(events.BrokersAnswered(NAME))
    assert first(status)["level"] == "ok"


# -- keys --------------------------------------------------------------------------------------------------------------


def test_a_data_key_is_shown_by_its_public_id_shortened_with_what_is_left_of_it(status, wall):
    status(events.DataKeyMinted("payments.encrypted", DATA_KEY, (KEK,), 0.1, ahead=False))
    status(events.DataKeyMinted("payments.encrypted", "ab" * 32, (KEK,), 0.1, ahead=True))
    status(events.DataKeysInUse(NAME, "payments.encrypted", 1, DATA_KEY, 400_000, 2**30, 60.0, 0.4))
    wall.now += 60
    current, following = status.snapshot()["data_keys"]
    assert (current["id"], current["role"], current["age"]) == (DATA_KEY[:16], "current", 60.0)
    assert (current["messages_left"], current["bytes_left"]) == (600_000, 15 * 2**30)
    assert (following["role"], following["messages_left"]) == ("next", None)
    status(events.DataKeyRetired("payments.encrypted", DATA_KEY, "messages", 10**6, 2**31, 60.0))
    (left,) = status.snapshot()["data_keys"]
    assert left["role"] == "current"
    assert [r["what"] for r in status.snapshot()["rotations"]] == ["minted", "minted", "retired"]


def test_a_region_and_a_kek_fail_since_the_first_failure_in_a_row(status, wall):
    status(call("ok"))
    for outcome in ("ReadTimeoutError", "KMSInternalException"):
        wall.now += 1
        status(call(outcome))
    (region,), (kek,) = status.snapshot()["regions"], status.snapshot()["keks"]
    for answers in (region, kek):
        assert (answers["failing_since"], answers["last_error"]) == (NOON + 1, "KMSInternalException")
        assert (answers["calls"], answers["failed"], answers["last_ok"]) == (3, 2, NOON)
    status(call("InvalidCiphertextException"))
    assert status.snapshot()["regions"][0]["failing_since"] is None


def test_nothing_grows_without_end(status):
    """Thousands of topics, keys, failures and pauses leave a snapshot of bounded size."""
    for number in range(2000):
        topic, data_key = f"t{number}", f"{number:064x}"
        status(events.DataKeyMinted(topic, data_key, (f"{KEK}{number}",), 0.1, ahead=False))
        status(events.DataKeyOpened(topic, data_key, f"{KEK}{number}", 0.1, shared=False))
        status(call("ok", f"region-{number}", f"{KEK}{number}"))
        status(events.RecordFailed(NAME, topic, 0, number, "UntrustedKey", "x" * 5000, "skip"))
        status(events.BatchDone(NAME, topic, 1, 1, 1, 0, 0.1))
        status(events.PartitionPaused(NAME, topic, 0, 1, "KeyUnavailable", "y" * 5000, "z" * 5000))
        status(events.PartitionsLost(NAME, ((topic, 0),)) if number % 2 else events.BreakerOpened(topic, 5, 1.0))
    snapshot = status.snapshot()
    assert len(snapshot["failures"]) == MOST_FAILURES
    assert len(json.dumps(snapshot)) < 400_000


def test_every_event_leaves_a_snapshot_that_is_json(status):
    for kind in typing.get_args(events.Event):
        status(sample(kind))
    assert json.loads(json.dumps(status.snapshot()))["pipelines"]
    assert all(one["text"] for one in sentences(status.snapshot()))


def test_no_event_carries_what_the_page_must_not_show():
    """Whatever is folded comes from events, and none has a field for bytes."""
    kinds = {field.type for kind in typing.get_args(events.Event) for field in dataclasses.fields(kind)}
    assert not [kind for kind in kinds if "bytes" in str(kind)]


# -- several processes -------------------------------------------------------------------------------------------------


def test_workers_are_shown_as_one_sidecar(wall):
    """Counts are added, the worst state and the earliest time win, and each process is named."""
    one, other = (Status([SPEC], worker=number, clock=wall) for number in (0, 1))
    for worker in (one, other):
        worker(events.PipelineReady(NAME, 3))
        worker(events.LoopTurned(NAME, 3, 0))
        worker(events.BatchDone(NAME, "payments", 50, 500, 600, 0, 0.1))
        worker(events.LagMeasured(NAME, (("payments", 0, 5),)))
    other(pause(4))
    other(call("ReadTimeoutError"))
    one(call("ok"))
    merged = merge([one.snapshot(), other.snapshot()])
    (found,) = merged["pipelines"]
    assert (found["state"], found["records"], found["assigned"], found["held"], found["lag"]) == (
        "waiting",
        100,
        6,
        1,
        10,
    )
    assert found["series"]["records"][-1] == 100
    assert [process["worker"] for process in merged["processes"]] == [0, 1]
    (region,) = merged["regions"]
    assert (region["calls"], region["failed"], region["failing_since"]) == (2, 1, NOON)
    assert "waits with 1 of 6 partitions" in sentences(merged)[0]["text"]


def test_a_merged_snapshot_of_one_says_what_it_said(status):
    status(call("ok"))
    status(events.DataKeyMinted("payments.encrypted", DATA_KEY, (KEK,), 0.1, ahead=False))
    status(events.DataKeyOpened("payments", DATA_KEY, KEK, 0.1, shared=False))
    assert merge([status.snapshot()]) == status.snapshot()


def test_a_worker_that_ended_is_told_of_until_another_has_its_place(wall):
    supervisor = Status(clock=wall)
    supervisor(events.WorkerStarted(1, 4711))
    supervisor(events.WorkerRestarting(1, 4711, "signal 9", 1.0))
    assert "Worker 1 ended at 08:00:00 UTC (signal 9)" in first(supervisor)["text"]
    supervisor(events.WorkerStarted(1, 4712))
    assert first(supervisor)["text"] == "No pipeline has started yet."


# -- words -------------------------------------------------------------------------------------------------------------


def test_an_outage_of_kms_is_said_in_plain_words(status, wall):
    """What waits, since when, why, what it means for records, and what to do."""
    for _ in range(5):
        status(call("ReadTimeoutError"))
    status(events.BreakerOpened("eu-west-1", 5, 1.0))
    for partition in range(6):
        status(pause(partition))
    wall.now += 185
    status(events.LoopTurned(NAME, 6, 6))
    said = first(status)
    assert said["level"] == "bad"
    assert said["text"] == "protect-payments waits since 08:00:00 UTC: AWS KMS in eu-west-1 does not answer."
    assert said["lasting"] == "3 min"
    then = "Records wait in Kafka; nothing is lost while the topics keep them. Last error: ReadTimeoutError."
    assert said["then"] == then
    assert said["remedy"].startswith("It goes on by itself once KMS answers.")


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ((call("ThrottlingException"), pause()), "AWS KMS in eu-west-1 throttles this account."),
        ((pause(error="KeyRefused", detail="access denied"),), "KMS refuses: access denied."),
        ((pause(error="RouteProblem", detail="topic 'x' does not exist"),), "RouteProblem: topic 'x' does not exist."),
        ((events.BreakerOpened("eu-west-1", 5, 1.0),), "AWS KMS in eu-west-1 does not answer since 08:00:00 UTC."),
        ((call("AccessDeniedException"),), f"KMS refuses {KEK} since 08:00:00 UTC: AccessDeniedException."),
        ((events.PipelineFailed(NAME, "UntrustedKey", "at 7", ""),), "has halted at 08:00:00 UTC: UntrustedKey: at 7."),
        ((events.PipelineStopped(NAME, clean=True, records=0),), "has stopped at 08:00:00 UTC."),
        ((sample(events.DevelopmentKeyInUse),), "The local keyring is in use"),
        ((events.SequenceFound("gap", NAME, "payments", 0, 7, "aa", 0, 1, 3, 2),), "evidence in the sequence"),
    ],
    ids=["throttled", "refused", "route", "passing", "kek", "halted", "stopped", "development", "sequence"],
)  # fmt: skip
def test_each_trouble_has_its_sentence(status, told, said):
    for event in told:
        status(event)
    assert said in first(status)["text"]


def test_dead_letters_and_keys_in_grace_are_told_of_below_what_is_worse(status, wall):
    status(events.RecordFailed(NAME, "payments", 3, 91, "UntrustedKey", "no trusted KEK", "dead_letter"))
    status(events.DataKeyMinted("payments.encrypted", DATA_KEY, (KEK,), 0.1, ahead=False))
    status(events.DataKeyGraceBegan("payments.encrypted", DATA_KEY, "age", 60.0, 1000))
    status(pause())
    texts = [one["text"] for one in sentences(status.snapshot())]
    assert texts[0].startswith("protect-payments waits")
    assert "1 record of protect-payments: set aside as dead letters in the last 15 minutes." in texts
    assert "payments.encrypted is sealed on under a data key that is due (age), until 08:01:00 UTC." in texts
    wall.now += 1000
    assert not any("dead letters" in one["text"] for one in sentences(status.snapshot()))


def test_pipelines_that_wait_for_the_same_thing_share_a_sentence(status, wall):
    """What somebody reads at night is one trouble, however many pipelines have it."""
    status(events.PipelineReady("other", 2))
    status(events.LoopTurned("other", 2, 2))
    status(call("ReadTimeoutError"))
    for partition in range(2):
        status(events.PartitionPaused("other", "orders", partition, 1, "KeyUnavailable", "GenerateDataKey", ""))
    wall.now += 1
    status(pause())
    said = sentences(status.snapshot())
    assert [one["text"] for one in said if one["level"] == "bad"] == [
        f"{NAME} and other wait with 3 of 8 partitions since 08:00:00 UTC: AWS KMS in eu-west-1 does not answer."
    ]


def test_what_a_hundred_partitions_do_is_told_once(status):
    for partition in range(100):
        status(pause(partition))
    assert [(h["what"], h["times"]) for h in status.snapshot()["history"]] == [("ready", 1), ("waits", 100)]


def test_where_all_is_well_one_sentence_says_so(status):
    assert [one["level"] for one in sentences(status.snapshot())] == ["ok"]
    assert first(status)["text"] == "protect-payments runs: 0 records a second."


def test_times_name_the_day_where_it_is_another():
    assert clock(NOON, NOON) == "08:00:00 UTC"
    assert clock(NOON - 86400, NOON) == "2027-01-14 08:00:00 UTC"
    assert [lasting(s) for s in (-1, 119, 120, 7200, 200_000)] == ["0 s", "119 s", "2 min", "2 h", "2 days"]


def test_a_pipeline_that_is_paused_before_it_is_ready_is_shown_as_paused(wall):
    """As one that begins anew is: it is told first that it reads nothing, and then that it is ready."""
    status = Status([SPEC], clock=wall)
    status(events.PipelineStarting(NAME, "encrypt", "g"))
    status(events.PipelinePaused(NAME))
    status(events.PipelineReady(NAME, 4))
    assert status.snapshot()["pipelines"][0]["state"] == "paused"
    status(events.PipelineResumed(NAME, 3.0))
    assert status.snapshot()["pipelines"][0]["state"] == "running"


def test_a_reload_is_shown_with_what_became_of_each_pipeline(wall):
    """Whoever was removed is gone; several processes show the reload that their supervisor made."""
    status = Status([SPEC], clock=wall)
    status(events.PipelineReloaded(NAME, "removed", ()))
    status(events.ConfigReloaded("c.yaml", ("log.level",), ("new",), (NAME,), (), (), (), 1.0))
    shown = merge([Status(clock=wall).snapshot(), status.snapshot()])
    assert shown["pipelines"] == []
    assert shown["reload"]["pipelines"] == {"new": "added", NAME: "removed"}
    status(events.ConfigRefused("c.yaml", ("c.yaml:3:1: wrong",)))
    assert status.snapshot()["reload"] == {"at": NOON, "outcome": "refused", "problems": ["c.yaml:3:1: wrong"]}

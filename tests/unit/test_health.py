"""Claims about the probes: what makes them fail, since when, what helps, and what does not make them fail."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from streamcrypt import events
from streamcrypt.observe.health import Health, Reason, Report
from streamcrypt.testing import ManualClock

DAY = 1_700_000_000.0


@pytest.fixture
def clock() -> ManualClock:
    """A clock that moves when told to."""
    return ManualClock()


@pytest.fixture
def health(clock) -> Health:
    """The health of a process with one pipeline that is ready, has two partitions, and began at a known time."""
    began = clock()
    health = Health(("p",), clock=clock, wall_clock=lambda: DAY + clock() - began)
    health(events.PipelineStarting("p", "encrypt", "g"))
    health(events.PartitionsAssigned("p", (("t", 0), ("t", 1))))
    health(events.PipelineReady("p", 2))
    return health


def paused(partition: int, error: str = "KeyUnavailable") -> events.PartitionPaused:
    """A partition of the topic that waits."""
    return events.PartitionPaused("p", "t", partition, 7, error, "KMS timed out", "Look at the network.")


def body(report: Report) -> dict:
    """The answer as a reader gets it."""
    return json.loads(json.dumps(report.as_json()))


def test_a_reason_says_whose_since_when_and_what_helps(health, clock):
    """A cold reader finds pipeline, cause, time, remedy and partitions in the answer."""
    clock.advance(10)
    health(paused(1))
    clock.advance(10)
    health(paused(0))
    report = health.readiness()
    assert not report.ok
    assert body(report)["reasons"] == [
        {
            "pipeline": "p",
            "reason": "2 partitions wait: KeyUnavailable: KMS timed out",
            "since": "2023-11-14T22:13:30Z",
            "remedy": "Look at the network.",
            "partitions": {"t": [0, 1]},
        }
    ]
    assert health.liveness().ok


def test_a_partition_told_of_again_waits_for_something_else_since_it_first_waited(health, clock):
    """KMS was away and now refuses: the reason follows, the time does not begin anew."""
    health(paused(0))
    clock.advance(30)
    health(paused(0, "KeyRefused"))
    [reason] = health.readiness().reasons
    assert (reason.since, "KeyRefused" in reason.reason) == (DAY, True)


def test_another_cause_is_a_reason_of_its_own(health):
    """Partitions that wait for different things are not lumped together."""
    health(paused(0))
    health(paused(1, "RouteProblem"))
    first, second = health.readiness().pipelines["p"]
    assert first == "t[0] waits: KeyUnavailable: KMS timed out"
    assert second == "t[1] waits: RouteProblem: KMS timed out"


@pytest.mark.parametrize(
    ("client", "code"),
    [("consumer", "_ALL_BROKERS_DOWN"), ("producer", "_ALL_BROKERS_DOWN"), ("metadata", "_TRANSPORT")],
)
@pytest.mark.parametrize(
    "answer",
    [
        events.BrokersAnswered("p"),
        events.OffsetsCommitted("p", 1, 10, 0.01),
        events.PartitionsAssigned("p", (("t", 2),)),
    ],
    ids=lambda event: type(event).__name__,
)
def test_without_a_broker_it_is_not_ready_until_one_answers(health, clock, client, code, answer):
    """The reason keeps the time at which it began, however often the client says so again; a restart would not help."""
    health(events.KafkaClientError("p", client, code, "3/3 brokers are down"))
    clock.advance(30)
    health(events.LoopTurned("p", 2, 0))
    health(events.KafkaClientError("p", client, code, "3/3 brokers are down"))
    (reason,) = health.readiness().reasons
    assert reason.reason == f"no broker answers: {code}: 3/3 brokers are down"
    assert reason.since == DAY
    assert reason.remedy
    assert health.liveness().ok
    health(answer)
    assert health.readiness().ok


def test_one_broker_that_is_away_is_no_reason(health):
    """The client goes on with the others."""
    health(events.KafkaClientError("p", "consumer", "_TRANSPORT", "broker 2: connection refused"))
    assert health.readiness().ok


def test_a_restart_does_not_hide_that_no_broker_answers(health):
    """A pipeline that starts again because of the brokers still names them."""
    health(events.KafkaClientError("p", "consumer", "_ALL_BROKERS_DOWN", "down"))
    health(events.PipelineRestarting("p", "ConnectionLost", "took nothing", 5.0))
    health(events.PipelineStarting("p", "encrypt", "g"))
    assert health.readiness().pipelines["p"] == [
        "joining its consumer group",
        "no broker answers: _ALL_BROKERS_DOWN: down",
    ]


@pytest.mark.parametrize("error", ["KeyUnavailable", "KeyRefused"])
def test_a_kek_of_some_records_holds_up_these_alone(health, error):
    """With a KEK for each record the pipeline stays ready while a partition goes on, and names what waits."""
    health(events.PipelineStarting("p", "encrypt", "g", kek_per_record=True))
    health(events.PartitionsAssigned("p", (("t", 0), ("t", 1))))
    health(events.PipelineReady("p", 2))
    health(paused(1, error))
    report = health.readiness()
    assert report.ok
    assert [(waits["reason"], waits["partitions"]) for waits in body(report)["waiting"]] == [
        (f"t[1] waits: {error}: KMS timed out", {"t": [1]})
    ]
    health(paused(0, error))
    assert not health.readiness().ok
    health(events.PartitionResumed("p", "t", 0, 3.0))
    assert health.readiness().ok


def test_a_missing_target_holds_up_a_pipeline_with_keks_of_its_records_too(health):
    """Only waiting for a KEK is some records' affair."""
    health(events.PipelineStarting("p", "encrypt", "g", kek_per_record=True))
    health(events.PartitionsAssigned("p", (("t", 0), ("t", 1))))
    health(events.PipelineReady("p", 2))
    health(paused(1, "RouteProblem"))
    assert not health.readiness().ok


def test_a_halted_pipeline_says_what_the_operator_can_do(health):
    """The remedy of the error that halted it is in both answers, once."""
    health(events.PipelineFailed("p", "AuthenticationFailed", "t[0]@7", "Find who writes to it."))
    for report in (health.liveness(), health.readiness()):
        (reason,) = report.reasons
        assert (reason.reason, reason.remedy) == ("halted: AuthenticationFailed: t[0]@7", "Find who writes to it.")


def test_a_loop_that_stands_still_does_so_since_its_last_turn(health, clock):
    """The time is that of the last turn, not that of the question."""
    health(events.LoopTurned("p", 2, 0))
    clock.advance(90)
    (reason,) = health.liveness().reasons
    assert reason.since == DAY


def test_several_workers_answer_as_one():
    """A reason keeps which worker it was through the way it takes between processes; all must be well."""
    bad = Report.of([Reason("stopped", "p", DAY, "", {"t": [1]})], names=["p"])
    good = Report.of([], [Reason("t[1] waits", "p")], names=["p"])
    sent = [json.loads(json.dumps(asdict(report))) for report in (good, bad)]
    merged = Report.merged(Report.from_worker(number, fields) for number, fields in enumerate(sent))
    assert not merged.ok
    assert [(reason.worker, reason.partitions) for reason in merged.reasons] == [(1, {"t": [1]})]
    assert [reason.worker for reason in merged.waiting] == [0]
    assert merged.pipelines == {"p": ["stopped"]}
    assert Report.merged([Report.from_worker(0, sent[0])]).ok

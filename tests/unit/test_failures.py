"""What an error means for a pipeline, and how long it waits for the key service."""

from __future__ import annotations

import time

import pytest
from confluent_kafka import KafkaError, KafkaException

from streamcrypt import errors
from streamcrypt.sidecar.failures import (
    Backoff,
    ConnectionLost,
    PipelineHalted,
    RecordRefused,
    Verdict,
    blames_record,
    from_kafka,
    is_cause,
    operator_must_act,
    refused,
    verdict,
)
from streamcrypt.sidecar.holds import Hold
from streamcrypt.sidecar.spec import OnFailure
from streamcrypt.sidecar.topics import RouteProblem

RECORD_ERRORS = [
    errors.PlaintextRejected,
    errors.MalformedEnvelope,
    errors.MangledEnvelope,
    errors.UnsupportedVersion,
    errors.UntrustedKey,
    errors.ContextMismatch,
    errors.AuthenticationFailed,
    errors.RecordTooLarge,
    errors.AlreadySealed,
    errors.SequenceViolated,
    errors.KeyNotMapped,
    errors.KeyDisabled,
]
WAITING = [errors.KeyUnavailable, errors.KeyRefused, RouteProblem]


def _all(kind):
    return {kind, *(leaf for sub in kind.__subclasses__() for leaf in _all(sub))}


def test_every_error_of_the_library_has_a_verdict():
    """A new one has to be put into one of the lists above, and so thought about."""
    ours = {kind for kind in _all(errors.StreamcryptError) if kind.__module__ == "streamcrypt.errors"}
    abstract = {errors.StreamcryptError, errors.EnvelopeError, errors.KeyServiceError}
    assert ours - abstract == {*RECORD_ERRORS, errors.KeyUnavailable, errors.KeyRefused, errors.ConfigError}


@pytest.mark.parametrize("kind", RECORD_ERRORS)
def test_a_fault_of_the_record_halts_or_is_left_behind_as_the_policy_says(kind):
    assert verdict(kind("x"), OnFailure.HALT) is Verdict.HALT
    assert verdict(kind("x"), OnFailure.SKIP) is Verdict.SKIP


@pytest.mark.parametrize("policy", OnFailure)
@pytest.mark.parametrize("kind", WAITING)
def test_what_is_no_fault_of_the_record_is_waited_for_and_never_skipped(kind, policy):
    assert verdict(kind("x"), policy) is Verdict.WAIT


def test_wrong_settings_halt_whatever_the_policy():
    assert verdict(errors.ConfigError("x"), OnFailure.SKIP) is Verdict.HALT


@pytest.mark.parametrize(
    "code",
    [
        KafkaError._AUTO_OFFSET_RESET,
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
    ],
)
def test_what_no_restart_helps_against_halts_with_a_remedy(code):
    halted = from_kafka(KafkaError(code), "delivery")
    assert operator_must_act(KafkaError(code))
    assert isinstance(halted, PipelineHalted)
    assert halted.remedy
    assert str(halted).startswith("delivery: ")


@pytest.mark.parametrize("code", [KafkaError._TRANSPORT, KafkaError._MSG_TIMED_OUT, KafkaError._FATAL])
def test_what_a_restart_helps_against_does_not_halt(code):
    for error in (KafkaError(code), KafkaException(KafkaError(code))):
        assert isinstance(from_kafka(error, "x"), ConnectionLost)


def test_an_exception_of_the_client_without_an_error_is_no_end_either():
    assert isinstance(from_kafka(KafkaException("odd"), "x"), ConnectionLost)


def test_pauses_grow_to_their_ceiling_and_stay_there_through_an_outage_of_days():
    backoff = Backoff(0.1, 10.0)
    pauses = [backoff.next() for _ in range(5_000)]
    assert 0.05 <= pauses[0] <= 0.1
    assert all(5.0 <= pause <= 10.0 for pause in pauses[10:])


def test_refusals_are_probed_slowly_and_outages_quickly():
    assert Backoff.for_error(errors.KeyUnavailable("x")).next() <= 0.1
    assert 1.0 <= Backoff.for_error(errors.KeyRefused("x")).next() <= 2.0
    assert 1.0 <= Backoff.for_error(RouteProblem("x")).next() <= 2.0


def _away(key_id="arn", operation="GenerateDataKey"):
    return errors.KeyUnavailable("away", operation=operation, key_id=key_id)


def _hold(error):
    return Hold(error)


def test_partitions_at_one_gate_share_their_pauses():
    """One failure counts for all: the next probe is due for all at the same time."""
    holds = [_hold(_away()) for _ in range(10)]
    for hold in holds[1:]:
        hold.join(holds)
    assert len({hold.due for hold in holds}) == 1
    for hold in holds:
        hold.failed_again(_away(), moved=False, others=holds)
    assert len({hold.due for hold in holds}) == 1
    assert len({id(hold.backoff) for hold in holds}) == 1


@pytest.mark.parametrize(
    "other",
    [
        _away(key_id="another"),
        _away(operation="Decrypt"),
        errors.KeyRefused("no", operation="GenerateDataKey", key_id="arn"),
        errors.KeyUnavailable("a budget of its own"),
        RouteProblem("x"),
    ],
)
def test_partitions_that_wait_for_different_things_do_not_wait_for_each_other(other):
    one, two = _hold(_away()), _hold(other)
    two.join([one, two])
    due = two.due
    one.failed_again(_away(), moved=False, others=[one, two])
    assert two.due == due
    assert two.backoff is not one.backoff


def test_what_waits_for_itself_has_no_gate():
    assert _hold(RouteProblem("x")).gate is None
    assert _hold(errors.KeyUnavailable("a budget of its own")).gate is None


def test_where_some_records_passed_the_pauses_begin_anew():
    hold = _hold(_away())
    for _ in range(20):
        hold.failed_again(_away(), moved=False, others=[hold])
    assert hold.due - time.monotonic() > 4
    hold.failed_again(_away(), moved=True, others=[hold])
    assert hold.due - time.monotonic() <= 0.1


FENCES = [KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.FENCED_INSTANCE_ID]


@pytest.mark.parametrize("code", FENCES)
def test_a_fence_names_both_causes_and_asks_for_new_clients(code):
    """Nobody can tell from the error whether there is a second process or a transaction that took too long."""
    lost = from_kafka(KafkaError(code), "commit")
    assert isinstance(lost, ConnectionLost)
    assert lost.fatal
    assert "second process" in str(lost)
    assert "transaction.timeout.ms" in str(lost)


@pytest.mark.parametrize("code", [KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError.NOT_COORDINATOR])
def test_a_broker_that_is_away_is_no_reason_to_be_called_dead(code):
    lost = from_kafka(KafkaError(code), "commit")
    assert isinstance(lost, ConnectionLost)
    assert not lost.fatal


RECORD_CODES = [
    (KafkaError.MSG_SIZE_TOO_LARGE, errors.RecordTooLarge),
    (KafkaError.RECORD_LIST_TOO_LARGE, errors.RecordTooLarge),
    (KafkaError.INVALID_TIMESTAMP, RecordRefused),
    (KafkaError.INVALID_RECORD, RecordRefused),
]


@pytest.mark.parametrize(("code", "kind"), RECORD_CODES)
def test_what_a_broker_refuses_for_the_records_sake_is_a_failure_of_the_record(code, kind):
    assert blames_record(KafkaError(code))
    failure = refused(KafkaError(code))
    assert type(failure) is kind
    assert failure.remedy


@pytest.mark.parametrize("code", [KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT])
def test_what_was_dropped_because_of_a_refusal_is_not_its_cause(code):
    assert not is_cause(KafkaError(code))
    assert is_cause(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))

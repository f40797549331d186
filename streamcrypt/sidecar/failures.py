"""What an error means for a pipeline, in one place: wait, leave the record behind, halt, or start again."""

from __future__ import annotations

import random
from enum import Enum, auto

from confluent_kafka import KafkaError, KafkaException

from streamcrypt.errors import ConfigError, KeyRefused, KeyServiceError, RecordTooLarge, StreamcryptError
from streamcrypt.sidecar.spec import OnFailure
from streamcrypt.sidecar.topics import RouteProblem

__all__ = [
    "ENDING",
    "AccessRefused",
    "Backoff",
    "ConnectionLost",
    "PipelineHalted",
    "RecordRefused",
    "StopAsked",
    "UnitFailed",
    "Verdict",
    "blames_record",
    "from_kafka",
    "is_cause",
    "is_fence",
    "operator_must_act",
    "refused",
    "verdict",
]

_MOST_DOUBLINGS = 30
_ACCESS_CODES = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)
_OPERATOR_CODES = frozenset(
    {
        KafkaError._AUTO_OFFSET_RESET,  # noqa: SLF001  confluent-kafka's public codes begin so
        *_ACCESS_CODES,
        KafkaError._AUTHENTICATION,  # noqa: SLF001
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.INVALID_RECORD,
    }
)
_TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})
_RECORD_CODES = _TOO_LARGE | {KafkaError.INVALID_TIMESTAMP, KafkaError.INVALID_RECORD}
_FENCES = frozenset(
    {
        KafkaError._FENCED,  # noqa: SLF001
        KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.UNRELEASED_INSTANCE_ID,
    }
)
_CONSEQUENCES = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})  # noqa: SLF001
_TWO_CAUSES = (
    "Either a second process runs with this group and instance, or a transaction outlived transaction.timeout.ms. "
    "Give every process an 'instance' of its own; where there is one process only, look for pauses of host or broker."
)
_REMEDIES = {
    KafkaError._AUTO_OFFSET_RESET: (  # noqa: SLF001
        "The group's committed offset is no longer on the topic: records were deleted before they were read, or the "
        "topic was made anew. Choose where to go on with kafka-consumer-groups --reset-offsets."
    ),
    KafkaError.MSG_SIZE_TOO_LARGE: (
        "Raise max.message.bytes of the target topic: sealing adds about 400 bytes. The broker holds whole batches to "
        "it: a topic that takes less than 1 MB also needs a smaller batch.size under kafka.producer."
    ),
    KafkaError.RECORD_LIST_TOO_LARGE: "Raise segment.bytes of the target topic, or lower batch.size of the producer.",
    KafkaError.INVALID_TIMESTAMP: (
        "A record's timestamp is kept. Widen message.timestamp.before.max.ms or message.timestamp.after.max.ms of the "
        "target topic."
    ),
    KafkaError.INVALID_RECORD: "The target topic takes no such record: a compacted topic takes none without a key.",
}


class PipelineHalted(StreamcryptError):
    """The pipeline may not go on: an operator must act. What was done is delivered and committed."""


class AccessRefused(PipelineHalted):
    """The brokers' authorizer says no: an ACL is missing. A running pipeline waits for it; a start fails.

    Attributes:
        code: Kafka's code, which tells the kind of resource.
        cause: What the client said.
        topic: The topic, where it is one and known.
        asked: Whether the producer asked for that very topic, and so it and no other is meant.
        right: Operation, kind of resource and name, once :func:`streamcrypt.sidecar.access.explained` has found them.
        principal: Who lacks it; empty where only the brokers know.
    """

    remedy = "'streamcrypt policy --acls CONFIG' prints the ACLs that a configuration needs."
    code: int = 0
    cause: str = ""
    topic: str = ""
    asked: bool = False
    right: tuple[str, str, str] = ("", "", "")
    principal: str = ""


class RecordRefused(StreamcryptError):
    """The broker takes this record never: its timestamp, or a null key on a compacted topic."""


class UnitFailed(Exception):
    """What was begun since the last commit must be given up and read again.

    Attributes:
        cause: What the client or a broker said.
        target: Topic and partition that a broker refused records for, where one did.
    """

    def __init__(self, cause: KafkaError, target: tuple[str, int] | None = None) -> None:
        super().__init__(cause.str())
        self.cause = cause
        self.target = target


ENDING = UnitFailed(KafkaError(KafkaError._DESTROY, "the end came before the commit"))  # noqa: SLF001
"""Why a unit is given up where nothing is wrong with it."""


class ConnectionLost(StreamcryptError):
    """Delivery failed or the client is beyond repair: begin again from what was committed.

    Attributes:
        fatal: Whether it was the client, and not only its connection: it is fenced, or its state is lost.
    """

    retriable = True
    fatal = False


class StopAsked(Exception):
    """The process is to end while something is waited for. No error: what is in hand is left to the next start."""


class Verdict(Enum):
    """What to do about an error of one record."""

    WAIT = auto()
    """The key service or the target is away: hold the partition, others go on."""
    DEAD_LETTER = auto()
    """The record can never pass and is set aside."""
    SKIP = auto()
    """The record can never pass and may be left behind."""
    HALT = auto()
    """The record can never pass, or the settings are wrong."""


_OF_POLICY = {
    OnFailure.HALT: Verdict.HALT,
    OnFailure.DEAD_LETTER: Verdict.DEAD_LETTER,
    OnFailure.SKIP: Verdict.SKIP,
}


def verdict(error: StreamcryptError, on_failure: OnFailure) -> Verdict:
    """Classify an error that one record met."""
    if isinstance(error, (KeyServiceError, RouteProblem)):
        return Verdict.WAIT
    if isinstance(error, ConfigError):
        return Verdict.HALT
    return _OF_POLICY[on_failure]


def blames_record(error: KafkaError) -> bool:
    """Say whether a broker refused one record, or a batch for the sake of one."""
    return error.code() in _RECORD_CODES


def is_cause(error: KafkaError) -> bool:
    """Say whether this is what went wrong, not merely what was dropped because of it."""
    return error.code() not in _CONSEQUENCES


def refused(error: KafkaError) -> StreamcryptError:
    """Give the failure of the record that a broker refused."""
    kind = RecordTooLarge if error.code() in _TOO_LARGE else RecordRefused
    return kind(f"the broker refuses it: {error.str()}", remedy=_REMEDIES.get(error.code(), ""))


def is_fence(error: KafkaError) -> bool:
    """Say whether somebody took over our transactional id or our place in the group."""
    return error.code() in _FENCES


def operator_must_act(error: KafkaError) -> bool:
    """Say whether no restart helps against an error of the broker."""
    return error.code() in _OPERATOR_CODES


def from_kafka(
    error: KafkaError | KafkaException, doing: str, topic: str = ""
) -> AccessRefused | PipelineHalted | ConnectionLost:
    """Turn an error of the Kafka client into ours.

    Args:
        error: What the client said.
        doing: At what, for the text.
        topic: The topic that it was about, where that is known.
    """
    cause = error.args[0] if isinstance(error, KafkaException) else error
    if isinstance(cause, KafkaError) and cause.code() in _ACCESS_CODES:
        refused = AccessRefused(f"{doing}: {cause.str()}")
        refused.code, refused.cause, refused.topic = cause.code(), cause.str(), topic
        return refused
    if isinstance(cause, KafkaError) and operator_must_act(cause):
        return PipelineHalted(f"{doing}: {cause.str()}", remedy=_REMEDIES.get(cause.code(), "See the broker's ACLs."))
    text = cause.str() if isinstance(cause, KafkaError) else str(cause)
    if isinstance(cause, KafkaError) and is_fence(cause):
        lost = ConnectionLost(f"{doing}: fenced: {text}. {_TWO_CAUSES}")
        lost.fatal = True
        return lost
    lost = ConnectionLost(f"{doing}: {text}")
    lost.fatal = isinstance(cause, KafkaError) and (cause.fatal() or cause.code() == KafkaError._FATAL)  # noqa: SLF001
    return lost


class Backoff:
    """Growing pauses with full jitter.

    Args:
        first: Seconds of the first pause at most.
        ceiling: Seconds of any pause at most.
    """

    def __init__(self, first: float, ceiling: float) -> None:
        self._first = first
        self._ceiling = ceiling
        self._tries = 0

    @classmethod
    def for_error(cls, error: StreamcryptError) -> Backoff:
        """Probe slowly where an operator must act, quickly where a retry helps."""
        slow = isinstance(error, (KeyRefused, RouteProblem, AccessRefused))
        return cls(2.0, 30.0) if slow else cls(0.1, 10.0)

    def next(self) -> float:
        """Give the next pause in seconds."""
        limit = min(self._ceiling, self._first * 2.0**self._tries)
        # A float ends at 2**1024, and an outage may last for a weekend.
        self._tries = min(self._tries + 1, _MOST_DOUBLINGS)
        return limit * random.uniform(0.5, 1.0)  # noqa: S311  spread, no secret

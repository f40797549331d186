"""What an error means for a pipeline, in one place: wait, leave the record behind, halt, or start again."""

from __future__ import annotations

import random
from enum import Enum, auto

from confluent_kafka import KafkaError, KafkaException

from streamcrypt.errors import ConfigError, KeyRefused, KeyServiceError, StreamcryptError
from streamcrypt.sidecar.spec import OnFailure
from streamcrypt.sidecar.topics import RouteProblem

__all__ = ["Backoff", "ConnectionLost", "PipelineHalted", "Verdict", "from_kafka", "operator_must_act", "verdict"]

_OPERATOR_CODES = frozenset(
    {
        KafkaError._AUTO_OFFSET_RESET,  # noqa: SLF001  confluent-kafka's public codes begin so
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError._AUTHENTICATION,  # noqa: SLF001
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.INVALID_RECORD,
    }
)
_REMEDIES = {
    KafkaError._AUTO_OFFSET_RESET: (  # noqa: SLF001
        "The group's committed offset is no longer on the topic: records were deleted before they were read, or the "
        "topic was made anew. Choose where to go on with kafka-consumer-groups --reset-offsets."
    ),
    KafkaError.MSG_SIZE_TOO_LARGE: "Raise max.message.bytes of the target topic: sealing adds about 400 bytes.",
}


class PipelineHalted(StreamcryptError):
    """The pipeline may not go on: an operator must act. What was done is delivered and committed."""


class ConnectionLost(StreamcryptError):
    """Delivery failed or the client is beyond repair: begin again from what was committed."""

    retriable = True


class Verdict(Enum):
    """What to do about an error of one record."""

    WAIT = auto()
    """The key service or the target is away: hold the partition, others go on."""
    SKIP = auto()
    """The record can never pass and may be left behind."""
    HALT = auto()
    """The record can never pass, or the settings are wrong."""


def verdict(error: StreamcryptError, on_failure: OnFailure) -> Verdict:
    """Classify an error that one record met."""
    if isinstance(error, (KeyServiceError, RouteProblem)):
        return Verdict.WAIT
    if isinstance(error, ConfigError) or on_failure is OnFailure.HALT:
        return Verdict.HALT
    return Verdict.SKIP


def operator_must_act(error: KafkaError) -> bool:
    """Say whether no restart helps against an error of the broker."""
    return error.code() in _OPERATOR_CODES


def from_kafka(error: KafkaError | KafkaException, doing: str) -> PipelineHalted | ConnectionLost:
    """Turn an error of the Kafka client into ours."""
    cause = error.args[0] if isinstance(error, KafkaException) else error
    if isinstance(cause, KafkaError) and operator_must_act(cause):
        return PipelineHalted(f"{doing}: {cause.str()}", remedy=_REMEDIES.get(cause.code(), "See the broker's ACLs."))
    text = cause.str() if isinstance(cause, KafkaError) else str(cause)
    return ConnectionLost(f"{doing}: {text}")


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
        slow = isinstance(error, (KeyRefused, RouteProblem))
        return cls(2.0, 30.0) if slow else cls(0.1, 10.0)

    def next(self) -> float:
        """Give the next pause in seconds."""
        limit = min(self._ceiling, self._first * 2.0**self._tries)
        self._tries += 1
        return limit * random.uniform(0.5, 1.0)  # noqa: S311  spread, no secret

"""What a pipeline minds about records besides sealing and opening them: sequences, the cut-over, dead letters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaException

from streamcrypt.clients.headers import headers_of
from streamcrypt.encryptor import HeaderList
from streamcrypt.envelope.sequence import SequenceMode, SequenceVerifier, tell
from streamcrypt.errors import ConfigError, SequenceViolated
from streamcrypt.events import KafkaClientError, Observer
from streamcrypt.sidecar.cutover import Cutover, check_topics
from streamcrypt.sidecar.dead_letters import DeadLetters
from streamcrypt.sidecar.failures import from_kafka
from streamcrypt.sidecar.topics import is_compacted

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

__all__ = ["Evidence", "Safeguards"]


class Evidence:
    """Looks at lane and sequence of records that opened.

    Args:
        pipeline: Its name, for events.
        mode: Whether findings are events only, or failures of the record as well.
        observer: Told of findings.
    """

    def __init__(self, pipeline: str, mode: SequenceMode, observer: Observer) -> None:
        self._pipeline = pipeline
        self._enforce = mode is SequenceMode.ENFORCE
        self._observer = observer
        self._verifier = SequenceVerifier()

    def begin(self, compacted: frozenset[str]) -> None:
        """Start afresh; on compacted topics a gap is no evidence."""
        self._verifier = SequenceVerifier(compacted=compacted)

    def look(
        self,
        topic: str,
        partition: int,
        messages: Sequence[Any],
        values: Sequence[bytes | None],
        headers: Sequence[HeaderList | None],
    ) -> SequenceViolated | None:
        """Verify records that opened; give the failure of the first that fails, where findings are failures."""
        offsets = [message.offset() for message in messages]
        findings = self._verifier.check_records(topic, partition, offsets, values, headers)
        if not findings:
            return None
        tell(findings, self._pipeline, self._observer)
        return findings[0].error() if self._enforce else None

    def forget(self, topic: str, partition: int) -> None:
        """Forget a partition that goes to another member."""
        self._verifier.forget(topic, partition)


_NO_CUTOVER = Cutover()


@dataclass(frozen=True, slots=True)
class Safeguards:
    """The policies of one pipeline, each None or empty where it has none.

    Attributes:
        letters: Sets records aside that cannot pass.
        cutover: Up to where records without an envelope pass.
        evidence: Looks at sequences.
        admin: Makes an admin client, for what has to be asked of the cluster at the start.
    """

    letters: DeadLetters | None = None
    cutover: Cutover = _NO_CUTOVER
    evidence: Evidence | None = None
    admin: Callable[[], AdminClient] | None = None

    def begin(self, pipeline: str, sources: Sequence[str], observer: Observer) -> None:
        """Hold the policies to the cluster before the first record passes.

        Raises:
            ConfigError: The cut-over is another topic's, or dead letters would replace each other.
            ConnectionLost, PipelineHalted: The cluster did not answer.
        """
        if self.admin is None or not (self.letters or self.cutover or self.evidence):
            return
        admin = self.admin()
        try:
            check_topics(self.cutover, admin)
        except KafkaException as error:
            raise from_kafka(error, f"pipeline {pipeline!r}: ask for topic ids") from None
        if self.letters is not None and _is_compacted(admin, self.letters.topic, pipeline, observer):
            raise ConfigError(
                f"pipeline {pipeline!r}: the dead-letter topic {self.letters.topic!r} is compacted: of several letters "
                "with one key all but the last would vanish",
                remedy="Set cleanup.policy=delete on it.",
            )
        if self.evidence is not None:
            compacted = {topic for topic in sources if _is_compacted(admin, topic, pipeline, observer)}
            self.evidence.begin(frozenset(compacted))

    def bare_ahead(self, topic: str, partition: int, messages: Sequence[Any], at: int = 0) -> int:
        """Say how many of these records, from that ``at`` this place on, have no envelope and may pass without one."""
        if topic not in self.cutover.topics:
            return 0
        for count, message in enumerate(islice(messages, at, None)):
            if not self.cutover.admits(topic, partition, message.offset(), message.value(), headers_of(message)):
                return count
        return len(messages) - at


def _is_compacted(admin: AdminClient, topic: str, pipeline: str, observer: Observer) -> bool:
    try:
        return is_compacted(admin, topic)
    except KafkaException as error:
        # Not everybody may ask (ACL DescribeConfigs); records must not wait for that.
        cause = error.args[0]
        observer(KafkaClientError(pipeline, "admin", cause.name(), f"cleanup.policy of {topic!r}: {cause.str()}"))
        return False

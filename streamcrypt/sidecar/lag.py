"""How far partitions are from their end, out of what the client knows already: nothing is asked for each record.

A fetch tells the end of its partition, so a partition that is read costs no call. One that is paused is not fetched,
and its end would stand still just when somebody watches it: of these the brokers are asked, without waiting.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from streamcrypt.sidecar.ledger import Place, Progress

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

__all__ = ["LagMeter"]

# One ListOffsets request for each leader, while partitions wait.
_ASK_EVERY = 5.0
_ANSWER_WITHIN = 5.0


class LagMeter:
    """Measures the lag of a consumer's partitions.

    Args:
        consumer: It is asked for the ends of partitions as its fetches have told them.
        admin: Makes the client that asks for the ends of those that wait; the consumer's own connections are taken up
            by fetches that wait for records. None: what the last fetch told has to do.
        clock: Seconds on a monotonic clock.
    """

    def __init__(
        self,
        consumer: Consumer,
        admin: Callable[[], AdminClient] | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._consumer = consumer
        self._make_admin = admin
        self._clock = clock
        self._admin: AdminClient | None = None
        self._next_question = 0.0
        self._answers: Progress = {}

    def measure(self, reached: Progress, held: Mapping[Place, int]) -> tuple[tuple[str, int, int], ...]:
        """Give topic, partition and lag of each partition whose end is known.

        Args:
            reached: Partition to the offset up to which everything was passed on.
            held: The partitions that wait, with the offset of the oldest record in hand.

        The lag counts offsets: those of commit markers and of aborted records too.
        """
        if held:
            self._ask(held)
        else:
            self._answers.clear()
        lags = []
        for place, offset in {**reached, **held}.items():
            end = max(self._told(place), self._answers.get(place, -1))
            if end >= 0:
                lags.append((*place, max(0, end - offset)))
        return tuple(lags)

    def _told(self, place: Place) -> int:
        """Give the end as the last fetch told it, below zero where there was none."""
        try:
            known = self._consumer.get_watermark_offsets(TopicPartition(*place), cached=True)
        except KafkaException:
            return -1
        return -1 if known is None else known[1]

    def _ask(self, places: Collection[Place]) -> None:
        now = self._clock()
        if self._make_admin is None or now < self._next_question:
            return
        self._next_question = now + _ASK_EVERY
        from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

        if self._admin is None:
            self._admin = self._make_admin()
        spec: Any = OffsetSpec
        latest = spec.latest()
        question: Any = {TopicPartition(*place): latest for place in places}
        for place, answer in self._admin.list_offsets(question, request_timeout=_ANSWER_WITHIN).items():
            answer.add_done_callback(partial(self._answered, (place.topic, place.partition)))

    def _answered(self, place: Place, answer: Any) -> None:
        if answer.exception() is None:
            self._answers[place] = answer.result().offset

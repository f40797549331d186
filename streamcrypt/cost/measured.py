"""What one worker was measured to take: the only numbers of the scaling model that are not arithmetic or a vendor's.

``python -m bench.scaling`` measures them again and prints them beside these.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BROKER_US", "CPU", "MEASURED_ON", "WORKER_MB", "Line"]

MEASURED_ON = "2 virtual cores of an AMD EPYC, CPython 3.11.7, librdkafka 2.16.0, Apache Kafka 4.3.1, 25 November 2026"


@dataclass(frozen=True, slots=True)
class Line:
    """CPU of all threads of one worker, a straight line over the size of a value.

    Attributes:
        record: Microseconds a record.
        kib: Microseconds a KiB of its value.
    """

    record: float
    kib: float

    def at(self, size: int) -> float:
        """Give microseconds a record of ``size`` bytes."""
        return self.record + self.kib * size / 1024


CPU = {
    ("encrypt", "at_least_once"): Line(2.66, 1.46),
    ("decrypt", "at_least_once"): Line(2.31, 1.91),
    ("encrypt", "exactly_once"): Line(2.88, 2.25),
    ("decrypt", "exactly_once"): Line(2.34, 2.65),
}
"""By mode and delivery; the lines go through 100 B and 10 KiB, so that 1 KiB is a prediction.

At 10 KiB a record takes 14 to 17 us while the broker keeps up and 35 to 43 us while it does not, because librdkafka
then polls without sleeping (docs/scaling.md): the lines lie between, up to 2.4 times too low in the second state.
"""

BROKER_US = Line(2.07, 3.37)
"""CPU of the one broker for a record read and written once, exactly once, without replication."""

WORKER_MB = 250
"""Resident memory of a worker under full load."""

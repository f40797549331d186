"""What a pipeline does to a record: seal it for the target, or open it."""

from __future__ import annotations

from typing import Protocol

from streamcrypt.crypto.suites import NONCE_BYTES, TAG_BYTES
from streamcrypt.decryptor import Decryptor
from streamcrypt.encryptor import LANE_UNKNOWN, Encryptor, HeaderList

__all__ = ["Open", "PartitionWork", "Seal", "Transform"]


class PartitionWork(Protocol):
    """Transforms the records of one source partition. A null value never comes here unless opening checks it."""

    def __call__(
        self, value: bytes | None, key: bytes | None, headers: HeaderList | None, /
    ) -> tuple[bytes | None, HeaderList | None]:
        """Give value and headers to send.

        Raises:
            StreamcryptError: The record cannot pass, or not now.
        """
        ...


class Transform(Protocol):
    """One mode of a pipeline."""

    growth: int
    """Bytes by which a value grows."""

    def ready(self, target: str) -> None:
        """Have at hand what the first record needs.

        Raises:
            KeyUnavailable, KeyRefused, ConfigError: The key service.
        """
        ...

    def work(self, source: str, partition: int, target: str, lane: int | None) -> PartitionWork:
        """Give what to do with the records of one source partition."""
        ...

    def idle(self) -> None:
        """Tidy up where no record comes."""
        ...

    def lost(self) -> None:
        """Records that were sealed may not have arrived: start afresh."""
        ...

    def close(self) -> None:
        """Drop all data keys."""
        ...


class Seal:
    """Seals values for the target topic; a tombstone passes as it is."""

    growth = NONCE_BYTES + TAG_BYTES

    def __init__(self, encryptor: Encryptor) -> None:
        self._encryptor = encryptor

    def ready(self, target: str) -> None:
        """See :class:`Transform`."""
        self._encryptor.ready(target)

    def work(self, source: str, partition: int, target: str, lane: int | None) -> PartitionWork:  # noqa: ARG002
        """See :class:`Transform`."""
        seal = self._encryptor.topic(target).seal
        lane = LANE_UNKNOWN if lane is None else lane

        def work(
            value: bytes | None, key: bytes | None, headers: HeaderList | None
        ) -> tuple[bytes | None, HeaderList | None]:
            return (None, headers) if value is None else seal(value, key, headers, lane)

        return work

    def idle(self) -> None:
        """See :class:`Transform`."""

    def lost(self) -> None:
        """See :class:`Transform`."""
        self._encryptor.retire_all("failure")

    def close(self) -> None:
        """See :class:`Transform`."""
        self._encryptor.close()


class Open:
    """Opens values read from the source topic."""

    growth = -Seal.growth

    def __init__(self, decryptor: Decryptor) -> None:
        self._decryptor = decryptor

    def ready(self, target: str) -> None:  # noqa: ARG002
        """See :class:`Transform`."""
        self._decryptor.ready()

    def work(self, source: str, partition: int, target: str, lane: int | None) -> PartitionWork:  # noqa: ARG002
        """See :class:`Transform`."""
        open_ = self._decryptor.open

        def work(
            value: bytes | None, key: bytes | None, headers: HeaderList | None
        ) -> tuple[bytes | None, HeaderList | None]:
            return open_(source, value, key, headers, partition)

        return work

    def idle(self) -> None:
        """See :class:`Transform`."""
        self._decryptor.sweep()

    def lost(self) -> None:
        """See :class:`Transform`."""

    def close(self) -> None:
        """See :class:`Transform`."""
        self._decryptor.close()

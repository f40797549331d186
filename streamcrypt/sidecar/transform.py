"""What a pipeline does to a record: seal it for the target, or open it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from streamcrypt.crypto.suites import OVERHEAD_BYTES
from streamcrypt.decryptor import Decryptor
from streamcrypt.encryptor import LANE_UNKNOWN, Encryptor, HeaderList, TopicSealer
from streamcrypt.events import DataKeysHeld, Event
from streamcrypt.keys.provider import KeyProvider
from streamcrypt.keys.rotation import RotationPolicy

__all__ = ["AS_IT_IS", "Open", "PartitionWork", "Seal", "Transform"]


Values = Sequence[bytes | None]
HeaderLists = Sequence[HeaderList | None]


class PartitionWork(Protocol):
    """Transforms the records of one source partition."""

    def one(
        self, value: bytes | None, key: bytes | None, headers: HeaderList | None
    ) -> tuple[bytes | None, HeaderList | None]:
        """Give value and headers to send.

        Raises:
            StreamcryptError: The record cannot pass, or not now.
        """
        ...

    def block(self, values: Values, keys: Values, headers: HeaderLists) -> tuple[Values, HeaderLists] | None:
        """Give values and headers to send of a block, or of as many of its first records as can be done at once.

        None, or none of them: the block has to be done one by one.

        Raises:
            KeyServiceError: Nothing of the block can be done now.
        """
        ...


class Transform(Protocol):
    """One mode of a pipeline."""

    growth: int
    """Bytes by which a value grows."""

    @property
    def opener(self) -> Decryptor | None:
        """What opens records, for data keys to be looked ahead; None where nothing is opened."""
        ...

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

    def key_facts(self, pipeline: str) -> Sequence[Event]:
        """Give what is to be told now and then of the data keys at hand."""
        ...

    def lost(self) -> None:
        """Records that were sealed may not have arrived: start afresh."""
        ...

    def rotate(self) -> None:
        """Drop the data keys that seal, on any thread: the next record gets a new one."""
        ...

    def rotate_by(self, rotation: RotationPolicy) -> None:
        """Replace the data keys that seal by another policy, on any thread."""
        ...

    def close(self) -> None:
        """Drop all data keys."""
        ...


class Seal:
    """Seals values for the target topic; a tombstone stays null, with proof where the encryptor gives one.

    Args:
        encryptor: Seals records.
        letters: Seals dead letters; kept here so that its keys are dropped with the others.
        letter_keys: The key service of dead letters, where it is theirs alone: closed with the rest.
    """

    growth = OVERHEAD_BYTES
    opener = None

    def __init__(
        self, encryptor: Encryptor, letters: Encryptor | None = None, letter_keys: KeyProvider | None = None
    ) -> None:
        self._encryptor = encryptor
        self._letters = letters
        self._letter_keys = letter_keys

    def ready(self, target: str) -> None:
        """See :class:`Transform`."""
        self._encryptor.ready(target)

    def work(self, source: str, partition: int, target: str, lane: int | None) -> PartitionWork:  # noqa: ARG002
        """See :class:`Transform`."""
        return _SealWork(self._encryptor.topic(target), LANE_UNKNOWN if lane is None else lane)

    def idle(self) -> None:
        """See :class:`Transform`."""
        for encryptor in filter(None, (self._encryptor, self._letters)):
            encryptor.sweep()

    def key_facts(self, pipeline: str) -> Sequence[Event]:
        """See :class:`Transform`."""
        encryptors = filter(None, (self._encryptor, self._letters))
        return [fact for encryptor in encryptors for fact in encryptor.in_use(pipeline)]

    def lost(self) -> None:
        """See :class:`Transform`."""
        for encryptor in filter(None, (self._encryptor, self._letters)):
            encryptor.retire_all("failure")

    def rotate(self) -> None:
        """See :class:`Transform`."""
        for encryptor in filter(None, (self._encryptor, self._letters)):
            encryptor.rotate()

    def rotate_by(self, rotation: RotationPolicy) -> None:
        """See :class:`Transform`."""
        for encryptor in filter(None, (self._encryptor, self._letters)):
            encryptor.rotate_by(rotation)

    def close(self) -> None:
        """See :class:`Transform`."""
        for encryptor in filter(None, (self._encryptor, self._letters)):
            encryptor.close()
        if self._letter_keys is not None:
            self._letter_keys.close()


class Open:
    """Opens values read from the source topic."""

    growth = -Seal.growth

    def __init__(self, decryptor: Decryptor) -> None:
        self._decryptor = decryptor

    @property
    def opener(self) -> Decryptor:
        """See :class:`Transform`."""
        return self._decryptor

    def ready(self, target: str) -> None:  # noqa: ARG002
        """See :class:`Transform`."""
        self._decryptor.ready()

    def work(self, source: str, partition: int, target: str, lane: int | None) -> PartitionWork:  # noqa: ARG002
        """See :class:`Transform`."""
        return _OpenWork(self._decryptor, source, partition)

    def idle(self) -> None:
        """See :class:`Transform`."""
        self._decryptor.sweep()

    def key_facts(self, pipeline: str) -> Sequence[Event]:
        """See :class:`Transform`."""
        return [DataKeysHeld(pipeline, self._decryptor.held)]

    def lost(self) -> None:
        """See :class:`Transform`."""

    def rotate(self) -> None:
        """See :class:`Transform`."""

    def rotate_by(self, rotation: RotationPolicy) -> None:
        """See :class:`Transform`."""

    def close(self) -> None:
        """See :class:`Transform`."""
        self._decryptor.close()


@dataclass(frozen=True, slots=True)
class _SealWork:
    sealer: TopicSealer
    lane: int

    def one(
        self, value: bytes | None, key: bytes | None, headers: HeaderList | None
    ) -> tuple[bytes | None, HeaderList | None]:
        if value is None:
            return None, self.sealer.seal_tombstone(key, headers, self.lane)
        return self.sealer.seal(value, key, headers, self.lane)

    def block(self, values: Values, keys: Values, headers: HeaderLists) -> tuple[Values, HeaderLists] | None:
        return self.sealer.seal_block(values, keys, headers, self.lane)


@dataclass(frozen=True, slots=True)
class _OpenWork:
    decryptor: Decryptor
    source: str
    partition: int

    def one(
        self, value: bytes | None, key: bytes | None, headers: HeaderList | None
    ) -> tuple[bytes | None, HeaderList | None]:
        return self.decryptor.open(self.source, value, key, headers, self.partition)

    def block(self, values: Values, keys: Values, headers: HeaderLists) -> tuple[Values, HeaderLists] | None:
        return self.decryptor.open_block(self.source, values, keys, headers, self.partition)


class _AsItIs:
    """Changes nothing: for records that may pass without an envelope."""

    def one(
        self,
        value: bytes | None,
        key: bytes | None,  # noqa: ARG002  the protocol's
        headers: HeaderList | None,
    ) -> tuple[bytes | None, HeaderList | None]:
        return value, headers

    def block(self, values: Values, keys: Values, headers: HeaderLists) -> tuple[Values, HeaderLists]:  # noqa: ARG002
        return values, headers


AS_IT_IS: PartitionWork = _AsItIs()

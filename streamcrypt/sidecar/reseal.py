"""Resealing: a record is opened and sealed again, under a new data key and the target's own encryption context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from streamcrypt.decryptor import Decryptor
from streamcrypt.encryptor import LANE_UNKNOWN, Encryptor, HeaderList, TopicSealer
from streamcrypt.envelope.header import OUR_HEADERS
from streamcrypt.events import DataKeysHeld, Event
from streamcrypt.keys.rotation import RotationPolicy
from streamcrypt.sidecar.transform import HeaderLists, PartitionWork, Values

__all__ = ["Reseal"]


class Reseal:
    """The mode ``reencrypt``, ``how: reseal``.

    Args:
        decryptor: Opens what is read; closed with this transform.
        encryptor: Seals for the target. It authenticates tombstones: those that were proven are proven again, others
            stay as plain as the decryptor lets them pass. Closed with this transform.
    """

    growth = 0

    def __init__(self, decryptor: Decryptor, encryptor: Encryptor) -> None:
        self._decryptor = decryptor
        self._encryptor = encryptor

    @property
    def opener(self) -> Decryptor:
        """See :class:`streamcrypt.sidecar.transform.Transform`."""
        return self._decryptor

    def ready(self, target: str) -> None:
        """See :class:`streamcrypt.sidecar.transform.Transform`."""
        self._decryptor.ready()
        self._encryptor.ready(target)

    def work(self, source: str, partition: int, target: str, lane: int | None) -> PartitionWork:
        """See :class:`streamcrypt.sidecar.transform.Transform`."""
        sealer = self._encryptor.topic(target)
        return _ResealWork(self._decryptor, source, partition, sealer, LANE_UNKNOWN if lane is None else lane)

    def idle(self) -> None:
        """See :class:`streamcrypt.sidecar.transform.Transform`."""
        self._decryptor.sweep()
        self._encryptor.sweep()

    def key_facts(self, pipeline: str) -> Sequence[Event]:
        """See :class:`streamcrypt.sidecar.transform.Transform`."""
        return [DataKeysHeld(pipeline, self._decryptor.held), *self._encryptor.in_use(pipeline)]

    def lost(self) -> None:
        """See :class:`streamcrypt.sidecar.transform.Transform`."""
        self._encryptor.retire_all("failure")

    def rotate(self) -> None:
        """See :class:`streamcrypt.sidecar.transform.Transform`."""
        self._encryptor.rotate()

    def rotate_by(self, rotation: RotationPolicy) -> None:
        """See :class:`streamcrypt.sidecar.transform.Transform`."""
        self._encryptor.rotate_by(rotation)

    def close(self) -> None:
        """See :class:`streamcrypt.sidecar.transform.Transform`."""
        try:
            self._encryptor.close()
        finally:
            self._decryptor.close()


@dataclass(frozen=True, slots=True)
class _ResealWork:
    decryptor: Decryptor
    source: str
    partition: int
    sealer: TopicSealer
    lane: int

    def one(
        self, value: bytes | None, key: bytes | None, headers: HeaderList | None
    ) -> tuple[bytes | None, HeaderList | None]:
        plain, rest = self.decryptor.open(self.source, value, key, headers, self.partition)
        if plain is not None:
            return self.sealer.seal(plain, key, rest, self.lane)
        if not any(name in OUR_HEADERS for name, _ in headers or ()):
            return None, headers
        return None, self.sealer.seal_tombstone(key, rest, self.lane)

    def block(self, values: Values, keys: Values, headers: HeaderLists) -> tuple[Values, HeaderLists] | None:
        opened = self.decryptor.open_block(self.source, values, keys, headers, self.partition)
        if not opened or not opened[0]:
            return None
        plain, rests = opened
        # Where the block crosses a limit of the data key, each record is opened once more by itself.
        return self.sealer.seal_block(plain, keys[: len(plain)], rests, self.lane)

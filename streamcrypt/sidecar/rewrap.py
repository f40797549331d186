"""Rewrapping: a record's data key goes under other KEKs, and its value stays as it is, byte for byte. spec: 4.3, 6

Only the header changes, so the records of one data key cost one call between them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from streamcrypt.crypto.suites import OVERHEAD_BYTES
from streamcrypt.encryptor import HeaderList
from streamcrypt.envelope.framing import MAGIC, Framing, Tombstones, frame_prefix, split_frame
from streamcrypt.envelope.header import HEADER_NAME, TOMBSTONE_HEADER_NAME
from streamcrypt.errors import ConfigError, KeyServiceError, MalformedEnvelope, PlaintextRejected, StreamcryptError
from streamcrypt.events import Event
from streamcrypt.keys.rotation import RotationPolicy
from streamcrypt.sidecar.rewrapper import Rewrapper
from streamcrypt.sidecar.transform import HeaderLists, PartitionWork, Values

__all__ = ["Rewrap", "check_names"]


class Rewrap:
    """The mode ``reencrypt``, ``how: rewrap``.

    Args:
        rewrapper: Gives the new headers; closed with this transform.
        framing: ``self_contained`` accepts either framing and keeps each record's own; ``header`` the header only.
        tombstones: ``authenticated`` refuses a null value without proof; either keeps a proof as it is.
        logical: Physical topic to the logical name that its readers open it under.

    The envelope keeps its encryption context, and so the logical topic: the target has to be read under that name.
    """

    growth = 0
    opener = None

    def __init__(
        self,
        rewrapper: Rewrapper,
        *,
        framing: Framing = Framing.HEADER,
        tombstones: Tombstones = Tombstones.PLAIN,
        logical: Callable[[str], str] = str,
    ) -> None:
        self._rewrapper = rewrapper
        self._self_contained = framing is Framing.SELF_CONTAINED
        self._plain_tombstones = tombstones is Tombstones.PLAIN
        self._logical = logical

    def ready(self, target: str) -> None:  # noqa: ARG002
        """See :class:`streamcrypt.sidecar.transform.Transform`."""
        self._rewrapper.ready()

    def work(self, source: str, partition: int, target: str, lane: int | None) -> PartitionWork:  # noqa: ARG002
        """See :class:`streamcrypt.sidecar.transform.Transform`.

        Raises:
            ConfigError: The target would be read under another logical name, and no record of it would open.
        """
        check_names(source, target, self._logical)
        return _RewrapWork(self._rewrapper, source, partition, self._self_contained, self._plain_tombstones)

    def idle(self) -> None:
        """See :class:`streamcrypt.sidecar.transform.Transform`."""
        self._rewrapper.generations()

    def key_facts(self, pipeline: str) -> Sequence[Event]:  # noqa: ARG002
        """See :class:`streamcrypt.sidecar.transform.Transform`: no data key is opened here."""
        return ()

    def lost(self) -> None:
        """See :class:`streamcrypt.sidecar.transform.Transform`: no number is spent here, so nothing is lost."""

    def rotate(self) -> None:
        """See :class:`streamcrypt.sidecar.transform.Transform`: data keys stay as they are."""

    def rotate_by(self, rotation: RotationPolicy) -> None:
        """See :class:`streamcrypt.sidecar.transform.Transform`: data keys stay as they are."""

    def close(self) -> None:
        """See :class:`streamcrypt.sidecar.transform.Transform`."""
        self._rewrapper.close()


def check_names(source: str, target: str, logical: Callable[[str], str]) -> None:
    """Hold the two topics of a rewrapping to one logical name.

    Raises:
        ConfigError: Theirs differ.
    """
    if logical(source) != logical(target):
        raise ConfigError(
            f"rewrapped records stay bound to the topic {logical(source)!r}, and readers of {target!r} would expect "
            f"{logical(target)!r}",
            remedy=f"Add '{target}: {logical(source)}' under topic_names, here and for every reader of {target!r}.",
        )


@dataclass(slots=True)
class _RewrapWork:
    rewrapper: Rewrapper
    source: str
    partition: int
    self_contained: bool
    plain_tombstones: bool
    # The envelope of the last record and what replaces it: most records have the same.
    _last: bytes | None = None
    _instead: HeaderList = field(default_factory=list)
    _generations: tuple[int, int] = (0, 0)

    def one(
        self,
        value: bytes | None,
        key: bytes | None,  # noqa: ARG002  the protocol's
        headers: HeaderList | None,
    ) -> tuple[bytes | None, HeaderList | None]:
        self._look()
        if value is None:
            return None, self._tombstone(headers)
        header = _envelope_of(headers)
        if self.self_contained and value[:4] == MAGIC:
            if header is not None:
                raise MalformedEnvelope("the record has an envelope header and a self-contained value")
            header, sealed = split_frame(value)
            return frame_prefix(self._new(header)) + sealed, headers
        if header is None:
            raise PlaintextRejected("the record has no envelope: it is not sealed, or its header was stripped")
        return value, self._replaced(headers, header)

    def _tombstone(self, headers: HeaderList | None) -> HeaderList | None:
        """Replace a null value's envelope and keep its proof; where it needs neither, keep it as it is. spec: 6.4"""
        proofs = [held for name, held in headers or () if name == TOMBSTONE_HEADER_NAME]
        header = _envelope_of(headers)
        if header is None and not proofs:
            if self.plain_tombstones:
                return headers
            raise PlaintextRejected(
                "the null value carries no proof, where tombstones are authenticated",
                remedy="Set tombstones: authenticated on the writing side, or tombstones: plain here.",
            )
        proof = proofs[0] if len(proofs) == 1 else None
        if header is None or proof is None or len(proof) != OVERHEAD_BYTES:
            raise MalformedEnvelope("a null value carries an envelope header, but not the two that prove a tombstone")
        return self._replaced(headers, header)

    def block(self, values: Values, keys: Values, headers: HeaderLists) -> tuple[Values, HeaderLists] | None:  # noqa: ARG002
        if self.self_contained:
            return None
        self._look()
        sent: list[HeaderList] = []
        try:
            for value, pairs in zip(values, headers, strict=True):
                if value is None or not pairs:
                    break
                header = pairs[0][1] if len(pairs) == 1 and pairs[0][0] == HEADER_NAME else _envelope_of(pairs)
                if header is None:
                    break
                replaced = self._replaced(pairs, header)
                sent.append(replaced)
                if len(sent) == 1 and len(pairs) == 1 and headers.count(pairs) == len(headers) and None not in values:
                    return values, [replaced] * len(headers)
        except KeyServiceError:
            if not sent:
                raise
        except StreamcryptError:
            # The record by itself says why.
            pass
        return values[: len(sent)], sent

    def _replaced(self, headers: HeaderList | None, header: bytes) -> HeaderList:
        if header != self._last:
            new = self._new(header)
            self._last, self._instead = header, [(HEADER_NAME, new)]
        if headers is None or len(headers) == 1:
            return self._instead
        ours = self._instead[0]
        return [ours if pair[0] == HEADER_NAME else pair for pair in headers]

    def _look(self) -> None:
        generations = self.rewrapper.generations()
        if generations != self._generations:
            self._generations, self._last = generations, None

    def _new(self, header: bytes) -> bytes:
        return self.rewrapper.rewrap(header, self.source, self.partition)


def _envelope_of(headers: HeaderList | None) -> bytes | None:
    """Give our header; None where there is none.

    Raises:
        MalformedEnvelope: There are several, or it is null.
    """
    ours = [held for name, held in headers or () if name == HEADER_NAME]
    if len(ours) > 1:
        raise MalformedEnvelope(f"the record has {len(ours)} envelope headers")
    if ours and ours[0] is None:
        raise MalformedEnvelope("the envelope header is null")
    return ours[0] if ours else None

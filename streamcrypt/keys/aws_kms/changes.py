"""Notices, off the record's path, that data keys minted from now on would be wrapped otherwise than those before."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from math import inf

from streamcrypt.errors import StreamcryptError
from streamcrypt.keys.aws_kms.client import forget_in_forked_child
from streamcrypt.keys.aws_kms.keks import KEK
from streamcrypt.keys.aws_kms.names import identity_of

__all__ = ["LOOK_APART_SECONDS", "LOOK_EVERY_SECONDS", "LOOK_FOR_MISSING_SECONDS", "LookPace", "SealingWatch"]

LOOK_EVERY_SECONDS = 60.0
"""One DescribeKey a KEK and minute: an alias that moved, or material that was rotated, is noticed within that time."""
LOOK_FOR_MISSING_SECONDS = 5.0
"""How often a KEK that wrapped the last data key not is tried. While its region's breaker is open, that is no call."""
LOOK_APART_SECONDS = 1.0
"""With a KEK per record, one look a second over all of them: up to sixty are looked at once a minute, and a thousand
cost no more calls than those, nor threads where a region hangs. What each data key shows is noticed besides."""
_DENIED_FOR_SECONDS = 3600.0
"""A KEK that may not be described is asked about no sooner: each denial is a line in CloudTrail."""

Proof = Callable[[KEK, Mapping[str, str]], None]


class LookPace:
    """Keeps the looks of several watches apart. Safe to share between threads.

    Args:
        clock: Returns seconds and only goes forward.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._next_at = -inf

    def admits(self) -> bool:
        """Whether a look may begin now; it is taken for begun then."""
        # No lock: two at once now and then do no harm.
        now = self._clock()
        if now < self._next_at:
            return False
        self._next_at = now + LOOK_APART_SECONDS
        return True


class SealingWatch:
    """Keeps :attr:`generation`. Safe to share between threads.

    Args:
        keks: The configured KEKs.
        proves: Wraps something under a KEK as minting would; raises where it cannot be done.
        clock: Returns seconds and only goes forward.
        pace: Shared by the watches of one key service.
    """

    def __init__(self, keks: Sequence[KEK], proves: Proof, clock: Callable[[], float], pace: LookPace) -> None:
        self._keks = keks
        self._proves = proves
        self._clock = clock
        self._pace = pace
        self.generation = 0
        """See :attr:`streamcrypt.KeyProvider.sealing_generation`."""
        # By key: rotation never goes back to earlier material, and a replica may still show it after the primary.
        self._materials: dict[tuple[str, ...], set[str]] = {}
        self._missing: dict[KEK, Mapping[str, str]] = {}
        self._back_at = -inf
        self._denied_until: dict[KEK, float] = {}
        self._describe_at = self._look_at = clock() + self._spread(LOOK_EVERY_SECONDS)
        self._closed = False
        self.forget()
        forget_in_forked_child(self)

    def forget(self) -> None:
        """Make the lock anew: at first, and in a forked child, where no thread looks."""
        self._lock = threading.Lock()
        self._looking = False

    @staticmethod
    def _spread(seconds: float) -> float:
        return seconds * random.uniform(0.9, 1.0)  # noqa: S311 - spread, no secret

    def grow(self) -> None:
        """Say that a new data key would be wrapped otherwise."""
        with self._lock:
            self.generation += 1

    def learn(self, arn: str, material: str, generation: int) -> int:
        """Note the key material that a new data key was wrapped under.

        Args:
            arn: The KEK.
            material: Its current key-material id; empty where KMS names none.
            generation: What :attr:`generation` was before the call.

        Returns:
            The generation that the data key belongs to: the material it shows is the new one.
        """
        with self._lock:
            before = self.generation
            self._note(arn, material)
            return self.generation if generation == before else generation

    def _note(self, arn: str, material: str) -> None:
        seen = self._materials.setdefault(identity_of(arn), set())
        if material and material not in seen:
            if seen:
                self.generation += 1
            seen.add(material)

    def note_missing(self, keks: Sequence[KEK], context: Mapping[str, str]) -> None:
        """Note which KEKs did not wrap a data key, and in which context; they are tried until they do.

        A later data key that they wrapped changes nothing: the ones of other topics are to be replaced as well, and by
        a region that comes and goes not more often than once a minute.
        """
        if not keks:
            return
        with self._lock:
            self._missing.update(dict.fromkeys(keks, context))
            self._look_at = min(self._look_at, self._next_try())

    def _next_try(self) -> float:
        soon = self._clock() + self._spread(LOOK_FOR_MISSING_SECONDS)
        return max(soon, self._back_at + self._spread(LOOK_EVERY_SECONDS))

    def look_when_due(self) -> None:
        """Look again on a thread of its own, where it is time; return at once."""
        if self._clock() < self._look_at or self._closed:
            return
        with self._lock:
            if self._looking or self._clock() < self._look_at or not self._pace.admits():
                return
            self._looking = True
        looking = threading.Thread(target=self._look, name="streamcrypt-look", daemon=True)
        try:
            looking.start()
        except RuntimeError:  # the interpreter ends
            self._looking = False

    def _look(self) -> None:
        try:
            if self._clock() >= self._describe_at:
                self._describe_at = self._clock() + self._spread(LOOK_EVERY_SECONDS)
                for kek in self._keks:
                    self._describe(kek)
            self._try_missing()
        finally:
            with self._lock:
                self._look_at = min(self._next_try(), self._describe_at) if self._missing else self._describe_at
                self._looking = False

    def _describe(self, kek: KEK) -> None:
        if self._clock() < self._denied_until.get(kek, 0.0):
            return
        # What is wrong with a KEK is told where a data key is minted.
        with suppress(StreamcryptError):
            metadata = kek.target.look_up()
            if metadata is None:
                self._denied_until[kek] = self._clock() + _DENIED_FOR_SECONDS
                return
            with self._lock:
                self._note(str(metadata["Arn"]), str(metadata.get("CurrentKeyMaterialId") or ""))

    def _try_missing(self) -> None:
        back = []
        for kek, context in list(self._missing.items()):
            with suppress(StreamcryptError):
                self._proves(kek, context)
                back.append(kek)
        with self._lock:
            if any(self._missing.pop(kek, None) is not None for kek in back):
                self.generation += 1
                self._back_at = self._clock()

    def close(self) -> None:
        """Look no more."""
        self._closed = True

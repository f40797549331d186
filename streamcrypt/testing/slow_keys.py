"""A key service that does as the test says: waits at a gate, fails, changes its trust, and writes down every call."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic

from streamcrypt.envelope.header import EncryptedDataKey
from streamcrypt.errors import StreamcryptError, again
from streamcrypt.keys.provider import GeneratedDataKey, KeyProvider

__all__ = ["DECRYPT", "GENERATE", "KeyCall", "ScriptedKeyProvider"]

GENERATE = "GenerateDataKey"
DECRYPT = "Decrypt"


@dataclass(frozen=True, slots=True)
class KeyCall:
    """One call as it arrived.

    Attributes:
        operation: ``GenerateDataKey`` or ``Decrypt``, as KMS names them.
        key_id: The KEK to unwrap with; empty for minting.
        context: The encryption context.
        thread: The name of the calling thread.
    """

    operation: str
    key_id: str
    context: Mapping[str, str]
    thread: str


class ScriptedKeyProvider:
    """Stands before another key service. Safe to share between threads.

    Args:
        inner: Does the work of the calls that get through.
        patience: Seconds that a call waits at a closed gate before it fails with TimeoutError, so that a test that
            forgets to open the gate ends. Default 60: above what a loaded machine needs.

    Attributes:
        calls: Every call, oldest first, those included that wait or fail.
        on_call: Called with each call as it arrives, before the gate: to move a clock, say.
        distrusted: KEK ids that are trusted no more; :meth:`distrust` adds to it.
        trust_generation: See :class:`streamcrypt.keys.provider.KeyProvider`.
        sealing_generation: The same; raise it to have data keys for writing replaced.
    """

    def __init__(self, inner: KeyProvider, *, patience: float = 60.0) -> None:
        self._inner = inner
        self._patience = patience
        self._changed = threading.Condition()
        self._held: dict[str, Callable[[KeyCall], bool]] = {}
        self._scripts: dict[str, deque[BaseException | None]] = {GENERATE: deque(), DECRYPT: deque()}
        self._outages: dict[str, BaseException] = {}
        self.calls: list[KeyCall] = []
        self.on_call: Callable[[KeyCall], None] | None = None
        self.distrusted: set[str] = set()
        self.trust_generation = 0
        self.sealing_generation = 0

    @property
    def provider(self) -> str:
        """The inner provider's name."""
        return self._inner.provider

    def hold(self, operation: str, where: Callable[[KeyCall], bool] = lambda _call: True) -> None:
        """Close the gate: calls of ``operation`` wait for :meth:`release`, or only those that ``where`` picks."""
        with self._changed:
            self._held[operation] = where

    def release(self, operation: str) -> None:
        """Open the gate."""
        with self._changed:
            self._held.pop(operation, None)
            self._changed.notify_all()

    def script(self, operation: str, *outcomes: BaseException | None) -> None:
        """Say how the next calls of ``operation`` end: an error each, or None for an answer; later ones answer."""
        with self._changed:
            self._scripts[operation].extend(outcomes)

    def away(self, operation: str, error: BaseException) -> None:
        """Let every call of ``operation`` fail until :meth:`back`."""
        with self._changed:
            self._outages[operation] = error

    def back(self, operation: str) -> None:
        """Answer again."""
        with self._changed:
            self._outages.pop(operation, None)

    def distrust(self, key_id: str) -> None:
        """Take a KEK out of those trusted."""
        self.distrusted.add(key_id)
        self.trust_generation += 1

    def count(self, operation: str) -> int:
        """Give the number of calls of ``operation`` so far."""
        with self._changed:
            return sum(call.operation == operation for call in self.calls)

    def generate_data_key(self, context: Mapping[str, str]) -> GeneratedDataKey:
        """Mint, as the script says."""
        self._arrive(KeyCall(GENERATE, "", dict(context), threading.current_thread().name))
        return self._inner.generate_data_key(context)

    def trusted(self, keys: Sequence[EncryptedDataKey]) -> Sequence[tuple[EncryptedDataKey, str]]:
        """Pick what the inner provider trusts, less :attr:`distrusted`."""
        return [(key, key_id) for key, key_id in self._inner.trusted(keys) if key_id not in self.distrusted]

    def decrypt_data_key(self, encrypted: EncryptedDataKey, key_id: str, context: Mapping[str, str]) -> bytearray:
        """Unwrap, as the script says."""
        self._arrive(KeyCall(DECRYPT, key_id, dict(context), threading.current_thread().name))
        return self._inner.decrypt_data_key(encrypted, key_id, context)

    def check(self) -> str:
        """Ask the inner provider."""
        return self._inner.check()

    def close(self) -> None:
        """Close the inner provider."""
        self._inner.close()

    def _arrive(self, call: KeyCall) -> None:
        with self._changed:
            self.calls.append(call)
            script = self._scripts[call.operation]
            outcome = script.popleft() if script else self._outages.get(call.operation)
        if self.on_call is not None:
            self.on_call(call)
        deadline = monotonic() + self._patience
        with self._changed:
            while (where := self._held.get(call.operation)) is not None and where(call):
                if not self._changed.wait(deadline - monotonic()):
                    raise TimeoutError(f"nobody released {call.operation}")
        if isinstance(outcome, StreamcryptError):
            raise again(outcome)
        if outcome is not None:
            raise outcome

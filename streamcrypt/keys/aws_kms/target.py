"""Which key ARN the configured name means: at once for an ARN, by DescribeKey for all else, again when due."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from streamcrypt.errors import ConfigError, KeyRefused, KeyServiceError, KeyUnavailable
from streamcrypt.events import KeyAliasMoved, Observer
from streamcrypt.keys.aws_kms.client import forget_in_forked_child
from streamcrypt.keys.aws_kms.errors import request_id_of
from streamcrypt.keys.aws_kms.names import AWS_MANAGED_REMEDY, KeyName, identity_of, parse_key_arn

__all__ = ["LOOK_AGAIN_SECONDS", "RESOLVE_EVERY_SECONDS", "ConfiguredKey", "unusable_answer"]

RESOLVE_EVERY_SECONDS = 300.0
"""How long an alias is taken to point where it did: DescribeKey then costs next to nothing."""
LOOK_AGAIN_SECONDS = 10.0
"""Age from which an alias is resolved anew before a record is refused as untrusted, and after a failure."""

_SYMMETRIC = "SYMMETRIC_DEFAULT"
_ENCRYPTION = "ENCRYPT_DECRYPT"


class _Target(NamedTuple):
    arn: str
    resolved: float
    until: float


class ConfiguredKey:
    """The KEK that the user named, and the ARN that the name means now.

    Args:
        name: The parsed name.
        describe: Calls DescribeKey for the name; None where it was denied and the name is a full ARN.
        observer: Told when an alias moved.
        clock: Returns seconds and only goes forward.
        moved: Called when an alias moved. Who sees by then that it did is given the new ARN alone.
    """

    def __init__(
        self,
        name: KeyName,
        describe: Callable[[], Mapping[str, Any] | None],
        observer: Observer,
        clock: Callable[[], float],
        moved: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.moves = 0
        """How often the alias was found to point elsewhere."""
        self._describe = describe
        self._observer = observer
        self._clock = clock
        self._moved = moved
        forever = float("inf")
        self._target: _Target | None = _Target(name.text, 0.0, forever) if name.is_key_arn else None
        self.forget()
        forget_in_forked_child(self)

    def forget(self) -> None:
        """Make the lock anew: in a forked child, another thread's hold on it would never end."""
        self._lock = threading.Lock()

    def known_arn(self) -> str | None:
        """Return the ARN without a call; None where it was never resolved or is due again."""
        target = self._target
        return target.arn if target is not None and self._is_fresh(target, RESOLVE_EVERY_SECONDS) else None

    def arn(self, max_age: float = RESOLVE_EVERY_SECONDS) -> str:
        """Return the ARN, resolved at most ``max_age`` seconds ago.

        While KMS is away, the ARN known before stays in force.

        Raises:
            ConfigError, KeyServiceError: It cannot be resolved.
        """
        target = self._target
        if target is not None and self._is_fresh(target, max_age):
            return target.arn
        with self._lock:
            target = self._target
            if target is not None and self._is_fresh(target, max_age):
                return target.arn
            try:
                self._look_up()
            except KeyUnavailable:
                if target is None:
                    raise
                now = self._clock()
                self._target = target._replace(resolved=now, until=now + LOOK_AGAIN_SECONDS)
            assert self._target is not None
            return self._target.arn

    def look_up(self) -> Mapping[str, Any] | None:
        """Call DescribeKey now; return the key's metadata, checked, or None where nothing can be learnt.

        Raises:
            ConfigError, KeyServiceError: It cannot be had, or the key can never serve.
        """
        with self._lock:
            return self._look_up()

    def _is_fresh(self, target: _Target, max_age: float) -> bool:
        now = self._clock()
        return not self.name.may_move or (now < target.until and now - target.resolved < max_age)

    def _look_up(self) -> Mapping[str, Any] | None:
        answer = self._describe()
        if answer is None:
            return None
        metadata = _check_metadata(self.name, answer)
        if not self.name.is_key_arn:
            self._remember(str(metadata["Arn"]))
        return metadata

    def _remember(self, arn: str) -> None:
        now, before = self._clock(), self._target
        moved = before is not None and identity_of(before.arn) != identity_of(arn)
        # First: what is done under the old ARN beside this must count as done before the move.
        self._target = _Target(arn, now, now + RESOLVE_EVERY_SECONDS)
        if moved:
            self.moves += 1
            self._moved()
        if moved and before is not None:
            self._observer(KeyAliasMoved(self.name.text, before.arn, arn))


def unusable_answer(
    operation: str, key_id: str, answer: Mapping[str, Any], kind: type[KeyServiceError], what: str
) -> KeyServiceError:
    """Build the error for an answer that came with status 200 and is of no use."""
    return kind(
        f"KMS {operation} for {key_id}: {what}",
        operation=operation,
        key_id=key_id,
        request_id=request_id_of(answer),
        remedy="Check what endpoint_url points to, and what stands between this process and KMS.",
    )


def _check_metadata(name: KeyName, answer: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = answer.get("KeyMetadata")
    arn = metadata.get("Arn") if isinstance(metadata, dict) else None
    try:
        parse_key_arn(arn, "Arn")
    except ConfigError:
        raise unusable_answer("DescribeKey", name.text, answer, KeyUnavailable, "the answer holds no key ARN") from None
    assert isinstance(metadata, dict)
    if name.is_key_arn and identity_of(str(arn)) != identity_of(name.text):
        raise unusable_answer("DescribeKey", name.text, answer, KeyRefused, "another key answered")
    if metadata.get("KeyManager", "CUSTOMER") == "AWS":
        raise ConfigError(
            f"key_id: {name.text} is an AWS managed key, which serves only its own AWS service",
            remedy=AWS_MANAGED_REMEDY,
        )
    spec = metadata.get("KeySpec", metadata.get("CustomerMasterKeySpec", _SYMMETRIC))
    usage = metadata.get("KeyUsage", _ENCRYPTION)
    if spec != _SYMMETRIC or usage != _ENCRYPTION:
        raise ConfigError(
            f"key_id: {name.text} is a key of spec {spec} for {usage}",
            remedy=f"Use a symmetric encryption key ({_SYMMETRIC}, {_ENCRYPTION}).",
        )
    return metadata

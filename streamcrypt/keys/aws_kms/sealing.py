"""Minting under several KEKs: GenerateDataKey under one of them, Encrypt of the same DEK under each of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from streamcrypt.crypto.data_key import wipe
from streamcrypt.crypto.suites import DEK_BYTES
from streamcrypt.envelope.header import MAX_CIPHERTEXT_BYTES, EncryptedDataKey
from streamcrypt.errors import ConfigError, KeyRefused, KeyUnavailable, StreamcryptError
from streamcrypt.keys.aws_kms.changes import SealingWatch
from streamcrypt.keys.aws_kms.keks import KEK, callable_first, is_unavailable, region_of, the_failure
from streamcrypt.keys.aws_kms.names import identity_of
from streamcrypt.keys.aws_kms.service import KMSService
from streamcrypt.keys.aws_kms.target import unusable_answer
from streamcrypt.keys.hedging import all_answers, first_answer
from streamcrypt.keys.provider import GeneratedDataKey

__all__ = ["PATIENCE_SECONDS", "Sealing", "encrypt", "take_ciphertext", "take_plaintext"]

PATIENCE_SECONDS = 1.0
"""Under ``require: any``, a KEK that takes longer to wrap a data key is left out: a dark region costs each mint no more
than this until its breaker opens, and nothing after that."""

_Target = tuple[KEK, Sequence[str]]
_Failures = list[tuple[KEK, StreamcryptError]]


@dataclass(frozen=True, slots=True, repr=False)
class _Minted:
    arn: str
    plaintext: bytearray
    wrapped: bytes
    material: str

    def wipe(self) -> None:
        wipe(self.plaintext)


class Sealing:
    """Mints data keys, each wrapped under every configured KEK or, under ``any``, under those that answer.

    Args:
        provider: The name that encrypted data keys carry.
        keks: The configured KEKs, most preferred first.
        require_all: Whether a data key that not every KEK wraps is no data key.
        service: Calls KMS.
    """

    def __init__(self, provider: str, keks: Sequence[KEK], service: KMSService, *, require_all: bool) -> None:
        self._provider = provider
        self._keks = keks
        self._service = service
        self._require_all = require_all

    def generate(self, context: Mapping[str, str], watch: SealingWatch) -> GeneratedDataKey:
        """Mint a DEK.

        Raises:
            KeyUnavailable, KeyRefused, ConfigError: See :class:`streamcrypt.KeyProvider`.
        """
        targets, missing, generation = self._resolve(watch)
        if sum(len(arns) for _, arns in targets) > 1:
            self._service.prepare(region_of(arn) for _, arns in targets for arn in arns)
        minted, others = self._generate_under_first(targets, missing, context)
        try:
            wrapped = [(minted.arn, minted.wrapped), *self._wrap_for(others, missing, minted.plaintext, context)]
            self._accept(missing)
        except BaseException:
            minted.wipe()
            raise
        watch.note_missing([kek for kek, _ in missing], context)
        generation = watch.learn(minted.arn, minted.material, generation)
        encrypted = tuple(EncryptedDataKey(self._provider, arn, blob) for arn, blob in sorted(wrapped))
        absent = tuple((_shown(kek), type(error).__name__) for kek, error in missing)
        return GeneratedDataKey(minted.plaintext, encrypted, absent, generation)

    def _accept(self, missing: _Failures) -> None:
        if self._require_all and missing:
            raise _worst(missing, all_of_them=True)
        _raise_config_errors(missing)

    def prove(self, kek: KEK, context: Mapping[str, str]) -> None:
        """Wrap 32 bytes under a KEK as for a data key, and throw them away.

        Raises:
            KeyServiceError, ConfigError: It cannot be done.
        """
        self._encrypt_under(kek.arns(), bytearray(DEK_BYTES), context)

    def _resolve(self, watch: SealingWatch) -> tuple[list[_Target], _Failures, int]:
        """Give each KEK's ARNs, those KEKs that cannot be resolved, and the generation that this is true of."""
        while True:
            generation = watch.generation
            unknown = [kek for kek in self._keks if not kek.known_arns()]
            patience = None if self._require_all else PATIENCE_SECONDS
            outcome = all_answers([kek.arns for kek in unknown], patience=patience)
            if watch.generation == generation:
                break
        missing = [
            (kek, outcome.failures.get(place) or _no_answer(kek, "DescribeKey"))
            for place, kek in enumerate(unknown)
            if place not in outcome.answers
        ]
        if missing and (self._require_all or len(missing) == len(self._keks)):
            raise _worst(missing, all_of_them=self._require_all)
        _raise_config_errors(missing)
        found: dict[tuple[str, ...], _Target] = {}
        for kek in self._keks:
            place = unknown.index(kek) if kek in unknown else -1
            arns = outcome.answers[place] if place in outcome.answers else kek.known_arns()
            if arns:
                # Two aliases of one key are one KEK.
                found.setdefault(identity_of(arns[0]), (kek, arns))
        return list(found.values()), missing, generation

    def _generate_under_first(
        self, targets: list[_Target], missing: _Failures, context: Mapping[str, str]
    ) -> tuple[_Minted, list[_Target]]:
        """Mint under the first KEK that answers; give the KEKs under which the DEK is still to be wrapped."""
        if self._require_all:
            if len(targets) > 1:
                self._refuse_where_one_is_away(targets)
            tried, later = targets[:1], targets[1:]
        else:
            tried, later = sorted(targets, key=lambda target: not self._is_callable(target[1])), []
        attempts = [partial(self._generate_under, arns, context) for _, arns in tried]
        outcome = first_answer(attempts, discard=_Minted.wipe)
        if not outcome.answers:
            raise _worst(
                [*missing, *((tried[place][0], error) for place, error in outcome.failures.items())],
                all_of_them=self._require_all,
            )
        ((winner, minted),) = outcome.answers.items()
        try:
            _raise_config_errors([(tried[place][0], error) for place, error in outcome.failures.items()])
        except ConfigError:
            minted.wipe()
            raise
        # One that is away for GenerateDataKey is away for Encrypt. One that was slow or refused may do that.
        away = [place for place, error in outcome.failures.items() if is_unavailable(error)]
        missing += [(tried[place][0], outcome.failures[place]) for place in away]
        return minted, [*(target for place, target in enumerate(tried) if place not in {winner, *away}), *later]

    def _is_callable(self, arns: Sequence[str]) -> bool:
        return any(self._service.is_callable(region_of(arn)) for arn in arns)

    def _refuse_where_one_is_away(self, targets: Sequence[_Target]) -> None:
        for kek, arns in targets:
            if not self._is_callable(arns):
                raise KeyUnavailable(
                    f"KMS for {_shown(kek)}: {', '.join(map(region_of, arns))} is away, and every KEK must wrap a data"
                    " key",
                    operation="GenerateDataKey",
                    key_id=_shown(kek),
                    remedy="Wait: sealing goes on by itself. With 'require: any' it would go on with the other KEKs.",
                )

    def _generate_under(self, arns: Sequence[str], context: Mapping[str, str]) -> _Minted:
        asked = callable_first(self._service, arns)
        attempts = [partial(self._generate_at, arn, context) for arn in asked]
        outcome = first_answer(attempts, goes_on=is_unavailable, discard=_Minted.wipe)
        for minted in outcome.answers.values():
            return minted
        raise the_failure(outcome.failures, asked, arns)

    def _generate_at(self, arn: str, context: Mapping[str, str]) -> _Minted:
        answer = self._service.call(
            "GenerateDataKey", region_of(arn), arn, context, KeySpec="AES_256", EncryptionContext=dict(context)
        )
        plaintext, wrapped = take_plaintext(answer), answer.get("CiphertextBlob")
        sized = isinstance(wrapped, bytes) and 0 < len(wrapped) <= MAX_CIPHERTEXT_BYTES
        if not sized or len(plaintext) != DEK_BYTES or "KeyId" not in answer:
            wipe(plaintext)
            raise unusable_answer("GenerateDataKey", arn, answer, KeyUnavailable, "the answer holds no data key")
        if answer["KeyId"] != arn:
            wipe(plaintext)
            raise unusable_answer("GenerateDataKey", arn, answer, KeyRefused, "another key answered")
        return _Minted(arn, plaintext, wrapped, str(answer.get("KeyMaterialId") or ""))

    def _wrap_for(
        self, targets: Sequence[_Target], missing: _Failures, dek: bytearray, context: Mapping[str, str]
    ) -> list[tuple[str, bytes]]:
        """Wrap ``dek`` under each KEK at once; add those that could not to ``missing``."""
        # A copy each, overwritten by who uses it: one that comes late must not touch the DEK that is in use.
        attempts = [partial(self._encrypt_under, arns, bytearray(dek), context) for _, arns in targets]
        outcome = all_answers(attempts, patience=None if self._require_all else PATIENCE_SECONDS)
        for place, (kek, _) in enumerate(targets):
            if place not in outcome.answers:
                missing.append((kek, outcome.failures.get(place) or _no_answer(kek, "Encrypt")))
        return list(outcome.answers.values())

    def _encrypt_under(self, arns: Sequence[str], dek: bytearray, context: Mapping[str, str]) -> tuple[str, bytes]:
        asked = callable_first(self._service, arns)
        attempts = [partial(encrypt, self._service, arn, dek, context) for arn in asked]
        try:
            outcome = first_answer(attempts, goes_on=is_unavailable)
        finally:
            wipe(dek)
        for wrapped in outcome.answers.values():
            return wrapped
        raise the_failure(outcome.failures, asked, arns)


def encrypt(service: KMSService, arn: str, dek: bytearray, context: Mapping[str, str]) -> tuple[str, bytes]:
    """Wrap a DEK by Encrypt; give the ARN with the ciphertext.

    Raises:
        KeyUnavailable, KeyRefused, ConfigError: KMS did not do it.
    """
    answer = service.call("Encrypt", region_of(arn), arn, context, Plaintext=dek, EncryptionContext=dict(context))
    return arn, take_ciphertext("Encrypt", arn, answer)


def take_ciphertext(operation: str, arn: str, answer: Mapping[str, Any]) -> bytes:
    """Take the ciphertext out of an answer, and see that the KEK that was asked made it.

    Raises:
        KeyUnavailable: There is none.
        KeyRefused: Another KEK answered.
    """
    wrapped = answer.get("CiphertextBlob")
    if not isinstance(wrapped, bytes) or not 0 < len(wrapped) <= MAX_CIPHERTEXT_BYTES or "KeyId" not in answer:
        raise unusable_answer(operation, arn, answer, KeyUnavailable, "the answer holds no wrapped key")
    if answer["KeyId"] != arn:
        raise unusable_answer(operation, arn, answer, KeyRefused, "another key answered")
    return wrapped


def take_plaintext(answer: dict[str, Any]) -> bytearray:
    """Take the plaintext out of an answer, as bytes that can be overwritten; empty where there is none."""
    # bytes cannot be overwritten: keep none of them.
    plaintext = answer.pop("Plaintext", b"")
    return bytearray(plaintext) if isinstance(plaintext, bytes) else bytearray()


def _shown(kek: KEK) -> str:
    return (kek.known_arns() or (kek.name.text,))[0]


def _no_answer(kek: KEK, operation: str) -> StreamcryptError:
    return KeyUnavailable(
        f"KMS {operation} for {_shown(kek)}: no answer within {PATIENCE_SECONDS:g} s",
        operation=operation,
        key_id=_shown(kek),
    )


def _raise_config_errors(failures: _Failures) -> None:
    for _, error in failures:
        if isinstance(error, ConfigError):
            raise error


def _worst(failures: _Failures, *, all_of_them: bool) -> StreamcryptError:
    """Pick the error to raise: where all KEKs must answer a refusal bites, where any may a retry of another helps."""
    errors = [error for _, error in failures]
    ranked = (ConfigError, KeyRefused, KeyUnavailable) if all_of_them else (ConfigError, KeyUnavailable, KeyRefused)
    return next((error for kind in ranked for error in errors if isinstance(error, kind)), errors[0])

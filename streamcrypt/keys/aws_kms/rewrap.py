"""Wrapping an existing DEK under other KEKs: ReEncrypt within a region, Decrypt and Encrypt where none is shared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from streamcrypt.crypto.data_key import wipe
from streamcrypt.envelope.header import EncryptedDataKey
from streamcrypt.errors import AuthenticationFailed, KeyServiceError, KeyUnavailable, StreamcryptError, UntrustedKey
from streamcrypt.keys.aws_kms.keks import Pair, callable_first, region_of
from streamcrypt.keys.aws_kms.opening import decrypt
from streamcrypt.keys.aws_kms.sealing import encrypt, take_ciphertext
from streamcrypt.keys.aws_kms.service import KMSService
from streamcrypt.keys.aws_kms.target import unusable_answer

__all__ = ["rewrap"]

_MAX_ENTRIES = 2


def rewrap(
    service: KMSService,
    pairs: Sequence[Pair],
    destinations: Sequence[Sequence[str]],
    context: Mapping[str, str],
    learn: Callable[[str, str], object],
) -> tuple[EncryptedDataKey, ...]:
    """Wrap the DEK of one entry under every destination.

    Args:
        service: Calls KMS.
        pairs: The trusted entries of a header with the ARNs to call, most preferred first.
        destinations: The ARNs of each configured KEK, most preferred first.
        context: The encryption context, the same before and after.
        learn: Told of each destination and the key material that it wrapped under, where KMS says so.

    Raises:
        UntrustedKey: There is no trusted entry, or KMS says that it is of another KEK.
        AuthenticationFailed: The entry or the context was altered.
        KeyUnavailable, KeyRefused: See :class:`streamcrypt.keys.provider.RewrappingKeyProvider`.
    """
    failure: StreamcryptError | None = None
    # By identity: two entries with the same bytes are refused as not canonical.
    entries = list({id(entry): entry for entry, _ in pairs}.values())
    for entry in entries[:_MAX_ENTRIES]:
        sources = [arn for other, arn in pairs if other is entry]
        try:
            # All from one entry: two entries of an altered header may hold two keys.
            wrapped = sorted(_wrap(service, entry, sources, arns, context, learn) for arns in destinations)
        except (KeyServiceError, AuthenticationFailed, UntrustedKey) as error:
            if failure is None or (error.retriable and not failure.retriable):
                failure = error
            continue
        return tuple(EncryptedDataKey(entry.provider, arn, blob) for arn, blob in wrapped)
    try:
        raise failure or UntrustedKey("no trusted KEK among those of the record")
    finally:
        del failure  # its traceback leads to this frame, and so back to itself


def _wrap(
    service: KMSService,
    entry: EncryptedDataKey,
    sources: Sequence[str],
    destinations: Sequence[str],
    context: Mapping[str, str],
    learn: Callable[[str, str], object],
) -> tuple[str, bytes]:
    shared = [(source, to) for to in destinations for source in sources if region_of(source) == region_of(to)]
    if not shared:
        dek = decrypt(service, entry, callable_first(service, sources)[0], context)
        try:
            return encrypt(service, callable_first(service, destinations)[0], dek, context)
        finally:
            wipe(dek)
    up = [pair for pair in shared if service.is_callable(region_of(pair[1]))] or shared[:1]
    for source, to in up[:-1]:
        try:
            return _re_encrypt(service, entry, source, to, context, learn)
        except KeyUnavailable:
            continue
    return _re_encrypt(service, entry, *up[-1], context, learn)


def _re_encrypt(
    service: KMSService,
    entry: EncryptedDataKey,
    source: str,
    to: str,
    context: Mapping[str, str],
    learn: Callable[[str, str], object],
) -> tuple[str, bytes]:
    answer = service.call(
        "ReEncrypt",
        region_of(to),
        to,
        context,
        source_key_id=source,
        CiphertextBlob=entry.ciphertext,
        SourceEncryptionContext=dict(context),
        DestinationEncryptionContext=dict(context),
    )
    if "SourceKeyId" not in answer:
        raise unusable_answer("ReEncrypt", to, answer, KeyUnavailable, "the answer does not say what it unwrapped")
    if answer["SourceKeyId"] != source:
        raise UntrustedKey(f"KMS ReEncrypt from {source}: another key answered")
    wrapped = take_ciphertext("ReEncrypt", to, answer)
    learn(to, str(answer.get("DestinationKeyMaterialId") or ""))
    return to, wrapped

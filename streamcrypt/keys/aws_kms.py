"""AWS KMS as key service: GenerateDataKey and Decrypt under a trusted key ARN, always with the encryption context.

Source: AWS KMS API reference, version 2014-11-01.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from streamcrypt.crypto.data_key import wipe
from streamcrypt.crypto.suites import DEK_BYTES
from streamcrypt.envelope.header import MAX_CIPHERTEXT_BYTES, EncryptedDataKey
from streamcrypt.errors import (
    AuthenticationFailed,
    ConfigError,
    KeyRefused,
    KeyUnavailable,
    UntrustedKey,
)
from streamcrypt.events import KeyServiceCalled, Observer, ignore_events
from streamcrypt.keys.aws_client import KMSClients, forget_in_forked_child, hush
from streamcrypt.keys.aws_errors import ACCESS_DENIED, CREDENTIAL_CODES, map_failure, outcome_of, request_id_of
from streamcrypt.keys.aws_names import (
    check_endpoint,
    check_region,
    parse_key_arn,
    parse_key_name,
    single_key,
)
from streamcrypt.keys.aws_refusals import Refusals, Request
from streamcrypt.keys.aws_target import LOOK_AGAIN_SECONDS, ConfiguredKey, unusable_answer
from streamcrypt.keys.provider import GeneratedDataKey

if TYPE_CHECKING:
    from streamcrypt.keys.aws_calls import RegionCalls

__all__ = ["AWSKMSKeyProvider"]

_METHODS = {
    "GenerateDataKey": "generate_data_key",
    "Decrypt": "decrypt",
    "DescribeKey": "describe_key",
}


class AWSKMSKeyProvider:
    """Data keys from AWS KMS. boto3 is loaded, and AWS called, at first use. Safe to share between threads.

    Args:
        key_id: The KEK: key ARN, alias, alias ARN or key id; a list of one is accepted. A full ARN needs no
            kms:DescribeKey; everything else is resolved by it.
        region: Of the KEK. Default: from the ARN, else AWS_REGION and the profile.
        endpoint_url: A local KMS: one URL or one by region. http only on loopback. Default: AWS itself.
        trusted_keys: ARNs of KEKs that opening may use besides ``key_id``, in order of preference.
        regions: Reserved for several KEKs; must be empty.
        require: Reserved for several KEKs; ``all``.
        insecure_endpoint: Accept http beyond loopback, for containers on a network of their own.
        session: A ``boto3.session.Session`` with credentials of its own. Default: boto's usual chain, which
            refreshes what expires.
        observer: Told of every call and of an alias that moved.
        clock: Returns seconds and only goes forward.

    Raises:
        ConfigError: A name, region or URL is malformed, they contradict each other, or the KEK is AWS managed.
    """

    provider = "aws-kms"

    def __init__(
        self,
        key_id: str | Sequence[str],
        *,
        region: str | None = None,
        endpoint_url: str | Mapping[str, str] | None = None,
        trusted_keys: Sequence[str] = (),
        regions: Sequence[str] = (),
        require: str = "all",
        insecure_endpoint: bool = False,
        session: Any = None,
        observer: Observer = ignore_events,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        name = parse_key_name(single_key(key_id, regions, require))
        self._region = _agree_on_region(region, name.region)
        if isinstance(trusted_keys, str):
            raise ConfigError("trusted_keys is a list of key ARNs, not a string")
        named = [parse_key_arn(arn, f"trusted_keys[{place}]") for place, arn in enumerate(trusted_keys)]
        self._listed = {name.text: name.region for name in named}
        for url in endpoint_url.values() if isinstance(endpoint_url, Mapping) else [endpoint_url]:
            if url is not None:
                check_endpoint(url, insecure=insecure_endpoint)
        endpoints = dict(endpoint_url) if isinstance(endpoint_url, Mapping) else endpoint_url
        self._clients = KMSClients(session, endpoints, insecure_endpoint=insecure_endpoint)
        self._observer = observer
        self._clock = clock
        self._key = ConfiguredKey(name, self._describe, observer, clock)
        self._refusals = Refusals(clock)
        self.forget()
        forget_in_forked_child(self)

    def forget(self) -> None:
        """Start with breakers of its own: at first, and in a forked child, where a thread may have held a lock."""
        self._calls: dict[str, RegionCalls] = {}
        self._refusals.forget()

    def __repr__(self) -> str:
        return f"AWSKMSKeyProvider({self._key.name.text!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key provider stays in its process and cannot be pickled: build one from the configuration")

    @property
    def trust_generation(self) -> int:
        """Grows whenever the alias was found to point elsewhere."""
        return self._key.moves

    def generate_data_key(self, context: Mapping[str, str]) -> GeneratedDataKey:
        """Mint a DEK by GenerateDataKey. See :class:`streamcrypt.KeyProvider` for what is raised."""
        arn = self._key.arn()
        answer = self._call("GenerateDataKey", arn, context, KeySpec="AES_256", EncryptionContext=dict(context))
        plaintext, wrapped = _take_plaintext(answer), answer.get("CiphertextBlob")
        sized = isinstance(wrapped, bytes) and 0 < len(wrapped) <= MAX_CIPHERTEXT_BYTES
        if not sized or len(plaintext) != DEK_BYTES or "KeyId" not in answer:
            wipe(plaintext)
            raise unusable_answer("GenerateDataKey", arn, answer, KeyUnavailable, "the answer holds no data key")
        if answer["KeyId"] != arn:
            wipe(plaintext)
            raise unusable_answer("GenerateDataKey", arn, answer, KeyRefused, "another key answered")
        return GeneratedDataKey(plaintext, (EncryptedDataKey(self.provider, arn, wrapped),))

    def decrypt_data_key(self, encrypted: EncryptedDataKey, key_id: str, context: Mapping[str, str]) -> bytearray:
        """Unwrap a DEK by Decrypt under ``key_id``, which :meth:`trusted` gave.

        Raises:
            AuthenticationFailed: The wrapped key or the context was altered, or it wraps no DEK.
            UntrustedKey: The wrapped key is not of that KEK.
            KeyUnavailable, KeyRefused: See :class:`streamcrypt.KeyProvider`.
        """
        answer = self._call(
            "Decrypt", key_id, context, CiphertextBlob=encrypted.ciphertext, EncryptionContext=dict(context)
        )
        plaintext = _take_plaintext(answer)
        if "KeyId" not in answer or not plaintext:
            wipe(plaintext)
            raise unusable_answer("Decrypt", key_id, answer, KeyUnavailable, "the answer holds no key")
        if answer["KeyId"] != key_id:
            wipe(plaintext)
            raise UntrustedKey(f"KMS Decrypt for {key_id}: another key answered")
        if len(plaintext) != DEK_BYTES:
            wipe(plaintext)
            # Really wrapped under the trusted KEK, yet no DEK: the record's fault, so that others go on.
            raise AuthenticationFailed("the data key cannot be opened")
        return plaintext

    def trusted(self, keys: Sequence[EncryptedDataKey]) -> Sequence[tuple[EncryptedDataKey, str]]:
        """Pick the wrapped keys of trusted KEKs: the configured KEK first, then ``trusted_keys`` in their order.

        An alias is resolved when due, and once more before everything is refused.

        Raises:
            KeyServiceError, ConfigError: The alias could not be resolved, and no listed KEK is among ``keys``.
        """
        ours = {key.key_id: key for key in keys if key.provider == self.provider}
        if not ours:
            if not keys and not self._listed:
                self._key.arn()  # asked for nothing: whether trust is known
            return []
        if any(arn in ours for arn in self._listed):
            # Opens without DescribeKey; the alias counts only while it is known.
            return self._pick(ours, self._key.known_arn())
        found = self._pick(ours, self._key.arn())
        return found or self._pick(ours, self._key.arn(LOOK_AGAIN_SECONDS))

    def _pick(self, ours: Mapping[str, EncryptedDataKey], target: str | None) -> list[tuple[EncryptedDataKey, str]]:
        mine = dict.fromkeys([target, *self._listed] if target else self._listed)
        return [(ours[arn], arn) for arn in mine if arn in ours]

    def check(self) -> str:
        """Look the KEK up by DescribeKey; return its ARN.

        Where the KEK is a full ARN and DescribeKey is denied, nothing more can be said and the ARN is returned.

        Raises:
            ConfigError: It is AWS managed, or of another kind than symmetric encryption.
            KeyUnavailable: A retry helps.
            KeyRefused: It does not exist, may not be looked up, or is not enabled.
        """
        metadata = self._key.look_up()
        if metadata is None:
            return self._key.name.text
        arn, state = str(metadata["Arn"]), metadata.get("KeyState", "")
        if state != "Enabled":
            raise KeyRefused(
                f"KMS key {arn}: its state is {state}",
                operation="DescribeKey",
                key_id=arn,
                remedy=f"Enable the key again: aws kms enable-key --key-id {arn}"
                if state == "Disabled"
                else f"Bring the key back into service: aws kms describe-key --key-id {arn}",
            )
        return arn

    def close(self) -> None:
        """Close the connections. Later calls raise ConfigError."""
        self._clients.close()

    def _describe(self) -> Mapping[str, Any] | None:
        name = self._key.name
        answer: Mapping[str, Any] | None = self._call(
            "DescribeKey", name.text, {}, tolerate=ACCESS_DENIED if name.is_key_arn else ""
        )
        return answer

    def _call(
        self, operation: str, key_id: str, context: Mapping[str, str], *, tolerate: str = "", **members: Any
    ) -> Any:
        """Make one operation with its retries. None where it was refused with the code ``tolerate``."""
        region = self._region_of(key_id)
        request = Request(operation, key_id, tuple(sorted(context.items())))
        self._refusals.repeat(request)
        outcome = ""

        def attempt() -> Any:
            nonlocal outcome
            answer, outcome = self._attempt(request, region, members)
            if isinstance(answer, Exception):
                raise answer
            return answer

        try:
            answer = self._calls_in(region).run(attempt)
        except KeyRefused as error:
            if tolerate and outcome == tolerate:
                return None
            self._refusals.remember(request, outcome, error)
            if outcome in CREDENTIAL_CODES:
                self._clients.renew()
            raise
        self._refusals.clear(request)
        return answer

    def _attempt(self, request: Request, region: str, members: Mapping[str, Any]) -> tuple[Any, str]:
        """Make one call and tell of it; give the answer or the error to raise, and the outcome."""
        operation, key_id = request.operation, request.key_id
        client = self._clients.get(region)
        started, outcome, failure = self._clock(), "ok", None
        try:
            with hush():
                answer = getattr(client, _METHODS[operation])(KeyId=key_id, **members)
        except Exception as error:  # noqa: BLE001 - botocore raises its own tree and plain Python errors
            failure = map_failure(error, operation=operation, key_id=key_id)
            outcome, answer = outcome_of(error), getattr(error, "response", None) or {}
        material, seconds = str(answer.get("KeyMaterialId", "")), self._clock() - started
        self._observer(
            KeyServiceCalled(
                operation, region, key_id, material, request.context, outcome, request_id_of(answer), seconds
            )
        )
        return failure or answer, outcome

    def _calls_in(self, region: str) -> RegionCalls:
        calls = self._calls.get(region)
        if calls is None:
            try:
                from streamcrypt.keys.aws_calls import RegionCalls
            except ImportError:
                raise ConfigError(
                    "tenacity or pybreaker is not installed", remedy="pip install 'streamcrypt[aws]'"
                ) from None
            calls = self._calls.setdefault(region, RegionCalls(region, self._clock, self._observer))
        return calls

    def _region_of(self, key_id: str) -> str:
        listed = self._listed.get(key_id)
        if listed:
            return listed
        if not self._region:
            self._region = self._clients.default_region()
        return self._region


def _agree_on_region(given: str | None, named: str) -> str:
    if given is None:
        return named
    region = check_region(given)
    if named and named != region:
        raise ConfigError(
            f"region: {region} contradicts key_id, which is in {named}",
            remedy="Leave region out, or name the key of that region.",
        )
    return region


def _take_plaintext(answer: dict[str, Any]) -> bytearray:
    # bytes cannot be overwritten: keep none of them.
    plaintext = answer.pop("Plaintext", b"")
    return bytearray(plaintext) if isinstance(plaintext, bytes) else bytearray()

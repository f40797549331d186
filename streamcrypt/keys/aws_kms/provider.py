"""AWS KMS as key service: one or several KEKs, in one or several regions, always with the encryption context.

Source: AWS KMS API reference, version 2014-11-01.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from streamcrypt.envelope.header import EncryptedDataKey
from streamcrypt.errors import ConfigError, KeyRefused, KeyServiceError, KeyUnavailable, StreamcryptError
from streamcrypt.events import Observer, ignore_events
from streamcrypt.keys.aws_kms.changes import LookPace, SealingWatch
from streamcrypt.keys.aws_kms.client import KMSClients
from streamcrypt.keys.aws_kms.keks import KEK, Pair, match, order
from streamcrypt.keys.aws_kms.names import check_endpoint, check_region, identity_of
from streamcrypt.keys.aws_kms.opening import decrypt
from streamcrypt.keys.aws_kms.plan import Plan
from streamcrypt.keys.aws_kms.rewrap import rewrap
from streamcrypt.keys.aws_kms.sealing import Sealing
from streamcrypt.keys.aws_kms.service import KMSService
from streamcrypt.keys.aws_kms.target import LOOK_AGAIN_SECONDS, RESOLVE_EVERY_SECONDS
from streamcrypt.keys.provider import GeneratedDataKey

__all__ = ["AWSKMSKeyProvider"]

# An administrator's doing; the other states come and go with stores, imports and replication.
_DISABLED_STATES = frozenset({"Disabled", "PendingDeletion", "PendingReplicaDeletion"})


class AWSKMSKeyProvider:
    """Data keys from AWS KMS. boto3 is loaded, and AWS called, at first use. Safe to share between threads.

    Each data key is wrapped for every KEK of ``key_id``, and any one of them opens. A multi-region key (``mrk-``) is
    one KEK with a replica in several regions: the first region that is up seals and opens. See docs/regions.md.

    Args:
        key_id: The KEK: key ARN, alias, alias ARN or key id; or a list of them, most preferred first, at most 8. A full
            ARN needs no kms:DescribeKey; everything else is resolved by it. ARNs of one multi-region key in several
            regions are one KEK.
        region: Of a KEK that is no ARN, and the first one where a multi-region key is called. Default: from the ARN,
            else AWS_REGION and the profile.
        endpoint_url: A local KMS: one URL or one by region. http only on loopback. Default: AWS itself.
        trusted_keys: ARNs of KEKs that opening may use besides ``key_id``, in order of preference. A multi-region key
            among them is called in the regions of its ARNs and in ``regions``.
        regions: Further regions that hold a replica of the multi-region keys, in order of preference. A record may
            name such a key by ``region``, by one of these and by the region of any ARN given here; by no other.
        require: With several KEKs: ``all`` (default): a data key is wrapped for every one, and none is minted while one
            is away. ``any``: for those that answer; :attr:`sealing_generation` grows when the others are back.
        insecure_endpoint: Accept http beyond loopback, for containers on a network of their own.
        session: A ``boto3.session.Session`` with credentials of its own. Default: boto's usual chain, which
            refreshes what expires.
        only_region: Call this region alone, as :meth:`confined_to` does. Default: all that are named.
        observer: Told of every call, of breakers, and of an alias that moved.
        clock: Returns seconds and only goes forward.

    Raises:
        ConfigError: A name, region or URL is malformed, they contradict each other, or a KEK is AWS managed.
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
        only_region: str = "",
        observer: Observer = ignore_events,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for url in endpoint_url.values() if isinstance(endpoint_url, Mapping) else [endpoint_url]:
            if url is not None:
                check_endpoint(url, insecure=insecure_endpoint)
        endpoints = dict(endpoint_url) if isinstance(endpoint_url, Mapping) else endpoint_url
        plan = Plan(key_id, region=region, regions=regions, trusted_keys=trusted_keys, require=require)
        self._settings: Mapping[str, Any] = {
            "key_id": key_id,
            "region": region,
            "endpoint_url": endpoints,
            "trusted_keys": trusted_keys,
            "regions": regions,
            "require": require,
            "insecure_endpoint": insecure_endpoint,
            "session": session,
            "observer": observer,
            "clock": clock,
        }
        self._clients = KMSClients(session, endpoints, insecure_endpoint=insecure_endpoint)
        self._service = KMSService(self._clients, observer, clock, check_region(only_region) if only_region else "")
        self._pace = LookPace(clock)
        self._name_keks(plan)

    def _name_keks(self, plan: Plan) -> None:
        observer, clock = self._settings["observer"], self._settings["clock"]
        self._require_all, self._listed_regions, self._region = plan.require_all, plan.listed_regions, plan.region
        made = [
            KEK(name, places, self._service, self._home, observer, clock, self._noticed_move)
            for name, places in plan.named
        ]
        self._keks, self._listed = made[: plan.configured], made[plan.configured :]
        self._sealing = Sealing(self.provider, self._keks, self._service, require_all=plan.require_all)
        self._watch = SealingWatch(self._keks, self._sealing.prove, clock, self._pace)
        self.trust_generation = 0
        """Grows whenever an alias was found to point elsewhere."""

    def __repr__(self) -> str:
        return f"AWSKMSKeyProvider({', '.join(repr(kek.name.text) for kek in self._keks)})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key provider stays in its process and cannot be pickled: build one from the configuration")

    def confined_to(self, region: str) -> AWSKMSKeyProvider:
        """Give a provider of the same settings that calls ``region`` only: every other one counts as away.

        It shows what still opens and seals in a disaster. Close it like any other.

        Raises:
            ConfigError: ``region`` is no region name.
        """
        return AWSKMSKeyProvider(**{**self._settings, "only_region": region})

    def under(self, key_id: str | Sequence[str], trusted_keys: Sequence[str] = ()) -> AWSKMSKeyProvider:
        """Give a provider of the same settings for other KEKs, through the same connections and breakers.

        It lives no longer than this one and is not closed: for :class:`streamcrypt.TenantKeys`. ``region`` and
        ``regions`` hold for it as far as its KEKs can be there.

        Raises:
            ConfigError: A name is malformed.
        """
        other = object.__new__(AWSKMSKeyProvider)
        other.__dict__.update(self.__dict__)
        given = self._settings
        plan = Plan.lenient(
            key_id,
            region=given["region"],
            regions=given["regions"],
            trusted_keys=trusted_keys,
            require=given["require"],
        )
        other._settings = {**given, "key_id": key_id, "trusted_keys": trusted_keys}
        other._name_keks(plan)
        return other

    @property
    def sealing_generation(self) -> int:
        """See :class:`streamcrypt.KeyProvider`. Reading it has the KEKs looked at, when due, on another thread."""
        self._watch.look_when_due()
        return self._watch.generation

    def key_arns(self) -> tuple[str, ...]:
        """Give the configured KEKs as ARNs, most preferred first; of a multi-region key that of its first region.

        Raises:
            ConfigError, KeyServiceError: A name cannot be resolved.
        """
        return tuple({identity_of(arns[0]): arns[0] for arns in [kek.arns() for kek in self._keks]}.values())

    def generate_data_key(self, context: Mapping[str, str]) -> GeneratedDataKey:
        """Mint a DEK: GenerateDataKey under the first KEK that answers, Encrypt under the others, all at once.

        Raises:
            KeyUnavailable, KeyRefused, ConfigError: See :class:`streamcrypt.KeyProvider`. Under ``require: any`` only
                where no KEK answered, or one can never serve.
        """
        return self._sealing.generate(context, self._watch)

    def decrypt_data_key(self, encrypted: EncryptedDataKey, key_id: str, context: Mapping[str, str]) -> bytearray:
        """Unwrap a DEK by Decrypt under ``key_id``, which :meth:`trusted` gave.

        Raises:
            AuthenticationFailed: The wrapped key or the context was altered, or it wraps no DEK.
            UntrustedKey: The wrapped key is not of that KEK.
            KeyUnavailable, KeyRefused: See :class:`streamcrypt.KeyProvider`.
        """
        return decrypt(self._service, encrypted, key_id, context)

    def rewrap_data_key(
        self, keys: Sequence[EncryptedDataKey], context: Mapping[str, str]
    ) -> tuple[EncryptedDataKey, ...]:
        """Wrap the DEK of a header under every configured KEK, by one ReEncrypt each, whatever ``require`` says.

        Where source and destination share no region, KMS cannot do it alone: Decrypt and Encrypt, and the DEK is in
        this process meanwhile.

        Raises:
            UntrustedKey, AuthenticationFailed, KeyUnavailable, KeyRefused: See
                :class:`streamcrypt.keys.provider.RewrappingKeyProvider`.
        """
        destinations = {identity_of(arns[0]): arns for arns in [kek.arns() for kek in self._keks]}
        watch = self._watch

        def learn(arn: str, material: str) -> None:
            watch.learn(arn, material, watch.generation)

        return rewrap(self._service, self.trusted(keys), list(destinations.values()), context, learn)

    def trusted(self, keys: Sequence[EncryptedDataKey]) -> Sequence[Pair]:
        """Pick the wrapped keys of trusted KEKs: the configured KEKs first, then ``trusted_keys`` in their order.

        A multi-region key gives one pair for each region where it may be called. KEKs of regions that are away, and
        those that lately refused, come last. An alias is resolved when due, and once more before all is refused.

        Raises:
            KeyServiceError, ConfigError: An alias could not be resolved, and no other trusted KEK is among ``keys``.
        """
        ours = [key for key in keys if key.provider == self.provider]
        if not ours:
            if not keys:
                self._learn_trust()
            return []
        # Opens without DescribeKey; an alias counts only while it is known.
        if found := self._pick(ours, [kek.known_arns() for kek in (*self._keks, *self._listed)]):
            return found
        for max_age in (RESOLVE_EVERY_SECONDS, LOOK_AGAIN_SECONDS):
            arns, failure = self._resolve(max_age)
            if found := self._pick(ours, arns):
                return found
            if failure is not None:
                raise failure
        return []

    def _learn_trust(self) -> None:
        """Find out whether trust is known: of one KEK at least."""
        if not any(kek.known_arns() for kek in (*self._keks, *self._listed)):
            arns, failure = self._resolve(RESOLVE_EVERY_SECONDS)
            if failure is not None and not arns:
                raise failure

    def _resolve(self, max_age: float) -> tuple[list[tuple[str, ...]], StreamcryptError | None]:
        failure: StreamcryptError | None = None
        resolved = []
        for kek in (*self._keks, *self._listed):
            try:
                resolved.append(kek.arns(max_age))
            except (KeyServiceError, ConfigError) as error:
                failure = failure if failure is not None and not error.retriable else error
        return resolved, failure

    def _pick(self, ours: Sequence[EncryptedDataKey], trusted: Sequence[tuple[str, ...]]) -> Sequence[Pair]:
        return order(match(ours, [arns for arns in trusted if arns], self._listed_regions), self._service)

    def check(self) -> str:
        """Look the KEKs up by DescribeKey; return the ARN of the first one that is well.

        Where a KEK is a full ARN and DescribeKey is denied, nothing more can be said and the ARN is returned.

        Raises:
            ConfigError: One is AWS managed, or of another kind than symmetric encryption.
            KeyUnavailable: A retry helps.
            KeyRefused: One does not exist, may not be looked up, or is not enabled. Under ``require: any``: every one.
        """
        found: list[str] = []
        failure: StreamcryptError | None = None
        for kek in self._keks:
            try:
                found.append(_check(kek))
            except (KeyUnavailable, KeyRefused) as error:
                if self._require_all:
                    raise
                failure = failure or error
        if not found and failure is not None:
            raise failure
        return found[0]

    def close(self) -> None:
        """Close the connections. Later calls raise ConfigError."""
        self._watch.close()
        self._clients.close()

    def _noticed_move(self) -> None:
        self.trust_generation = sum(kek.target.moves for kek in self._keks)
        self._watch.grow()

    def _home(self) -> str:
        if not self._region:
            self._region = self._clients.default_region()
        return self._region


def _check(kek: KEK) -> str:
    metadata = kek.target.look_up()
    if metadata is None:
        return kek.name.text
    arn, state = str(metadata["Arn"]), metadata.get("KeyState", "")
    if state != "Enabled":
        refusal = KeyRefused(
            f"KMS key {arn}: its state is {state}",
            operation="DescribeKey",
            key_id=arn,
            remedy=f"Enable the key again: aws kms enable-key --key-id {arn}"
            if state == "Disabled"
            else f"Bring the key back into service: aws kms describe-key --key-id {arn}",
        )
        refusal.kek_is_disabled = state in _DISABLED_STATES
        raise refusal
    return arn

"""The KEKs by which data keys are wrapped and opened: what each name means, and in which regions it is called.

A multi-region key has one ARN per replica. KMS is only ever called with an ARN built here, out of the user's own names
and regions; never with a string from a record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from streamcrypt.envelope.header import EncryptedDataKey
from streamcrypt.errors import ConfigError, KeyRefused, KeyUnavailable, StreamcryptError
from streamcrypt.events import Observer
from streamcrypt.keys.aws_kms.errors import ACCESS_DENIED
from streamcrypt.keys.aws_kms.names import KeyName, identity_of, in_region, is_multi_region, parse_key_arn
from streamcrypt.keys.aws_kms.service import KMSService
from streamcrypt.keys.aws_kms.target import RESOLVE_EVERY_SECONDS, ConfiguredKey
from streamcrypt.keys.hedging import first_answer

__all__ = ["KEK", "Pair", "callable_first", "is_unavailable", "match", "order", "region_of", "the_failure"]

Pair = tuple[EncryptedDataKey, str]
"""An encrypted data key of a record, and the trusted ARN under which KMS is asked to open it."""


def region_of(arn: str) -> str:
    """Give the region of a key ARN."""
    return arn.split(":", 4)[3]


def is_unavailable(error: StreamcryptError) -> bool:
    """Whether another region may be asked instead: an answer, even a refusal, is taken as it is."""
    return isinstance(error, KeyUnavailable)


def the_failure(
    failures: Mapping[int, StreamcryptError], asked: Sequence[str], arns: Sequence[str]
) -> StreamcryptError:
    """Pick the error to raise where every region of a KEK failed: what an operator must mend before what passes.

    While the first region is away it is not known that the KEK is disabled or gone: the others may lack a replica.

    Args:
        failures: By place in ``asked``.
        asked: The ARNs under which KMS was asked.
        arns: All ARNs of the KEK, most preferred first.
    """
    several = [failures[place] for place in sorted(failures)]
    failure = next((error for error in several if not is_unavailable(error)), several[0])
    if isinstance(failure, KeyRefused) and (asked[0] != arns[0] or is_unavailable(several[0])):
        failure.kek_is_disabled = False
    return failure


def callable_first(service: KMSService, arns: Sequence[str]) -> Sequence[str]:
    """Leave out the ARNs of regions that are away; the first one stays where all are, so that its breaker speaks."""
    return [arn for arn in arns if service.is_callable(region_of(arn))] or arns[:1]


class KEK:
    """One KEK as the user named it.

    Args:
        name: Its parsed name.
        regions: Regions that hold a replica where it is a multi-region key, most preferred first, "" for ``home``; may
            be empty.
        service: Calls KMS.
        home: Gives the region of a name that says none.
        observer: Told when an alias moved.
        clock: Returns seconds and only goes forward.
        moved: Called when an alias moved.
    """

    def __init__(
        self,
        name: KeyName,
        regions: Sequence[str],
        service: KMSService,
        home: Callable[[], str],
        observer: Observer,
        clock: Callable[[], float],
        moved: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self._regions = tuple(regions)
        self._service = service
        self._home = home
        self.target = ConfiguredKey(name, self._describe, observer, clock, moved)

    def known_arns(self) -> tuple[str, ...]:
        """Give its ARNs without a call, most preferred first; none where the name was never resolved, or is due."""
        arn = self.target.known_arn()
        return self._replicas(arn) if arn else ()

    def arns(self, max_age: float = RESOLVE_EVERY_SECONDS) -> tuple[str, ...]:
        """Give its ARNs, most preferred first: one, or one for each region of a multi-region key.

        Args:
            max_age: Seconds for which an alias is taken to point where it did.

        Raises:
            ConfigError, KeyServiceError: The name cannot be resolved.
        """
        return self._replicas(self.target.arn(max_age))

    def _replicas(self, arn: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*(in_region(arn, place or self._home()) for place in self._regions), arn]))

    def _describe(self) -> Mapping[str, Any] | None:
        name = self.name
        arns: Sequence[str] = self._replicas(name.text) if name.is_key_arn else ()
        called = callable_first(self._service, arns)
        if name.is_key_arn:
            asked = [(region_of(arn), arn) for arn in called]
        else:
            regions = [name.region] if name.region else [place or self._home() for place in self._regions or ("",)]
            asked = [(region, name.text) for region in regions]
        tolerate = ACCESS_DENIED if name.is_key_arn else ""
        calls = [
            partial(self._service.call, "DescribeKey", region, key_id, {}, tolerate=tolerate)
            for region, key_id in asked
        ]
        outcome = first_answer(calls, goes_on=is_unavailable)
        for place, answer in outcome.answers.items():
            if place == 0 or name.is_key_arn or _is_multi_region(answer):
                described: Mapping[str, Any] | None = answer
                return described
            # The same alias may be another key there: only the first region says which one is meant.
            raise outcome.failures.get(0) or KeyUnavailable(
                f"KMS DescribeKey for {name.text}: {asked[0][0]} did not answer",
                operation="DescribeKey",
                key_id=name.text,
            )
        # That another region knows no such alias says nothing while the first is away.
        raise the_failure(outcome.failures, called, arns) if name.is_key_arn else outcome.failures[0]


def _is_multi_region(answer: Mapping[str, Any]) -> bool:
    metadata = answer.get("KeyMetadata")
    return isinstance(metadata, Mapping) and is_multi_region(str(metadata.get("Arn")))


def match(
    keys: Sequence[EncryptedDataKey], trusted: Iterable[Sequence[str]], regions: frozenset[str]
) -> Sequence[Pair]:
    """Find the encrypted data keys of trusted KEKs, each with every ARN by which its KEK may be called.

    Args:
        keys: Those of one record that are AWS KMS's.
        trusted: The ARNs of each trusted KEK, most preferred first.
        regions: Listed regions: a record may name a multi-region key by any of them, and by those where its KEK may be
            called; by no other.
    """
    trusted = list(trusted)
    listed = regions.union(region_of(arn) for arns in trusted for arn in arns)
    named: dict[tuple[str, ...], list[EncryptedDataKey]] = {}
    for key in keys:
        identity = _listed_identity(key.key_id, listed)
        if identity is not None:
            named.setdefault(identity, []).append(key)
    pairs: dict[Pair, None] = {}
    for arns in trusted:
        entries = named.get(identity_of(arns[0]), ())
        pairs.update(dict.fromkeys((entry, arn) for entry in entries for arn in arns))
    return list(pairs)


def _listed_identity(key_id: str, regions: frozenset[str]) -> tuple[str, ...] | None:
    try:
        name = parse_key_arn(key_id, "key_id")
    except ConfigError:
        return None
    if is_multi_region(key_id) and name.region not in regions:
        return None
    return identity_of(key_id)


def order(pairs: Sequence[Pair], service: KMSService) -> Sequence[Pair]:
    """Put those that can be expected to answer before the others, and two that do not fail together in front.

    A reader tries two: the best, and then rather another KEK in another region than a replica or a neighbour of it.
    """
    if len(pairs) < 2:  # noqa: PLR2004 - nothing to order
        return pairs
    good = [
        pair
        for pair in pairs
        if service.is_callable(region_of(pair[1])) and not service.was_refused("Decrypt", pair[1])
    ]
    rest = [pair for pair in pairs if pair not in good]
    if len(good) > 2:  # noqa: PLR2004 - two are tried in any case
        first, *others = good
        elsewhere = [pair for pair in others if region_of(pair[1]) != region_of(first[1])]
        apart = [pair for pair in elsewhere if identity_of(pair[1]) != identity_of(first[1])]
        second = next(iter([*apart, *elsewhere, *others]))
        good = [first, second, *(pair for pair in others if pair is not second)]
    return [*good, *rest]

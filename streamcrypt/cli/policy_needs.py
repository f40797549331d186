"""What the pipelines of a configuration need of AWS KMS, as plain values for :mod:`streamcrypt.policies`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace

from streamcrypt.cli.compose import build_provider
from streamcrypt.config import KeysSettings, PipelineSettings, Settings
from streamcrypt.config.tenants import mapped_keks
from streamcrypt.envelope.header import OUR_PREFIX
from streamcrypt.errors import ConfigError, KeyServiceError
from streamcrypt.keys.aws_kms import AWSKMSKeyProvider
from streamcrypt.keys.aws_kms.names import identity_of, in_region, parse_key_name
from streamcrypt.keys.tenants_template import TOPIC_FIELD
from streamcrypt.policies.documents import is_placeholder, key_placeholder
from streamcrypt.policies.needs import (
    KEK,
    Need,
    Role,
    Way,
    inspecting,
    opening,
    rewrapping,
    rotating,
    sealing,
)
from streamcrypt.policies.topics import Topics, topics_between

__all__ = ["KeyFinder", "needs_of"]


class KeyFinder:
    """Finds the key ARNs that configured names mean.

    Args:
        given: Name, as it is configured, to key ARN.
        offline: Ask nobody: a name that is not among those given gets a placeholder.
    """

    def __init__(self, given: Mapping[str, str], *, offline: bool) -> None:
        self._given = dict(given)
        self._known: dict[tuple[str, str | None, str], str] = {}
        self._offline = offline
        self._ours: set[str] = set()
        self.notes: list[str] = []
        """Why a name could not be resolved."""

    def kek(self, keys: KeysSettings, name: str) -> KEK:
        """Give one configured KEK, with its replicas in the configured regions where it is a multi-region key."""
        parsed = parse_key_name(name)
        aliases = (name[name.index("alias/") :],) if parsed.may_move else ()
        arn = name if parsed.is_key_arn else self._resolve(keys, name)
        if not is_placeholder(arn):
            self._ours.add(_account(arn))
        by_id = not parsed.is_key_arn and not aliases
        return KEK(replicas(arn, keys, sealing=True), aliases, by_id, by_arn=parsed.is_key_arn)

    def is_ours(self, key: str) -> bool:
        """Say whether a key is of an account that holds a configured KEK, so that its whole policy is ours to write."""
        return is_placeholder(key) or _account(key) in self._ours

    def _resolve(self, keys: KeysSettings, name: str) -> str:
        if name in self._given:
            return self._given[name]
        place = (name, keys.region, str(keys.endpoint_url))
        if place in self._known:
            return self._known[place]
        found = key_placeholder(name)
        if not self._offline:
            try:
                provider = build_provider(keys.model_copy(update={"key_id": (name,), "require": None}))
                assert isinstance(provider, AWSKMSKeyProvider)
                with closing(provider):
                    found = provider.key_arns()[0]
            except (KeyServiceError, ConfigError) as error:
                self.notes.append(f"{name}: {error}")
        self._known[place] = found
        return found


def replicas(arn: str, keys: KeysSettings, *, sealing: bool) -> tuple[str, ...]:
    """Give a key's ARN; of a multi-region key those that KMS is called with, most preferred first.

    Args:
        arn: The ARN, or a placeholder.
        keys: Names the regions.
        sealing: Whether the key is one of ``key_id``; one of ``trusted_keys`` is also called in ``region`` only where
            there are ``regions``.
    """
    if is_placeholder(arn):
        return (arn,)
    nearest = [keys.region] if keys.region and (sealing or keys.regions) else []
    return tuple(dict.fromkeys([*(in_region(arn, region) for region in [*nearest, *keys.regions]), arn]))


def _account(arn: str) -> str:
    return arn.split(":")[4]


def needs_of(settings: Settings, finder: KeyFinder, further: Sequence[str] = ()) -> Iterator[Need]:
    """Give what each role needs for the work that a configuration describes.

    Args:
        settings: The configuration, with AWS KMS as key service.
        finder: Finds key ARNs.
        further: Names that the context of records to open may have besides those configured.
    """
    for pipeline in settings.pipelines:
        trusted = settings.keys.trusted_keys if pipeline.trusted_keys is None else pipeline.trusted_keys
        for way in _ways(settings, finder, trusted, further):
            yield from _work(settings, pipeline, way)
            yield from opening(Role.AUDITOR, way, _sealed(settings, pipeline), always=True)
            yield from inspecting(way)
            yield from rotating(way)
        if pipeline.dead_letter and pipeline.mode == "encrypt":
            yield from _letters(settings, pipeline, finder, further)


def _work(settings: Settings, pipeline: PipelineSettings, way: Way) -> Iterator[Need]:
    read, written = _read(settings, pipeline), _written(settings, pipeline)
    if pipeline.mode == "encrypt":
        yield from sealing(Role.ENCRYPTOR, way, written)
    elif pipeline.mode == "decrypt":
        yield from opening(Role.DECRYPTOR, way, read)
    elif pipeline.how == "reseal":
        yield from opening(Role.RE_ENCRYPTOR, way, read)
        yield from sealing(Role.RE_ENCRYPTOR, way, written)
        yield from opening(Role.VERIFIER, way, read | written)
    else:
        yield from rewrapping(Role.RE_ENCRYPTOR, way, read)
        yield from opening(Role.VERIFIER, way, read)


def _letters(
    settings: Settings, pipeline: PipelineSettings, finder: KeyFinder, further: Sequence[str]
) -> Iterator[Need]:
    """Seal an encrypting pipeline's dead letters; open them and seal their records for a replay."""
    letters = topics_between([pipeline.dead_letter or ""], topic_names=settings.topic_names)
    keys = settings.keys
    if pipeline.dead_letter_key is not None:
        # As build_letter_provider does: one KEK of any kind.
        keys = keys.model_copy(update={"key_id": (pipeline.dead_letter_key,), "require": None, "regions": ()})
    way = _way(settings, keys, finder, keys.trusted_keys, further)
    yield from sealing(Role.ENCRYPTOR, way, letters)
    yield from inspecting(way)
    yield from rotating(way)
    yield from opening(Role.AUDITOR, way, letters, always=True)
    yield from opening(Role.REPLAYER, way, letters)
    # A record that fails once more is written as a letter again.
    yield from sealing(Role.REPLAYER, way, letters)
    for other in _ways(settings, finder, (), ()):
        yield from sealing(Role.REPLAYER, other, _written(settings, pipeline))


def _read(settings: Settings, pipeline: PipelineSettings) -> Topics:
    return topics_between(pipeline.source, topic_names=settings.topic_names, exclude=pipeline.exclude)


def _written(settings: Settings, pipeline: PipelineSettings) -> Topics:
    return topics_between(pipeline.source, pipeline.to, topic_names=settings.topic_names, exclude=pipeline.exclude)


def _sealed(settings: Settings, pipeline: PipelineSettings) -> Topics:
    if pipeline.mode == "encrypt":
        return _written(settings, pipeline)
    if pipeline.mode == "decrypt":
        return _read(settings, pipeline)
    return _read(settings, pipeline) | _written(settings, pipeline)


def _way(
    settings: Settings, keys: KeysSettings, finder: KeyFinder, trusted: Sequence[str], further: Sequence[str]
) -> Way:
    listed = tuple(arn for named in trusted for arn in replicas(named, keys, sealing=False))
    keks = _distinct(finder.kek(keys, name) for name in keys.key_id or ())
    return Way(keks, listed, keys.require == "any", settings.context, tuple(further))


def _distinct(keks: Iterable[KEK]) -> tuple[KEK, ...]:
    """Take two names of one key for one KEK: replicas of a multi-region key, or an alias and what it points to."""
    found: dict[tuple[str, ...], KEK] = {}
    for kek in keks:
        key = (kek.arns[0],) if is_placeholder(kek.arns[0]) else identity_of(kek.arns[0])
        same = found.get(key, kek)
        arns = tuple(dict.fromkeys([*same.arns, *kek.arns]))
        aliases = tuple(dict.fromkeys([*same.aliases, *kek.aliases]))
        found[key] = KEK(arns, aliases, same.by_id or kek.by_id, same.by_arn or kek.by_arn)
    return tuple(found.values())


def _ways(settings: Settings, finder: KeyFinder, trusted: Sequence[str], further: Sequence[str]) -> tuple[Way, ...]:
    """Give how records are wrapped: one way, or one for each value of a template's mapping."""
    keys, template = settings.keys, settings.keys.template
    if template is None:
        return (_way(settings, keys, finder, trusted, further),)
    ways = []
    for values, kek in mapped_keks(keys).items():
        chosen = dict(zip(template.fields, values, strict=True))
        alone = keys.model_copy(update={"key_id": kek.key_id})
        way = _way(settings, alone, finder, kek.trusted_keys, further)
        pairs = {OUR_PREFIX + field: value for field, value in chosen.items() if field != TOPIC_FIELD}
        ways.append(replace(way, pairs={**way.pairs, **pairs}, topic=chosen.get(TOPIC_FIELD, "")))
    return tuple(ways)

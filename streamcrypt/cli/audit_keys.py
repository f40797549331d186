"""What an audit asks the key service: names, substitutes, the receipt, key material."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from streamcrypt.audit.keks import KEKIdentity, arn_of, configured_keks
from streamcrypt.audit.materials import Materials, find_materials
from streamcrypt.audit.plan import Plan, ends_now, starts_now
from streamcrypt.audit.receipt import Receipt, Witness, write_receipt
from streamcrypt.audit.unwrapping import Unwrapping
from streamcrypt.audit.verdict import Substitutes, Verdict, judge
from streamcrypt.cli.compose import build_provider
from streamcrypt.envelope.header import EncryptedDataKey
from streamcrypt.errors import ConfigError, KeyRefused, KeyServiceError
from streamcrypt.keys.aws_kms.names import parse_key_arn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from confluent_kafka.admin import AdminClient

    from streamcrypt.audit.tally import HeaderBook
    from streamcrypt.config import Settings
    from streamcrypt.keys.provider import KeyProvider

__all__ = ["KeyQuestions"]

_NOT_COVERED = (
    "Copies elsewhere: other topics than these, other clusters, mirrors, backups, object stores.",
    "What was opened before: outputs in clear, databases of consumers, logs, files.",
    "Processes that run: openers keep data keys for cache.ttl ({ttl:g} s here), sealers the current one for max_age.",
    "What was never sealed: record keys, other headers, sizes and times stay in clear, and so do plaintext records.",
    "Records written after this receipt was made.",
    "Other copies of the KEK: key material that was imported may be imported again.",
    "Envelopes that lie: an entry that names this KEK is taken at its word, though a writer may have used another.",
    "The end of it: a KEK that is disabled or pending deletion can be enabled again; only a deleted one is gone.",
)
_REPLICAS = "Replicas of this multi-region key: each has the same key material, and each has to go."


class KeyQuestions:
    """Asks the key services of a configuration, and closes them.

    Args:
        settings: The configuration.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._unwrapping = Unwrapping()
        self._providers: dict[tuple[str, ...], KeyProvider] = {}
        self._readers: dict[str, tuple[Substitutes, ...]] = {}

    def close(self) -> None:
        """Close the key services."""
        for provider in self._providers.values():
            provider.close()

    def configured(self) -> tuple[str, ...]:
        """Give the KEKs of ``key_id`` as ARNs, or the primary of a keyring.

        Raises:
            KeyServiceError: An alias cannot be looked up.
            ConfigError: ``key_id`` is a template.
        """
        if self._settings.keys.template is not None:
            raise ConfigError(
                "--fewer does not go with a key_id template: which KEKs a record should hold depends on its values"
            )
        return configured_keks(self._provider(self._everywhere()))

    def materials(self, book: HeaderBook) -> Materials:
        """Find the key material of what is wrapped under trusted KEKs."""
        return find_materials(book, self._provider(self._everywhere()), self._unwrapping)

    def kek(self, target: str, option: str) -> KEKIdentity:
        """Look a KEK up.

        Raises:
            ConfigError: It is no name of a key.
            KeyServiceError: It could not be looked up.
        """
        return KEKIdentity(target, None if self._is_of_a_keyring(target, option) else self._resolve)

    def verdict(self, kek: KEKIdentity, admin: AdminClient, plan: Plan, book: HeaderBook) -> Verdict:
        """Answer from what was counted whether the KEK may be disabled."""
        return judge(
            list(plan.places.values()),
            book,
            kek,
            self._substitutes,
            unreadable=plan.unreadable,
            lows=starts_now(admin, list(plan.places)),
            now=ends_now(admin, list(plan.places)),
            notes=self._notes(kek, book),
        )

    def receipt(self, kek: KEKIdentity, admin: AdminClient, plan: Plan, book: HeaderBook) -> Receipt:
        """Write from what was counted what goes with the KEK."""
        not_covered = [line.format(ttl=self._settings.cache.ttl) for line in _NOT_COVERED]
        if "/mrk-" in kek.arn:
            not_covered.append(_REPLICAS)
        return write_receipt(
            plan,
            book,
            kek,
            Witness(self._provider(self._everywhere()), self._unwrapping),
            state=self._state(kek.arn),
            made=datetime.now(UTC),
            lows=starts_now(admin, list(plan.places)),
            now=ends_now(admin, list(plan.places)),
            not_covered=not_covered,
        )

    def _substitutes(self, topic: str) -> tuple[Substitutes, ...]:
        """Give the decrypting pipelines that read a topic; where there is none, all that is trusted anywhere."""
        known = self._readers.get(topic)
        if known is None:
            known = self._readers[topic] = self._readers_of(topic)
        return known

    def _readers_of(self, topic: str) -> tuple[Substitutes, ...]:
        settings = self._settings
        readers: dict[tuple[str, ...], list[str]] = {}
        for pipeline in settings.pipelines:
            if pipeline.mode == "decrypt" and settings.spec(pipeline).reads(topic):
                readers.setdefault(_trust(settings, pipeline.trusted_keys), []).append(pipeline.name)
        if not readers:
            return (self._substitute(self._everywhere(), ""),)
        several = len({_trust(settings, pipeline.trusted_keys) for pipeline in settings.pipelines}) > 1
        return tuple(
            self._substitute(trust, f"pipeline {', '.join(names)}" if several else "")
            for trust, names in readers.items()
        )

    def _substitute(self, trust: tuple[str, ...], readers: str) -> Substitutes:
        return Substitutes(self._provider(trust), self._unwrapping, readers)

    def _everywhere(self) -> tuple[str, ...]:
        trusted = dict.fromkeys(self._settings.keys.trusted_keys)
        for pipeline in self._settings.pipelines:
            trusted.update(dict.fromkeys(pipeline.trusted_keys or ()))
        return tuple(trusted)

    def _provider(self, trust: tuple[str, ...]) -> KeyProvider:
        provider = self._providers.get(trust)
        if provider is None:
            provider = build_provider(self._settings.keys, self._unwrapping.observe, trusted_keys=trust)
            self._providers[trust] = provider
        return provider

    def _state(self, arn: str) -> str:
        """Say what the key service says of a KEK now."""
        if not arn.startswith("arn:"):
            mine = self._provider(self._everywhere()).trusted([EncryptedDataKey("local", arn, b"")])
            return "usable" if mine else "not in the keyring"
        try:
            self._resolve(arn, must_serve=True)
        except (KeyServiceError, ConfigError) as error:
            return str(error)
        return "usable"

    def _is_of_a_keyring(self, target: str, option: str) -> bool:
        if self._settings.keys.provider != "local":
            return False
        try:
            parse_key_arn(target, option)
        except ConfigError:
            return True
        return False

    def _resolve(self, name: str, *, must_serve: bool = False) -> str:
        if self._settings.keys.provider == "local":
            raise KeyRefused("the configuration names no KMS to look it up", operation="DescribeKey", key_id=name)
        update = {"key_id": (name,), "mapping": None, "trusted_keys": (), "regions": (), "require": None}
        keys = self._settings.keys.model_copy(update=update)
        if name.startswith("arn:"):
            keys = keys.model_copy(update={"region": None})
        provider = build_provider(keys)
        try:
            return provider.check() if must_serve else arn_of(provider)
        finally:
            provider.close()

    def _notes(self, kek: KEKIdentity, book: HeaderBook) -> list[str]:
        notes = []
        named = {key_id for envelope in book.envelopes for key_id in envelope.key_ids}
        if _any_means(kek, named) is False:
            notes.append(f"no record names this KEK at all: check that {kek.arn} is the one you mean")
        seals = any(pipeline.mode == "encrypt" for pipeline in self._settings.pipelines)
        if seals and _any_means(kek, self._settings.keys.kek_names):
            notes.append("the configuration seals under this KEK still: change key_id before you disable it")
        return notes


def _trust(settings: Settings, trusted_keys: tuple[str, ...] | None) -> tuple[str, ...]:
    return settings.keys.trusted_keys if trusted_keys is None else trusted_keys


def _any_means(kek: KEKIdentity, names: Iterable[str]) -> bool | None:
    """Say whether a name means the KEK; None where a name could not be looked up."""
    try:
        return any(kek.means(name) for name in names)
    except (KeyServiceError, ConfigError):
        return None

"""A KEK for each record, chosen by its topic, key or headers through a mapping that denies by default. spec: 9.3

Rule 1: nothing that a record says is ever the name of a KEK: values are looked up, and names come from the operator.
Rule 2: the values stand in the encryption context, so that the key service authenticates them, and in the AAD, so that
a reader can hold the record to them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Protocol

from streamcrypt.envelope.binding import AADBuilder
from streamcrypt.envelope.header import OUR_PREFIX, EncryptedDataKey
from streamcrypt.errors import (
    ConfigError,
    ContextMismatch,
    KeyNotMapped,
    KeyRefused,
    StreamcryptError,
    UntrustedKey,
)
from streamcrypt.keys.forks import forget_after_fork
from streamcrypt.keys.provider import GeneratedDataKey, KeyProvider
from streamcrypt.keys.tenants_mapping import MappedKEK, Values, read_mapping
from streamcrypt.keys.tenants_template import INPUT_CHARACTERS, Headers, KEKTemplate, Raw

__all__ = ["DEFAULT_MAX_LIVE", "DEFAULT_NEW_KEYS_PER_MINUTE", "KEKFamily", "TenantKeys"]

DEFAULT_MAX_LIVE = 1000
"""Data keys at hand for sealing, one for each topic and tenant: about 10 MB."""
DEFAULT_NEW_KEYS_PER_MINUTE = 600
"""A thousandth of the smallest quota that AWS gives a region for these calls (AWS KMS Developer Guide, "Quotas")."""

_LOOK_AGAIN_SECONDS = 10.0


class KEKFamily(Protocol):
    """A key service that reaches many KEKs through one set of connections."""

    def under(self, key_id: str | Sequence[str], trusted_keys: Sequence[str] = ()) -> KeyProvider:
        """Give a provider of the same settings for other KEKs, which lives no longer than this one and is not closed.

        Args:
            key_id: The KEK, or several, under each of which every data key is wrapped.
            trusted_keys: KEKs that opening may use besides.

        Raises:
            ConfigError: A name is malformed.
        """
        ...

    def close(self) -> None:
        """See :class:`streamcrypt.KeyProvider`."""
        ...


class TenantKeys:
    """A key service that picks the KEK of each record by a template and a mapping.

    Args:
        keys: The key service, configured for any one KEK; the others are reached through its connections.
        template: The KEK's name with placeholders ``{topic}`` (the logical topic), ``{key}``, ``{header:NAME}``, such
            as ``alias/tenant-{header:tenant}``. A list of names wraps each data key under all of them.
        mapping: Every value that may choose a KEK, to that KEK: its name, a list of names, a :class:`MappedKEK`, or
            None for the one that the template names. The values of several placeholders are joined by ``/``, in the
            order of the template. A value that is not here has no KEK, and its records are refused.
        max_live: Data keys for sealing that are kept at hand, of all topics and values; the least recently used goes
            first. Default 1,000.
        new_keys_per_minute: How many data keys may be minted in a minute for topics and values that have none at
            hand; past that, records wait. Default 600: whoever may send many values cannot spend the KMS quota.
        disabled: What a disabled, deleted or pending KEK means: ``fail`` (default) fails the records that lead to it
            as KeyDisabled, so that others go on; ``wait`` has them wait, and with them what is behind them.

    Raises:
        ConfigError: Template or mapping are malformed, or a number is not positive.

    Safe to share between threads.
    """

    def __init__(
        self,
        keys: KEKFamily,
        template: str | Sequence[str],
        mapping: Mapping[str, str | Sequence[str] | MappedKEK | None],
        *,
        max_live: int = DEFAULT_MAX_LIVE,
        new_keys_per_minute: int = DEFAULT_NEW_KEYS_PER_MINUTE,
        disabled: str = "fail",
    ) -> None:
        if disabled not in {"fail", "wait"}:
            raise ConfigError(f"disabled: {disabled!r} is neither 'fail' nor 'wait'")
        for name, number in (("max_live", max_live), ("new_keys_per_minute", new_keys_per_minute)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise ConfigError(f"{name} is no whole number above zero")
        self.template = KEKTemplate(template)
        self.max_live = max_live
        self.new_keys_per_minute = new_keys_per_minute
        self.disabled_fails = disabled == "fail"
        self._family = keys
        self._mapping = dict(mapping)
        self._keks = read_mapping(self.template, mapping)
        self._members: dict[MappedKEK, _Member] = {}
        self._states: dict[str, tuple[bool, float]] = {}
        self.trust_generation = 0
        """See :class:`streamcrypt.KeyProvider`. A plain number: readers look at it for every record."""
        self.after_fork()
        forget_after_fork(self)

    def after_fork(self) -> None:
        """Make the lock anew: in a forked child, another thread's hold on it would never end."""
        self._lock = threading.Lock()

    @property
    def provider(self) -> str:
        """See :class:`streamcrypt.KeyProvider`."""
        return str(getattr(self._family, "provider", ""))

    @property
    def answers_at_once(self) -> bool:
        """Whether no call waits for a network."""
        return bool(getattr(self._family, "answers_at_once", False))

    @property
    def sealing_generation(self) -> int:
        """Grows when it does for any KEK in use. Encryptors go by :meth:`sealing_generation_for`."""
        return sum(member.provider.sealing_generation for member in list(self._members.values()))

    def sealing_generation_for(self, context: Mapping[str, str]) -> int:
        """Give what :attr:`streamcrypt.KeyProvider.sealing_generation` is for the KEK of this context alone.

        So a change for one tenant does not cost the data keys of the others. 0 where none is mapped or in use yet.
        """
        kek = self._keks.get(tuple(context.get(OUR_PREFIX + field, "") for field in self.template.fields))
        member = self._members.get(kek) if kek is not None else None
        return member.provider.sealing_generation if member is not None else 0

    @property
    def bound(self) -> tuple[str, ...]:
        """The fields of the record that choose its KEK, and so have to be bound to the value. spec: 9.3.1"""
        return self.template.bound

    def inputs_of(self, topic: str, raw: Raw) -> dict[str, str]:
        """Give the values that choose a record's KEK, by field. spec: 9.3.2

        Args:
            topic: The logical topic.
            raw: What :attr:`KEKTemplate.take` gave.

        Raises:
            KeyNotMapped: A value is absent, null, double or malformed, or they are not mapped. It quotes none of them.
        """
        values = self.template.values_of(topic, raw)
        good = {field: value for field, value in values.items() if value is not None}
        if len(good) < len(values):
            faulty = ", ".join(_shown(field) for field in values if field not in good)
            raise KeyNotMapped(f"{faulty}: not there exactly once as {INPUT_CHARACTERS}, so that no KEK is chosen")
        if tuple(good.values()) not in self._keks:
            raise KeyNotMapped(f"{', '.join(map(_shown, good))}: no KEK is mapped to what the record says there")
        return good

    def values_in(self, context: Mapping[str, str]) -> tuple[str, ...]:
        """Give the values that chose the KEK of an envelope with this context. spec: 9.3.3

        Raises:
            ContextMismatch: The context lacks one.
        """
        values = [context.get(OUR_PREFIX + field) for field in self.template.fields]
        if None in values:
            missing = next(field for field in self.template.fields if OUR_PREFIX + field not in context)
            raise ContextMismatch(
                f"the encryption context lacks {OUR_PREFIX}{missing}",
                remedy="It was sealed by a writer without this key_id template. See docs/tenants.md.",
            )
        return tuple(value for value in values if value is not None)

    def holding_to(self, context: Mapping[str, str], build: AADBuilder) -> AADBuilder:
        """Have the AAD of a record built only where the record says what its envelope's context says. spec: 9.3.3

        Args:
            context: The envelope's context.
            build: Builds the AAD.

        Raises:
            ContextMismatch: The context lacks a value; from the builder given: the record says otherwise.
        """
        values = dict(zip(self.template.fields, self.values_in(context), strict=True))
        if not self.template.bound:
            return build
        take, expected = self.template.take, self.template.raw_of(values)

        def checked(key: bytes | None, headers: Headers | None) -> bytes:
            if take(key, headers) != expected:
                fields = ", ".join(map(_shown, self.template.bound))
                raise ContextMismatch(f"{fields}: the record says otherwise than its encryption context")
            return build(key, headers)

        return checked

    def trusted_for(
        self, context: Mapping[str, str], keys: Sequence[EncryptedDataKey]
    ) -> Sequence[tuple[EncryptedDataKey, str]]:
        """Pick the wrapped keys that may be tried for an envelope with this context. spec: 9.3.4

        Raises:
            ContextMismatch: The context lacks a value.
            UntrustedKey: No KEK is mapped to its values.
            KeyServiceError: An alias could not be resolved.
        """
        member = self._member(self.values_in(context))
        try:
            return member.provider.trusted(keys)
        finally:
            self._note(member)

    def trusted(self, keys: Sequence[EncryptedDataKey]) -> Sequence[tuple[EncryptedDataKey, str]]:  # noqa: ARG002
        """Trust nothing: which KEK is trusted depends on the context. See :meth:`trusted_for`."""
        return ()

    def generate_data_key(self, context: Mapping[str, str]) -> GeneratedDataKey:
        """Mint under the KEK that is mapped to the values in ``context``. See :class:`streamcrypt.KeyProvider`.

        Raises:
            UntrustedKey, ContextMismatch: The context holds no values that are mapped.
        """
        member = self._member(self.values_in(context))
        try:
            return member.provider.generate_data_key(context)
        except KeyRefused as error:
            self._look_into(error)
            raise
        finally:
            self._note(member)

    def decrypt_data_key(self, encrypted: EncryptedDataKey, key_id: str, context: Mapping[str, str]) -> bytearray:
        """See :class:`streamcrypt.KeyProvider`."""
        member = self._member(self.values_in(context))
        try:
            return member.provider.decrypt_data_key(encrypted, key_id, context)
        except KeyRefused as error:
            self._look_into(error)
            raise

    def rewrap_data_key(
        self, keys: Sequence[EncryptedDataKey], context: Mapping[str, str]
    ) -> tuple[EncryptedDataKey, ...]:
        """Wrap a DEK anew under the KEK that is mapped to the values in ``context``.

        Raises:
            ConfigError: The key service cannot.
            StreamcryptError: See :class:`streamcrypt.keys.provider.RewrappingKeyProvider`.
        """
        member = self._member(self.values_in(context))
        rewrap: Any = getattr(member.provider, "rewrap_data_key", None)
        if rewrap is None:
            raise ConfigError("this key service cannot wrap a data key anew")
        wrapped: tuple[EncryptedDataKey, ...] = rewrap(keys, context)
        return wrapped

    def key_ids(self) -> tuple[str, ...]:
        """Give the names of all mapped KEKs, each once, in the order of the mapping."""
        return tuple(dict.fromkeys(name for kek in self._keks.values() for name in kek.key_id))

    def key_arns(self) -> tuple[str, ...]:
        """Give all mapped KEKs as ARNs, each once; aliases are resolved, one call each.

        Raises:
            ConfigError, KeyServiceError: One cannot be resolved.
        """
        found: dict[str, None] = {}
        for kek in dict.fromkeys(self._keks.values()):
            provider: Any = self._member_of(kek).provider
            found.update(dict.fromkeys(provider.key_arns()))
        return tuple(found)

    def without_template(self, trusted_keys: Sequence[str]) -> KeyProvider:
        """Give a key service that opens what these KEKs wrapped, whatever the context says: for records from before.

        It lives no longer than this one and is not closed.

        Raises:
            ConfigError: A name is malformed, or there is none.
        """
        if not trusted_keys:
            raise ConfigError("trusted_keys: the list is empty")
        return self._family.under(trusted_keys[0], trusted_keys[1:])

    def confined_to(self, region: str) -> TenantKeys:
        """Give a key service of the same settings that calls ``region`` only."""
        family: Any = self._family
        return TenantKeys(
            family.confined_to(region),
            self.template.names,
            self._mapping,
            max_live=self.max_live,
            new_keys_per_minute=self.new_keys_per_minute,
            disabled="fail" if self.disabled_fails else "wait",
        )

    def check(self) -> str:
        """Look every mapped KEK up, one call each; say how many there are.

        Raises:
            ConfigError, KeyUnavailable, KeyRefused: The first that may not be used.
        """
        keks = list(dict.fromkeys(self._keks.values()))
        for kek in keks:
            self._member_of(kek).provider.check()
        return f"{len(keks)} KEK{'' if len(keks) == 1 else 's'} for {len(self._keks)} mapped values"

    def close(self) -> None:
        """Close the key service."""
        self._family.close()

    def __repr__(self) -> str:
        return f"TenantKeys({self.template!r}, {len(self._keks)} mapped values)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key service stays in its process and cannot be pickled: build one from the configuration")

    def _member(self, values: Values) -> _Member:
        kek = self._keks.get(values)
        if kek is None:
            raise UntrustedKey(
                "no KEK is mapped to the values in the encryption context",
                remedy="If they are legitimate, add them to keys.mapping.",
            )
        return self._member_of(kek)

    def _member_of(self, kek: MappedKEK) -> _Member:
        member = self._members.get(kek)
        if member is not None:
            return member
        with self._lock:
            if kek not in self._members:
                names: str | Sequence[str] = kek.key_id if len(kek.key_id) > 1 else kek.key_id[0]
                self._members[kek] = _Member(self._family.under(names, kek.trusted_keys))
            return self._members[kek]

    def _look_into(self, error: KeyRefused) -> None:
        """Find out, where a refusal does not say, whether the KEK is out of service: one look in 10 s at most."""
        if error.kek_is_disabled or not error.key_id or not self.disabled_fails:
            return
        found, until = self._states.get(error.key_id, (False, 0.0))
        if time.monotonic() >= until:
            found = self._is_out_of_service(error.key_id)
            self._states[error.key_id] = found, time.monotonic() + _LOOK_AGAIN_SECONDS
        error.kek_is_disabled = found

    def _is_out_of_service(self, key_id: str) -> bool:
        try:
            self._member_of(MappedKEK((key_id,))).provider.check()
        except KeyRefused as error:
            return error.kek_is_disabled
        except StreamcryptError:
            # Nothing is known: records wait rather than fail.
            pass
        return False

    def _note(self, member: _Member) -> None:
        if member.provider.trust_generation == member.generation:
            return
        with self._lock:
            member.generation = member.provider.trust_generation
            self.trust_generation += 1


class _Member:
    """The provider of one KEK, and what its trust generation was when last looked at."""

    __slots__ = ("generation", "provider")

    def __init__(self, provider: KeyProvider) -> None:
        self.provider = provider
        self.generation = provider.trust_generation


def _shown(field: str) -> str:
    return field.replace("header:", "header ", 1)

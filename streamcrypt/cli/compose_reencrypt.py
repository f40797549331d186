"""From settings to what re-encrypts: rewrapping or resealing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamcrypt.cli.compose import MAX_WAIT, build_decryptor, build_encryptor
from streamcrypt.envelope.framing import Tombstones
from streamcrypt.errors import ConfigError
from streamcrypt.events import Observer, ignore_events
from streamcrypt.keys.provider import KeyProvider, RewrappingKeyProvider
from streamcrypt.keys.rotation import CachePolicy
from streamcrypt.keys.tenants import TenantKeys
from streamcrypt.sidecar.reseal import Reseal
from streamcrypt.sidecar.rewrap import Rewrap
from streamcrypt.sidecar.rewrapper import Rewrapper
from streamcrypt.sidecar.verify_opening import Opener, Wait

if TYPE_CHECKING:
    from streamcrypt.config import PipelineSettings, Settings
    from streamcrypt.sidecar.transform import Transform

__all__ = ["build_opener", "build_reencryption", "for_sources"]

# Junk headers are findings of a verification, and it makes each call once.
_MANY = 1_000_000
_DAYS = 86400.0


def build_reencryption(
    settings: Settings,
    pipeline: PipelineSettings,
    provider: KeyProvider,
    observer: Observer = ignore_events,
    *,
    ttl: float | None = None,
) -> Transform:
    """Build what a re-encrypting pipeline does to records.

    Args:
        settings: The configuration.
        pipeline: One of its pipelines.
        provider: Configured for the destination; the sources are among its trusted keys.
        observer: Told of data keys.
        ttl: Seconds for which a rewrapped header is remembered; by default as long as an opened data key.

    Raises:
        ConfigError: The key service cannot rewrap, or the installed cryptography library cannot do the suite.
    """
    decryptor = build_decryptor(settings, pipeline, for_sources(pipeline, provider), observer)
    if pipeline.how == "reseal":
        proving = pipeline.model_copy(update={"tombstones": Tombstones.AUTHENTICATED})
        return Reseal(decryptor, build_encryptor(settings, proving, provider, observer))
    if not isinstance(provider, RewrappingKeyProvider):
        raise ConfigError("this key service cannot wrap a data key anew", remedy="Write 'how: reseal'.")
    limits = CachePolicy(settings.cache.max_entries, settings.cache.ttl if ttl is None else ttl)
    names = settings.topic_names
    return Rewrap(
        Rewrapper(provider, decryptor, limits, observer=observer, max_wait=MAX_WAIT),
        framing=pipeline.framing,
        tombstones=pipeline.tombstones,
        logical=lambda topic: names.get(topic, topic),
    )


def for_sources(pipeline: PipelineSettings, provider: KeyProvider) -> KeyProvider:
    """Give what opens the sources of a re-encrypting pipeline; it lives no longer than ``provider``."""
    if isinstance(provider, TenantKeys) and pipeline.trusted_keys:
        # Sources from before there was a template: their contexts name nobody.
        return provider.without_template(pipeline.trusted_keys)
    return provider


def build_opener(
    settings: Settings, pipeline: PipelineSettings, provider: KeyProvider, wait: Wait, *, thorough: bool = False
) -> Opener:
    """Build what a verification opens one topic with: nothing is shared between headers, and results last.

    Args:
        settings: The configuration.
        pipeline: Of the job.
        provider: Trusts what may open the topic.
        wait: Called where the key service is away.
        thorough: It is the target: every trusted wrapped key of a header has to open.
    """
    provider = provider if thorough else for_sources(pipeline, provider)
    cache = CachePolicy(settings.cache.max_entries, _DAYS, _DAYS, _MANY)
    decryptor = build_decryptor(settings, pipeline, provider, max_wait=None, cache=cache, share_data_keys=False)
    remembered = settings.cache.max_entries
    # What was let through as plaintext stands at other offsets on the target.
    cutover = None if thorough else pipeline.cutover
    return Opener(decryptor, provider, cutover, thorough=thorough, remembered=remembered, wait=wait)

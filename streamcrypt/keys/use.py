"""How much of their limits the data keys of a topic have used. It only reads: no lock, so a record more or less."""

from __future__ import annotations

from collections.abc import Iterable

from streamcrypt.events import DataKeysInUse
from streamcrypt.keys.issuer import DataKeyIssuer

__all__ = ["in_use"]


def in_use(pipeline: str, topic: str, issuers: Iterable[DataKeyIssuer]) -> DataKeysInUse:
    """Sum up the data keys that seal for a topic: how many, and the use of the one nearest to a limit.

    Args:
        pipeline: Who asks, for the event.
        topic: The topic written.
        issuers: Those of the topic; one, or with a KEK for each record one for each choice at hand.
    """
    live, nearest = 0, DataKeysInUse(pipeline, topic, 0, "", 0, 0, 0.0, 0.0)
    for issuer in issuers:
        lease = issuer.lease
        if lease.key is None:
            continue
        live += 1
        age, used = issuer.use_of(lease)
        if used >= nearest.used:
            nearest = DataKeysInUse(pipeline, topic, 0, lease.key.id, *lease.sealed(), age, used)
    return DataKeysInUse(
        pipeline, topic, live, nearest.data_key, nearest.messages, nearest.bytes, nearest.age, nearest.used
    )

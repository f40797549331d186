"""Null values that prove themselves: what is sent, what is refused, and as what. spec: 6.4"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from streamcrypt.crypto.suites import Suite
from streamcrypt.decryptor import Decryptor
from streamcrypt.encryptor import LANE_UNKNOWN, Encryptor
from streamcrypt.envelope.codec import decode_header
from streamcrypt.envelope.framing import Framing, Tombstones
from streamcrypt.errors import (
    AlreadySealed,
    AuthenticationFailed,
    ConfigError,
    ContextMismatch,
    KeyUnavailable,
    MalformedEnvelope,
    PlaintextRejected,
    UntrustedKey,
)
from streamcrypt.events import DataKeyRetired
from streamcrypt.keys.local import LocalKeyProvider
from streamcrypt.keys.rotation import RotationPolicy
from streamcrypt.testing import CollectingObserver
from streamcrypt.testing.slow_keys import GENERATE, ScriptedKeyProvider

KEYS = LocalKeyProvider.generate()
PLAIN, AUTHENTICATED = Tombstones.PLAIN, Tombstones.AUTHENTICATED
Headers = Sequence[tuple[str, bytes | None]]


def tombstone(key: bytes | None = b"k", headers: Headers = (), **options: object) -> list[tuple[str, bytes | None]]:
    """The headers of one authenticated tombstone of the topic t."""
    with Encryptor(KEYS, tombstones="authenticated", **options) as writer:
        value, sent = writer.encrypt("t", None, key, headers, 3)
    assert value is None
    return sent


def opened(headers: Headers, key: bytes | None = b"k", topic: str = "t", **options: object) -> object:
    """What a reader that requires proof makes of a null value; ``options`` are the reader's."""
    with Decryptor(KEYS, **{"tombstones": "authenticated", **options}) as reader:
        return reader.decrypt(topic, None, key, headers, 3)


@pytest.mark.parametrize("suite", Suite)
@pytest.mark.parametrize("framing", Framing)
@pytest.mark.parametrize("bound", [(), ("key",), ("header:a", "key")])
@pytest.mark.parametrize("reads", Tombstones)
def test_an_authenticated_tombstone_is_verified_by_every_reader(
    suite: Suite, framing: Framing, bound: tuple[str, ...], reads: Tombstones
) -> None:
    """Two headers behind the caller's own, in either framing, and both are gone afterwards. spec: 6.4.2, 6.4.4"""
    mine = [("a", b"1"), ("b", None), ("a", b"")]
    sent = tombstone(headers=mine, suite=suite, framing=framing, bound=bound)
    assert sent[:3] == mine
    assert [name for name, _ in sent[3:]] == ["streamcrypt", "streamcrypt-tombstone"]
    assert len(sent[4][1] or b"") == 28
    options = {"framing": framing, "require_bound": bound, "tombstones": reads}
    assert opened(sent, **options) == (None, mine)
    assert opened([sent[4], *mine, sent[3]], **options) == (None, mine)


def test_a_plain_tombstone_is_refused_where_proof_is_required() -> None:
    """As plaintext: it has no envelope at all, and a cut-over lets it pass as such. spec: 6.4.5"""
    with pytest.raises(PlaintextRejected) as caught:
        opened([("a", b"1")])
    assert "tombstones" in caught.value.remedy
    with pytest.raises(PlaintextRejected):
        opened([])
    assert opened([("a", b"1")], tombstones="plain") == (None, [("a", b"1")])


def test_a_tombstone_deletes_its_own_key_alone() -> None:
    """On its own topic, under a trusted KEK. spec: 6.4.4"""
    sent = tombstone()
    for key in (b"K", b"", None):
        with pytest.raises(AuthenticationFailed):
            opened(sent, key)
    with pytest.raises(ContextMismatch):
        opened(sent, topic="u")
    with pytest.raises(ContextMismatch):
        opened(sent, require_context={"app": "billing"})
    with pytest.raises(ContextMismatch):
        opened(tombstone(bound=()))
    with Decryptor(LocalKeyProvider({"other": bytes(32)}, "other")) as reader, pytest.raises(UntrustedKey):
        reader.decrypt("t", None, b"k", sent)


@pytest.mark.parametrize("reads", Tombstones)
def test_no_value_becomes_a_tombstone_and_no_tombstone_a_value(reads: Tombstones) -> None:
    """Not even an empty one, whose bytes have the same form. spec: 6.4.4"""
    with Encryptor(KEYS, tombstones="authenticated") as writer, Decryptor(KEYS, tombstones=reads) as reader:
        empty, headers = writer.encrypt("t", b"", b"k")
        _, sent = writer.encrypt("t", None, b"k")
        with pytest.raises(AuthenticationFailed):
            reader.decrypt("t", None, b"k", [*headers, ("streamcrypt-tombstone", empty)])
        for left in (sent, sent[:1]):
            with pytest.raises(AuthenticationFailed):
                reader.decrypt("t", sent[1][1], b"k", left)
        with pytest.raises(MalformedEnvelope):
            reader.decrypt("t", None, b"k", headers)


@pytest.mark.parametrize("reads", Tombstones)
@pytest.mark.parametrize(
    "headers",
    [
        lambda ours, proof: [ours],
        lambda ours, proof: [proof],
        lambda ours, proof: [ours, ours, proof],
        lambda ours, proof: [ours, proof, proof],
        lambda ours, proof: [ours, (proof[0], None)],
        lambda ours, proof: [("streamcrypt", None), proof],
        lambda ours, proof: [ours, (proof[0], b"")],
        lambda ours, proof: [ours, (proof[0], proof[1][:27])],
        lambda ours, proof: [ours, (proof[0], proof[1] + b"\x00")],
        lambda ours, proof: [("streamcrypt", b"junk"), proof],
    ],
)
def test_half_a_proof_is_malformed(reads: Tombstones, headers: object) -> None:
    """For a reader that takes plain ones, too: something was taken away or added. spec: 6.4.2"""
    with pytest.raises(MalformedEnvelope):
        opened(headers(*tombstone()), tombstones=reads)


def test_every_bit_of_a_proof_counts() -> None:
    """Nonce and tag. spec: 6.4.4"""
    ours, (name, proof) = tombstone()
    assert proof is not None
    with Decryptor(KEYS) as reader:
        for place in range(8 * len(proof)):
            altered = bytearray(proof)
            altered[place // 8] ^= 1 << place % 8
            with pytest.raises(AuthenticationFailed):
                reader.decrypt("t", None, b"k", [ours, (name, bytes(altered))])


def test_values_and_tombstones_share_one_numbering() -> None:
    """Of their lane, and the limits of the data key. spec: 6.4.3"""
    observer = CollectingObserver()
    with Encryptor(KEYS, RotationPolicy(max_messages=4), tombstones="authenticated", observer=observer) as writer:
        sealer = writer.topic("t")
        nonces = []
        for n in range(10):
            if n % 2:
                ours, (_, proof) = sealer.seal_tombstone(b"k", None, 7) or []
                nonces.append((decode_header(ours[1] or b"").commitment, (proof or b"")[:12]))
            else:
                value, [ours] = sealer.seal(b"x", b"k", None, 7)
                nonces.append((decode_header(ours[1] or b"").commitment, value[:12]))
    assert [int.from_bytes(nonce[4:]) for _, nonce in nonces] == [1, 2, 3, 4, 1, 2, 3, 4, 1, 2]
    assert len(set(nonces)) == 10
    aad = 1 + 1 + 4 + 1  # kind, mark, length, key: a tombstone counts these
    assert [(e.messages, e.bytes) for e in observer.of(DataKeyRetired)][:2] == [(4, 4 * aad + 2)] * 2


def test_without_a_partition_the_lane_is_none() -> None:
    """As for a value. spec: 5.1.2"""
    with Encryptor(KEYS, tombstones="authenticated") as writer:
        _, sent = writer.encrypt("t", None)
        assert (sent[1][1] or b"")[:4] == LANE_UNKNOWN.to_bytes(4)
        with pytest.raises(ConfigError, match="partition"):
            writer.encrypt("t", None, partition=-1)


def test_an_authenticated_tombstone_needs_a_data_key_and_a_plain_one_does_not() -> None:
    """While the key service is away nothing goes unproven instead."""
    keys = ScriptedKeyProvider(KEYS)
    keys.away(GENERATE, KeyUnavailable("away"))
    with Encryptor(keys) as writer:
        assert writer.encrypt("t", None, b"k") == (None, [])
    assert keys.calls == []
    with Encryptor(keys, tombstones="authenticated") as writer:
        with pytest.raises(KeyUnavailable):
            writer.encrypt("t", None, b"k")
        keys.back(GENERATE)
        assert len(writer.encrypt("t", None, b"k")[1]) == 2


@pytest.mark.parametrize("name", ["streamcrypt", "streamcrypt-tombstone"])
@pytest.mark.parametrize("writes", Tombstones)
def test_a_tombstone_is_sealed_once(name: str, writes: Tombstones) -> None:
    """One that carries a header of ours already is refused. spec: 8.1.1"""
    with Encryptor(KEYS, tombstones=writes) as writer, pytest.raises(AlreadySealed):
        writer.encrypt("t", None, b"k", [(name, b"x")])


def test_blocks_leave_tombstones_to_their_records() -> None:
    """When sealing and when opening."""
    with Encryptor(KEYS, tombstones="authenticated") as writer, Decryptor(KEYS) as reader:
        sealer = writer.topic("t")
        assert sealer.seal_block([b"x", None], [b"k", b"k"], [None, None], 0) is None
        sent = sealer.seal_tombstone(b"k", None, 0)
        assert reader.open_block("t", [None], [b"k"], [sent], 0) in (None, ([], []))
        assert reader.open("t", None, b"k", sent, 0) == (None, None)


def test_tombstones_are_chosen_by_name_or_by_itself() -> None:
    """Anything else is refused where it is given."""
    for kind in (Encryptor, Decryptor):
        with pytest.raises(ConfigError, match="tombstones is one of plain, authenticated"):
            kind(KEYS, tombstones="signed")

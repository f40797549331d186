"""30,000 random alterations of values and tombstones: nothing is deleted, or undeleted, that a writer did not mean."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, replace

from streamcrypt.crypto.suites import Suite
from streamcrypt.decryptor import Decryptor
from streamcrypt.encryptor import Encryptor
from streamcrypt.envelope.codec import decode_header
from streamcrypt.envelope.framing import Framing
from streamcrypt.errors import StreamcryptError
from streamcrypt.keys.local import LocalKeyProvider
from streamcrypt.keys.rotation import CachePolicy, RotationPolicy

MUTATIONS = 30_000
TOPICS = ("payments", "refunds")
BOUND = (("key",), ("header:type", "key"))


@dataclass(frozen=True)
class Record:
    """A record as it stands on a topic, its headers taken apart."""

    topic: str
    key: bytes | None
    kind: bytes | None
    envelope: tuple[bytes | None, ...]
    proof: tuple[bytes | None, ...]
    value: bytes | None

    @property
    def headers(self) -> list[tuple[str, bytes | None]]:
        ours = [*(("streamcrypt", e) for e in self.envelope), *(("streamcrypt-tombstone", p) for p in self.proof)]
        return [("type", self.kind), *ours]


def meaning(record: Record) -> tuple[object, ...]:
    """All that is authenticated; a tombstone and a value never have the same."""
    header = decode_header(record.envelope[0] or b"")
    kind = record.kind if "header:type" in header.bound else None
    sealed = ("tombstone", record.proof[0]) if record.value is None else ("value", record.value)
    return record.topic, record.key, kind, sealed, replace(header, keys=())


def sealed_records(keys: LocalKeyProvider) -> dict[Record, bytes | None]:
    """Values, empty ones among them, and tombstones of the same keys under the same data keys."""
    records: dict[Record, bytes | None] = {}
    for suite in Suite:
        for bound in BOUND:
            with Encryptor(
                keys, RotationPolicy(max_messages=5), suite=suite, bound=bound, tombstones="authenticated"
            ) as writer:
                for n in range(24):
                    topic, key, plaintext = TOPICS[n % 2], (b"a", b"b", b"", None)[n % 4], (None, b"", b"x" * n)[n % 3]
                    value, sent = writer.encrypt(topic, plaintext, key, [("type", b"t")], n % 3)
                    proof = tuple(data for name, data in sent if name == "streamcrypt-tombstone")
                    records[Record(topic, key, b"t", (sent[1][1],), proof, value)] = plaintext
    return records


def altered(record: Record, other: Record, dice: random.Random) -> Record:
    """Alter a record in a way that whoever can write to a topic has, with parts of another one at hand."""

    def some(data: bytes) -> bytes:
        at = dice.randrange(len(data) + 1)
        flipped = data[:at] + bytes([data[at] ^ 1 << dice.randrange(8)]) + data[at + 1 :] if at < len(data) else data
        return dice.choice([flipped, data[:at], data + b"\x00", data[:at] + dice.randbytes(2) + data[at + 2 :]])

    proof, envelope, value = (record.proof or (record.value,))[0], (record.envelope or (b"",))[0] or b"", record.value
    stolen = other.proof or (other.value,)
    match dice.randrange(13):
        case 0:
            return replace(record, value=None)
        case 1:
            return replace(record, value=None, proof=(proof,))
        case 2:
            return replace(record, value=None, proof=stolen)
        case 3:
            return replace(record, value=None, proof=stolen, envelope=other.envelope)
        case 4:
            return replace(record, value=proof)
        case 5:
            return replace(record, value=proof, proof=())
        case 6:
            return replace(record, proof=(some(proof or b""),))
        case 7:
            return replace(record, envelope=(some(envelope),))
        case 8:
            return replace(record, envelope=dice.choice([(), (None,), record.envelope * 2, other.envelope]))
        case 9:
            return replace(record, proof=dice.choice([(), (None,), (proof, proof), (b"",), stolen]))
        case 10:
            return replace(record, key=other.key, topic=other.topic)
        case 11:
            return replace(record, kind=dice.choice([None, b"", b"u"]))
        case _:
            return replace(record, value=dice.choice([b"", value and some(value), dice.randbytes(28)]))


def test_no_alteration_deletes_or_undeletes() -> None:
    """What opens is what was sealed, a tombstone as a tombstone and a value as a value. spec: 6.4.2, 6.4.4"""
    keys = LocalKeyProvider.generate()
    originals = sealed_records(keys)
    plaintexts = {meaning(record): plaintext for record, plaintext in originals.items()}
    assert len(plaintexts) == len(originals) == 96
    records, dice = list(originals), random.Random(7)
    outcomes: Counter[str] = Counter()
    lenient = CachePolicy(refused_misses_per_minute=10**9)
    with Decryptor(keys, lenient, framing=Framing.SELF_CONTAINED, tombstones="authenticated") as reader:
        for record, plaintext in originals.items():
            assert reader.decrypt(record.topic, record.value, record.key, record.headers)[0] == plaintext
        for _ in range(MUTATIONS):
            record = altered(dice.choice(records), dice.choice(records), dice)
            if dice.random() < 0.2:
                record = altered(record, dice.choice(records), dice)
            try:
                plaintext, rest = reader.decrypt(record.topic, record.value, record.key, record.headers)
            except StreamcryptError as error:
                outcomes[type(error).__name__] += 1
                continue
            outcomes["value" if plaintext is not None else "tombstone"] += 1
            assert plaintext == plaintexts[meaning(record)]
            assert rest == [("type", record.kind)]
    assert set(outcomes) == {
        "AuthenticationFailed",
        "ContextMismatch",
        "MalformedEnvelope",
        "PlaintextRejected",
        "UnsupportedVersion",
        "UntrustedKey",
        "tombstone",
        "value",
    }
    assert min(outcomes["tombstone"], outcomes["value"]) > 500

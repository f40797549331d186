"""100,000 random alterations of sealed records: never a wrong plaintext, never an error that is not ours."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, replace

import pytest

from streamcrypt.crypto.suites import Suite
from streamcrypt.decryptor import Decryptor
from streamcrypt.encryptor import Encryptor
from streamcrypt.envelope.codec import decode_header, encode_header
from streamcrypt.envelope.framing import MAGIC, Framing, split_frame
from streamcrypt.envelope.header import EncryptedDataKey
from streamcrypt.errors import StreamcryptError
from streamcrypt.keys.local import LocalKeyProvider
from streamcrypt.keys.rotation import CachePolicy, RotationPolicy

MUTATIONS = 100_000
SEED = 20
TOPICS = ("payments", "refunds")
BOUND = {("key",): False, ("header:type", "key"): True}

Headers = tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True)
class Record:
    """A record as it stands on a topic."""

    topic: str
    key: bytes | None
    headers: Headers
    value: bytes


def envelope_of(record: Record) -> bytes:
    """Take the header out, whatever the framing."""
    for name, data in record.headers:
        if name == "streamcrypt" and data is not None:
            return data
    return split_frame(record.value)[0]


def with_envelope(record: Record, header: bytes | None) -> Record:
    """Put another header in the place of the record's own."""
    if record.value.startswith(MAGIC):
        sealed = split_frame(record.value)[1]
        header = header or b""
        return replace(record, value=MAGIC + len(header).to_bytes(4) + header + sealed)
    return replace(record, headers=tuple((n, header if n == "streamcrypt" else d) for n, d in record.headers))


def meaning(record: Record) -> tuple[object, ...]:
    """All that is authenticated: what a record that opens must share with one that was sealed."""
    header = decode_header(envelope_of(record))
    sealed = split_frame(record.value)[1] if record.value.startswith(MAGIC) else record.value
    bound = [d for n, d in record.headers if n == "type"] if "header:type" in header.bound else None
    return record.topic, record.key, str(bound), sealed, replace(header, keys=())


def sealed_records(keys: LocalKeyProvider) -> dict[Record, bytes]:
    """Records of two topics, both suites, both framings and two bound lists, several data keys each."""
    records = {}
    for suite in Suite:
        for framing in Framing:
            for bound in BOUND:
                with Encryptor(
                    keys, RotationPolicy(max_messages=3), {"app": "x"}, suite=suite, bound=bound, framing=framing
                ) as writer:
                    for n in range(16):
                        topic, plaintext = TOPICS[n % 2], f"plaintext {n} {suite} {framing} {bound}".encode()
                        key = (b"a", b"b", b"", None)[n % 4]
                        value, headers = writer.encrypt(topic, plaintext, key, [("type", b"t"), ("trace", b"1")], n % 3)
                        records[Record(topic, key, tuple(headers), value or b"")] = plaintext
    return records


class Mutator:
    """Alters records in every way that whoever can write to a topic has."""

    def __init__(self, records: list[Record], seed: int) -> None:
        self._records = records
        self._random = random.Random(seed)
        self._ways = [getattr(self, name) for name in dir(self) if name.startswith("way_")]

    def one(self) -> tuple[str, Record]:
        """Alter a random record in a random way."""
        way = self._random.choice(self._ways)
        return way.__name__, way(self._random.choice(self._records))

    def _bytes(self, data: bytes) -> bytes:
        at = self._random.randrange(len(data) + 1)
        count = self._random.choice((1, 1, 1, 2, 4, 28))
        match self._random.randrange(4):
            case 0 if at < len(data):
                return data[:at] + bytes([data[at] ^ 1 << self._random.randrange(8)]) + data[at + 1 :]
            case 1:
                return data[:at] + self._random.randbytes(count) + data[at:]
            case 2:
                return data[:at] + data[at + count :]
            case _:
                return data[:at] + self._random.randbytes(count) + data[at + count :]

    def _other(self) -> Record:
        return self._random.choice(self._records)

    def way_value_bytes(self, record: Record) -> Record:
        """Flip, insert, delete or overwrite anywhere in the value."""
        return replace(record, value=self._bytes(record.value))

    def way_value_of_another(self, record: Record) -> Record:
        """Swap the value."""
        return replace(record, value=self._other().value)

    def way_value_spliced(self, record: Record) -> Record:
        """Take the head of one value and the tail of another."""
        other, at = self._other().value, self._random.randrange(40)
        return replace(record, value=record.value[:at] + other[at:])

    def way_header_bytes(self, record: Record) -> Record:
        """Flip, insert, delete or overwrite anywhere in the header."""
        return with_envelope(record, self._bytes(envelope_of(record)))

    def way_header_of_another(self, record: Record) -> Record:
        """Swap the header."""
        return with_envelope(record, envelope_of(self._other()))

    def way_header_field(self, record: Record) -> Record:
        """Alter what the header says and write it canonically."""
        header, other = decode_header(envelope_of(record)), decode_header(envelope_of(self._other()))
        name = self._random.choice(["suite", "commitment", "context", "bound", "keys"])
        return with_envelope(record, encode_header(replace(header, **{name: getattr(other, name)})))

    def way_header_keys(self, record: Record) -> Record:
        """Alter an encrypted data key, or add one."""
        header = decode_header(envelope_of(record))
        (key,) = header.keys
        more = EncryptedDataKey("local", "unknown", self._random.randbytes(60))
        altered = replace(key, ciphertext=self._bytes(key.ciphertext) or b"x")
        keys = self._random.choice([(altered,), (more,), tuple(sorted((key, more), key=lambda k: k.key_id))])
        return with_envelope(record, encode_header(replace(header, keys=keys)))

    def way_headers_dropped(self, record: Record) -> Record:
        """Strip one header, ours as likely as any."""
        at = self._random.randrange(len(record.headers))
        return replace(record, headers=record.headers[:at] + record.headers[at + 1 :])

    def way_headers_doubled(self, record: Record) -> Record:
        """Add a second envelope, or a second bound header."""
        extra = self._random.choice(
            [("streamcrypt", envelope_of(self._other())), ("type", b"t"), ("streamcrypt", None)]
        )
        return replace(record, headers=(*record.headers, extra))

    def way_header_null(self, record: Record) -> Record:
        """Make our header null."""
        return with_envelope(record, None)

    def way_bound_header(self, record: Record) -> Record:
        """Alter the header that may be bound."""
        return replace(record, headers=tuple((n, b"u" if n == "type" else d) for n, d in record.headers))

    def way_key(self, record: Record) -> Record:
        """Move the value to another key."""
        return replace(record, key=self._random.choice([b"a", b"b", b"", None, b"a\x00"]))

    def way_topic(self, record: Record) -> Record:
        """Move the record to another topic."""
        return replace(record, topic=self._random.choice([*TOPICS, "elsewhere"]))

    def way_framing(self, record: Record) -> Record:
        """Turn one framing into the other."""
        header = envelope_of(record)
        rest = tuple(pair for pair in record.headers if pair[0] != "streamcrypt")
        if record.value.startswith(MAGIC):
            return replace(record, headers=(*rest, ("streamcrypt", header)), value=split_frame(record.value)[1])
        return replace(record, headers=rest, value=MAGIC + len(header).to_bytes(4) + header + record.value)


def test_no_alteration_gives_a_wrong_plaintext_or_an_untyped_error() -> None:
    """What opens is what was sealed, with every authenticated field as it was. spec: 8.2.3, 8.2.6"""
    keys = LocalKeyProvider.generate()
    originals = sealed_records(keys)
    plaintexts = {meaning(record): plaintext for record, plaintext in originals.items()}
    assert len(plaintexts) == len(originals) == 128
    mutator = Mutator(list(originals), SEED)
    outcomes: Counter[str] = Counter()
    opened: Counter[str] = Counter()
    lenient = CachePolicy(refused_misses_per_minute=10**9)
    with Decryptor(keys, lenient, {"app": "x"}, framing=Framing.SELF_CONTAINED) as reader:
        for record, plaintext in originals.items():
            assert reader.decrypt(record.topic, record.value, record.key, record.headers)[0] == plaintext
        for _ in range(MUTATIONS):
            way, record = mutator.one()
            try:
                plaintext, _rest = reader.decrypt(record.topic, record.value, record.key, record.headers)
            except StreamcryptError as error:
                outcomes[type(error).__name__] += 1
                continue
            opened[way] += 1
            assert plaintext == plaintexts[meaning(record)]
    # Every class of failure of the record is met, and no failure of the key service is.
    assert set(outcomes) == {
        "AuthenticationFailed",
        "ContextMismatch",
        "MalformedEnvelope",
        "PlaintextRejected",
        "UnsupportedVersion",
        "UntrustedKey",
    }
    # Alterations that change nothing authenticated open; these are all there are.
    assert opened.keys() <= {
        "way_bound_header",
        "way_framing",
        "way_header_bytes",
        "way_header_field",
        "way_header_keys",
        "way_header_of_another",
        "way_headers_doubled",
        "way_headers_dropped",
        "way_key",
        "way_topic",
        "way_value_bytes",
        "way_value_of_another",
        "way_value_spliced",
    }
    assert sum(outcomes.values()) > MUTATIONS / 2


def test_the_mutations_are_the_same_every_run() -> None:
    """A failure can be repeated: the seed decides everything but the keys."""
    records = list(sealed_records(LocalKeyProvider.generate()))
    runs = [[Mutator(records, SEED).one() for _ in range(3)] for _ in range(2)]
    assert runs[0] == runs[1]


def test_every_single_bit_of_a_record_counts() -> None:
    """One record, every bit of header and value flipped in turn. spec: 4.3.1, 8.2.6"""
    keys = LocalKeyProvider.generate()
    with Encryptor(keys) as writer:
        value, headers = writer.encrypt("t", b"plaintext", b"key")
    header = headers[-1][1]
    assert value is not None
    assert header is not None
    with Decryptor(keys, CachePolicy(refused_misses_per_minute=10**9)) as reader:
        for place in range(8 * (len(header) + len(value))):
            altered = bytearray(header + value)
            altered[place // 8] ^= 1 << place % 8
            sent = [("streamcrypt", bytes(altered[: len(header)]))]
            with pytest.raises(StreamcryptError):
                reader.decrypt("t", bytes(altered[len(header) :]), b"key", sent)

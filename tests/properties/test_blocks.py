"""A block of records is sealed and opened as its records would be one by one, to the byte."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from streamcrypt.decryptor import Decryptor
from streamcrypt.encryptor import Encryptor
from streamcrypt.envelope.framing import MAGIC
from streamcrypt.envelope.header import EncryptedDataKey
from streamcrypt.errors import StreamcryptError
from streamcrypt.keys.rotation import RotationPolicy
from streamcrypt.testing.fixed_keys import FixedKeyProvider
from tests.properties import strategies

KEY = EncryptedDataKey("fixed", "k", b"wrapped")
Pairs = list[tuple[str, bytes | None]] | None

records = st.lists(
    st.tuples(
        st.binary(max_size=40).filter(lambda value: value[:4] != MAGIC),
        strategies.record_keys,
        st.none() | strategies.record_headers,
    ),
    min_size=1,
    max_size=12,
)


def keys() -> FixedKeyProvider:
    """The same DEK for every writer, so that their bytes can be compared."""
    return FixedKeyProvider(bytes(range(32)), {("fixed", "k")}, (KEY,))


@given(records=records, bound=strategies.bound_lists, lane=st.integers(0, 3))
@settings(max_examples=200)
def test_a_block_is_sealed_to_the_same_bytes_as_its_records_one_by_one(
    records: list[tuple[bytes, bytes | None, Pairs]], bound: tuple[str, ...], lane: int
) -> None:
    """Two writers under one DEK, one by block and one by record, send the same values and headers."""
    values, record_keys, headers = (list(column) for column in zip(*records, strict=True))
    with Encryptor(keys(), bound=bound) as one, Encryptor(keys(), bound=bound) as other:
        by_record, by_block = one.topic("t"), other.topic("t")
        for sealer in (by_record, by_block):
            sealer.seal(b"first", None, None, lane)
            sealer.seal(b"second", None, None, lane)
        expected = [by_record.seal(v, k, h, lane) for v, k, h in zip(values, record_keys, headers, strict=True)]
        block = by_block.seal_block(values, record_keys, headers, lane)
        assert block is not None
        assert list(zip(*block, strict=True)) == expected
        assert by_block.seal(b"next", None, None, lane) == by_record.seal(b"next", None, None, lane)


@given(records=records, spoiled=st.none() | st.integers(0, 11), bound=strategies.bound_lists)
@settings(max_examples=200)
def test_a_block_opens_as_its_records_would_up_to_the_first_that_does_not(
    records: list[tuple[bytes, bytes | None, Pairs]], spoiled: int | None, bound: tuple[str, ...]
) -> None:
    """Where every record opens the block gives the same; where one does not it gives those before it."""
    with Encryptor(keys(), bound=bound) as writer, Decryptor(keys(), require_bound=bound) as reader:
        sealed = [writer.topic("t").seal(v, k, h, 1) for v, k, h in records]
        values = [value for value, _ in sealed]
        record_keys = [k for _, k, _ in records]
        headers = [h for _, h in sealed]
        if spoiled is not None and spoiled < len(values):
            values[spoiled] = values[spoiled][:-1] + bytes([values[spoiled][-1] ^ 1])
        block = reader.open_block("t", values, record_keys, headers, 0)
        expected = []
        with suppress(StreamcryptError):
            expected.extend(reader.open("t", v, k, h, 0) for v, k, h in zip(values, record_keys, headers, strict=True))
        assert block is not None
        assert list(zip(*block, strict=True)) == expected


def test_a_block_that_crosses_a_limit_is_left_to_its_records() -> None:
    """Nothing is counted for a block that the data key may not seal as a whole."""
    with Encryptor(keys(), RotationPolicy(max_messages=10)) as writer:
        sealer = writer.topic("t")
        sealer.seal(b"1", None, None, 0)
        assert sealer.seal_block([b"x"] * 10, [None] * 10, [None] * 10, 0) is None
        assert int.from_bytes(sealer.seal(b"2", None, None, 0)[0][4:12]) == 2


def test_a_block_with_a_tombstone_or_an_envelope_is_left_to_its_records() -> None:
    """A null value, a value that begins as a self-contained one and our own header each need a look of their own."""
    with Encryptor(keys()) as writer:
        sealer = writer.topic("t")
        sealer.seal(b"1", None, None, 0)
        sealer.seal(b"2", None, None, 0)
        assert sealer.seal_block([b"x", None], [None] * 2, [None] * 2, 0) is None
        assert sealer.seal_block([b"x", b"\xc5SC\x01"], [None] * 2, [None] * 2, 0) is None
        assert sealer.seal_block([b"x"], [None], [[("streamcrypt", b"")]], 0) is None
        assert sealer.seal_block([b"x"], [None], [None], 0) is not None

"""What an encryptor seals a decryptor opens, for any record; and each of both makes what the spec says."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamcrypt.crypto.suites import Suite
from streamcrypt.decryptor import Decryptor
from streamcrypt.encryptor import Encryptor
from streamcrypt.envelope.framing import MAGIC, Framing, Tombstones
from streamcrypt.errors import AuthenticationFailed, ContextMismatch
from streamcrypt.keys.local import LocalKeyProvider
from tests.properties import strategies

KEYS = LocalKeyProvider.generate()
Pairs = list[tuple[str, bytes | None]]


@given(
    suite=st.sampled_from(Suite),
    framing=st.sampled_from(Framing),
    tombstones=st.sampled_from(Tombstones),
    bound=strategies.bound_lists,
    context=strategies.user_contexts,
    topic=strategies.unicode_text.filter(bool),
    value=st.none() | st.binary(max_size=200) | st.binary(max_size=20).map(lambda tail: MAGIC + tail),
    key=strategies.record_keys,
    headers=strategies.record_headers,
    partition=st.none() | st.integers(0, 2**31 - 1),
)
@settings(max_examples=300)
def test_any_record_round_trips(
    *,
    suite: Suite,
    framing: Framing,
    tombstones: Tombstones,
    bound: tuple[str, ...],
    context: dict[str, str],
    topic: str,
    value: bytes | None,
    key: bytes | None,
    headers: Pairs,
    partition: int | None,
) -> None:
    """Value, headers and their order come back. spec: 5.1.1, 5.1.2, 6.1.1, 6.2.1, 6.3.1, 6.4.1, 8.2.5"""
    with (
        Encryptor(KEYS, context=context, suite=suite, bound=bound, framing=framing, tombstones=tombstones) as writer,
        Decryptor(KEYS, require_context=context, require_bound=bound, framing=framing, tombstones=tombstones) as reader,
    ):
        sealed, sent = writer.encrypt(topic, value, key, headers, partition)
        assert reader.decrypt(topic, sealed, key, sent, partition) == (value, headers)
        if value is None:
            ours = [name for name, _ in sent[len(headers) :]]
            assert (sealed, sent[: len(headers)]) == (None, headers)
            proven = tombstones is Tombstones.AUTHENTICATED
            assert ours == (["streamcrypt", "streamcrypt-tombstone"] if proven else [])
            return
        assert sealed is not None
        if framing is Framing.HEADER:
            assert len(sealed) == len(value) + 28
            assert sent[:-1] == headers
            nonce = sealed[:12]
        else:
            assert sent == headers
            nonce = sealed[-len(value) - 28 :][:12]
        assert nonce == (0xFFFFFFFF if partition is None else partition).to_bytes(4) + (1).to_bytes(8)


@given(strategies.record_keys, strategies.record_keys, strategies.record_headers, strategies.record_headers)
def test_a_value_opens_under_its_own_bound_fields_alone(
    key: bytes | None, other_key: bytes | None, headers: Pairs, other_headers: Pairs
) -> None:
    """The key and one header are bound; other headers may change. spec: 5.2.2, 5.2.3"""
    bound = ("header:a", "key")
    headers, other_headers = [("a", b"1"), *headers], [*other_headers, ("a", b"1")]
    with Encryptor(KEYS, bound=bound) as writer, Decryptor(KEYS, require_bound=bound) as reader:
        sealed, sent = writer.encrypt("t", b"plaintext", key, headers)
        moved = [*other_headers, sent[-1]]
        same = key == other_key and [v for n, v in headers if n == "a"] == [v for n, v in other_headers if n == "a"]
        if same:
            assert reader.decrypt("t", sealed, other_key, moved)[0] == b"plaintext"
        else:
            with pytest.raises(AuthenticationFailed):
                reader.decrypt("t", sealed, other_key, moved)


@given(
    suite=st.sampled_from(Suite),
    bound=strategies.bound_lists,
    block=st.lists(
        st.tuples(st.none() | st.binary(max_size=30), strategies.record_keys, strategies.record_headers), max_size=6
    ),
    flipped=st.none() | st.integers(0, 10**6),
)
def test_a_block_opens_as_its_records_do_up_to_the_first_that_does_not(
    suite: Suite, bound: tuple[str, ...], block: list[tuple[bytes | None, bytes | None, Pairs]], flipped: int | None
) -> None:
    """Sealed and opened many at once; of a block with one altered bit what stands before it opens. spec: 8.2.6"""
    values, keys, headers = ([record[place] for record in block] for place in range(3))
    with Encryptor(KEYS, bound=bound, suite=suite) as writer, Decryptor(KEYS, require_bound=bound) as reader:
        sealer = writer.topic("t")
        for _ in range(2):  # the first record of a key may be of any size, so limits are set by the second
            sealer.seal(b"before", None, None, 0)
        sealed = sealer.seal_block(values, keys, headers, 0)
        assert (sealed is None) == (None in values)
        if sealed is None:
            return
        sent = list(sealed[0])
        if flipped is not None and sent:
            record, bit = flipped % len(sent), flipped % (8 * len(sent[flipped % len(sent)]))
            altered = bytearray(sent[record])
            altered[bit // 8] ^= 1 << bit % 8
            sent[record] = bytes(altered)
        opened = reader.open_block("t", sent, keys, sealed[1], 0)
        if flipped is not None and sent:
            assert opened == (values[:record], [pairs or None for pairs in headers[:record]])
        else:
            assert opened == (values, [pairs or None for pairs in headers])
            for value, key, pairs, one in zip(sent, keys, sealed[1], values, strict=True):
                assert reader.decrypt("t", value, key, pairs)[0] == one


@given(strategies.user_contexts, strategies.user_contexts)
def test_a_reader_opens_what_holds_its_context(written: dict[str, str], required: dict[str, str]) -> None:
    """As a subset, byte for byte. spec: 8.2.3"""
    with Encryptor(KEYS, context=written) as writer, Decryptor(KEYS, require_context=required) as reader:
        sealed, sent = writer.encrypt("t", b"plaintext")
        if required.items() <= written.items():
            assert reader.decrypt("t", sealed, None, sent)[0] == b"plaintext"
        else:
            with pytest.raises(ContextMismatch):
                reader.decrypt("t", sealed, None, sent)

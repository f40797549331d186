"""What a verification finds, and what it does not mistake for a difference."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamcrypt as sc
from streamcrypt.crypto.suites import Suite
from streamcrypt.envelope.codec import decode_header, encode_header
from streamcrypt.envelope.header import HEADER_NAME
from streamcrypt.errors import KeyUnavailable
from streamcrypt.sidecar.cutover import Cutover, TopicCutover
from streamcrypt.sidecar.verify import Verified
from streamcrypt.sidecar.verify_opening import Opened, Opener
from streamcrypt.sidecar.verify_ways import Counts, EachRecord, NewestPerKey, digest_of
from tests.envelopes import Record, envelope, wrap

KEKS = {name: os.urandom(32) for name in ("a", "b")}


class Message(Record):
    """With a key."""

    def key(self) -> bytes:
        return b"k"


def seen(offset: int, name: int | None = None, value: bytes | None = b"v", **more) -> Opened:
    """A record as a reader sees it, told from others by key and time."""
    name = offset if name is None else name
    fields = {"headers": [("h", b"1")], "sealed": True, "raw": b"r%d" % name, "place": 1} | more
    return Opened(offset, fields.pop("key", b"%d" % name), fields.pop("time", name), value=value, **fields)


def _each(source, target, **options) -> tuple[Counts, list[tuple[int, int, str]]]:
    counts, found = Counts(), []
    same_bytes = options.pop("same_bytes", True)
    way = EachRecord(counts, lambda *difference: found.append(difference), same_bytes=same_bytes)
    way.run(source, target, **options)
    return counts, found


def test_the_same_records_at_other_offsets_are_the_same():
    """Control records shift the target's offsets."""
    counts, found = _each([seen(n) for n in range(5)], [seen(10 + 2 * n, n) for n in range(5)])
    assert (counts, found) == (Counts(compared=5), [])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"value": b"other"}, "value"),
        ({"value": None}, "value"),
        ({"headers": []}, "headers"),
        ({"headers": [("h", None)]}, "headers"),
        ({"sealed": False}, "envelope"),
        ({"raw": b"other"}, "sealed bytes"),
        ({"place": 0}, "place of the envelope"),
        ({"failure": "AuthenticationFailed", "value": None}, "does not open on the target: AuthenticationFailed"),
    ],
    ids=lambda item: str(item) if isinstance(item, str) else "-".join(item),
)
def test_what_differs_is_told_by_its_name_and_coordinates(change, what):
    """The neighbours are compared all the same."""
    source = [seen(n) for n in range(3)]
    target = [seen(0), replace(seen(7, 1), **change), seen(8, 2)]
    counts, found = _each(source, target)
    assert found == [(1, 7, what)]
    assert counts.compared == 2


@pytest.mark.parametrize("field", ["key", "time"])
def test_another_key_or_timestamp_is_a_record_missing_and_one_too_many(field):
    """These two name a record."""
    other = {"key": b"x"} if field == "key" else {"time": 99}
    _, found = _each([seen(0), seen(1)], [seen(5, 0), seen(6, 1, **other)])
    assert found == [(1, -1, "missing on the target"), (-1, 6, "extra: it and what follows is not on the source")]


def test_resealed_bytes_may_differ():
    """Only what a reader sees counts then."""
    assert _each([seen(0)], [seen(5, 0, raw=b"x", place=2)], same_bytes=False)[1] == []


def test_self_contained_records_are_compared_behind_their_prefix():
    """The prefix holds the envelope, which is another one."""
    raws = []
    for keys in (KEKS, {"a": KEKS["a"]}):
        with sc.Encryptor(sc.LocalKeyProvider(keys, "a"), framing="self_contained") as sealer:
            raws.append(sealer.encrypt("t", b"v", b"k")[0])
    rest = raws[0][-29:]
    twin = raws[1][:-29] + rest
    assert _each([seen(0, raw=raws[0], place=-1)], [seen(0, raw=twin, place=-1)])[1] == []
    assert _each([seen(0, raw=raws[0], place=-1)], [seen(0, raw=raws[1], place=-1)])[1] == [(0, 0, "sealed bytes")]


def test_a_hole_and_a_repeat_do_not_hide_what_follows():
    """Comparison finds its way again."""
    source = [seen(n) for n in range(8)]
    hole = [seen(n) for n in range(8) if n != 3]
    assert _each(source, hole)[1] == [(3, -1, "missing on the target")]
    repeat = [seen(n) for n in (0, 1, 2, 2, 3, 4, 5, 6, 7)]
    counts, found = _each(source, repeat)
    assert found == [(-1, 2, "extra: 1 not on the source, from here on")]
    assert counts.compared == 8


def test_a_partition_full_of_differences_is_left_after_ten():
    """Its report stays readable."""
    counts, found = _each([seen(n) for n in range(50)], [seen(n, value=b"x") for n in range(50)])
    assert len(found) == 11
    assert "not compared further" in found[-1][2]
    assert counts.compared == 0


def test_what_opens_on_neither_side_is_counted_whether_it_was_copied_or_left_behind():
    """And takes no neighbour with it."""
    junk = seen(1, value=None, failure="MalformedEnvelope")
    for target in ([seen(0), seen(2)], [seen(0), junk, seen(2)]):
        counts, found = _each([seen(0), junk, seen(2)], target)
        assert (counts, found) == (Counts(compared=2, unreadable=1), [])


def test_what_retention_took_from_the_source_may_still_stand_on_the_target():
    """Only at the beginning."""
    counts, found = _each([seen(3), seen(4)], [seen(n) for n in range(5)], overtaken=True)
    assert (counts, found) == (Counts(compared=2, expired=3), [])


def test_a_source_that_retention_has_emptied_leaves_the_target_as_it_is():
    """All of it is expired, not too much; where retention took nothing, it is too much."""
    target = [seen(n) for n in range(3)]
    assert _each([], target, overtaken=True) == (Counts(expired=3), [])
    assert _each([], target)[1][0][2].startswith("extra")


@given(st.integers(0, 20), st.sets(st.integers(0, 19)), st.sets(st.integers(0, 19)))
def test_no_missing_record_goes_unnoticed(length, holes, spoilt):
    """Whatever is missing or spoilt: what is compared as the same is the same, and the rest is told."""
    source = [seen(n) for n in range(length)]
    target = [seen(n, value=b"x" if n in spoilt else b"v") for n in range(length) if n not in holes]
    counts, found = _each(source, target)
    wrong = {n for n in range(length) if n in holes or n in spoilt}
    assert bool(found) == bool(wrong)
    if len(wrong) < 10:
        assert counts.compared == length - len(wrong)
        assert {offset for offset, _, _ in found if offset >= 0} == wrong


def _newest(source, target, *, in_place: bool = False) -> tuple[Counts, list[tuple[int, int, str]]]:
    counts, found = Counts(), []
    NewestPerKey(counts, lambda *difference: found.append(difference), in_place=in_place).run(source, target)
    return counts, found


def test_on_compacted_topics_the_newest_of_each_key_counts():
    """Whatever the cleaner has left of the older ones on either side; a tombstone may be gone."""
    source = [seen(0, 1, b"old"), seen(1, 2), seen(2, 1, b"new"), seen(3, 3, None)]
    target = [seen(0, 2), seen(1, 1, b"old"), seen(2, 1, b"new")]
    assert _newest(source, target) == (Counts(compared=3), [])
    assert _newest([seen(2, 1, b"new")], [seen(0, 1, b"old")])[1] == [(2, 0, "value, headers or timestamp")]
    assert _newest([seen(2, 1)], [])[1] == [(2, -1, "missing on the target")]
    assert _newest([], [seen(2, 1)])[1] == [(-1, 2, "extra: it is not on the source")]
    failed = seen(5, 1, None, failure="UntrustedKey")
    assert _newest([seen(2, 1)], [failed])[1] == [(2, 5, "does not open on the target: UntrustedKey")]
    assert _newest([], [failed])[1] == [(-1, 5, "does not open on the target: UntrustedKey")]
    assert _newest([replace(failed, offset=1)], [failed]) == (Counts(unreadable=1), [])


def test_a_record_that_a_later_one_replaced_on_the_source_is_not_too_much():
    """The topic is written to while it is copied, and compaction does not wait for the verification."""
    counts, found = Counts(), []
    way = NewestPerKey(counts, lambda *difference: found.append(difference), in_place=False)
    way.run([seen(1)], [seen(0), seen(1), seen(2)], lambda: {digest_of(b"0")})
    assert (counts, found) == (Counts(compared=1, replaced=1), [(-1, 2, "extra: it is not on the source")])


def test_in_place_a_key_stands_once_and_may_have_replaced_the_old_one():
    """A second one is somebody else's, or ours twice."""
    assert _newest([seen(0)], [seen(5, 0), seen(6, 1)], in_place=True) == (Counts(compared=1, replaced=1), [])
    assert _newest([seen(0)], [seen(5, 0), seen(6, 0)], in_place=True)[1] == [
        (-1, 6, "twice: the key was rewritten before")
    ]


@pytest.mark.parametrize(
    "change",
    [{"value": b"x"}, {"value": None}, {"headers": [("h", b"2")]}, {"headers": []}, {"time": 7}, {"sealed": False}],
    ids=["value", "null", "header", "no-header", "time", "plain"],
)
def test_a_fingerprint_covers_all_that_a_reader_sees(change):
    """And the key is what it is kept by."""
    assert _newest([seen(0)], [replace(seen(0), **change)])[1] != []


def _opener(keks: str, **options) -> Opener:
    keys = sc.LocalKeyProvider({name: KEKS[name] for name in keks}, keks[0])
    decryptor = sc.Decryptor(keys, share_data_keys=False, require_bound=("key",))
    return Opener(decryptor, keys, **options)


def _sealed(dek: bytes, header: bytes) -> list[tuple[bytes, bytes]]:
    from streamcrypt.crypto.data_key import DataKey
    from streamcrypt.envelope.binding import aad_builder
    from streamcrypt.envelope.codec import derivation_info

    parsed = decode_header(header)
    key = DataKey(bytearray(dek), Suite.AES_256_GCM, derivation_info(parsed.suite, parsed.context, parsed.bound))
    return key.seal(bytes(12), b"plain", aad_builder(("key",))(b"k", None))


def _record(number: int, dek: bytes, header: bytes, *more) -> Message:
    sealed = bytes(12) + _sealed(dek, header)
    return Message(number, sealed, [*more, (HEADER_NAME, header)])


def test_a_good_header_says_nothing_for_another_with_the_same_commitment():
    """Each full header is proven by itself, whichever comes first, and keeps its own result."""
    dek, other = os.urandom(32), os.urandom(32)
    genuine = envelope(wrap(KEKS, "a", dek), dek=dek)
    evil = envelope(wrap(KEKS, "a", other), dek=dek)
    assert decode_header(evil).commitment == decode_header(genuine).commitment
    for order in ([genuine, evil, genuine], [evil, genuine, evil]):
        with contextlib.closing(_opener("a")) as opener:
            found = list(opener.open("orders", 0, [_record(n, dek, header) for n, header in enumerate(order)]))
        assert [record.failure for record in found] == ["" if h is genuine else "AuthenticationFailed" for h in order]
        assert [record.value for record in found] == [b"plain" if h is genuine else None for h in order]


def test_thoroughly_every_trusted_wrapped_key_has_to_open():
    """A reader who has lost the first KEK needs the second one."""
    dek, other = os.urandom(32), os.urandom(32)
    good = envelope(wrap(KEKS, "a", dek), wrap(KEKS, "b", dek), dek=dek)
    half = envelope(wrap(KEKS, "a", dek), wrap(KEKS, "b", other), dek=dek)
    records = [_record(0, dek, good), _record(1, dek, half), _record(2, dek, half)]
    for thorough, failures in ((False, ["", "", ""]), (True, ["", *["AuthenticationFailed"] * 2])):
        with contextlib.closing(_opener("ab", thorough=thorough)) as opener:
            assert [record.failure for record in opener.open("orders", 0, records)] == failures


def test_a_record_without_envelope_passes_below_the_cut_over_only():
    """Where there is none given, as for the target, it is taken as it is; a null value is a tombstone."""
    messages = [Message(n, b"plain", [("h", b"1")]) for n in (0, 9)] + [Message(10, None, None)]
    cutover = Cutover({"orders": TopicCutover("x" * 22, {0: 5})})
    with contextlib.closing(_opener("a", cutover=cutover)) as opener:
        found = list(opener.open("orders", 0, messages))
    assert [(r.failure, r.value, r.sealed) for r in found] == [
        ("", b"plain", False),
        ("PlaintextRejected", None, False),
        ("", None, False),
    ]
    with contextlib.closing(_opener("a")) as opener:
        assert [r.failure for r in opener.open("orders", 0, messages)] == ["", "", ""]


class Away(sc.LocalKeyProvider):
    """Is away twice."""

    tries = 0

    def decrypt_data_key(self, encrypted, key_id, context):
        self.tries += 1
        if self.tries < 3:
            raise KeyUnavailable("away", operation="Decrypt")
        return super().decrypt_data_key(encrypted, key_id, context)


def test_while_the_key_service_is_away_the_record_waits_and_nothing_is_skipped():
    """The wait is the caller's; one that raises ends it."""
    dek = os.urandom(32)
    header = envelope(wrap(KEKS, "a", dek), dek=dek)
    waits: list[int] = []
    keys = Away(KEKS, "a")
    decryptor = sc.Decryptor(keys, share_data_keys=False)
    opener = Opener(decryptor, keys, wait=lambda topic, partition, offset, error: waits.append(offset))
    found = list(opener.open("orders", 0, [_record(n, dek, header) for n in range(3)]))
    assert [record.value for record in found] == [b"plain"] * 3
    assert waits == [0]
    keys = Away(KEKS, "a")
    with pytest.raises(KeyUnavailable):
        list(Opener(sc.Decryptor(keys), keys).open("orders", 0, [_record(0, dek, header)]))


def test_no_content_stands_in_a_repr():
    """Of a record that was opened."""
    assert "secret" not in repr(seen(0, value=b"secret", raw=b"secret", key=b"secret", headers=[("secret", b"")]))


def test_how_far_a_verification_came_is_read_back():
    """Anything else is nothing."""
    note = Verified("run", 7, {"compared": 3}, done=True)
    assert Verified.read(note.note()) == note
    assert [Verified.read(text) for text in (None, "", "{}x", "[]", '{"else": 1}')] == [None] * 5


def test_the_headers_built_here_are_canonical():
    """What these tests build is what a writer could write."""
    header = envelope(wrap(KEKS, "a", bytes(32)), dek=bytes(32))
    assert encode_header(decode_header(header)) == header

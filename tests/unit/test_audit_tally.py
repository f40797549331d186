"""What an audit counts, record by record."""

from __future__ import annotations

import random

import pytest

from streamcrypt.audit.tally import Counter, HeaderBook, Place
from streamcrypt.envelope.framing import frame_prefix
from streamcrypt.errors import StreamcryptError
from tests.envelopes import Record, envelope, sealed, under

A, B = envelope("kek-a"), envelope("kek-b")
LATER = b"\xc3\x01" + b"\x07" * 8 + b"of a later version"
PROOF = ("streamcrypt-tombstone", bytes(28))


def counted(*records: Record, ends: dict[int, int] | None = None, batch: int = 10_000) -> tuple[dict, HeaderBook]:
    """Count records into places that end behind all of them."""
    book = HeaderBook()
    places = {("orders", p): Place("orders", p, 0, end, end) for p, end in (ends or {0: 1000, 1: 1000}).items()}
    counter = Counter(places, book)
    for start in range(0, len(records), batch):
        counter.take(records[start : start + batch])
    return {p: place for (_, p), place in places.items()}, book


def kinds(*records: Record) -> tuple[int, int, int, int, int]:
    """Records, plaintext, malformed, tombstones and those under a KEK."""
    place = counted(*records)[0][0]
    under_keys = sum(tally.records for tally in place.tallies.values())
    return place.records, place.plaintext, place.malformed, place.tombstones, under_keys


@pytest.mark.parametrize(
    ("value", "headers", "kind"),
    [
        (b"hello", None, "plaintext"),
        (b"", [], "plaintext"),
        (b"hello", [("trace", b"1"), ("Streamcrypt", b"x")], "plaintext"),
        (b"hello", [("streamcrypt-tombstone", bytes(28))], "plaintext"),
        (None, None, "tombstone"),
        (None, [("trace", b"1")], "tombstone"),
        (sealed(), under(A), "sealed"),
        (sealed(), under(A, ("trace", b"1")), "sealed"),
        (frame_prefix(A) + sealed(), None, "sealed"),
        (frame_prefix(A) + sealed(), [("trace", b"1")], "sealed"),
        (None, [("streamcrypt", A), PROOF], "proved tombstone"),
        (sealed(), under(b"junk"), "malformed"),
        (sealed(), under(b""), "malformed"),
        (sealed(), under(None), "malformed"),
        (sealed(), under(A + b"\x00"), "malformed"),
        (sealed(), under(LATER), "malformed"),
        (sealed(), [("streamcrypt", A), ("streamcrypt", A)], "malformed"),
        (b"", under(A), "sealed"),
        (frame_prefix(A) + sealed(), under(A), "malformed"),
        (frame_prefix(A) + bytes(27), None, "malformed"),
        (b"\xc5SC\x01", None, "malformed"),
        (None, under(A), "malformed"),
        (None, [PROOF], "malformed"),
        (None, [("streamcrypt", A), ("streamcrypt-tombstone", bytes(27))], "malformed"),
        (None, [("streamcrypt", A), ("streamcrypt", A), PROOF], "malformed"),
        (None, [("streamcrypt", b"junk"), PROOF], "malformed"),
    ],
)
def test_each_record_is_of_one_kind(value: bytes | None, headers: object, kind: str) -> None:
    """Whether it stands alone, first, last or within records that look like it."""
    expected = {
        "plaintext": (1, 1, 0, 0, 0),
        "tombstone": (1, 0, 0, 1, 0),
        "sealed": (1, 0, 0, 0, 1),
        "proved tombstone": (1, 0, 0, 1, 1),
        "malformed": (1, 0, 1, 0, 0),
    }[kind]
    record = Record(0, value, headers)
    assert kinds(record) == expected
    three = [Record(n, value, headers) for n in range(3)]
    assert kinds(*three) == tuple(3 * n for n in expected)
    for other in (Record(0, sealed(), under(A)), Record(0, sealed(), None), Record(0, sealed(), headers)):
        alone = kinds(other)
        between = kinds(other, Record(1, value, headers), Record(2, other.content, other.pairs))
        assert between == tuple(2 * a + b for a, b in zip(alone, expected, strict=True))


def test_runs_are_counted_to_the_record() -> None:
    """Offsets and times are those of the first and the last record, gaps left by compaction are no records."""
    records = [Record(n, sealed(n), under(A), time=(1, 5000 + n)) for n in (3, 4, 9)]
    records += [Record(n, sealed(n), under(B), time=(0, -1)) for n in (10, 11)]
    records += [Record(20, sealed(), under(A), time=(1, 7000))]
    places, book = counted(*records)
    tallies = {book.envelopes[i].key_ids: t for i, t in places[0].tallies.items()}
    a, b = tallies["kek-a",], tallies["kek-b",]
    assert (a.records, a.first_offset, a.first_time, a.last_offset, a.last_time) == (4, 3, 5003, 20, 7000)
    assert (b.records, b.first_offset, b.first_time, b.last_offset, b.last_time) == (2, 10, None, 11, None)


def test_a_header_that_varies_does_not_end_a_run() -> None:
    """And hides nothing: an envelope too many is malformed wherever it stands, and another envelope is another."""
    many = [Record(n, sealed(n), under(A, ("n", b"%d" % n))) for n in range(3)]
    wide = [Record(n, sealed(n), under(A, ("n", b"%d" % n), ("m", None))) for n in (3, 4)]
    behind = [Record(n, sealed(n), [("streamcrypt", A), ("n", b"%d" % n)]) for n in (5, 6)]
    twice = [
        Record(7, sealed(), [("streamcrypt", A), ("streamcrypt", A)]),
        Record(8, sealed(), [("streamcrypt", B), ("n", b"1"), ("streamcrypt", A)]),
        Record(9, sealed(), [("streamcrypt", A), ("streamcrypt", None)]),
    ]
    other = [
        Record(10, sealed(), under(B, ("n", b"1"))),
        Record(11, sealed(), [("n", b"1")]),
        Record(12, None, under(A)),
    ]
    places, book = counted(*many, *wide, *behind, *twice, *other, Record(13, sealed(), under(A, ("n", b"x"))))
    tallies = {book.envelopes[i].data: tally.records for i, tally in places[0].tallies.items()}
    assert tallies == {A: 8, B: 1}
    assert (places[0].records, places[0].malformed, places[0].plaintext) == (14, 4, 1)
    for record in twice:
        between, _ = counted(
            many[0], many[1], Record(2, record.content, record.pairs), Record(3, sealed(), many[2].pairs)
        )
        assert (between[0].records, between[0].malformed) == (4, 1)


def test_what_comes_behind_the_end_is_not_counted() -> None:
    """Nor what belongs to a partition that is not read, nor what was counted already."""
    records = [Record(n, sealed(), under(A)) for n in range(8)] + [Record(0, sealed(), under(A), place=7)]
    places, _ = counted(*records, ends={0: 5})
    assert (places[0].records, places[0].position) == (5, 5)
    places, _ = counted(*records[:5], *records[2:5], ends={0: 5}, batch=5)
    assert places[0].records == 5


def test_counts_do_not_depend_on_how_records_are_batched() -> None:
    """Any mixture of kinds and partitions, against counting one by one."""
    chance = random.Random(7)
    shapes = [
        (sealed(), under(A)),
        (sealed(), under(B)),
        (sealed(), under(A, ("n", b"1"))),
        (b"plain", None),
        (b"plain", []),
        (None, None),
        (b"short", under(b"junk")),
        (frame_prefix(B) + sealed(), None),
    ]
    offsets = [0, 0]
    records = []
    for _ in range(2000):
        place, (value, headers) = chance.randrange(2), chance.choice(shapes)
        for _ in range(chance.choice((1, 1, 5))):
            records.append(Record(offsets[place], value, headers, place))
            offsets[place] += chance.choice((1, 1, 3))
    ends = {0: offsets[0], 1: offsets[1] - 100}
    whole, _ = counted(*records, ends=ends)
    for batch in (1, 2, 7, 100):
        assert counted(*records, ends=ends, batch=batch)[0] == whole
    assert whole[0].records == sum(record.place == 0 for record in records)


def test_a_record_wrapped_for_several_keks_is_of_each() -> None:
    """The book names each KEK once, even under two providers."""
    book = HeaderBook()
    found = book.look_up(envelope("kek-a", "kek-b", "arn:aws:kms:eu-west-1:111122223333:key/x"))
    assert set(found.key_ids) == {"kek-a", "kek-b", "arn:aws:kms:eu-west-1:111122223333:key/x"}
    assert book.look_up(found.data) is found
    assert (book.knows(found.data), book.knows(A)) == (True, False)


def test_the_book_is_bounded() -> None:
    """Malformed headers take no place in it; a key per record ends with a message, not with the memory."""
    book = HeaderBook(limit=2)
    book.look_up(A)
    for n in range(10):
        with pytest.raises(StreamcryptError):
            book.look_up(b"junk %d" % n)
    book.look_up(B)
    with pytest.raises(StreamcryptError, match="more than 2 distinct"):
        book.look_up(envelope("kek-c"))
    assert book.look_up(A).index == 0

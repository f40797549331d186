"""The checker finds every fault that is planted, and none where there is none."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest

from streamcrypt.testing import KMSCall
from tests.chaos.budget import kms_budget, most_while_away
from tests.chaos.checker import Checker, Letter, check_letters, find_leaks
from tests.chaos.faults import FAULTS, Fault, schedule
from tests.chaos.records import MARK, Arrived, Book

BOOK = Book(seed=7, epoch=1_700_000_000_000)
COUNT = 400


def _arrivals(numbers=range(COUNT)) -> list[Arrived]:
    """What a faultless pipeline leaves of these records: partition by partition, in order."""
    ends: dict[int, int] = {}
    found = []
    for number in numbers:
        sent = BOOK.record(number)
        offset = ends[sent.partition] = ends.get(sent.partition, -1) + 1
        found.append(Arrived("t", sent.partition, offset, sent.key, sent.value, sent.headers, sent.timestamp))
    return sorted(found, key=lambda a: (a.partition, a.offset))


def _sound(wanted) -> int:
    return next(n for n in range(COUNT) if wanted(BOOK.record(n)))


def _changed(number, **changes) -> list[Arrived]:
    time = BOOK.record(number).timestamp
    return [replace(a, **changes) if a.timestamp == time else a for a in _arrivals()]


def test_the_book_holds_every_kind_of_record_and_is_the_same_each_time():
    """Null keys, tombstones, empty values, headers and none, and a second look gives the same."""
    records = [BOOK.record(n) for n in range(COUNT)]
    assert records == [Book(seed=7, epoch=1_700_000_000_000).record(n) for n in range(COUNT)]
    assert {r.key is None for r in records} == {True, False}
    assert {r.value is None for r in records} == {True, False}
    assert b"" in [r.value for r in records]
    assert {bool(r.headers) for r in records} == {True, False}
    assert Book(seed=8, epoch=BOOK.epoch).record(0) != BOOK.record(0)


def test_a_faultless_output_has_no_findings():
    findings = Checker(BOOK).check(_arrivals(), range(COUNT))
    assert findings.lines() == []
    assert findings.counts["arrived"] == COUNT


def test_a_missing_record_is_found():
    """Of every sort: with a value, empty, and a tombstone."""
    for lost in (3, _sound(lambda r: r.value == b""), _sound(lambda r: r.value is None)):
        findings = Checker(BOOK).check(_arrivals([n for n in range(COUNT) if n != lost]), range(COUNT))
        assert list(findings.found) == ["missing"]
        assert findings.found["missing"][0].startswith(f"record {lost} ")


def test_a_doubled_record_is_found_and_under_at_least_once_counted():
    twice = [*_arrivals(), replace(_arrivals()[-1], offset=10_000)]
    assert list(Checker(BOOK).check(twice, range(COUNT)).found) == ["doubled"]
    lenient = Checker(BOOK, once=False).check(twice, range(COUNT))
    assert not lenient
    assert lenient.counts["repeats"] == 1


def test_two_records_that_changed_places_are_found():
    """Per partition; and per key where partitions do not count."""
    keyed = [n for n in range(COUNT) if BOOK.record(n).key == BOOK.record(_sound(lambda r: r.key)).key]
    first, second = keyed[:2]
    order = [*range(first), second, first, *[n for n in range(first + 1, COUNT) if n != second]]
    assert "disordered" in Checker(BOOK).check(_arrivals(order), range(COUNT)).found
    assert "disordered" in Checker(BOOK, partitioned=False).check(_arrivals(order), range(COUNT)).found
    assert "disordered" in Checker(BOOK, once=False).check(_arrivals(order), range(COUNT)).found


def test_a_retry_that_overtakes_is_found_though_the_repeat_restores_the_order():
    """At least once: 5 lost at first, then 5, 6, 7 sent again behind 7: the first appearance of 5 is too late."""
    lane = [n for n in range(COUNT) if BOOK.record(n).partition == 1][:10]
    order = [*lane[:5], *lane[6:8], *lane[5:]]
    findings = Checker(BOOK, once=False).check(_arrivals(order), lane)
    assert list(findings.found) == ["disordered"]


CHANGES = {
    "value": {"value": b"%012d:x" % 7},
    "key": {"key": b"somebody's"},
    "no key": {"key": None},
    "headers": {"headers": (("a", b"b"),)},
    "partition": {"partition": 3 - BOOK.record(7).partition},
    "timestamp": {"timestamp": 1},
}


@pytest.mark.parametrize("what", CHANGES)
def test_an_altered_record_is_found(what):
    found = Checker(BOOK).check(_changed(7, **CHANGES[what]), range(COUNT)).found
    assert found["altered"][0].startswith(f"record 7, its {what.removeprefix('no ')}")


def test_a_lost_header_an_extra_one_and_another_order_are_alterations():
    number = _sound(lambda r: r.headers)
    headers = BOOK.record(number).headers
    for other in (headers[:-1], (*headers, headers[0]), headers[::-1], ()):
        assert "altered" in Checker(BOOK).check(_changed(number, headers=other), range(COUNT)).found


def test_null_and_empty_are_not_the_same():
    for number, other in ((_sound(lambda r: r.value == b""), None), (_sound(lambda r: r.value is None), b"")):
        assert "altered" in Checker(BOOK).check(_changed(number, value=other), range(COUNT)).found


def test_a_record_that_nobody_sent_is_found():
    """Whatever it says of itself."""
    strangers = [
        Arrived("t", 0, 900, b"k", b"hello", (), 5),
        Arrived("t", 0, 901, b"k", b"%012d:x" % COUNT, (), BOOK.epoch + COUNT),
        Arrived("t", 0, 902, None, None, (), BOOK.epoch + COUNT),
    ]
    assert len(Checker(BOOK).check([*_arrivals(), *strangers], range(COUNT)).found["unknown"]) == 3


@pytest.mark.parametrize(
    "leak",
    [
        MARK,
        b"\x00\x01" + BOOK.record(3).value + b"\xff",
        *[base64.b64encode(b"x" * shift + MARK * 2) for shift in range(3)],
        (b"abc" + MARK).hex().encode(),
    ],
)
def test_plaintext_is_found_in_values_and_headers_in_the_usual_codings(leak):
    quiet = Arrived("t", 0, 0, MARK, b"\x8f" * 500, (("h", b"fine"), ("n", None)), 5)
    assert not find_leaks([quiet, replace(quiet, value=None)])
    for loud in (replace(quiet, value=b"\x8f" * 99 + leak), replace(quiet, headers=(("reason", b"got " + leak),))):
        assert list(find_leaks([quiet, loud]).found) == ["plaintext"]


def test_any_31_bytes_of_a_value_hold_the_mark():
    value = next(r.value for r in map(BOOK.record, range(COUNT)) if r.value and len(r.value) == 400)
    assert all(MARK in value[start : start + 31] for start in range(13, 400 - 31))


TRUTH = {
    ("s", 0, 5): Letter("UntrustedKey", "no trusted", b"sealed", b"k", (("streamcrypt", b"e"),), 77),
    ("s", 1, 9): Letter("PlaintextRejected", "", None, None, (), 78),
}


def _letter(origin, **changes) -> Arrived:
    truth = TRUTH[origin]
    facts = {
        "reason": f"{truth.words} key",
        "class": truth.kind,
        "topic": origin[0],
        "partition": str(origin[1]),
        "offset": str(origin[2]),
        "time": "2026-01-01T00:00:00.000Z",
        "pipeline": "p",
        **changes.pop("facts", {}),
    }
    headers = tuple((f"streamcrypt-dlq-{name}", text.encode()) for name, text in facts.items() if text)
    made = Arrived("dlq", 0, 0, truth.key, truth.value, (*truth.headers, *headers), truth.timestamp)
    return replace(made, **changes)


FIRST, SECOND = TRUTH
LETTERS = [_letter(FIRST), _letter(SECOND)]


def test_true_letters_have_no_findings():
    assert check_letters(LETTERS, TRUTH, "p").lines() == []
    put_by = _letter(FIRST)
    renamed = tuple(("streamcrypt-dlq-original-" + n if n == "streamcrypt" else n, v) for n, v in put_by.headers)
    assert check_letters([replace(put_by, headers=renamed), LETTERS[1]], TRUTH, "p").lines() == []


PLANTED = {
    "missing letter": LETTERS[:1],
    "doubled letter": [*LETTERS, LETTERS[0]],
    "letter of a sound record": [*LETTERS, _letter(FIRST, facts={"offset": "6"})],
    "letter without facts": [*LETTERS, _letter(FIRST, facts={"class": ""})],
    "wrong reason": [_letter(FIRST, facts={"class": "ContextMismatch"}), LETTERS[1]],
    "wrong pipeline": [_letter(FIRST, facts={"pipeline": "q"}), LETTERS[1]],
    "wrong time": [_letter(FIRST, facts={"time": "yesterday"}), LETTERS[1]],
    "altered letter": [_letter(FIRST, value=b"other"), LETTERS[1]],
}


@pytest.mark.parametrize("kind", PLANTED)
def test_a_wrong_letter_is_found(kind):
    assert list(check_letters(PLANTED[kind], TRUTH, "p").found) == [kind]


@pytest.mark.parametrize(
    "changes", [{"key": b"x"}, {"timestamp": 1}, {"value": None}, {"headers": _letter(FIRST).headers[1:]}]
)
def test_a_letter_that_lost_something_of_its_record_is_found(changes):
    assert list(check_letters([_letter(FIRST, **changes), LETTERS[1]], TRUTH, "p").found) == ["altered letter"]


def test_a_schedule_repeats_with_its_seed_and_ends_in_time():
    """Every kind comes before any comes again, and faults do not overlap."""
    kinds = sorted(FAULTS)
    first = schedule(3, 600, kinds)
    assert first == schedule(3, 600, kinds)
    assert first != schedule(4, 600, kinds)
    assert {fault.kind for fault in first[: len(kinds)]} == set(kinds)
    ends = [fault.at + fault.seconds for fault in first]
    assert ends[-1] <= 600
    assert all(end <= later.at for end, later in zip(ends, first[1:], strict=False))


def test_the_budget_is_that_of_the_documentation():
    """docs/operations.md: 12 calls in the first minute of an outage, 4 in every later one."""
    assert most_while_away(60) <= 12
    assert most_while_away(660) - most_while_away(60) <= 40


def _failed(count, at):
    return [KMSCall("GenerateDataKey", "", (), "ThrottlingException", "r", at + n / 100, "r") for n in range(count)]


def test_a_storm_of_calls_is_found_and_a_few_probes_are_not():
    fault = Fault(10.0, "kms throttles all", 20.0, 0.5)
    for count, over in ((30, False), (200, True)):
        budget = kms_budget([fault], 1000.0, _failed(count, 1011.0), members=1, processes=1)
        assert bool(budget.exceeded) is over
        assert budget.figures["failed by fault"] == {"kms throttles all": count}

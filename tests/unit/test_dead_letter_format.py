"""What a dead letter looks like, and what is believed of one that is read."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamcrypt as sc
from streamcrypt.envelope.framing import Tombstones
from streamcrypt.errors import AlreadySealed, AuthenticationFailed, PlaintextRejected
from streamcrypt.sidecar.dead_letters import (
    LETTER_BOUND,
    DeadLetters,
    MalformedLetter,
    Origin,
    without_our_headers,
)

PREFIX = "streamcrypt-dlq-"
PLACE = ("payments", 3)
ERROR = AuthenticationFailed("it never says which")
WHEN = 1_700_000_000_000


def _facts(headers) -> dict[str, str]:
    return {n.removeprefix(PREFIX): v.decode() for n, v in headers if n.startswith(PREFIX)}


@pytest.fixture
def sealed():
    keys = sc.LocalKeyProvider.generate()
    bound = {"bound": LETTER_BOUND, "tombstones": Tombstones.AUTHENTICATED}
    opening = {"require_bound": LETTER_BOUND, "tombstones": Tombstones.AUTHENTICATED}
    with sc.Encryptor(keys, **bound) as sealer, sc.Decryptor(keys, **opening) as opener:
        yield DeadLetters("p", "dlq", sealer.topic("dlq")), opener


def test_eight_headers_tell_why_whence_and_from_when():
    letter = DeadLetters("p", "dlq", None).letter(PLACE, 42, (b"v", b"k", None), WHEN, ERROR)
    facts = _facts(letter.headers)
    assert set(facts) == {"reason", "class", "topic", "partition", "offset", "time", "timestamp", "pipeline"}
    assert facts["reason"] == "it never says which"
    assert datetime.fromisoformat(facts["time"]).utcoffset() is not None
    assert Origin.read(letter.headers) == Origin("p", "payments", 3, 42, "AuthenticationFailed", facts["reason"], WHEN)


def test_a_record_without_timestamp_leaves_a_letter_that_names_none():
    letter = DeadLetters("p", "dlq", None).letter(PLACE, 42, (b"v", b"k", None), 0, ERROR)
    assert "timestamp" not in _facts(letter.headers)
    assert Origin.read(letter.headers).timestamp == 0


def test_headers_of_ours_that_were_there_before_are_replaced():
    """A record from a dead-letter topic, or a forger's."""
    forged = [("h", b"v"), (PREFIX + "offset", b"1"), (PREFIX + "original-streamcrypt", b"x"), (PREFIX + "new", b"")]
    letter = DeadLetters("p", "dlq", None).letter(PLACE, 42, (b"v", b"k", forged), WHEN, ERROR)
    assert [pair for pair in letter.headers if not pair[0].startswith(PREFIX)] == [("h", b"v")]
    assert [v for n, v in letter.headers if n == PREFIX + "offset"] == [b"42"]
    assert len(letter.headers) == 9


def test_a_long_reason_is_cut():
    letter = DeadLetters("p", "dlq", None).letter(
        PLACE, 1, (b"v", None, None), WHEN, AuthenticationFailed("x" * 10_000)
    )
    assert len(_facts(letter.headers)["reason"]) == 500


def test_the_value_of_a_record_refused_as_plaintext_is_not_kept():
    letter = DeadLetters("p", "dlq", None).letter(
        PLACE, 1, (b"secret", b"k", [("h", b"v")]), WHEN, PlaintextRejected("x")
    )
    assert letter.value is None
    assert letter.headers[0] == ("h", b"v")


@given(
    value=st.one_of(st.none(), st.binary(max_size=50)),
    names=st.lists(st.sampled_from(["streamcrypt", "streamcrypt-tombstone", "h"]), max_size=4),
)
def test_a_sealed_letter_opens_to_the_record_as_it_was(value, names):
    """Also where it carried headers of ours, or was a deletion."""
    keys = sc.LocalKeyProvider.generate()
    own = [(name, b"%d" % n) for n, name in enumerate(names)]
    with (
        sc.Encryptor(keys, bound=LETTER_BOUND, tombstones=Tombstones.AUTHENTICATED) as sealer,
        sc.Decryptor(keys, require_bound=LETTER_BOUND, tombstones=Tombstones.AUTHENTICATED) as opener,
    ):
        letters = DeadLetters("p", "dlq", sealer.topic("dlq"))
        letter = letters.letter(PLACE, 42, (value, b"k", own), WHEN, AlreadySealed("x"))
        opened, headers = opener.decrypt("dlq", letter.value, b"k", letter.headers)
    assert opened == value
    assert without_our_headers(headers) == own


@pytest.mark.parametrize("value", [b"v", None])
@pytest.mark.parametrize("name", ["pipeline", "topic", "partition", "offset", "timestamp"])
def test_a_sealed_letter_cannot_be_moved_to_another_origin(sealed, value, name):
    letters, opener = sealed
    letter = letters.letter(PLACE, 42, (value, b"k", None), WHEN, AlreadySealed("x"))
    moved = [(n, b"7" if n == PREFIX + name else v) for n, v in letter.headers]
    with pytest.raises(AuthenticationFailed):
        opener.decrypt("dlq", letter.value, b"k", moved)


def test_a_deletion_without_proof_is_no_letter_of_an_encrypting_pipeline(sealed):
    """Anybody who may write to the dead-letter topic could have a key deleted otherwise."""
    _, opener = sealed
    forged = DeadLetters("p", "dlq", None).letter(PLACE, 42, (None, b"k", None), WHEN, ERROR)
    with pytest.raises(sc.StreamcryptError):
        opener.decrypt("dlq", None, b"k", forged.headers)


GOOD = {"reason": b"r", "class": b"C", "topic": b"t", "partition": b"0", "offset": b"1", "time": b"", "pipeline": b"p"}


@pytest.mark.parametrize(
    "change",
    [
        {"topic": None},
        {"partition": b"x"},
        {"offset": b""},
        {"reason": b"\xff"},
        {"offset": b"9" * 5_000},
        {"timestamp": b"-1"},
        {"timestamp": b"9" * 19},
    ],
)
def test_what_is_no_letter_is_recognised(change):
    headers = [(PREFIX + name, value) for name, value in {**GOOD, **change}.items()]
    with pytest.raises(MalformedLetter):
        Origin.read(headers)


@pytest.mark.parametrize("missing", ["pipeline", "topic", "partition", "offset", "class", "reason"])
def test_a_letter_with_a_header_missing_or_doubled_is_none(missing):
    headers = [(PREFIX + name, value) for name, value in GOOD.items()]
    Origin.read(headers)
    with pytest.raises(MalformedLetter):
        Origin.read([pair for pair in headers if pair[0] != PREFIX + missing])
    with pytest.raises(MalformedLetter):
        Origin.read([*headers, (PREFIX + missing, b"1")])

"""What goes with a KEK, what stays, and what nobody can tell."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from streamcrypt.audit.keks import KEKIdentity
from streamcrypt.audit.page import as_page
from streamcrypt.audit.plan import Plan, TopicFacts
from streamcrypt.audit.receipt import Fate, Part, Receipt, Witness, write_receipt
from streamcrypt.audit.receipt_text import receipt_lines
from streamcrypt.audit.report import Findings, as_tree
from streamcrypt.audit.tally import Counter, HeaderBook, Place
from streamcrypt.audit.unwrapping import Unwrapping
from streamcrypt.envelope.header import EncryptedDataKey
from streamcrypt.errors import KeyRefused, KeyUnavailable
from streamcrypt.keys.local import LocalKeyProvider
from streamcrypt.testing.slow_keys import DECRYPT, ScriptedKeyProvider
from tests.envelopes import Record, envelope, sealed, under, wrap

KEYRING = {name: os.urandom(32) for name in ("gone", "new", "third", "fourth")}
MADE = datetime(2030, 1, 1, tzinfo=UTC)


def both(*names: str) -> bytes:
    """An envelope whose data key is really wrapped under each KEK."""
    dek = os.urandom(32)
    return envelope(*(wrap(KEYRING, name, dek) for name in names), dek=dek)


def made(
    *records: Record | bytes,
    trusts: tuple[str, ...] = ("new", "third", "fourth"),
    keys: ScriptedKeyProvider | None = None,
    place: dict | None = None,
    **facts: dict,
) -> tuple[Receipt, Plan, HeaderBook]:
    """The receipt of the KEK ``gone`` for records (or one for each header) of a topic."""
    keys = keys or ScriptedKeyProvider(LocalKeyProvider({name: KEYRING[name] for name in trusts}, trusts[0]))
    rows = [r if isinstance(r, Record) else Record(n, sealed(), under(r)) for n, r in enumerate(records)]
    plan, book = Plan({"orders": TopicFacts("orders", "topic-id")}, cluster_id="cluster-id"), HeaderBook()
    plan.places["orders", 0] = Place("orders", 0, 0, len(rows), len(rows))
    Counter(plan.places, book).take(rows)
    for name, value in (place or {}).items():
        setattr(plan.places["orders", 0], name, value)
    facts = {"lows": {}, "now": {}, **facts}
    receipt = write_receipt(
        plan,
        book,
        KEKIdentity("gone", None),
        Witness(keys, Unwrapping()),
        state="not in the keyring",
        made=MADE,
        not_covered=("Copies elsewhere.",),
        **facts,
    )
    return receipt, plan, book


def fates(*records: Record | bytes, **more: object) -> dict[str, int]:
    """How many records have which fate."""
    receipt, _, _ = made(*records, **more)
    return {fate.value: receipt.total(fate) for fate in Fate if receipt.total(fate)}


def test_a_record_is_lost_where_nothing_else_opens_it() -> None:
    """It alone wraps the data key, or what the envelope holds for others is noise or another data key."""
    dek = os.urandom(32)
    own = wrap(KEYRING, "gone", dek)
    noise = envelope(own, EncryptedDataKey("local", "new", os.urandom(60)), dek=dek)
    strange = envelope(own, wrap(KEYRING, "new", os.urandom(32)), dek=dek)
    assert fates(both("gone"), envelope("gone"), noise, strange, both("new"), Record(5, b"plain")) == {"lost": 4}


def test_a_record_is_still_open_where_any_other_key_opens_it() -> None:
    """Even a third one that no reader would try: a receipt must not promise too much."""
    dek = os.urandom(32)
    noise = [EncryptedDataKey("local", name, os.urandom(60)) for name in ("new", "third")]
    hidden = envelope(wrap(KEYRING, "gone", dek), wrap(KEYRING, "fourth", dek), *noise, dek=dek)
    assert fates(both("gone", "new"), hidden) == {"still_open": 2}


def test_what_cannot_be_tried_is_no_loss() -> None:
    """A KEK that is not trusted here, that refuses, or a key service that is away."""
    receipt, _, _ = made(both("gone", "new"), trusts=("third",))
    assert receipt.total(Fate.UNKNOWN) == 1
    (doubt,) = receipt.doubts
    assert doubt.startswith(
        "orders[0]: whether 1 records still open is not known: other KEKs of their envelope are not"
    )
    for error in (KeyRefused("denied"), KeyUnavailable("timeout")):
        keys = ScriptedKeyProvider(LocalKeyProvider(KEYRING, "new"))
        keys.away(DECRYPT, error)
        assert fates(both("gone", "new"), both("gone", "new"), keys=keys) == {"unknown": 2}


def test_the_kek_itself_is_never_called() -> None:
    """It may be trusted still, and may be gone already."""
    keys = ScriptedKeyProvider(LocalKeyProvider(KEYRING, "gone"))
    assert fates(both("gone"), both("gone", "new"), keys=keys) == {"lost": 1, "still_open": 1}
    assert [call.key_id for call in keys.calls] == ["new"]


def test_a_receipt_says_where_and_when() -> None:
    """By partition: records, data keys, first and last offset and time; what retention took meanwhile is gone."""
    header, other = both("gone"), both("gone")
    rows = [Record(n, sealed(), under(header), time=(1, 1000 * n)) for n in range(3)]
    rows += [Record(3, sealed(), under(other), time=(0, -1)), Record(4, sealed(), under(both("gone", "new")))]
    receipt, _, _ = made(*rows)
    (place,) = receipt.places
    assert place.parts[Fate.LOST] == Part(4, 2, 0, 3, 0, None)
    assert place.parts[Fate.STILL_OPEN].records == 1
    (later,) = made(*rows, lows={("orders", 0): 3})[0].places
    assert later.parts[Fate.LOST] == Part(1, 1, 3, 3, None, None)
    between = made(*rows, lows={("orders", 0): 1})[0]
    assert between.places[0].parts[Fate.LOST].first_offset == 1
    assert "below offset 1" in between.not_covered[-1]
    assert "at most" in between.not_covered[-1]


def test_what_was_not_read_makes_a_receipt_less_than_whole() -> None:
    """What came meanwhile is not covered; it does not make the rest untrue."""
    receipt, _, _ = made(both("gone"), Record(1, sealed(), under(b"junk")), place={"unread": "denied", "position": 2})
    assert [line.partition(": ")[2][:9] for line in receipt.doubts] == ["read up t", "1 malform"]
    receipt, _, _ = made(both("gone"), now={("orders", 0): 9})
    assert receipt.doubts == ()
    assert receipt.not_covered == (
        "Copies elsewhere.",
        "not looked at: offsets written since the audit began (orders[0] 8)",
    )


def test_a_receipt_is_a_document_of_its_own() -> None:
    """As JSON, as text and on the page it names the KEK, the time, the cluster, the topic and what it leaves open."""
    receipt, plan, book = made(both("gone"), both("gone", "new"), both("new"))
    tree = as_tree(plan, book, Findings(receipt=receipt))
    span = {"records": 1, "data_keys": 1, "first_time": "2030-03-17T17:46:40.000Z"}
    span["last_time"] = span["first_time"]
    assert tree["receipt"] == {
        "key_id": "gone",
        "state": "not in the keyring",
        "made": "2030-01-01T00:00:00.000Z",
        "cluster_id": "cluster-id",
        "whole": True,
        "lost": 1,
        "still_open": 1,
        "unknown": 0,
        "topics": [
            {
                "topic": "orders",
                "topic_id": "topic-id",
                "partitions": [
                    {
                        "partition": 0,
                        "read_from": 0,
                        "read_to": 3,
                        "lost": {**span, "first_offset": 0, "last_offset": 0},
                        "still_open": {**span, "first_offset": 1, "last_offset": 1},
                        "unknown": None,
                    }
                ],
            }
        ],
        "doubts": [],
        "not_covered": ["Copies elsewhere."],
    }
    text = "\n".join(receipt_lines(receipt))
    page = as_page(plan, book, MADE, Findings(receipt=receipt))
    for words in (
        "gone",
        "not in the keyring",
        "2030-01-01T00:00:00.000Z",
        "cluster-id",
        "topic-id",
        "Copies elsewhere.",
    ):
        assert words in text
        assert words in page
    assert "lost: 1 records, 1 data keys, offsets 0 (" in text

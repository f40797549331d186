"""When a KEK may be disabled, when not, and when nobody can tell."""

from __future__ import annotations

import os

import pytest

from streamcrypt.audit.keks import KEKIdentity
from streamcrypt.audit.tally import Counter, HeaderBook, Place
from streamcrypt.audit.unwrapping import Unwrapping
from streamcrypt.audit.verdict import Answer, Substitutes, Verdict, judge
from streamcrypt.envelope.header import EncryptedDataKey
from streamcrypt.errors import ConfigError, KeyRefused, KeyUnavailable
from streamcrypt.keys.local import LocalKeyProvider
from streamcrypt.testing.slow_keys import DECRYPT, ScriptedKeyProvider
from tests.envelopes import Record, envelope, sealed, under, wrap

KEYRING = {name: os.urandom(32) for name in ("old", "new", "third", "fourth")}
ACCOUNT = "111122223333"
MRK = "key/mrk-" + "0a" * 16
EUROPE, AMERICA = f"arn:aws:kms:eu-west-1:{ACCOUNT}:{MRK}", f"arn:aws:kms:us-east-1:{ACCOUNT}:{MRK}"
SINGLE = "key/1234abcd-12ab-34cd-56ef-1234567890ab"


def ask(
    *records: Record | bytes,
    kek: str = "old",
    trusts: tuple[str, ...] = ("new", "old"),
    keys: ScriptedKeyProvider | None = None,
    place: dict | None = None,
    limit: int = 100,
    **facts: dict,
) -> Verdict:
    """Count records (or one for each header) and ask."""
    keys = keys or ScriptedKeyProvider(LocalKeyProvider({name: KEYRING[name] for name in trusts}, trusts[0]))
    rows = [r if isinstance(r, Record) else Record(n, sealed(), under(r)) for n, r in enumerate(records)]
    found, book = Place("orders", 0, 0, len(rows), len(rows)), HeaderBook()
    Counter({("orders", 0): found}, book).take(rows)
    for name, value in (place or {}).items():
        setattr(found, name, value)
    facts = {"unreadable": {}, "lows": {}, "now": {}, **facts}
    proofs = (Substitutes(keys, Unwrapping(limit)),)
    return judge([found], book, KEKIdentity(kek, None), lambda _topic: proofs, **facts)


def both(*names: str, dek: bytes | None = None) -> bytes:
    """An envelope whose data key is really wrapped under each KEK."""
    dek = dek or os.urandom(32)
    return envelope(*(wrap(KEYRING, name, dek) for name in names), dek=dek)


def test_yes_where_no_record_names_the_kek() -> None:
    """Plaintext and tombstones need none."""
    verdict = ask(both("new"), Record(1, b"plain"), Record(2, None))
    assert (verdict.answer, verdict.key_id) == (Answer.YES, "old")
    assert verdict.evidence == ("3 records in 1 partitions were read, and none needs the KEK",)


def test_no_where_it_alone_wraps_a_record() -> None:
    """The evidence says where; whether the KEK opens anything does not matter."""
    verdict = ask(both("new"), both("old"), both("old"), envelope("old"))
    assert verdict.answer is Answer.NO
    assert verdict.evidence == ("orders[0]: 3 records at offsets 1 to 3 need the KEK: it alone wraps their data key",)


def test_another_kek_stands_in_once_it_was_unwrapped() -> None:
    """One call for each envelope, however many records it has, and none under the KEK in question."""
    keys = ScriptedKeyProvider(LocalKeyProvider(KEYRING, "old"))
    header = both("old", "new")
    records = [Record(n, sealed(), under(header)) for n in range(5)]
    assert ask(*records, keys=keys).answer is Answer.YES
    assert [call.key_id for call in keys.calls] == ["new"]


def test_what_does_not_open_does_not_stand_in() -> None:
    """Noise, a data key of another record, and a KEK that is not trusted here."""
    dek = os.urandom(32)
    own = wrap(KEYRING, "old", dek)
    for other, why in (
        (EncryptedDataKey("local", "new", os.urandom(60)), "does not open"),
        (wrap(KEYRING, "new", os.urandom(32)), "does not open"),
        (wrap(KEYRING, "third", dek), "not trusted"),
        (EncryptedDataKey("aws-kms", EUROPE, os.urandom(60)), "not trusted"),
    ):
        verdict = ask(envelope(own, other, dek=dek))
        assert verdict.answer is Answer.NO
        assert why in verdict.evidence[0]


def test_only_what_a_reader_would_try_stands_in() -> None:
    """Of four trusted KEKs a reader tries two; the third might open and is never asked."""
    dek = os.urandom(32)
    noise = EncryptedDataKey("local", "fourth", os.urandom(60))
    header = envelope(noise, wrap(KEYRING, "new", dek), wrap(KEYRING, "old", dek), dek=dek)
    assert ask(header, kek="new", trusts=("old", "new", "fourth")).answer is Answer.NO


def test_every_reader_of_a_topic_has_to_open_without_the_kek() -> None:
    """Pipelines may trust different KEKs: what opens for one is no substitute for the other. None calls twice."""
    keys = ScriptedKeyProvider(LocalKeyProvider({"new": KEYRING["new"], "third": KEYRING["third"]}, "new"))
    narrow = ScriptedKeyProvider(LocalKeyProvider({"third": KEYRING["third"]}, "third"))
    header, book = both("old", "new"), HeaderBook()
    places = {(topic, 0): Place(topic, 0, 0, 1, 1) for topic in ("one", "two")}
    Counter(places, book).take([Record(0, sealed(), under(header), name=topic) for topic in ("one", "two")])
    unwrapping = Unwrapping()
    wide, other = Substitutes(keys, unwrapping, "pipeline a"), Substitutes(narrow, unwrapping, "pipeline b")
    again = Substitutes(keys, unwrapping, "pipeline c")
    readers = {"one": (wide, again), "two": (wide, other)}
    facts = {"unreadable": {}, "lows": {}, "now": {}}
    verdict = judge(list(places.values()), book, KEKIdentity("old", None), readers.__getitem__, **facts)
    assert verdict.answer is Answer.NO
    (evidence,) = verdict.evidence
    assert evidence.startswith("two[0]: 1 records at offsets 0 to 0 need the KEK: the other KEKs")
    assert evidence.endswith("are not trusted here (pipeline b)")
    assert keys.count(DECRYPT) == 1
    only_one = judge([places["one", 0]], book, KEKIdentity("old", None), readers.__getitem__, **facts)
    assert only_one.answer is Answer.YES


def test_undetermined_while_the_key_service_is_away() -> None:
    """It is asked once, not for every envelope."""
    keys = ScriptedKeyProvider(LocalKeyProvider(KEYRING, "new"))
    keys.away(DECRYPT, KeyUnavailable("timeout"))
    verdict = ask(both("old", "new"), both("old", "new"), keys=keys)
    assert (verdict.answer, keys.count(DECRYPT)) == (Answer.UNDETERMINED, 1)
    assert "2 records at offsets 0 to 1: whether they open without the KEK is not known: timeout" in verdict.evidence[0]


def test_undetermined_where_the_other_kek_refuses() -> None:
    """Denied to this login is not denied to readers."""
    keys = ScriptedKeyProvider(LocalKeyProvider(KEYRING, "new"))
    keys.away(DECRYPT, KeyRefused("denied"))
    assert ask(both("old", "new"), keys=keys).answer is Answer.UNDETERMINED


def test_undetermined_past_the_limit_of_calls() -> None:
    """A topic full of strange envelopes does not use up the quota of KMS."""
    keys = ScriptedKeyProvider(LocalKeyProvider(KEYRING, "new"))
    verdict = ask(*(both("old", "new") for _ in range(5)), keys=keys, limit=3)
    assert (verdict.answer, keys.count(DECRYPT)) == (Answer.UNDETERMINED, 3)
    assert "more than 3 encrypted data keys" in verdict.evidence[0]


@pytest.mark.parametrize(
    ("place", "facts", "text"),
    [
        ({"unread": "denied", "position": 0}, {}, "read up to offset 0 of 1 only: denied"),
        ({"high": 9}, {}, "a transaction is open from offset 1 on"),
        ({"overtaken": 0}, {}, "retention deleted records from offset 0"),
        ({}, {"unreadable": {"secret": "not authorized"}}, "secret: could not be read: not authorized"),
    ],
)
def test_undetermined_where_something_was_not_read(place: dict, facts: dict, text: str) -> None:
    """What was not read might need the KEK; what was read and needs it is a no all the same."""
    verdict = ask(both("new"), place=place, **facts)
    assert verdict.answer is Answer.UNDETERMINED
    assert text in verdict.evidence[0]
    verdict = ask(both("old"), place=place, **facts)
    assert verdict.answer is Answer.NO
    assert text in verdict.evidence[1]


def test_undetermined_where_nothing_was_read_at_all() -> None:
    """A login that sees no topic has not shown that none needs the KEK."""
    proofs = (Substitutes(LocalKeyProvider(KEYRING, "new"), Unwrapping()),)
    verdict = judge([], HeaderBook(), KEKIdentity("old", None), lambda _: proofs, unreadable={}, lows={}, now={})
    assert verdict.answer is Answer.UNDETERMINED


def test_undetermined_where_a_record_is_malformed() -> None:
    """Its KEK cannot be read."""
    verdict = ask(both("new"), Record(1, sealed(), under(b"junk")))
    assert verdict.answer is Answer.UNDETERMINED
    assert verdict.evidence == (
        "orders[0]: 1 malformed records (MalformedEnvelope), the first at offset 1: their KEK is not known",
    )


def test_records_that_retention_deleted_meanwhile_need_nothing() -> None:
    """Only what is left at the end counts."""
    assert ask(both("old"), both("new"), lows={("orders", 0): 1}).answer is Answer.YES
    verdict = ask(*[both("old")] * 3, lows={("orders", 0): 1})
    assert "up to 3 records at offsets 1 to 2" in verdict.evidence[0]


def test_what_came_meanwhile_is_named() -> None:
    """It does not change the answer."""
    verdict = ask(both("new"), now={("orders", 0): 6})
    assert verdict.answer is Answer.YES
    assert verdict.evidence[1] == "not looked at: offsets written since the audit began (orders[0] 5)"


# -- which names mean one KEK ------------------------------------------------------------------------------------------


def never(name: str) -> str:
    """Resolves nothing."""
    raise KeyUnavailable(f"asked for {name}")


def test_replicas_of_a_multi_region_key_are_one_kek() -> None:
    """Same partition, account and id; without mrk- the region counts."""
    kek = KEKIdentity(EUROPE, never)
    assert kek.means(EUROPE)
    assert kek.means(AMERICA)
    assert kek.means(MRK.removeprefix("key/"))
    assert not kek.means(AMERICA.replace(ACCOUNT, "999999999999"))
    assert not kek.means(AMERICA.replace("arn:aws:", "arn:aws-cn:"))
    assert not kek.means(AMERICA.replace("0a", "0b"))
    assert not kek.means("no name of KMS")
    alone = KEKIdentity(f"arn:aws:kms:eu-west-1:{ACCOUNT}:{SINGLE}", never)
    assert not alone.means(f"arn:aws:kms:us-east-1:{ACCOUNT}:{SINGLE}")


def test_aliases_are_looked_up_once() -> None:
    """On both sides: what is asked about, and what records name."""
    asked: list[str] = []

    def resolve(name: str) -> str:
        asked.append(name)
        return AMERICA

    kek = KEKIdentity("alias/payments", resolve)
    assert kek.arn == AMERICA
    assert kek.means(EUROPE)
    assert kek.means("alias/other")
    assert kek.means("alias/other")
    assert kek.means("alias/payments")
    assert asked == ["alias/payments", "alias/other"]


def test_an_alias_that_cannot_be_looked_up_leaves_it_open() -> None:
    """And anyone may write any number of them."""
    kek = KEKIdentity(EUROPE, never)
    with pytest.raises(KeyUnavailable):
        kek.means("alias/x")
    many = KEKIdentity(EUROPE, lambda _name: AMERICA)
    with pytest.raises(KeyRefused, match="more than 100"):
        [many.means(f"alias/{n}") for n in range(101)]


def test_what_names_no_key_is_refused() -> None:
    """Before anything is read."""
    with pytest.raises(ConfigError):
        KEKIdentity("arn:aws:s3:::bucket", never)

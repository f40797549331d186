"""Records that miss a configured KEK, and the key material that wraps the others."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from streamcrypt import AWSKMSKeyProvider, ConfigError
from streamcrypt.audit.keks import configured_keks, kek_identity
from streamcrypt.audit.materials import by_material, find_materials
from streamcrypt.audit.page import as_page
from streamcrypt.audit.plan import Plan, TopicFacts
from streamcrypt.audit.report import Findings, as_tree
from streamcrypt.audit.shortfall import Shortfall, shortfalls
from streamcrypt.audit.tally import Counter, HeaderBook, Place
from streamcrypt.audit.unwrapping import Opening, Unwrapping
from streamcrypt.cli.audit_table import show_table
from streamcrypt.envelope.codec import decode_header
from streamcrypt.envelope.header import EncryptedDataKey
from streamcrypt.keys.local import LocalKeyProvider
from streamcrypt.testing import KMSServer
from tests.envelopes import Record, envelope, sealed, under, wrap
from tests.kms import use_fake_credentials

MADE = datetime(2030, 1, 1, tzinfo=UTC)
MRK = ":111122223333:key/mrk-" + "0a" * 16
EUROPE, AMERICA = f"arn:aws:kms:eu-west-1{MRK}", f"arn:aws:kms:us-east-1{MRK}"
OTHER = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"


def counted(*headers: bytes | None) -> tuple[Plan, HeaderBook]:
    """A record for each header; None is plaintext."""
    plan, book = Plan({"orders": TopicFacts("orders")}), HeaderBook()
    plan.places["orders", 0] = Place("orders", 0, 0, len(headers), len(headers))
    records = [
        Record(n, sealed(), under(header) if header else None, time=(1, 1000 * n)) for n, header in enumerate(headers)
    ]
    Counter(plan.places, book).take(records)
    return plan, book


def test_records_that_miss_a_kek_are_listed_by_offset() -> None:
    """Data keys side by side that miss the same are one line; whole ones between them begin another."""
    whole, one, two, none = envelope(OTHER, EUROPE), envelope(EUROPE), envelope(EUROPE), envelope("alias/strange")
    plan, book = counted(whole, one, one, two, None, whole, envelope(EUROPE, OTHER), envelope(OTHER), none)
    found = shortfalls(plan.places["orders", 0], book, (EUROPE, OTHER))
    assert found == [
        Shortfall((OTHER,), 3, 2, 1, 3, 1000, 3000),
        Shortfall((EUROPE,), 1, 1, 7, 7, 7000, 7000),
        Shortfall((OTHER, EUROPE), 1, 1, 8, 8, 8000, 8000),
    ]


def test_a_replica_is_the_same_kek() -> None:
    """Whichever region sealed, and whichever is configured; an id that is no ARN stands for itself."""
    plan, book = counted(envelope(AMERICA), envelope(EUROPE, AMERICA))
    assert shortfalls(plan.places["orders", 0], book, (EUROPE,)) == []
    assert shortfalls(plan.places["orders", 0], book, (EUROPE, AMERICA)) == []
    assert kek_identity("primary") == ("primary",)
    assert configured_keks(LocalKeyProvider({"a": bytes(32), "b": bytes(32)}, "b")) == ("b",)


def test_shortfalls_stand_in_the_document_the_table_and_on_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    """Only where they were asked for."""
    plan, book = counted(envelope(EUROPE), envelope(EUROPE, OTHER))
    asked = Findings(configured=(EUROPE, OTHER))
    tree = as_tree(plan, book, asked)
    assert tree["configured"] == [EUROPE, OTHER]
    assert tree["topics"][0]["partitions"][0]["fewer"] == [
        {
            "missing": [OTHER],
            "records": 1,
            "data_keys": 1,
            "first_offset": 0,
            "last_offset": 0,
            "first_time": "1970-01-01T00:00:00.000Z",
            "last_time": "1970-01-01T00:00:00.000Z",
        }
    ]
    assert set(as_tree(plan, book)) == {"topics"}
    assert "fewer" not in as_tree(plan, book)["topics"][0]["partitions"][0]
    show_table(plan, book, asked)
    out = capsys.readouterr().out
    assert "records that miss a configured KEK: 1" in out
    assert f"  orders[0]: 1 records at offsets 0 to 0, 1 data keys: not wrapped for {OTHER}" in out
    assert "Records that miss a configured KEK: 1" in as_page(plan, book, MADE, asked)
    assert "configured" not in as_page(plan, book, MADE)


def test_key_material_is_learnt_by_unwrapping(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What an on-demand rotation left behind is told from what came after; one call for each data key."""
    use_fake_credentials(monkeypatch)
    with KMSServer() as kms:
        arn = kms.create_key()
        unwrapping = Unwrapping()
        keys = AWSKMSKeyProvider(arn, endpoint_url=kms.url, observer=unwrapping.observe)
        headers = [minted(keys)]
        kms.rotate(arn)
        headers += [minted(keys), minted(keys)]
        stranger = envelope(EncryptedDataKey("aws-kms", OTHER, b"x" * 60))
        plan, book = counted(headers[0], headers[0], headers[1], headers[2], stranger)
        kms.forget_calls()
        materials = find_materials(book, keys, unwrapping)
        assert kms.count("Decrypt") == 3
        keys.close()
    before, after = (materials[index][arn] for index in (0, 1))
    assert before != after
    place = plan.places["orders", 0]
    assert [(m.material, m.records, m.data_keys) for m in by_material(place, book, arn, materials)] == [
        (before, 2, 1),
        (after, 2, 2),
    ]
    asked = Findings(materials=materials)
    first, second = as_tree(plan, book, asked)["topics"][0]["partitions"][0]["keys"]
    assert first["materials"] == [
        {"key_material_id": before, "records": 2, "data_keys": 1},
        {"key_material_id": after, "records": 2, "data_keys": 2},
    ]
    assert second["materials"] == [{"key_material_id": None, "records": 1, "data_keys": 1}]
    show_table(plan, book, asked)
    shown, page = capsys.readouterr().out, as_page(plan, book, MADE, asked)
    for text in (f"key material {before}", f"key material {after}", "key material unknown"):
        assert text in shown
        assert text in page


def minted(keys: AWSKMSKeyProvider) -> bytes:
    """An envelope around a data key that a key service minted."""
    generated = keys.generate_data_key({"streamcrypt:topic": "orders"})
    return envelope(*generated.encrypted, dek=bytes(generated.plaintext))


def test_nothing_is_unwrapped_twice_and_a_limit_holds() -> None:
    """Whoever asks; a key that opens nothing has no material, and is no failure."""
    unwrapping, keys = Unwrapping(1), LocalKeyProvider({"a": bytes(32)}, "a")
    header = decode_header(envelope("a"))
    for _ in range(2):
        assert unwrapping.attempt(keys, header, header.keys[0], "a").opening is Opening.FAILS
    other = decode_header(envelope("a"))
    refused = unwrapping.attempt(keys, other, other.keys[0], "a")
    assert (refused.opening, "more than 1 encrypted data keys" in refused.why) == (Opening.UNKNOWN, True)


def test_a_forged_context_is_not_believed_for_the_genuine_one() -> None:
    """Commitment and encrypted data key are copied, the context is another: a reader could not open under it."""
    unwrapping, keyring, dek = Unwrapping(), {"a": bytes(32)}, bytes(range(32))
    keys = LocalKeyProvider(keyring, "a")
    genuine = decode_header(envelope(wrap(keyring, "a", dek), dek=dek))
    forged = replace(genuine, context=(("streamcrypt:topic", "elsewhere"),))
    answers = [unwrapping.attempt(keys, header, header.keys[0], "a").opening for header in (genuine, forged, genuine)]
    assert answers == [Opening.OPENS, Opening.FAILS, Opening.OPENS]


def test_a_name_that_cannot_be_resolved_fails_before_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """The configured KEKs are known or the question makes no sense."""
    use_fake_credentials(monkeypatch)
    with pytest.raises(ConfigError):
        configured_keks(AWSKMSKeyProvider("arn:aws:s3:::bucket", region="eu-west-1"))

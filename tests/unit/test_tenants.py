"""A KEK for each record: who may choose it, what readers hold records to, what is bounded."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

import streamcrypt as sc
from streamcrypt.envelope.codec import decode_header, encode_header
from streamcrypt.errors import again
from streamcrypt.events import DataKeyBudgetSpent, DataKeyMinted, DataKeyRefused, DataKeyRetired
from streamcrypt.keys.tenants_mapping import read_mapping
from streamcrypt.keys.tenants_template import KEKTemplate
from streamcrypt.testing import CollectingObserver, ManualClock
from tests.tenants import TEMPLATE, envelopes, keyring, of, tenant_keys

T = "orders"


def header_of(headers):
    (value,) = envelopes(headers)
    return decode_header(value)


# -- templates ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "template",
    [
        "alias/payments",
        "",
        "alias/{tenant}",
        "alias/{header:}",
        "alias/{header:a b}",
        "alias/{header:streamcrypt}",
        "alias/{header:streamcrypt-tombstone}",
        "alias/{key",
        "alias/key}-{key}",
        "alias/{{key}}",
    ],
)
def test_a_template_with_other_placeholders_is_refused(template):
    """A setting that nobody keeps is found when the key service is made."""
    with pytest.raises(sc.ConfigError):
        KEKTemplate(template)


def test_the_fields_of_a_template_stand_in_the_order_of_their_first_appearance():
    """The mapping joins values in that order; those of the record are bound."""
    template = KEKTemplate(["alias/{header:b}-{topic}", "alias/{key}-{topic}"])
    assert template.fields == ("header:b", "topic", "key")
    assert template.bound == ("header:b", "key")
    assert template.render(["x", "y", "z"]) == ("alias/x-y", "alias/z-y")


@pytest.mark.parametrize(
    "mapping",
    [
        {},
        {"a/b": None},
        {"": None},
        {"a.b": None},
        {"a" * 65: None},
        {"ä": None},
        {"a": ""},
        {"a": []},
        {"a": "k{key}"},
    ],
    ids=str,
)
def test_a_mapping_that_leads_nowhere_is_refused(mapping):
    """Only well-formed values can be mapped, each to the name of a KEK."""
    with pytest.raises(sc.ConfigError, match="mapping"):
        read_mapping(KEKTemplate("{header:t}"), mapping)


@pytest.mark.parametrize(
    "options",
    [{"max_live": 0}, {"max_live": True}, {"new_keys_per_minute": 0}, {"new_keys_per_minute": 1.5}, {"disabled": "no"}],
    ids=str,
)
def test_a_limit_that_is_none_is_refused(options):
    """Limits are whole numbers above zero."""
    with pytest.raises(sc.ConfigError):
        tenant_keys("acme", **options)


# -- who may choose ----------------------------------------------------------------------------------------------------


def test_each_tenants_records_are_sealed_under_its_own_kek():
    """The value is in the context, the field is bound, and the KEK is the one of the mapping. spec: 9.3.1"""
    keys = tenant_keys("acme", "globex")
    with sc.Encryptor(keys) as sealer, sc.Decryptor(keys) as opener:
        for tenant in ("acme", "globex", "acme"):
            value, headers = sealer.encrypt(T, b"v", b"k", of(tenant))
            header = header_of(headers)
            assert dict(header.context) == {"streamcrypt:topic": T, "streamcrypt:header:tenant": tenant}
            assert header.bound == ("header:tenant", "key")
            assert [key.key_id for key in header.keys] == [f"tenant-{tenant}"]
            assert opener.decrypt(T, value, b"k", headers) == (b"v", of(tenant))


BAD = {
    "missing": [],
    "null": [("tenant", None)],
    "empty": of(b""),
    "twice": [*of("acme"), *of("acme")],
    "twice and null": [*of("acme"), ("tenant", None)],
    "null and once": [("tenant", None), *of("acme")],
    "of another case": [("Tenant", b"acme")],
    "unmapped": of("globex2"),
    "in other letters": of("ACME"),
    "with a path": of(b"../acme"),
    "with a slash": of(b"acme/"),
    "with a space": of(b"acme "),
    "with a newline": of(b"acme\n"),
    "with a null byte": of(b"acme\x00"),
    "an ARN": of(b"arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"),
    "too long": of(b"a" * 65),
    "no UTF-8": of(b"\xff"),
    "the primary": of("main"),
}


@pytest.mark.parametrize("headers", BAD.values(), ids=BAD.keys())
def test_what_is_not_mapped_has_no_kek(headers):
    """Deny by default: no other KEK is taken, no data key is minted, and the text quotes no value. spec: 9.3.2"""
    observer = CollectingObserver()
    with sc.Encryptor(tenant_keys("acme", "globex"), observer=observer) as sealer:
        with pytest.raises(sc.KeyNotMapped) as caught:
            sealer.encrypt(T, b"v", b"k", headers)
        assert sealer.topic(T).seal_block([b"v"], [b"k"], [headers], 0) is None
    assert observer.events == []
    assert "header tenant" in str(caught.value)
    assert not any(value.decode("latin1") in str(caught.value) for _, value in headers if value and len(value) > 4)


def test_a_sealed_record_is_refused_as_such_whatever_it_leads_to():
    """AlreadySealed comes first: the second encrypting step is the mistake."""
    with sc.Encryptor(tenant_keys("acme")) as sealer, pytest.raises(sc.AlreadySealed):
        sealer.encrypt(T, b"v", b"k", [*of("evil"), ("streamcrypt", b"x")])


@pytest.mark.parametrize(
    ("template", "value", "key", "headers"),
    [
        ("tenant-{key}", "acme", b"acme", []),
        ("tenant-{topic}", "orders", b"k", []),
        ("tenant-{topic}-{header:tenant}-{key}", "orders/acme/c1", b"c1", of("acme")),
    ],
)
def test_topic_key_and_headers_choose(template, value, key, headers):
    """One or more of them, each in the context under its own name."""
    keys = sc.TenantKeys(keyring("acme"), template, {value: "tenant-acme"})
    fields = dict(zip(keys.template.fields, value.split("/"), strict=True))
    with sc.Encryptor(keys, bound=()) as sealer, sc.Decryptor(keys, require_bound=()) as opener:
        sealed, sent = sealer.encrypt(T, b"v", key, headers)
        context = dict(header_of(sent).context)
        assert context == {"streamcrypt:topic": T, **{f"streamcrypt:{name}": text for name, text in fields.items()}}
        assert opener.decrypt(T, sealed, key, sent) == (b"v", headers)


def test_the_logical_topic_chooses():
    """A mirrored topic leads to the KEK of what it mirrors, on both sides."""
    keys = sc.TenantKeys(keyring("acme"), "{topic}", {"orders": "tenant-acme"})
    names = {"eu.orders": "orders"}
    with sc.Encryptor(keys, topic_names=names) as sealer, sc.Decryptor(keys, topic_names=names) as opener:
        sealed, sent = sealer.encrypt("eu.orders", b"v", b"k")
        assert opener.decrypt("eu.orders", sealed, b"k", sent)[0] == b"v"
        with pytest.raises(sc.KeyNotMapped):
            sealer.encrypt("other", b"v")


def test_a_topic_in_the_template_keeps_a_tenants_header_to_its_topics():
    """Whoever may write to one topic only cannot choose what another topic's writers may."""
    keys = sc.TenantKeys(keyring("acme", "globex"), "{topic}-{header:tenant}", {"orders/acme": "tenant-acme"})
    with sc.Encryptor(keys) as sealer:
        sealer.encrypt("orders", b"v", None, of("acme"))
        for topic, tenant in (("orders", "globex"), ("invoices", "acme")):
            with pytest.raises(sc.KeyNotMapped):
                sealer.encrypt(topic, b"v", None, of(tenant))


def test_names_of_headers_that_differ_in_case_only_are_refused_at_once():
    """Their pairs could not stand in one context. spec: 3.2.3"""
    keys = sc.TenantKeys(keyring("acme"), "{header:a}-{header:A}", {"x/y": "tenant-acme"})
    with sc.Encryptor(keys) as sealer, pytest.raises(sc.ConfigError):
        sealer.topic(T)


# -- what a reader holds records to ------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [of("globex"), [], [*of("acme"), *of("acme")], [("tenant", None)]], ids=str)
def test_a_record_that_says_otherwise_than_its_context_is_refused(headers):
    """Also where its data key is known already, and in blocks. spec: 9.3.3"""
    keys = tenant_keys("acme", "globex")
    with sc.Encryptor(keys) as sealer, sc.Decryptor(keys) as opener:
        value, sent = sealer.encrypt(T, b"v", b"k", of("acme"))
        forged = [*headers, sent[-1]]
        for _ in range(2):
            with pytest.raises(sc.ContextMismatch):
                opener.decrypt(T, value, b"k", forged)
            assert not (opener.open_block(T, [value] * 2, [b"k"] * 2, [forged] * 2, 0) or [[]])[0]
            assert opener.decrypt(T, value, b"k", sent)[0] == b"v"
        opened = opener.open_block(T, [value] * 3, [b"k"] * 3, [sent, sent, forged], 0)
        assert opened == ([b"v"] * 2, [of("acme")] * 2)


def test_a_record_sealed_with_another_tenants_header_under_ones_own_kek_is_refused():
    """A tenant that may use its own KEK for GenerateDataKey cannot pass records off as another tenant's. spec: 9.3.3"""
    keys = tenant_keys("acme", "globex")
    context = {"streamcrypt:topic": T, "streamcrypt:header:tenant": "acme"}
    generated = keys.generate_data_key(context)
    with sc.Encryptor(keys) as sealer:
        _, sent = sealer.encrypt(T, b"v", b"k", of("acme"))
    from streamcrypt.crypto.data_key import DataKey
    from streamcrypt.envelope.binding import aad_builder
    from streamcrypt.envelope.codec import derivation_info

    header = header_of(sent)
    key = DataKey(generated.plaintext, header.suite, derivation_info(header.suite, header.context, header.bound))
    forged = of("globex")
    nonce = bytes(11) + b"\x01"
    value = nonce + key.seal(nonce, b"v", aad_builder(header.bound)(b"k", forged))
    made = encode_header(replace(header, commitment=key.commitment, keys=generated.encrypted))
    with sc.Decryptor(keys) as opener, pytest.raises(sc.ContextMismatch):
        opener.decrypt(T, value, b"k", [*forged, ("streamcrypt", made)])


def test_a_data_key_wrapped_under_another_tenants_kek_is_not_trusted():
    """The mapping says which KEK may have wrapped it; that the reader may use the other is no help. spec: 9.3.4"""
    keys = tenant_keys("acme", "globex")
    swapped = sc.TenantKeys(keyring("acme", "globex"), TEMPLATE, {"acme": "tenant-globex"})
    with sc.Encryptor(swapped) as sealer, sc.Decryptor(keys) as opener, pytest.raises(sc.UntrustedKey):
        opener.decrypt(T, *_record(sealer, "acme"))


def _record(sealer, tenant, key=b"k"):
    value, headers = sealer.encrypt(T, b"v", key, of(tenant))
    return value, key, headers


def test_a_value_that_the_reader_does_not_map_is_not_trusted():
    """As long as the mapping has no entry, its records do not open, whoever sealed them. spec: 9.3.4"""
    with (
        sc.Encryptor(tenant_keys("acme", "globex")) as sealer,
        sc.Decryptor(tenant_keys("acme")) as opener,
        pytest.raises(sc.UntrustedKey),
    ):
        opener.decrypt(T, *_record(sealer, "globex"))


@pytest.mark.parametrize("bound", [("key",), ("key", "header:tenant")])
def test_a_record_of_a_writer_without_the_template_is_refused(bound):
    """Its context names no tenant, so that nothing says whose it is. spec: 9.3.3"""
    ring = keyring("acme")
    with sc.Encryptor(ring.under("tenant-acme"), bound=bound) as sealer, pytest.raises(sc.ContextMismatch):
        sc.Decryptor(tenant_keys("acme")).decrypt(T, *_record(sealer, "acme"))


def test_a_reader_without_the_template_opens_what_it_trusts():
    """The context's names are as any other to it: 1.0 readers take such records. spec: 3.2.5"""
    with sc.Encryptor(tenant_keys("acme")) as sealer, sc.Decryptor(keyring("acme")) as opener:
        assert opener.decrypt(T, *_record(sealer, "acme"))[0] == b"v"


def test_an_earlier_kek_is_trusted_for_its_own_tenant_alone():
    """``trusted_keys`` of an entry: after a tenant moved to another KEK its old records open, nobody else's do."""
    ring = keyring("acme", "globex", "old")
    before = sc.TenantKeys(ring, TEMPLATE, {"acme": "tenant-old", "globex": "tenant-old"})
    moved = sc.TenantKeys(ring, TEMPLATE, {"acme": sc.MappedKEK(trusted_keys=("tenant-old",)), "globex": None})
    with sc.Encryptor(before) as sealer, sc.Decryptor(moved) as opener:
        assert opener.decrypt(T, *_record(sealer, "acme"))[0] == b"v"
        with pytest.raises(sc.UntrustedKey):
            opener.decrypt(T, *_record(sealer, "globex"))


def test_authenticated_tombstones_are_held_to_their_tenant():
    """A deletion sealed for one tenant deletes no other tenant's record. spec: 9.3.3"""
    keys = tenant_keys("acme", "globex")
    options = {"tombstones": "authenticated"}
    with sc.Encryptor(keys, **options) as sealer, sc.Decryptor(keys, **options) as opener:
        _, headers = sealer.encrypt(T, None, b"k", of("acme"))
        assert opener.decrypt(T, None, b"k", headers) == (None, of("acme"))
        with pytest.raises(sc.ContextMismatch):
            opener.decrypt(T, None, b"k", [*of("globex"), *headers[1:]])
        with pytest.raises(sc.KeyNotMapped):
            sealer.encrypt(T, None, b"k", of("evil"))


def test_plain_tombstones_need_no_kek():
    """They hold nothing to seal."""
    with sc.Encryptor(tenant_keys("acme")) as sealer:
        assert sealer.encrypt(T, None, b"k", []) == (None, [])
        with pytest.raises(sc.AlreadySealed):
            sealer.encrypt(T, None, b"k", [("streamcrypt", b"x")])


def test_self_contained_records_are_held_to_their_tenant_too():
    """The framing changes nothing."""
    keys = tenant_keys("acme", "globex")
    options = {"framing": "self_contained"}
    with sc.Encryptor(keys, **options) as sealer, sc.Decryptor(keys, **options) as opener:
        value, headers = sealer.encrypt(T, b"v", b"k", of("acme"))
        assert opener.decrypt(T, value, b"k", headers) == (b"v", of("acme"))
        with pytest.raises(sc.ContextMismatch):
            opener.decrypt(T, value, b"k", of("globex"))
        block = sealer.topic(T).seal_block([b"a", b"b"], [b"k"] * 2, [of("acme"), of("globex")], 0)
        assert [opener.decrypt(T, v, b"k", h)[0] for v, h in zip(*block, strict=True)] == [b"a", b"b"]


# -- blocks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["aaaaaaaaaaaaaaaaaaaaaaaa", "aaaaaaaabbbbbbbbcccccccc", "abcabcabcabcabcabcabcabc"])
def test_a_block_is_sealed_as_its_records_are_one_by_one(order):
    """Whether tenants stand together or alternate: each record under its tenant's key, each key's numbers in order."""
    keys = tenant_keys(*"abc")
    values = [b"%d" % n for n in range(len(order))]
    headers = [of(name) for name in order]
    with sc.Encryptor(keys) as sealer, sc.Decryptor(keys) as opener:
        sealer.topic(T).seal_block(values, values, headers, 7)
        sealed, sent = sealer.topic(T).seal_block(values, values, headers, 7)
        assert [pairs[:-1] for pairs in sent] == headers
        opened: list[bytes] = []
        for _ in order:
            block = (part[len(opened) :] for part in (sealed, values, sent))
            opened += opener.open_block(T, *block, 7)[0]
        # Data keys that are not at hand end a block; with all of them at hand it is one.
        assert opened == values
        assert opener.open_block(T, sealed, values, sent, 7) == (values, headers)
        for name in set(order):
            mine = [value for value, tenant in zip(sealed, order, strict=True) if tenant == name]
            numbers = [int.from_bytes(value[4:12], "big") for value in mine]
            assert numbers == list(range(len(mine) + 1, 2 * len(mine) + 1))


@pytest.mark.parametrize("order", ["aaaaaaaaaaaaaaaaaxaaaaaaaaa", "abababababababababxbab", "aaaaaaaabbbbbbbbbx"])
def test_a_block_ends_before_the_first_record_without_a_kek(order):
    """Those before it are sealed, and no number is taken for those behind it."""
    keys = tenant_keys("a", "b")
    values = [b"v"] * len(order)
    headers = [of(name) for name in order]
    done = order.index("x")
    with sc.Encryptor(keys) as sealer:
        block = sealer.topic(T).seal_block(values, values, headers, 0)
        assert [len(part) for part in block] == [done, done]
        for name in "ab":
            count = order[:done].count(name)
            value, _ = sealer.encrypt(T, b"v", b"v", of(name), 0)
            assert int.from_bytes(value[4:12], "big") == count + 1
        assert sealer.topic(T).seal_block(values[done:], values[done:], headers[done:], 0) is None


@pytest.mark.parametrize("tombstones", ["plain", "authenticated"])
def test_a_block_takes_tombstones_along(tombstones):
    """Where tombstones are plain, whatever they lead to."""
    keys, options = tenant_keys("a", "b"), {"tombstones": tombstones}
    values = [None, b"v", None, b"w"]
    headers = [of("a"), of("b"), of("evil") if tombstones == "plain" else of("b"), of("a")]
    with sc.Encryptor(keys, **options) as sealer, sc.Decryptor(keys, **options) as opener:
        sealed, sent = sealer.topic(T).seal_block(values, [b"k"] * 4, headers, 0)
        records = zip(sealed, [b"k"] * 4, sent, strict=True)
        assert [opener.decrypt(T, *one) for one in records] == list(zip(values, headers, strict=True))
        assert sealed[0] is sealed[2] is None


def test_a_block_ends_where_it_is_large_or_takes_long():
    """What is held twice stays bounded, and so does the time that nothing else is served."""

    class Slow(ManualClock):
        def __call__(self):
            self.advance(0.1)
            return super().__call__()

    headers = [of(name) for name in "ababababab"]
    with sc.Encryptor(tenant_keys("a", "b"), clock=Slow()) as sealer:
        sealed, _ = sealer.topic(T).seal_block([b"v"] * 10, [b"k"] * 10, headers, 0)
        assert 1 <= len(sealed) < 10
    keys = tenant_keys("a", "b")
    with sc.Encryptor(keys) as sealer, sc.Decryptor(keys, clock=Slow()) as opener:
        seal = sealer.topic(T).seal_block
        sealed, sent = seal([b"v"] * 10, [b"k"] * 10, headers, 0)
        assert 1 <= len(opener.open_block(T, sealed, [b"k"] * 10, sent, 0)[0]) < 10
        assert len(seal([bytes(3 * 2**20)] * 5, [b"k"] * 5, [of(name) for name in "ababa"], 0)[0]) == 2


# -- bounds ------------------------------------------------------------------------------------------------------------


def bounded(names, **options):
    clock, observer = ManualClock(), CollectingObserver()
    sealer = sc.Encryptor(tenant_keys(*names, **options), clock=clock, observer=observer)
    return sealer, clock, observer


def test_the_least_recently_used_data_key_goes_first():
    """At most ``max_live`` are at hand, whatever records say."""
    sealer, clock, observer = bounded("abcd", max_live=2)
    with sealer:
        for name in "abac":
            sealer.encrypt(T, b"v", None, of(name))
            clock.advance(1)
        assert len(sealer._lives) == 2
        (evicted,) = observer.of(DataKeyRetired)
        minted = {event.data_key: event.key_ids for event in observer.of(DataKeyMinted)}
        assert (minted[evicted.data_key], evicted.reason) == (("tenant-b",), "lru")
        sealer.encrypt(T, b"v", None, of("a"))
        assert len(observer.of(DataKeyMinted)) == 3


def test_the_bound_holds_over_all_topics():
    """One data key for each topic and tenant, counted together."""
    sealer, _, observer = bounded("ab", max_live=3)
    with sealer:
        for topic in ("t1", "t2", "t3"):
            for name in "ab":
                sealer.encrypt(topic, b"v", None, of(name))
        assert len(sealer._lives) == 3
        assert sum(len(list(sealer.topic(topic).issuers())) for topic in ("t1", "t2", "t3")) == 3
    assert len(observer.of(DataKeyMinted)) == len(observer.of(DataKeyRetired)) == 6


def test_new_data_keys_are_minted_at_a_bounded_rate():
    """Past the budget a record waits as for a key service that is away, while those at hand seal on."""
    sealer, clock, observer = bounded("abcdef", new_keys_per_minute=3)
    with sealer:
        for name in "abc":
            sealer.encrypt(T, b"v", None, of(name))
        for _ in range(5):
            with pytest.raises(sc.KeyUnavailable, match="3 new data keys"):
                sealer.encrypt(T, b"v", None, of("d"))
        with pytest.raises(sc.KeyUnavailable):
            sealer.topic(T).seal_block([b"v"], [None], [of("d")], 0)
        sealer.encrypt(T, b"v", None, of("a"))
        clock.advance(20)
        sealer.encrypt(T, b"v", None, of("d"))
        with pytest.raises(sc.KeyUnavailable):
            sealer.encrypt(T, b"v", None, of("e"))
        clock.advance(60)
        for name in "ef":
            sealer.encrypt(T, b"v", None, of(name))
    assert observer.of(DataKeyBudgetSpent) == [DataKeyBudgetSpent(T, 3, 3, 1)]


def test_many_allowed_values_in_turn_cost_no_more_than_the_budget():
    """Alternating between more values than fit mints at the budget's rate, not one data key a record."""
    names = [f"t{n}" for n in range(8)]
    sealer, clock, observer = bounded(names, max_live=4, new_keys_per_minute=10)
    refused = 0
    with sealer:
        for n in range(400):
            try:
                sealer.encrypt(T, b"v", None, of(names[n % 8]))
            except sc.KeyUnavailable:
                refused += 1
            clock.advance(0.1)
    assert len(observer.of(DataKeyMinted)) <= 10 + 400 * 0.1 / 6 + 1
    assert refused > 100


def test_what_seals_nothing_any_more_makes_room():
    """A sweep forgets choices whose data key is gone; they come back as new ones."""
    sealer, clock, _ = bounded("ab")
    with sealer:
        sealer.encrypt(T, b"v", None, of("a"))
        clock.advance(200)
        sealer.encrypt(T, b"v", None, of("b"))
        sealer.sweep()
        assert len(sealer._lives) == 2
        clock.advance(200)
        sealer.sweep()
        assert len(sealer._lives) == 1
        clock.advance(400)
        sealer.sweep()
        assert (len(sealer._lives), list(sealer.topic(T).issuers())) == (0, [])
        sealer.encrypt(T, b"v", None, of("a"))


def test_a_thread_that_holds_an_evicted_data_key_seals_on():
    """Eviction drops keys; it closes nothing under anyone's hands."""
    keys = tenant_keys("a", "b", max_live=1, new_keys_per_minute=10**6)
    failures = []
    with sc.Encryptor(keys) as sealer, sc.Decryptor(keys) as opener:

        def seal(name):
            try:
                for _ in range(200):
                    value, headers = sealer.encrypt(T, b"v", b"k", of(name))
                    assert opener.decrypt(T, value, b"k", headers)[0] == b"v"
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=seal, args=(name,)) for name in "abab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def test_retiring_closing_and_sweeping_reach_every_tenant():
    """As with one data key a topic; a closed encryptor mints for no new tenant either."""
    sealer, _, observer = bounded("abc")
    for name in "ab":
        sealer.encrypt(T, b"v", None, of(name))
    _, headers = sealer.encrypt(T, b"v", None, of("a"))
    sealer.retire(T, "failure", envelopes(headers)[0])
    assert len(observer.of(DataKeyRetired)) == 1
    sealer.retire_all("failure")
    assert len(observer.of(DataKeyRetired)) == 2
    sealer.encrypt(T, b"v", None, of("a"))
    held = sealer.topic(T)
    sealer.close()
    assert len(observer.of(DataKeyRetired)) == 3
    for name in "abc":
        with pytest.raises(sc.ConfigError):
            held.seal(b"v", None, of(name), 0)


FORKING = """
import os
import streamcrypt as sc
from tests.tenants import envelopes, of, tenant_keys

keys = tenant_keys("acme", "globex")
sealer, opener = sc.Encryptor(keys), sc.Decryptor(keys)
before = envelopes(sealer.encrypt("t", b"v", None, of("acme"))[1])
with keys._lock, sealer._lives._lock:
    child = os.fork()
if child == 0:
    for name in ("acme", "globex"):
        value, headers = sealer.encrypt("t", b"v", None, of(name))
        assert envelopes(headers) != before
        assert opener.decrypt("t", value, None, headers)[0] == b"v"
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert envelopes(sealer.encrypt("t", b"v", None, of("acme"))[1]) == before
print("done")
"""


def test_a_forked_child_seals_for_every_tenant_under_data_keys_of_its_own():
    """Also where another thread held a lock when it was forked. spec: 4.4.1"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", FORKING], cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "done\n", done.stderr


# -- a KEK that is disabled --------------------------------------------------------------------------------------------


def test_a_tenant_whose_kek_is_gone_stops_alone():
    """Its records fail as KeyDisabled on both sides; the other tenants' go on."""
    ring = keyring("acme", "globex")
    keys = sc.TenantKeys(ring, TEMPLATE, {"acme": None, "globex": None})
    clock, observer = ManualClock(), CollectingObserver()
    with sc.Encryptor(keys, clock=clock) as sealer, sc.Decryptor(keys, clock=clock, observer=observer) as opener:
        records = {name: _record(sealer, name) for name in ("acme", "globex")}
        for record in records.values():
            opener.decrypt(T, *record)
        kek = ring._keys.pop("tenant-acme")
        clock.advance(901)  # the reader's TTL, and the writer's data keys
        for _ in range(700):  # more than the budget of refusals that a partition has
            with pytest.raises(sc.KeyDisabled):
                opener.decrypt(T, *records["acme"])
            assert opener.decrypt(T, *records["globex"])[0] == b"v"
        for _ in range(3):
            with pytest.raises(sc.KeyDisabled):
                sealer.encrypt(T, b"v", b"k", of("acme"))
            sealer.encrypt(T, b"v", b"k", of("globex"))
        assert {(e.error, e.record_fault) for e in observer.of(DataKeyRefused)} == {("KeyDisabled", True)}
        ring._keys["tenant-acme"] = kek
        assert opener.decrypt(T, *records["acme"])[0] == b"v"
        with pytest.raises(sc.KeyDisabled):
            sealer.encrypt(T, b"v", b"k", of("acme"))
        clock.advance(10)
        sealer.encrypt(T, b"v", b"k", of("acme"))


def test_with_wait_a_disabled_kek_has_its_records_wait():
    """The answer of the key service as it is, for those who would rather stop than pass over a record."""
    ring = keyring("acme")
    keys = sc.TenantKeys(ring, TEMPLATE, {"acme": None}, disabled="wait")
    with sc.Encryptor(keys) as sealer, sc.Decryptor(keys) as opener:
        record = _record(sealer, "acme")
        del ring._keys["tenant-acme"]
        sealer.retire_all("failure")
        for work in (lambda: opener.decrypt(T, *record), lambda: sealer.encrypt(T, b"v", b"k", of("acme"))):
            with pytest.raises(sc.KeyRefused) as caught:
                work()
            assert caught.value.kek_is_disabled
            assert again(caught.value).kek_is_disabled


def test_a_block_ends_before_a_tenant_whose_kek_is_gone():
    """The neighbours in front of it are sealed."""
    ring = keyring("acme", "globex")
    keys = sc.TenantKeys(ring, TEMPLATE, {"acme": None, "globex": None})
    del ring._keys["tenant-acme"]
    with sc.Encryptor(keys) as sealer:
        headers = [of("globex"), of("globex"), of("acme"), of("globex")]
        sealed, _ = sealer.topic(T).seal_block([b"v"] * 4, [None] * 4, headers, 0)
        assert len(sealed) == 2
        assert sealer.topic(T).seal_block([b"v"] * 2, [None] * 2, headers[2:], 0) is None


# -- the key service itself --------------------------------------------------------------------------------------------


def test_it_trusts_nothing_without_a_context():
    """Whoever asks a plain provider's question gets no KEK to try."""
    keys = tenant_keys("acme")
    generated = keys.generate_data_key({"streamcrypt:topic": T, "streamcrypt:header:tenant": "acme"})
    assert keys.trusted(generated.encrypted) == ()
    assert [key_id for _, key_id in keys.trusted_for(_context("acme"), generated.encrypted)] == ["tenant-acme"]
    with pytest.raises(sc.UntrustedKey):
        keys.trusted_for(_context("globex"), generated.encrypted)
    with pytest.raises(sc.ContextMismatch):
        keys.generate_data_key({"streamcrypt:topic": T})


def _context(tenant):
    return {"streamcrypt:topic": T, "streamcrypt:header:tenant": tenant}


def test_a_data_key_is_wrapped_anew_under_its_own_tenants_kek():
    """Re-wrapping asks the mapping, too."""
    ring = keyring("acme", "old")
    before = sc.TenantKeys(ring, TEMPLATE, {"acme": "tenant-old"})
    keys = sc.TenantKeys(ring, TEMPLATE, {"acme": sc.MappedKEK(trusted_keys=("tenant-old",))})
    generated = before.generate_data_key(_context("acme"))
    (wrapped,) = keys.rewrap_data_key(generated.encrypted, _context("acme"))
    assert wrapped.key_id == "tenant-acme"
    assert keys.decrypt_data_key(wrapped, "tenant-acme", _context("acme")) == generated.plaintext


def test_records_from_before_the_template_can_be_sealed_anew():
    """Opened without asking whose they are, by the KEKs named alone, and sealed under the KEK that each leads to."""
    ring = keyring("acme", "globex", "old")
    keys = sc.TenantKeys(ring, TEMPLATE, {"acme": None, "globex": None})
    before = ring.under("tenant-old")
    with (
        sc.Encryptor(before) as earlier,
        sc.Encryptor(keys) as sealer,
        sc.Decryptor(keys.without_template(["tenant-old"])) as source,
        sc.Decryptor(keys) as opener,
    ):
        value, headers = source.decrypt(T, *_record(earlier, "acme"))
        sealed, sent = sealer.encrypt(T, value, b"k", headers)
        assert opener.decrypt(T, sealed, b"k", sent) == (b"v", of("acme"))
        with pytest.raises(sc.UntrustedKey):
            source.decrypt(T, sealed, b"k", sent)
    with pytest.raises(sc.ConfigError):
        keys.without_template([])


def test_it_says_what_it_is():
    """For logs and for `streamcrypt check`; it is no file and cannot be pickled."""
    keys = tenant_keys("acme", "globex")
    assert isinstance(keys, sc.KeyProvider)
    assert (keys.provider, keys.answers_at_once) == ("local", True)
    assert keys.check() == "2 KEKs for 2 mapped values"
    assert keys.key_ids() == ("tenant-acme", "tenant-globex")
    assert repr(keys) == "TenantKeys(KEKTemplate('tenant-{header:tenant}'), 2 mapped values)"
    with pytest.raises(TypeError):
        pickle.dumps(keys)
    with pytest.raises(sc.KeyRefused):
        sc.TenantKeys(keyring("acme"), TEMPLATE, {"acme": None, "gone": None}).check()
    keys.close()
    with pytest.raises(sc.KeyRefused):
        keys.generate_data_key(_context("acme"))

"""KEKs per record against a KMS over HTTP: what is shared, what is called, and a tenant's KEK out of service."""

from __future__ import annotations

from collections import Counter

import pytest

import streamcrypt as sc
from streamcrypt.events import DataKeyRetired, KeyAliasMoved
from streamcrypt.keys.aws_kms.changes import LOOK_APART_SECONDS, LOOK_EVERY_SECONDS
from streamcrypt.testing import CollectingObserver, KMSServer, ManualClock
from tests.broker import wait_until
from tests.kms import REGION
from tests.tenants import of

pytestmark = pytest.mark.usefixtures("fake_credentials")

T = "orders"
TENANTS = ("acme", "globex", "initech")
TEMPLATE = "alias/tenant-{header:tenant}"


@pytest.fixture
def kms():
    """A KMS with a KEK for each tenant."""
    with KMSServer() as server:
        for name in TENANTS:
            server.create_key(f"alias/tenant-{name}")
        yield server


@pytest.fixture
def keys_of(kms):
    """Makes key services over that KMS, and closes them."""
    made = []

    def make(*tenants, clock=None, **options):
        more = {} if clock is None else {"clock": clock}
        family = sc.AWSKMSKeyProvider("alias/tenant-acme", region=REGION, endpoint_url=kms.url, **more)
        mapping = dict.fromkeys(tenants or TENANTS)
        made.append(sc.TenantKeys(family, TEMPLATE, mapping, **options))
        return made[-1]

    yield make
    for keys in made:
        keys.close()


def arn_of(kms, tenant):
    return str(kms.call("DescribeKey", KeyId=f"alias/tenant-{tenant}")["KeyMetadata"]["Arn"])


def record(sealer, tenant):
    value, headers = sealer.encrypt(T, b"v", b"k", of(tenant))
    return value, b"k", headers


def test_each_tenant_costs_one_call_a_data_key_in_its_own_context(kms, keys_of):
    """One GenerateDataKey each, under its KEK, with the tenant in the context; one DescribeKey an alias."""
    keys = keys_of()
    with sc.Encryptor(keys) as sealer, sc.Decryptor(keys) as opener:
        records = [record(sealer, name) for name in TENANTS * 5]
        for one in records:
            opener.decrypt(T, *one)
    assert Counter(call.operation for call in kms.calls) == {
        "GenerateDataKey": 3,
        "Decrypt": 3,
        "DescribeKey": 3,
    }
    for operation in ("GenerateDataKey", "Decrypt"):
        found = [(call.key_arn, dict(call.context)) for call in kms.calls if call.operation == operation]
        wanted = [(arn_of(kms, n), {"streamcrypt:topic": T, "streamcrypt:header:tenant": n}) for n in TENANTS]
        assert found == wanted


def test_tenants_share_connections_and_the_breaker_of_their_region(kms, keys_of):
    """A KMS that is away is called for none of them, whichever found out."""
    keys = keys_of()
    keys.check()
    clients = {id(member.provider._clients) for member in keys._members.values()}
    assert len(clients) == 1
    kms.fail("KMSInternalException")
    for _ in range(3):
        with pytest.raises(sc.KeyUnavailable):
            keys.generate_data_key({"streamcrypt:topic": T, "streamcrypt:header:tenant": "acme"})
    before = len(kms.calls)
    with pytest.raises(sc.KeyUnavailable, match="breaker"):
        keys.generate_data_key({"streamcrypt:topic": T, "streamcrypt:header:tenant": "globex"})
    assert len(kms.calls) == before


def _disable(kms, arn):
    kms.call("DisableKey", KeyId=arn)


def _schedule_deletion(kms, arn):
    kms.call("ScheduleKeyDeletion", KeyId=arn, PendingWindowInDays=7)


@pytest.mark.parametrize("put_out", [_disable, _schedule_deletion], ids=["disabled", "pending deletion"])
def test_a_kek_out_of_service_stops_its_tenant_within_the_ttl_and_nobody_else(kms, keys_of, put_out):
    """Crypto-shredding: readers refuse once data keys are due, writers mint none, others go on."""
    clock = ManualClock()
    keys = keys_of()
    with (
        sc.Encryptor(keys, sc.RotationPolicy(max_age="5m", grace=0), clock=clock) as sealer,
        sc.Decryptor(keys, sc.CachePolicy(ttl="15m"), clock=clock) as opener,
    ):
        records = {name: record(sealer, name) for name in TENANTS}
        for one in records.values():
            opener.decrypt(T, *one)
        put_out(kms, arn_of(kms, "acme"))
        assert opener.decrypt(T, *records["acme"])[0] == b"v"  # until the TTL
        clock.advance(15 * 60)
        calls = len(kms.calls)
        for _ in range(20):
            for work in (lambda: opener.decrypt(T, *records["acme"]), lambda: record(sealer, "acme")):
                with pytest.raises(sc.KeyDisabled):
                    work()
        asked = Counter(call.operation for call in kms.calls[calls:])
        assert asked["Decrypt"] == asked["GenerateDataKey"] == 1, asked
        for name in ("globex", "initech"):
            assert opener.decrypt(T, *records[name])[0] == b"v"
            assert opener.decrypt(T, *record(sealer, name))[0] == b"v"


@pytest.mark.parametrize("trouble", ["denied", "unavailable"])
def test_what_is_no_ones_decision_about_the_kek_has_records_wait(kms, keys_of, trouble):
    """A permission that is missing, and a key store that is away, fail no record: they may be over in a minute."""
    keys = keys_of()
    with sc.Encryptor(keys) as sealer, sc.Decryptor(keys) as opener:
        one = record(sealer, "acme")
        if trouble == "denied":
            kms.fail("AccessDeniedException", operation="Decrypt")
        else:
            kms.set_state(arn_of(kms, "acme"), "Unavailable")
        for _ in range(2):
            with pytest.raises(sc.KeyRefused):
                opener.decrypt(T, *one)


@pytest.mark.parametrize("known", [True, False], ids=["looked up before", "never looked up"])
@pytest.mark.parametrize("by", ["alias", "arn"])
def test_while_the_first_region_is_away_nobodys_kek_counts_as_disabled(kms, by, known):
    """Though the second region, where this tenant has no replica, says that there is no such key."""
    clock = ManualClock()
    shared = kms.create_key(MultiRegion=True)
    kms.replicate(shared, "eu-central-1")
    name = "alias/tenant-acme" if by == "alias" else kms.create_key(MultiRegion=True)

    def keys_again():
        family = sc.AWSKMSKeyProvider(
            shared, region=REGION, regions=["eu-central-1"], endpoint_url=kms.url, clock=clock
        )
        return sc.TenantKeys(family, TEMPLATE, {"acme": name, "globex": None})

    keys = keys_again()
    with sc.Encryptor(keys, clock=clock) as sealer:
        one = record(sealer, "acme")
    if not known:
        keys.close()
        keys = keys_again()
    kms.darken(REGION, how="drop")
    clock.advance(301)
    with sc.Encryptor(keys, clock=clock) as sealer, sc.Decryptor(keys, clock=clock) as opener:
        for _ in range(5):  # with the breaker closed, and open
            for work in (lambda: opener.decrypt(T, *one), lambda: record(sealer, "acme")):
                with pytest.raises(sc.KeyServiceError):
                    work()
        kms.lighten(REGION)
        clock.advance(60)
        assert opener.decrypt(T, *one)[0] == opener.decrypt(T, *record(sealer, "acme"))[0] == b"v"
    keys.close()


def test_a_tenant_that_moved_to_another_kek_seals_and_opens_under_both(kms, keys_of):
    """An alias that moved is noticed, and the earlier KEK is trusted where the mapping lists it, for this tenant."""
    observer = CollectingObserver()
    clock = ManualClock()
    family = sc.AWSKMSKeyProvider(
        "alias/tenant-acme", region=REGION, endpoint_url=kms.url, clock=clock, observer=observer
    )
    old = arn_of(kms, "acme")
    mapping = {"acme": sc.MappedKEK(trusted_keys=(old,)), "globex": None}
    keys = sc.TenantKeys(family, TEMPLATE, mapping)
    with sc.Encryptor(keys) as sealer, sc.Decryptor(keys) as opener:
        before = record(sealer, "acme")
        opener.decrypt(T, *before)
        new = kms.create_key()
        kms.call("UpdateAlias", AliasName="alias/tenant-acme", TargetKeyId=new)
        clock.advance(600)
        sealer.retire_all("failure")
        generation = keys.trust_generation
        after = record(sealer, "acme")
        assert keys.trust_generation > generation
        assert [opener.decrypt(T, *one)[0] for one in (before, after)] == [b"v"] * 2
        assert {event.after for event in observer.of(KeyAliasMoved)} == {new}
    keys.close()
    assert set(keys.key_ids()) == {"alias/tenant-acme", "alias/tenant-globex"}


def _move_alias(kms):
    return kms.call("UpdateAlias", AliasName="alias/tenant-acme", TargetKeyId=kms.create_key())


def _rotate(kms):
    kms.rotate(arn_of(kms, "acme"))


def looked(keys, clock, seconds):
    """Let time pass, have the KEKs looked at that are due, and wait for the end of those looks."""
    clock.advance(seconds)
    generation = keys.sealing_generation
    wait_until(lambda: not any(m.provider._watch._looking for m in keys._members.values()), "the look", 60)
    return generation


@pytest.mark.parametrize("change", [_move_alias, _rotate], ids=["an alias moved", "material was rotated"])
def test_a_change_of_one_tenants_kek_has_its_data_keys_alone_replaced_within_a_minute(kms, keys_of, change):
    """On every topic, and long before they are due; the other tenants mint none."""
    clock, observer = ManualClock(), CollectingObserver()
    keys = keys_of(clock=clock)
    with sc.Encryptor(keys, sc.RotationPolicy(max_age="1d"), clock=clock, observer=observer) as sealer:

        def headers_of(tenant):
            return [sealer.encrypt(topic, b"v", b"k", of(tenant))[1][-1][1] for topic in ("orders", "returns")]

        before = {name: headers_of(name) for name in TENANTS}
        looked(keys, clock, LOOK_EVERY_SECONDS)
        for _ in TENANTS:
            looked(keys, clock, LOOK_APART_SECONDS)
        assert {name: headers_of(name) for name in TENANTS} == before  # nothing changed
        change(kms)
        clock.advance(LOOK_EVERY_SECONDS - LOOK_APART_SECONDS * len(TENANTS))
        for _ in TENANTS:
            looked(keys, clock, LOOK_APART_SECONDS)
        after = {name: headers_of(name) for name in TENANTS}
        assert not set(after["acme"]) & set(before["acme"])
        assert (after["globex"], after["initech"]) == (before["globex"], before["initech"])
        assert [event.reason for event in observer.of(DataKeyRetired)] == ["kek_changed"] * 2
        assert {name: headers_of(name) for name in TENANTS} == after
    assert keys.sealing_generation == 1


def test_however_many_tenants_there_are_one_is_looked_at_a_second(kms, keys_of):
    """So a thousand of them cost no more calls, and no more threads in a region that hangs, than sixty."""
    clock = ManualClock()
    keys = keys_of(clock=clock)
    with sc.Encryptor(keys, sc.RotationPolicy(max_age="1d"), clock=clock) as sealer:
        for name in TENANTS:
            record(sealer, name)
        before = kms.count("DescribeKey")
        clock.advance(LOOK_EVERY_SECONDS)
        for looks in range(1, len(TENANTS) + 2):
            for _ in range(3):
                for name in TENANTS:
                    record(sealer, name)
            looked(keys, clock, 0)
            assert kms.count("DescribeKey") == before + min(looks, len(TENANTS))
            clock.advance(LOOK_APART_SECONDS)


def test_a_context_that_leads_to_no_kek_has_nothing_to_be_noticed(kms, keys_of):
    """Reading it neither fails nor calls KMS."""
    keys = keys_of()
    for context in ({}, {"streamcrypt:header:tenant": "nobody"}, {"streamcrypt:header:tenant": "acme"}):
        assert keys.sealing_generation_for(context) == 0
    assert kms.calls == []


def test_all_keks_are_looked_up_by_a_check(kms, keys_of):
    """`streamcrypt check` finds the one that is disabled before a record does."""
    keys = keys_of()
    assert keys.check() == "3 KEKs for 3 mapped values"
    assert keys.key_arns() == tuple(arn_of(kms, name) for name in TENANTS)
    _disable(kms, arn_of(kms, "globex"))
    with pytest.raises(sc.KeyRefused, match="Disabled"):
        keys.check()


def test_a_drill_is_confined_to_one_region(kms, keys_of):
    """What does not call that region counts as away, for every tenant."""
    keys = keys_of()
    elsewhere, here = keys.confined_to("us-east-1"), keys.confined_to(REGION)
    context = {"streamcrypt:topic": T, "streamcrypt:header:tenant": "globex"}
    with pytest.raises(sc.KeyUnavailable):
        elsewhere.generate_data_key(context)
    here.generate_data_key(context)
    elsewhere.close()
    here.close()

"""A data key is replaced at once where a new one would be wrapped otherwise, and looking again costs no record time."""

from __future__ import annotations

import pytest

from streamcrypt.encryptor import Encryptor
from streamcrypt.errors import KeyUnavailable
from streamcrypt.events import DataKeyGraceBegan, DataKeyMinted, DataKeyRetired, KeyServiceCalled
from streamcrypt.keys import hedging
from streamcrypt.keys.aws_kms import sealing
from streamcrypt.keys.aws_kms.changes import LOOK_EVERY_SECONDS, LOOK_FOR_MISSING_SECONDS
from streamcrypt.keys.local import LocalKeyProvider
from streamcrypt.keys.rotation import RotationPolicy
from streamcrypt.testing import CollectingObserver, ManualClock
from streamcrypt.testing.slow_keys import GENERATE, ScriptedKeyProvider
from tests.broker import wait_until

FAR = "eu-central-1"
CONTEXT = {"streamcrypt:topic": "payments"}
LONG = RotationPolicy(max_age="1d", max_messages=10**9)


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """On a loaded machine, too, a KEK is absent only where a test makes it."""
    monkeypatch.setattr(sealing, "PATIENCE_SECONDS", 60.0)
    monkeypatch.setattr(hedging, "HEAD_START_SECONDS", 60.0)


def look(provider, clock, seconds=LOOK_EVERY_SECONDS) -> int:
    """Let the time pass after which the provider looks again, have it do so, and give the generation after it."""
    clock.advance(seconds)
    before = provider._watch._look_at
    _ = provider.sealing_generation
    wait_until(lambda: provider._watch._look_at != before and not provider._watch._looking, "the look", 60)
    return int(provider.sealing_generation)


# ---- what the AWS provider notices ----


def test_nothing_changed_and_nothing_grows(server, provider_of, clock):
    """One DescribeKey a minute, whatever is minted between."""
    provider = provider_of(server.create_key())
    for _ in range(5):
        provider.generate_data_key(CONTEXT)
        assert look(provider, clock) == 0
    assert server.count("DescribeKey") == 5


def test_reading_it_costs_no_call_until_a_minute_has_passed(server, provider_of, clock):
    """And then one, however often it is read."""
    provider = provider_of(server.create_key())
    for _ in range(50):
        clock.advance(1)
        assert provider.sealing_generation == 0
    assert server.calls == []
    look(provider, clock, 10)
    for _ in range(50):
        clock.advance(1)
        assert provider.sealing_generation == 0
    assert server.count("DescribeKey") == 1


def test_reading_it_never_waits_for_kms(server, provider_of, clock):
    """A DescribeKey that hangs keeps its own thread, and only one of them."""
    provider = provider_of(server.create_key())
    server.hang("DescribeKey")
    for _ in range(5):
        clock.advance(60)
        assert provider.sealing_generation == 0
    wait_until(lambda: server.count("DescribeKey") == 1, "the look")


def test_a_moved_alias_is_noticed_within_a_minute(server, provider_of, clock):
    """By looking, though no data key was minted meanwhile."""
    server.create_key("alias/a")
    new = server.create_key()
    provider = provider_of("alias/a")
    provider.generate_data_key(CONTEXT)
    server.call("UpdateAlias", AliasName="alias/a", TargetKeyId=new)
    assert look(provider, clock) == 1
    made = provider.generate_data_key(CONTEXT)
    assert [key.key_id for key in made.encrypted] == [new]
    assert made.sealing_generation == 1


def test_who_sees_that_an_alias_moved_is_given_the_new_kek_alone(server, provider_of, clock):
    """Else what was minted or trusted just then under the old one would count as up to date."""
    server.create_key("alias/a")
    new = server.create_key()
    provider = provider_of("alias/a")
    provider.generate_data_key(CONTEXT)
    server.call("UpdateAlias", AliasName="alias/a", TargetKeyId=new)
    (kek,) = provider._keks
    seen, tell = [], kek.target._moved

    def moved():
        tell()
        seen.append((provider.trust_generation, provider.sealing_generation, kek.known_arns()))

    kek.target._moved = moved
    look(provider, clock)
    assert seen == [(1, 1, (new,))]


def test_rotated_material_is_noticed_by_looking(server, provider_of, clock):
    """CurrentKeyMaterialId of DescribeKey; the first one seen is no change."""
    arn = server.create_key()
    provider = provider_of(arn)
    assert look(provider, clock) == 0
    server.rotate(arn)
    assert look(provider, clock) == 1
    assert provider.generate_data_key(CONTEXT).sealing_generation == 1
    assert look(provider, clock) == 1


def test_rotated_material_is_noticed_by_minting(server, provider_of, clock):
    """Where DescribeKey is denied: the key of another topic shows it; the one that shows it is up to date itself."""
    arn = server.create_key()
    server.fail("AccessDeniedException", "DescribeKey")
    provider = provider_of(arn)
    assert provider.generate_data_key(CONTEXT).sealing_generation == 0
    assert look(provider, clock) == 0
    server.rotate(arn)
    assert look(provider, clock) == 0
    assert provider.generate_data_key(CONTEXT).sealing_generation == 1
    assert provider.sealing_generation == 1
    assert provider.generate_data_key(CONTEXT).sealing_generation == 1


def test_a_kek_that_may_not_be_described_is_left_alone_for_an_hour(server, provider_of, clock):
    """Each denial is a line in CloudTrail that somebody has to explain."""
    server.fail("AccessDeniedException", "DescribeKey")
    provider = provider_of(server.create_key())
    for _ in range(30):
        look(provider, clock)
    assert server.count("DescribeKey") == 1


def test_a_replica_that_shows_the_old_material_is_no_change(server, provider_of, clock):
    """Rotation reaches the replicas one after the other: what was seen once is not new again."""
    provider = provider_of(server.create_key())
    watch, arn = provider._watch, "arn:aws:kms:eu-west-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab"
    assert watch.learn(arn, "old", 0) == 0
    assert watch.learn(arn, "new", 0) == 1
    assert watch.learn(arn.replace("eu-west-1", FAR), "old", 1) == 1
    assert watch.learn(arn, "new", 1) == 1
    assert watch.learn(arn, "", 1) == 1


def test_what_changed_beside_a_minting_is_not_taken_for_its_own(server, provider_of):
    """A data key begun before an alias moved belongs to the time before."""
    provider = provider_of(server.create_key())
    provider._watch.grow()
    assert provider._watch.learn("arn:aws:kms:eu-west-1:1:key/x", "m", 0) == 0


def test_a_kek_that_is_back_is_noticed_and_new_data_keys_are_wrapped_for_all(server, provider_of, clock):
    """Under any: within seconds of the region's first good answer, without DescribeKey."""
    keks = [server.create_key(), server.create_key(region=FAR)]
    provider = provider_of(keks, require="any")
    server.darken(FAR)
    assert len(provider.generate_data_key(CONTEXT).encrypted) == 1
    assert look(provider, clock, LOOK_FOR_MISSING_SECONDS) == 0
    server.lighten(FAR)
    clock.advance(30)
    assert look(provider, clock, LOOK_FOR_MISSING_SECONDS) == 1
    made = provider.generate_data_key(CONTEXT)
    assert sorted(key.key_id for key in made.encrypted) == sorted(keks)
    assert made.sealing_generation == 1
    server.forget_calls()
    assert look(provider, clock) == 1
    assert server.count("Encrypt") == 0


def test_a_data_key_that_shows_a_kek_back_has_those_of_other_topics_replaced(server, provider_of, clock):
    """Their records need the others until then."""
    provider = provider_of([server.create_key(), server.create_key(region=FAR)], require="any")
    server.fail("KMSInternalException", "Encrypt", count=3)
    assert len(provider.generate_data_key(CONTEXT).encrypted) == 1
    assert len(provider.generate_data_key(CONTEXT).encrypted) == 2
    assert provider.sealing_generation == 0
    assert look(provider, clock, LOOK_FOR_MISSING_SECONDS) == 1


def test_a_region_that_comes_and_goes_has_data_keys_replaced_once_a_minute(server, provider_of, clock):
    """However often it does: minting for every topic is what it could cost."""
    provider = provider_of([server.create_key(), server.create_key(region=FAR)], require="any")
    generations = []
    for _ in range(24):
        server.fail("KMSInternalException", "Encrypt", count=3)
        provider.generate_data_key(CONTEXT)
        server.heal()
        clock.advance(LOOK_FOR_MISSING_SECONDS)
        _ = provider.sealing_generation
        wait_until(lambda: not provider._watch._looking, "the look", 60)
        generations.append(provider.sealing_generation)
    assert generations[-1] in {2, 3}


def test_an_absent_kek_costs_no_call_while_its_breaker_is_open(server, provider_of, clock):
    """Looking every five seconds is not asking every five seconds."""
    provider = provider_of([server.create_key(), server.create_key(region=FAR)], require="any")
    server.darken(FAR)
    while provider._service.is_callable(FAR):
        provider.generate_data_key(CONTEXT)
    server.forget_calls()
    for _ in range(24):
        look(provider, clock, LOOK_FOR_MISSING_SECONDS)
    assert len([call for call in server.calls if call.region == FAR]) <= 12


def test_a_kek_that_still_refuses_is_not_back(server, provider_of, clock):
    """It has to wrap, not only to answer: or every topic would mint again and again."""
    keks = [server.create_key(), server.create_key(region=FAR)]
    provider = provider_of(keks, require="any")
    server.fail("AccessDeniedException", "Encrypt", region=FAR)
    provider.generate_data_key(CONTEXT)
    for _ in range(10):
        assert look(provider, clock, 30) == 0
    server.heal()
    assert look(provider, clock, 30) == 1


def test_the_proof_is_told_like_any_call(server, provider_of, clock, observer):
    """With its context: CloudTrail shows it, so the log does."""
    provider = provider_of([server.create_key(), server.create_key(region=FAR)], require="any")
    server.darken(FAR)
    provider.generate_data_key(CONTEXT)
    server.lighten(FAR)
    observer.clear()
    look(provider, clock, 30)
    (called,) = [call for call in observer.of(KeyServiceCalled) if call.operation == "Encrypt"]
    assert called.context == tuple(CONTEXT.items())


# ---- what an encryptor does ----


@pytest.fixture
def keys():
    return ScriptedKeyProvider(LocalKeyProvider.generate())


def header_of(writer, topic="t"):
    return writer.encrypt(topic, b"v", b"k")[1][-1][1]


@pytest.mark.parametrize("how", ["sweep", "time"])
def test_the_current_data_key_is_replaced_when_it_grew(keys, how):
    """At the next record after a sweep; without one, within a second. Each topic's."""
    clock, seen = ManualClock(), CollectingObserver()
    with Encryptor(keys, LONG, clock=clock, observer=seen) as writer:
        before = {topic: header_of(writer, topic) for topic in ("a", "b")}
        assert {topic: header_of(writer, topic) for topic in ("a", "b")} == before
        keys.sealing_generation += 1
        if how == "sweep":
            writer.sweep()
        else:
            clock.advance(1)
        after = {topic: header_of(writer, topic) for topic in ("a", "b")}
        assert not set(before.values()) & set(after.values())
        assert [(event.topic, event.reason) for event in seen.of(DataKeyRetired)] == [
            ("a", "kek_changed"),
            ("b", "kek_changed"),
        ]
        clock.advance(1)
        assert {topic: header_of(writer, topic) for topic in ("a", "b")} == after


def test_a_key_minted_ahead_is_thrown_away_too(keys):
    """It was wrapped as the current one was."""
    clock, seen = ManualClock(), CollectingObserver()
    with Encryptor(keys, RotationPolicy(max_messages=4, max_age="1d"), clock=clock, observer=seen) as writer:
        for _ in range(3):
            header_of(writer)
        issuer = writer.topic("t").issuer
        wait_until(lambda: len(issuer._stock) > 0, "the next key")
        keys.sealing_generation += 1
        writer.sweep()
        assert not issuer._stock
        header_of(writer)
    assert [event.reason for event in seen.of(DataKeyRetired)][:2] == ["kek_changed", "kek_changed"]
    assert len(seen.of(DataKeyMinted)) == 3


def test_a_block_stops_at_the_change_as_well(keys):
    """Blocks and single records look at the same stops."""
    with Encryptor(keys, LONG, clock=ManualClock()) as writer:
        sealer = writer.topic("t")
        header_of(writer)
        header_of(writer)
        assert sealer.seal_block([b"v"], [b"k"], [None], 0) is not None
        keys.sealing_generation += 1
        writer.sweep()
        assert sealer.seal_block([b"v"], [b"k"], [None], 0) is None


def test_while_the_key_service_is_away_an_outdated_key_seals_on_in_grace(keys):
    """As a key does that is too old: a change is no reason to stop."""
    clock, seen = ManualClock(), CollectingObserver()
    with Encryptor(keys, RotationPolicy(max_age="1d", grace="1m"), clock=clock, observer=seen) as writer:
        before = header_of(writer)
        keys.away(GENERATE, KeyUnavailable("away"))
        keys.sealing_generation += 1
        writer.sweep()
        assert header_of(writer) == before
        (began,) = seen.of(DataKeyGraceBegan)
        assert began.reason == "kek_changed"
        keys.back(GENERATE)
        clock.advance(10)
        wait_until(lambda: header_of(writer) != before or clock.advance(1), "the next key")


def test_a_change_during_the_minting_has_it_done_once_more(keys):
    """The answer may be from before; asking ends when nothing changes any more."""
    clock = ManualClock()
    with Encryptor(keys, LONG, clock=clock) as writer:
        changes = [1, 1]

        def change(_call):
            keys.sealing_generation += changes.pop() if changes else 0

        keys.on_call = change
        header_of(writer)
        assert keys.count(GENERATE) == 3


def test_a_retired_alias_leaves_the_old_kek_within_a_minute_end_to_end(server, provider_of, clock):
    """Encryptor, provider and KMS together, with nobody calling sweep."""
    server.create_key("alias/a")
    new = server.create_key()
    provider = provider_of("alias/a")
    with Encryptor(provider, LONG, clock=clock) as writer:
        before = header_of(writer)
        server.call("UpdateAlias", AliasName="alias/a", TargetKeyId=new)

        def moved():
            clock.advance(1)
            return header_of(writer) != before

        wait_until(moved, "records under the new KEK", 60)
        assert new.encode() in header_of(writer)

"""A due data key seals on while the key service is away: so long, so often, never after a refusal, told loudly."""

from __future__ import annotations

from collections import Counter

import pytest

from streamcrypt.encryptor import Encryptor
from streamcrypt.errors import ConfigError, KeyRefused, KeyUnavailable, StreamcryptError
from streamcrypt.events import DataKeyGraceBegan, DataKeyGraceEnded, DataKeyMinted, DataKeyRetired
from streamcrypt.keys.local import LocalKeyProvider
from streamcrypt.keys.rotation import RotationPolicy
from streamcrypt.testing import CollectingObserver, ManualClock
from streamcrypt.testing.slow_keys import GENERATE, ScriptedKeyProvider
from tests.unit.test_issuer import until

AWAY = KeyUnavailable("away")


class Writer:
    """An encryptor with one key at hand, whose key service is away from then on."""

    def __init__(self, rotation: RotationPolicy, **options: object) -> None:
        self.keys = ScriptedKeyProvider(LocalKeyProvider.generate())
        self.clock = ManualClock()
        self.seen = CollectingObserver()
        self.encryptor = Encryptor(self.keys, rotation, clock=self.clock, observer=self.seen, **options)
        self.encryptor.ready("t")
        self.keys.away(GENERATE, AWAY)

    def header(self, value: bytes = b"v") -> bytes:
        """Seal one record; give its header."""
        return self.encryptor.encrypt("t", value)[1][-1][1]

    def ended(self) -> list[tuple[str, int]]:
        """How graces ended, and how many records they sealed."""
        return [(event.outcome, event.messages) for event in self.seen.of(DataKeyGraceEnded)]


def test_a_due_key_seals_on_and_its_successor_takes_over_at_once() -> None:
    """Within the bounds no record waits; the first record after the new key came is sealed under it. spec: 7.2.2"""
    writer = Writer(RotationPolicy(max_messages=4, grace_factor=10))
    old = {writer.header() for _ in range(20)}
    assert len(old) == 1
    (began,) = writer.seen.of(DataKeyGraceBegan)
    assert (began.topic, began.reason, began.seconds, began.messages) == ("t", "messages", 60.0, 40)
    writer.keys.back(GENERATE)
    writer.clock.advance(3)
    writer.header()  # has the next key minted in the background
    until(lambda: len(writer.seen.of(DataKeyMinted)) == 2)
    assert writer.header() not in old
    assert writer.ended() == [("minted", 17)]
    (retired,) = writer.seen.of(DataKeyRetired)
    assert (retired.reason, retired.messages) == ("messages", 21)
    writer.encryptor.close()


def test_without_an_outage_no_record_passes_the_limit() -> None:
    """A grace in the policy changes nothing while the key service answers. spec: 7.2.1"""
    with Encryptor(LocalKeyProvider.generate(), RotationPolicy(max_messages=7, grace="1h")) as writer:
        headers = [writer.encrypt("t", b"v")[1][-1][1] for _ in range(70)]
    assert set(Counter(headers).values()) == {7}


def test_an_old_failure_begins_no_grace() -> None:
    """The key service is asked again first; where it answers, the limit is exact."""
    writer = Writer(RotationPolicy(max_messages=4, max_age="1h"))
    headers = [writer.header() for _ in range(4)]
    until(lambda: writer.encryptor.topic("t").issuer._away)  # minting ahead failed
    until(lambda: writer.encryptor.topic("t").issuer._mintings == {})
    writer.clock.advance(3.1)
    writer.keys.back(GENERATE)
    assert writer.header() not in headers
    assert not writer.seen.of(DataKeyGraceBegan)
    writer.encryptor.close()


@pytest.mark.parametrize(
    ("rotation", "size", "records"),
    [
        (RotationPolicy(max_messages=4, grace_factor=3), 1, 12),
        (RotationPolicy(max_bytes=100, grace_factor=2), 8, 20),
        (RotationPolicy(max_messages=4, grace=0), 1, 4),
        (RotationPolicy(max_messages=4, grace_factor=1), 1, 4),
    ],
)
def test_the_count_is_bounded(rotation: RotationPolicy, size: int, records: int) -> None:
    """By the factor, for records and for bytes with the AAD; then the caller is told."""
    writer = Writer(rotation)
    sealed = 0
    with pytest.raises(KeyUnavailable):
        while True:
            writer.header(bytes(size))
            sealed += 1
    assert sealed == records
    with pytest.raises(KeyUnavailable):
        writer.header(bytes(size))
    writer.encryptor.close()
    assert [outcome for outcome, _ in writer.ended()] in ([], ["spent"])
    assert len(writer.seen.of(DataKeyGraceBegan)) <= 1


def test_the_time_is_bounded_also_for_a_key_due_by_its_age() -> None:
    """So long past max_age, not past the first record after it."""
    writer = Writer(RotationPolicy(max_age="5m", grace="1m"))
    writer.clock.advance(330)
    writer.header()
    (began,) = writer.seen.of(DataKeyGraceBegan)
    assert (began.reason, began.seconds) == ("age", 30.0)
    writer.clock.advance(29.9)
    writer.header()
    writer.clock.advance(0.1)
    for _ in range(3):
        with pytest.raises(KeyUnavailable):
            writer.header()
    assert writer.ended() == [("spent", 2)]
    writer.encryptor.close()


def test_a_key_far_past_its_age_has_no_grace() -> None:
    """A topic that was quiet for long begins with a new key or not at all."""
    writer = Writer(RotationPolicy(max_age="5m", grace="1m"))
    writer.clock.advance(360)
    with pytest.raises(KeyUnavailable):
        writer.header()
    assert not writer.seen.of(DataKeyGraceBegan)
    writer.encryptor.close()


@pytest.mark.parametrize("refusal", [KeyRefused("denied"), ConfigError("wrong usage")])
def test_a_refusal_begins_no_grace_even_if_an_outage_follows(refusal: StreamcryptError) -> None:
    """A revoked permission bites: the last word of the key service counts, not its silence. spec: 7.2.2"""
    writer = Writer(RotationPolicy(max_messages=4))
    writer.keys.script(GENERATE, refusal)
    for _ in range(4):
        writer.header()
    until(lambda: writer.keys.count(GENERATE) == 2 and writer.encryptor.topic("t").issuer._mintings == {})
    for _ in range(3):
        with pytest.raises(KeyUnavailable):
            writer.header()
    assert not writer.seen.of(DataKeyGraceBegan)
    writer.encryptor.close()


def test_a_refusal_ends_a_grace_for_good() -> None:
    """The record after it is not sealed, whatever the key service says or does not say next. spec: 7.2.2"""
    writer = Writer(RotationPolicy(max_messages=4, grace_factor=100))
    for _ in range(10):
        writer.header()
    writer.keys.away(GENERATE, KeyRefused("denied"))
    writer.clock.advance(3)
    writer.header()
    until(lambda: bool(writer.seen.of(DataKeyGraceEnded)))
    with pytest.raises(KeyRefused):
        writer.header()
    writer.keys.away(GENERATE, AWAY)
    for _ in range(3):
        with pytest.raises(KeyUnavailable):
            writer.header()
    assert [outcome for outcome, _ in writer.ended()] == ["refused"]
    writer.encryptor.close()


def test_no_record_waits_in_grace() -> None:
    """The call for the next key hangs, and records go on under the old one."""
    writer = Writer(RotationPolicy(max_messages=4, grace_factor=100), max_wait=30)
    old = {writer.header() for _ in range(6)}
    writer.keys.hold(GENERATE)
    writer.clock.advance(3)
    old |= {writer.header() for _ in range(50)}
    assert len(old) == 1
    assert writer.encryptor.topic("t").issuer._mintings != {}
    writer.keys.release(GENERATE)
    writer.encryptor.close()


def test_a_hang_after_a_failure_is_an_outage_too() -> None:
    """Where a bounded wait ends without an answer, and the answer before was KeyUnavailable, the grace begins."""
    writer = Writer(RotationPolicy(max_messages=4), max_wait=0.01)
    for _ in range(4):
        writer.header()
    until(lambda: writer.encryptor.topic("t").issuer._away)
    writer.clock.advance(3)  # that failure is old now
    writer.keys.hold(GENERATE)
    writer.header()
    assert len(writer.seen.of(DataKeyGraceBegan)) == 1
    writer.keys.release(GENERATE)
    writer.encryptor.close()


def test_a_smaller_record_does_not_end_what_a_larger_one_began() -> None:
    """Due by bytes is due: the new key takes over with the next record, however small."""
    writer = Writer(RotationPolicy(max_bytes=100, grace_factor=3))
    old = writer.header(bytes(80))
    assert writer.header(bytes(80)) == old
    writer.keys.back(GENERATE)
    writer.clock.advance(3)
    writer.header(b"")
    until(lambda: len(writer.seen.of(DataKeyMinted)) == 2)
    assert writer.header(b"") != old
    writer.encryptor.close()


@pytest.mark.parametrize("end", ["failure", "clock", "closed"])
def test_a_key_that_is_dropped_in_grace_ends_it(end: str) -> None:
    """After a failed delivery, a clock jump and at the end no grace helps; it is told as ended."""
    writer = Writer(RotationPolicy(max_messages=4))
    for _ in range(6):
        writer.header()
    if end == "failure":
        writer.encryptor.retire("t", "failure")
    elif end == "clock":
        writer.clock.advance(-1)
    if end == "closed":
        writer.encryptor.close()
    else:
        with pytest.raises(KeyUnavailable):
            writer.header()
        writer.encryptor.close()
    assert writer.ended() == [(end, 2)]


def test_blocks_are_sealed_in_grace_too() -> None:
    """The fast way is open: an outage costs no throughput."""
    writer = Writer(RotationPolicy(max_messages=4, grace_factor=100))
    for _ in range(5):
        writer.header()
    sealer = writer.encryptor.topic("t")
    assert sealer.seal_block([b"v"] * 300, [None] * 300, [None] * 300, 0) is not None
    assert sealer.seal_block([b"v"] * 300, [None] * 300, [None] * 300, 0) is None
    writer.encryptor.close()
    assert writer.ended() == [("closed", 301)]


def test_no_grace_passes_the_ceiling_of_the_suites() -> None:
    """Whatever the factor. spec: 7.1.1"""
    policy = RotationPolicy(max_messages=2**32 - 1, max_bytes="63GiB", grace="1d", grace_factor=100)
    assert (policy.grace_messages, policy.grace_bytes) == (2**32, 64 * 2**30)
    assert not policy.grace_allows(2**32, 0, 0.0, 0)
    assert not policy.grace_allows(1, 64 * 2**30, 0.0, 1)
    assert RotationPolicy().grace_bytes == 64 * 2**30


@pytest.mark.parametrize(
    "wrong",
    [
        {"grace": -1},
        {"grace": float("inf")},
        {"grace": float("nan")},
        {"grace": "long"},
        {"grace_factor": 0.9},
        {"grace_factor": 100.1},
        {"grace_factor": float("nan")},
        {"grace_factor": "4"},
        {"grace_factor": True},
    ],
)
def test_a_wrong_grace_is_refused(wrong: dict[str, object]) -> None:
    """By name, or by what was read."""
    with pytest.raises(ConfigError):
        RotationPolicy(**wrong)


def test_a_refusal_begins_no_grace_of_a_key_that_stood_in_stock_by_then() -> None:
    """It came before the permission was revoked: it seals to its limit and no further. spec: 7.2.2"""
    writer = Writer(RotationPolicy(max_messages=4))
    issuer = writer.encryptor.topic("t").issuer
    writer.keys.back(GENERATE)
    for _ in range(3):
        writer.header()
    until(lambda: len(issuer._stock) == 1 and not issuer._mintings)
    issuer._note_failure(KeyRefused("denied"), ahead=True)
    writer.keys.away(GENERATE, AWAY)
    sealed = 0
    with pytest.raises(KeyUnavailable):
        while sealed < 9:
            writer.header()
            sealed += 1
    assert sealed == 5
    assert not writer.seen.of(DataKeyGraceBegan)
    writer.encryptor.close()

"""What re-encryption does to one record: rewrapping touches the header alone, resealing opens and seals."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamcrypt as sc
from streamcrypt.envelope.codec import decode_header, encode_header
from streamcrypt.envelope.framing import Framing, Tombstones
from streamcrypt.envelope.header import HEADER_NAME, TOMBSTONE_HEADER_NAME
from streamcrypt.errors import (
    AuthenticationFailed,
    ConfigError,
    ContextMismatch,
    EnvelopeError,
    KeyUnavailable,
    MalformedEnvelope,
    PlaintextRejected,
    UntrustedKey,
)
from streamcrypt.events import DataKeyRewrapped
from streamcrypt.keys.rotation import CachePolicy
from streamcrypt.sidecar.pacing import Pace
from streamcrypt.sidecar.reseal import Reseal
from streamcrypt.sidecar.rewrap import Rewrap
from streamcrypt.sidecar.rewrapper import Rewrapper
from streamcrypt.sidecar.transform import Seal
from streamcrypt.testing import CollectingObserver, KMSServer, ManualClock
from tests.broker import wait_until
from tests.kms import use_fake_credentials

KEKS = {name: os.urandom(32) for name in ("old", "other", "new")}
EXTRA = [("a", b"1"), ("none", None), ("a", b"2")]


class CountingKeys(sc.LocalKeyProvider):
    """The local provider with a count of rewrappings; it can be told to be away."""

    answers_at_once = False

    def __init__(self, primary: str = "new") -> None:
        super().__init__(KEKS, primary)
        self.rewrapped = 0
        self.away = False
        self.gate = threading.Event()
        self.gate.set()

    def rewrap_data_key(self, keys, context):
        self.gate.wait(60)
        if self.away:
            raise KeyUnavailable("away", operation="ReEncrypt")
        self.rewrapped += 1
        return super().rewrap_data_key(keys, context)


def _sealer(kek: str = "old", **options) -> sc.Encryptor:
    return sc.Encryptor(sc.LocalKeyProvider(KEKS, kek), **options)


def _rewrapping(keys=None, *, topic: str = "t", decryptor=None, cache=None, observer=lambda _: None, **options):
    keys = keys or CountingKeys()
    decryptor = decryptor or sc.Decryptor(keys, framing=options.get("framing", Framing.HEADER))
    rewrapper = Rewrapper(keys, decryptor, cache, observer=observer)
    return Rewrap(rewrapper, **options).work(topic, 0, topic, 0)


def _opened(value, headers, key=b"k", topic: str = "t", kek: str = "new", **options):
    with sc.Decryptor(sc.LocalKeyProvider({kek: KEKS[kek]}, kek), **options) as opener:
        return opener.decrypt(topic, value, key, headers)


def test_only_the_header_changes_and_it_stays_in_its_place():
    """The value is the same bytes, the other headers stand where they stood, and the new KEK alone opens it."""
    with _sealer() as sealer:
        value, headers = sealer.encrypt("t", b"plain", b"k", EXTRA)
    headers = [headers[0], headers[3], *headers[1:3]]
    new_value, new_headers = _rewrapping().one(value, b"k", headers)
    assert new_value is value
    assert [name for name, _ in new_headers] == ["a", HEADER_NAME, "none", "a"]
    assert [pair for pair in new_headers if pair[0] != HEADER_NAME] == EXTRA
    before, after = decode_header(headers[1][1]), decode_header(new_headers[1][1])
    assert replace(after, keys=before.keys) == before
    assert [key.key_id for key in after.keys] == ["new"]
    assert _opened(new_value, new_headers) == (b"plain", EXTRA)


def test_a_self_contained_value_gets_a_new_prefix_and_keeps_the_rest():
    """Either framing stays the one that it is."""
    with _sealer(framing="self_contained") as sealer:
        value, headers = sealer.encrypt("t", b"plain", b"k", EXTRA)
    work = _rewrapping(framing=Framing.SELF_CONTAINED)
    new_value, new_headers = work.one(value, b"k", headers)
    assert new_headers == headers
    assert new_value[-33:] == value[-33:]
    assert _opened(new_value, new_headers, framing="self_contained") == (b"plain", EXTRA)
    with _sealer() as sealer:
        value, headers = sealer.encrypt("t", b"plain", b"k", EXTRA)
    assert _opened(*work.one(value, b"k", headers)) == (b"plain", EXTRA)


def test_a_proven_tombstone_keeps_its_proof_and_a_plain_one_everything():
    """Both still open; where tombstones must be proven a plain one is refused."""
    with _sealer(tombstones="authenticated") as sealer:
        _, headers = sealer.encrypt("t", None, b"k", EXTRA)
    value, new_headers = _rewrapping().one(None, b"k", headers)
    assert value is None
    assert dict(new_headers)[TOMBSTONE_HEADER_NAME] == dict(headers)[TOMBSTONE_HEADER_NAME]
    assert _opened(None, new_headers, tombstones="authenticated") == (None, EXTRA)
    assert _rewrapping().one(None, b"k", EXTRA) == (None, EXTRA)
    assert _rewrapping().one(None, b"k", None) == (None, None)
    with pytest.raises(PlaintextRejected):
        _rewrapping(tombstones=Tombstones.AUTHENTICATED).one(None, b"k", EXTRA)


def _envelopes() -> tuple[bytes, bytes]:
    with _sealer() as sealer:
        value, headers = sealer.encrypt("t", b"plain", b"k")
    return value, dict(headers)[HEADER_NAME]


@pytest.mark.parametrize(
    ("value", "headers", "error"),
    [
        (b"plain", None, PlaintextRejected),
        (b"plain", [("a", b"1")], PlaintextRejected),
        (b"sealed", [(HEADER_NAME, None)], MalformedEnvelope),
        (b"sealed", [(HEADER_NAME, b"junk")], MalformedEnvelope),
        (b"sealed", [(HEADER_NAME, b"x"), (HEADER_NAME, b"x")], MalformedEnvelope),
        (None, [(HEADER_NAME, b"x")], MalformedEnvelope),
        (None, [(TOMBSTONE_HEADER_NAME, bytes(28))], MalformedEnvelope),
        (None, [(HEADER_NAME, b"x"), (TOMBSTONE_HEADER_NAME, b"short")], MalformedEnvelope),
    ],
    ids=["no-headers", "others", "null", "junk", "two", "no-proof", "no-envelope", "short-proof"],
)
def test_what_is_no_envelope_is_refused_as_a_reader_does(value, headers, error):
    """One by one and in a block, without a call to the key service."""
    keys = CountingKeys()
    work = _rewrapping(keys)
    with pytest.raises(error):
        work.one(value, b"k", headers)
    assert not (work.block([value], [b"k"], [headers]) or ([], []))[0]
    assert keys.rewrapped == 0


def test_the_readers_policy_comes_before_the_call():
    """Another topic, a missing context pair, an unbound key, an unknown KEK."""
    value, header = _envelopes()
    headers = [(HEADER_NAME, header)]
    keys = CountingKeys()
    with pytest.raises(ContextMismatch):
        _rewrapping(keys, topic="another").one(value, b"k", headers)
    for options in ({"require_context": {"app": "x"}}, {"require_bound": ("key", "header:a")}):
        with pytest.raises(ContextMismatch):
            _rewrapping(keys, decryptor=sc.Decryptor(keys, **options)).one(value, b"k", headers)
    assert keys.rewrapped == 0
    foreign = replace(decode_header(header), keys=(replace(decode_header(header).keys[0], key_id="stranger"),))
    with pytest.raises(UntrustedKey):
        _rewrapping(keys).one(value, b"k", [(HEADER_NAME, encode_header(foreign))])


def test_a_mirror_is_read_under_the_name_of_its_source():
    """Two names that do not fit are refused before the first record, with the line to add."""
    names = {"copy": "t"}
    transform = Rewrap(Rewrapper(CountingKeys(), sc.Decryptor(CountingKeys())), logical=lambda n: names.get(n, n))
    transform.work("t", 0, "copy", 0)
    with pytest.raises(ConfigError) as refused:
        transform.work("t", 0, "elsewhere", 0)
    assert "elsewhere: t" in refused.value.remedy


def test_one_call_for_each_distinct_header():
    """A wrapped key that differs costs another call, however alike the headers are; the events name both KEKs."""
    keys, seen = CountingKeys(), CollectingObserver()
    work = _rewrapping(keys, observer=seen)
    value, header = _envelopes()
    again = keys.rewrap_data_key(decode_header(header).keys, dict(decode_header(header).context))
    twin = encode_header(replace(decode_header(header), keys=again))
    keys.rewrapped = 0
    for _ in range(3):
        for each in (header, twin):
            work.one(value, b"k", [(HEADER_NAME, each)])
            work.block([value] * 3, [b"k"] * 3, [[(HEADER_NAME, each)]] * 3)
    assert keys.rewrapped == 2
    assert [(e.from_key_ids, e.key_ids) for e in seen.of(DataKeyRewrapped)] == [
        (("old",), ("new",)),
        (("new",), ("new",)),
    ]


def test_what_is_remembered_is_bounded_and_the_least_used_goes_first():
    """Three headers in a memory of two."""
    keys = CountingKeys()
    work = _rewrapping(keys, cache=CachePolicy(max_entries=2))
    values = [_envelopes() for _ in range(3)]

    def rewrap(number: int) -> None:
        work.one(values[number][0], b"k", [(HEADER_NAME, values[number][1])])

    for number in (0, 1, 0, 2, 0):
        rewrap(number)
    assert keys.rewrapped == 3
    rewrap(1)
    assert keys.rewrapped == 4


def test_while_the_key_service_is_away_nothing_is_remembered():
    """The record waits, and passes once it is back."""
    keys = CountingKeys()
    work = _rewrapping(keys)
    value, header = _envelopes()
    keys.away = True
    with pytest.raises(KeyUnavailable):
        work.one(value, b"k", [(HEADER_NAME, header)])
    with pytest.raises(KeyUnavailable):
        work.block([value], [b"k"], [[(HEADER_NAME, header)]])
    keys.away = False
    assert work.one(value, b"k", [(HEADER_NAME, header)])[1][0][1] != header


def test_a_call_that_takes_long_is_made_once_for_all_who_ask_meanwhile():
    """Each waits for its own time only; the answer serves the next one."""
    keys = CountingKeys()
    rewrapper = Rewrapper(keys, sc.Decryptor(keys), max_wait=0.01)
    value, header = _envelopes()
    work = Rewrap(rewrapper).work("t", 0, "t", 0)
    keys.gate.clear()
    for _ in range(3):
        with pytest.raises(KeyUnavailable):
            work.one(value, b"k", [(HEADER_NAME, header)])
    keys.gate.set()

    def done() -> bool:
        with contextlib.suppress(KeyUnavailable):
            work.one(value, b"k", [(HEADER_NAME, header)])
            return True
        return False

    wait_until(done, "the rewrapped header")
    assert keys.rewrapped <= 2
    rewrapper.close()


def test_junk_that_the_key_service_refuses_has_a_budget():
    """A partition that spent it waits, so that nobody eats the account's quota by writing records."""
    keys = CountingKeys()
    work = _rewrapping(keys, cache=CachePolicy(refused_misses_per_minute=2))
    value, header = _envelopes()
    parsed = decode_header(header)
    for n in range(2):
        spoilt = replace(parsed.keys[0], ciphertext=bytes([n]) * 60)
        with pytest.raises(AuthenticationFailed):
            work.one(value, b"k", [(HEADER_NAME, encode_header(replace(parsed, keys=(spoilt,))))])
    with pytest.raises(KeyUnavailable, match="too many data keys"):
        work.one(value, b"k", [(HEADER_NAME, header)])


_kinds = st.sampled_from(["sealed", "other", "with-headers", "tombstone", "plain", "junk", "proven"])


@given(st.lists(_kinds, min_size=1, max_size=12))
def test_a_block_gives_what_its_records_give_one_by_one(kinds):
    """As far as it goes; it stops before the first record that has to be met by itself."""
    with _sealer() as first, _sealer("other") as second, _sealer(tombstones="authenticated") as proving:
        made = {
            "sealed": first.encrypt("t", b"plain", b"k"),
            "other": second.encrypt("t", b"plain", b"k"),
            "with-headers": first.encrypt("t", b"plain", b"k", EXTRA),
            "proven": proving.encrypt("t", None, b"k"),
            "tombstone": (None, None),
            "plain": (b"plain", None),
            "junk": (b"x", [(HEADER_NAME, b"x")]),
        }
    work = _rewrapping()
    values, headers = [made[k][0] for k in kinds], [made[k][1] for k in kinds]
    block = work.block(values, [b"k"] * len(kinds), headers)
    done = list(zip(*block, strict=True)) if block else []
    passing = {"sealed", "other", "with-headers"}
    assert len(done) == next((n for n, kind in enumerate(kinds) if kind not in passing), len(kinds))
    for (value, pairs), sealed, own in zip(done, values, headers, strict=False):
        assert (value, pairs) == work.one(sealed, b"k", own)


def _resealing(**options):
    keys = sc.LocalKeyProvider(KEKS, "new")
    decryptor = sc.Decryptor(keys, **options)
    return Reseal(decryptor, sc.Encryptor(keys, tombstones="authenticated", context={"app": "x"}))


def test_resealed_records_have_another_data_key_and_the_targets_context():
    """Headers stay in order before ours; proofs of tombstones are made anew, plain ones stay plain."""
    with _sealer(tombstones="authenticated") as sealer:
        value, headers = sealer.encrypt("t", b"plain", b"k", EXTRA)
        _, proven = sealer.encrypt("t", None, b"k", EXTRA)
    with contextlib.closing(_resealing()) as transform:
        work = transform.work("t", 0, "target", 0)
        new_value, new_headers = work.one(value, b"k", headers)
        _, new_proven = work.one(None, b"k", proven)
        assert work.one(None, b"k", EXTRA) == (None, EXTRA)
        block = work.block([value, value], [b"k", b"k"], [headers, headers])
        with pytest.raises(AuthenticationFailed):
            work.one(value, b"another key", headers)
        with pytest.raises(EnvelopeError):
            work.one(b"plain", b"k", None)
    assert new_headers[:3] == EXTRA
    assert dict(decode_header(new_headers[3][1]).context) == {"streamcrypt:topic": "target", "app": "x"}
    assert decode_header(new_headers[3][1]).commitment != decode_header(headers[3][1]).commitment
    assert _opened(new_value, new_headers, topic="target") == (b"plain", EXTRA)
    assert _opened(None, new_proven, topic="target", tombstones="authenticated") == (None, EXTRA)
    assert [_opened(v, h, topic="target")[0] for v, h in zip(*block, strict=True)] == [b"plain", b"plain"]


def test_a_lost_unit_costs_the_data_key_it_was_resealed_under():
    """Its numbers are spent; rewrapping spends none."""
    with _sealer() as sealer:
        value, headers = sealer.encrypt("t", b"plain", b"k")
    with contextlib.closing(_resealing()) as transform:
        work = transform.work("t", 0, "target", 0)
        first = work.one(value, b"k", headers)[1]
        transform.lost()
        assert work.one(value, b"k", headers)[1] != first


def _current(kms: KMSServer) -> tuple[str, str, str]:
    old, first, second = (kms.create_key(f"alias/{name}") for name in ("old", "first", "second"))
    kms.call("CreateAlias", AliasName="alias/current", TargetKeyId=first)
    return old, first, second


def _move_on(clock: ManualClock, keys: sc.AWSKMSKeyProvider, before: int) -> None:
    clock.advance(61)
    wait_until(lambda: keys.sealing_generation > before, "a look at the KEK")


@pytest.mark.parametrize("change", ["alias moved", "material rotated"])
def test_a_change_of_the_kek_is_noticed_at_once(monkeypatch, change):
    """What was rewrapped before is forgotten, and the next record goes under the new KEK or material."""
    use_fake_credentials(monkeypatch)
    with KMSServer() as kms:
        old, first, second = _current(kms)
        clock = ManualClock()
        with (
            contextlib.closing(sc.AWSKMSKeyProvider(old, endpoint_url=kms.url)) as writer,
            sc.Encryptor(writer) as seal,
        ):
            value, headers = seal.encrypt("t", b"plain", b"k")
        keys = sc.AWSKMSKeyProvider(
            "alias/current", region=kms.region, endpoint_url=kms.url, trusted_keys=[old], clock=clock
        )
        with contextlib.closing(keys):
            decryptor = sc.Decryptor(keys)
            transform = Rewrap(Rewrapper(keys, decryptor, CachePolicy(ttl="1d"), clock=clock))
            work = transform.work("t", 0, "t", 0)
            generation = keys.sealing_generation
            clock.advance(61)
            # The first look learns which material is current; a change shows from then on.
            wait_until(lambda: keys.sealing_generation >= 0 and kms.count("DescribeKey") >= 1, "the first look")
            before = work.one(value, b"k", headers)[1]
            assert work.one(value, b"k", headers)[1] == before
            if change == "alias moved":
                kms.call("UpdateAlias", AliasName="alias/current", TargetKeyId=second)
            else:
                kms.rotate(first)
            _move_on(clock, keys, generation)
            clock.advance(1)
            after = work.one(value, b"k", headers)[1]
            assert after != before
            assert decode_header(after[0][1]).keys[0].key_id == (second if change == "alias moved" else first)
            materials = [call.target_material_id for call in kms.calls if call.operation == "ReEncrypt"]
            assert len(set(materials)) == 2
            transform.close()


def test_an_encrypting_pipeline_starts_under_the_new_kek_at_once(monkeypatch):
    """The data key at hand is left at the next turn of the loop, long before it is due."""
    use_fake_credentials(monkeypatch)
    with KMSServer() as kms:
        _, first, second = _current(kms)
        clock = ManualClock()
        keys = sc.AWSKMSKeyProvider("alias/current", region=kms.region, endpoint_url=kms.url, clock=clock)
        with contextlib.closing(keys), contextlib.closing(Seal(sc.Encryptor(keys))) as transform:
            work = transform.work("plain", 0, "t", 0)

            def kek() -> str:
                return decode_header(dict(work.one(b"v", b"k", None)[1])[HEADER_NAME]).keys[0].key_id

            assert (kek(), kek()) == (first, first)
            generation = keys.sealing_generation
            kms.call("UpdateAlias", AliasName="alias/current", TargetKeyId=second)
            _move_on(clock, keys, generation)
            transform.idle()
            assert kek() == second


def test_a_pace_gives_its_rate_whatever_is_asked_for():
    """In portions; what was missed is caught up with for a quarter of a second at most."""
    clock = ManualClock()
    pace = Pace(100, clock, clock.advance)
    start, read = clock(), 0
    while read < 1_000:
        room = pace.room(1_000, 0.2)
        pace.spend(room)
        read += room
    assert 9.5 <= clock() - start <= 10.5
    clock.advance(60)
    assert pace.room(1_000, 0.2) <= 25


def test_a_pace_below_the_patience_says_so():
    """One record in ten seconds: a caller that waits for 0.2 s is told that it may read none."""
    clock = ManualClock()
    pace = Pace(0.1, clock, clock.advance)
    answers = [pace.room(10, 0.2) for _ in range(51)]
    assert answers[:49] == [0] * 49
    assert 1 in answers


def test_a_real_second_holds_no_more_than_the_rate():
    """With the clock and the sleep that are the defaults."""
    pace = Pace(2_000)
    end, read = time.monotonic() + 0.3, 0
    while time.monotonic() < end:
        room = pace.room(50, 0.2)
        pace.spend(room)
        read += room
    assert 1 <= read <= 2_000

"""Data keys minted ahead in number: exact under threads, dropped by every rule, and no more than the use asks for."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from streamcrypt.encryptor import Encryptor
from streamcrypt.errors import KeyRefused, KeyUnavailable
from streamcrypt.events import DataKeyMinted, DataKeyMintFailed, DataKeyRetired
from streamcrypt.keys.local import LocalKeyProvider
from streamcrypt.keys.rotation import RotationPolicy
from streamcrypt.keys.stock import LARGEST, StockSize
from streamcrypt.testing import CollectingObserver, ManualClock
from streamcrypt.testing.slow_keys import GENERATE, ScriptedKeyProvider
from tests.waiting import until


class Rush:
    """An encryptor whose keys are used up while their successors are minted: on a manual clock a key lasts 0.1 s.

    Args:
        latency: Seconds that the key service is known to take.
        options: For the encryptor.
    """

    def __init__(self, latency: float = 0.3, **options: object) -> None:
        self.keys = ScriptedKeyProvider(LocalKeyProvider.generate())
        self.clock = ManualClock()
        self.wall = ManualClock(5_000_000.0)
        self.seen = CollectingObserver()
        self.encryptor = Encryptor(
            self.keys,
            RotationPolicy(max_messages=10, max_age=60),
            clock=self.clock,
            wall_clock=self.wall,
            observer=self.seen,
            **options,
        )
        self._latency = latency
        self.seal(3)

    @property
    def issuer(self):
        """The topic's issuer."""
        return self.encryptor.topic("t").issuer

    def sleep(self, seconds: float) -> None:
        """Let both clocks run."""
        self.clock.advance(seconds)
        self.wall.advance(seconds)

    def seal(self, keys: int) -> list[bytes]:
        """Use up so many data keys; give the header of each record."""
        headers = []
        for _ in range(keys):
            for _ in range(10):
                headers.append(self.encryptor.encrypt("t", b"v")[1][-1][1])
            self.sleep(0.1)
            self.settle()
            # No time passes on this clock while keys are minted.
            self.issuer._size._latencies.extend([self._latency] * 5)
        return headers

    def settle(self) -> None:
        """Wait until no minting is under way."""
        until(lambda: not self.issuer._mintings)


# --- How many


def knowing(latency: float) -> StockSize:
    """What knows this latency; the first reading does not count."""
    size = StockSize()
    for seconds in (5.0, latency, 9.0, latency):
        size.took(seconds)
    size.took(latency)
    return size


@pytest.mark.parametrize(
    ("life", "latency", "wanted"),
    [(300.0, 0.2, 1), (19.0, 0.02, 1), (0.2, 0.2, 2), (0.04, 0.2, 8), (0.04, 0.0, 1), (0.001, 0.2, LARGEST)],
)
def test_as_many_keys_stand_ready_as_are_used_up_while_one_is_minted(life: float, latency: float, wanted: int) -> None:
    """With half as many again, one at least and sixteen at most."""
    size = knowing(latency)
    size.lived(life)
    assert size.wanted() == wanted


def test_a_rush_is_answered_at_once_and_a_lull_slowly() -> None:
    """One key that lasted long does not empty the stock; one that did not fills it."""
    size = knowing(0.2)
    for life in (10.0, 0.04, 0.2):
        size.lived(life)
    assert 1 < size.wanted() < 8
    size.lived(0.04)
    assert size.wanted() == 8


def test_before_the_first_key_is_used_up_its_own_use_is_what_counts() -> None:
    """At half of its records it has shown how long it will last."""
    size = knowing(0.2)
    assert (size.wanted(), size.wanted(0.12), size.wanted(100.0)) == (1, 3, 1)


# --- Exactness and cost


def test_a_stock_costs_no_call_beyond_one_a_rotation_and_itself() -> None:
    """Keys used, and those that were dropped in stock, are all that was minted."""
    rush = Rush()
    headers = rush.seal(20)
    assert [headers.count(header) for header in dict.fromkeys(headers)] == [10] * 20
    in_stock = len(rush.issuer._stock)
    assert 2 <= in_stock <= LARGEST
    assert rush.keys.count(GENERATE) == 23 + in_stock
    rush.encryptor.close()


def test_rotation_stays_exact_under_threads_with_several_mintings_under_way() -> None:
    """Eight threads: no key seals more than it may, and no number comes twice."""
    rush = Rush()
    with ThreadPoolExecutor(8) as pool:
        work = [pool.submit(lambda: [rush.encryptor.encrypt("t", b"v") for _ in range(250)]) for _ in range(8)]
        records = [record for done in work for record in done.result()]
    by_key: dict[bytes, list[int]] = {}
    for sealed, headers in records:
        by_key.setdefault(headers[-1][1], []).append(int.from_bytes(sealed[4:12], "big"))
    assert max(map(len, by_key.values())) <= 10
    assert all(len(set(found)) == len(found) and max(found) <= 10 for found in by_key.values())
    rush.settle()
    rush.encryptor.close()
    assert rush.keys.count(GENERATE) <= 3 + len(by_key) + LARGEST + 1


def test_no_record_waits_while_the_stock_lasts() -> None:
    """The key service hangs: as many keys as stand ready are used without it."""
    rush = Rush()
    ready = len(rush.issuer._stock)
    assert ready >= 2
    rush.keys.hold(GENERATE)
    current = 10 - rush.issuer.lease.messages
    headers = [rush.encryptor.encrypt("t", b"v")[1][-1][1] for _ in range(current + 10 * ready)]
    assert len(set(headers)) in {ready, ready + 1}
    rush.keys.release(GENERATE)
    rush.encryptor.close()


# --- Failure


def test_of_several_mintings_one_may_fail() -> None:
    """It is told of, and the keys of the others are used."""
    rush = Rush()
    rush.issuer._stock.clear()
    rush.keys.script(GENERATE, None, KeyUnavailable("away"))
    headers = rush.seal(6)
    assert len(set(headers)) >= 6
    assert len(rush.seen.of(DataKeyMintFailed)) == 1
    rush.encryptor.close()


def test_a_refusal_leaves_the_stock_to_its_age() -> None:
    """A revoked permission stops sealing within max_age of the minting, however many keys stood ready."""
    rush = Rush()
    ready = len(rush.issuer._stock)
    rush.keys.away(GENERATE, KeyRefused("denied"))
    rush.seal(1)
    assert 0 < len(rush.issuer._stock) <= ready
    rush.sleep(60.0)
    with pytest.raises(KeyRefused):
        rush.encryptor.encrypt("t", b"v")
    assert not rush.issuer._stock
    rush.encryptor.close()


# --- Every rule of the next key


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
def test_a_clock_that_jumps_drops_the_whole_stock_for_good(jump: float) -> None:
    """Also where the clock comes back to where the keys seemed young."""
    rush = Rush()
    old = {event.data_key for event in rush.seen.of(DataKeyMinted)}
    rush.wall.advance(jump)
    rush.sleep(1.0)
    rush.encryptor.encrypt("t", b"v")
    rush.wall.advance(-jump)
    rush.settle()
    clocked = {event.data_key for event in rush.seen.of(DataKeyRetired) if event.reason == "clock"}
    assert clocked <= old
    assert len(clocked) >= 3
    assert {lease.key.id for lease in rush.issuer._stock}.isdisjoint(old)
    rush.encryptor.close()


def test_a_new_sealing_generation_replaces_the_whole_stock() -> None:
    """By a sweep, and by the next record where no sweep came first."""
    for sweep in (True, False):
        rush = Rush()
        old = {event.data_key for event in rush.seen.of(DataKeyMinted)}
        rush.keys.sealing_generation += 1
        if sweep:
            rush.encryptor.sweep()
            assert not rush.issuer._stock
        rush.sleep(1.0)
        rush.seal(1)
        assert {lease.key.id for lease in (rush.issuer.lease, *rush.issuer._stock)}.isdisjoint(old)
        rush.encryptor.close()


def test_each_key_in_stock_ages_from_its_own_minting() -> None:
    """One that is too old is dropped unused, with that reason."""
    rush = Rush()
    ready = len(rush.issuer._stock)
    rush.sleep(60.0)
    rush.encryptor.encrypt("t", b"v")
    unused = [event for event in rush.seen.of(DataKeyRetired) if event.reason == "age" and not event.messages]
    assert len(unused) == ready
    rush.encryptor.close()


def test_closing_drops_the_whole_stock_and_what_is_still_under_way() -> None:
    """No key is left anywhere."""
    rush = Rush()
    keys = [weakref.ref(lease.key) for lease in rush.issuer._stock]
    assert len(keys) >= 2
    rush.encryptor.close()
    gc.collect()
    assert [key() for key in keys] == [None] * len(keys)
    assert not rush.issuer._stock

"""The circuit breaker of a KMS region: opens on a run of unavailable answers only, probes alone, says since when."""

from __future__ import annotations

import re
import threading

import pytest

from streamcrypt.errors import AuthenticationFailed, KeyRefused, KeyUnavailable, UntrustedKey
from streamcrypt.events import BreakerClosed, BreakerOpened
from streamcrypt.keys.aws_kms import AWSKMSKeyProvider
from streamcrypt.keys.aws_kms.breaker import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, OPENS_AFTER, RegionBreaker
from streamcrypt.testing import CollectingObserver, KMSServer, ManualClock
from tests.kms import REGION, use_fake_credentials

CONTEXT = {"streamcrypt:topic": "payments"}


class Region:
    """A breaker on a manual clock, and calls through it that end as told."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.seen = CollectingObserver()
        self.breaker = RegionBreaker(REGION, self.clock, self.seen)
        self.calls = 0

    def call(self, error: BaseException | None = None) -> None:
        """Make one call that raises ``error`` or succeeds."""
        with self.breaker.watch():
            self.calls += 1
            if error is not None:
                raise error

    def fail(self, times: int) -> None:
        """Make so many calls that are unavailable."""
        for _ in range(times):
            with pytest.raises(KeyUnavailable):
                self.call(KeyUnavailable("away"))

    def opened(self) -> Region:
        """Fail until it is open."""
        self.fail(OPENS_AFTER)
        return self


def test_it_opens_after_a_run_of_unavailable_answers_and_not_before() -> None:
    """One answer of any other kind begins the run anew."""
    region = Region()
    region.fail(OPENS_AFTER - 1)
    region.call()
    region.fail(OPENS_AFTER - 1)
    assert region.breaker.closed
    assert region.seen.events == []
    region.fail(1)
    assert not region.breaker.closed
    (opened,) = region.seen.of(BreakerOpened)
    assert (opened.region, opened.failures) == (REGION, OPENS_AFTER)
    assert FIRST_PAUSE_SECONDS / 2 <= opened.seconds <= FIRST_PAUSE_SECONDS


@pytest.mark.parametrize(
    "error", [KeyRefused("denied"), AuthenticationFailed("x"), UntrustedKey("x"), ZeroDivisionError("defect")]
)
def test_an_answer_that_is_no_outage_does_not_open_it(error: Exception) -> None:
    """Whoever writes junk records or loses a permission takes KMS from nobody else; such an answer ends a run."""
    region = Region()
    for _ in range(3):
        region.fail(OPENS_AFTER - 1)
        with pytest.raises(type(error)):
            region.call(error)
    assert region.breaker.closed
    assert region.seen.events == []


def test_while_open_calls_fail_at_once_and_say_since_when() -> None:
    """No call is made; the error names the breaker, the region, when it opened and when it probes."""
    region = Region().opened()
    before = region.calls
    with pytest.raises(KeyUnavailable) as caught:
        region.call()
    assert region.calls == before
    text = str(caught.value)
    assert re.search(rf"{REGION}: circuit breaker open since \d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00, next probe", text)
    assert caught.value.remedy


def test_one_probe_goes_out_and_closes_it() -> None:
    """While it is under way no other call goes out."""
    region = Region().opened()
    region.clock.advance(FIRST_PAUSE_SECONDS)
    with region.breaker.watch(), pytest.raises(KeyUnavailable, match="circuit breaker"):
        region.call()
    assert region.breaker.closed
    (closed,) = region.seen.of(BreakerClosed)
    assert (closed.region, closed.seconds) == (REGION, FIRST_PAUSE_SECONDS)
    region.call()


def test_the_answer_to_a_probe_may_be_a_refusal() -> None:
    """KMS is there, and that is what the breaker asks."""
    region = Region().opened()
    region.clock.advance(FIRST_PAUSE_SECONDS)
    with pytest.raises(KeyRefused):
        region.call(KeyRefused("denied"))
    assert region.breaker.closed


def test_pauses_grow_to_a_limit_and_are_told_once() -> None:
    """Each failed probe doubles the pause; half of it at least is kept, so that probes stay rare."""
    region = Region().opened()
    pause = FIRST_PAUSE_SECONDS
    for _ in range(8):
        with pytest.raises(KeyUnavailable, match="circuit breaker"):
            region.call()
        region.clock.advance(pause * 0.499)
        with pytest.raises(KeyUnavailable, match="circuit breaker"):
            region.call()
        region.clock.advance(pause * 0.501)
        region.fail(1)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
    assert region.calls == OPENS_AFTER + 8
    assert len(region.seen.events) == 1
    region.clock.advance(LONGEST_PAUSE_SECONDS)
    region.call()
    region.opened()
    assert region.seen.of(BreakerOpened)[1].seconds <= FIRST_PAUSE_SECONDS


def test_an_interrupted_probe_leaves_the_next_one_to_another_caller() -> None:
    """It is not taken for an answer, and the breaker does not wait for it for ever."""
    region = Region().opened()
    region.clock.advance(FIRST_PAUSE_SECONDS)
    with pytest.raises(KeyboardInterrupt):
        region.call(KeyboardInterrupt())
    assert not region.breaker.closed
    region.call()
    assert region.breaker.closed


def test_a_call_from_before_it_opened_decides_nothing() -> None:
    """Neither its success nor its failure moves an open breaker."""
    region = Region()
    early = [region.breaker.watch() for _ in range(2)]
    for call in early:
        call.__enter__()
    region.opened()
    early[0].__exit__(None, None, None)
    assert not region.breaker.closed
    with pytest.raises(KeyUnavailable, match="late"):
        error = KeyUnavailable("late")
        if not early[1].__exit__(KeyUnavailable, error, None):
            raise error
    region.clock.advance(FIRST_PAUSE_SECONDS)
    region.call()
    assert region.breaker.closed


def test_a_hanging_call_holds_up_no_other() -> None:
    """The lock is not held during a call."""
    region = Region()
    with region.breaker.watch():
        other = threading.Thread(target=region.call)
        other.start()
        other.join(30)
    assert region.calls == 1


def test_an_observer_may_call_the_region() -> None:
    """It is told without the lock."""
    region = Region()
    told: list[type] = []

    def observer(event: object) -> None:
        told.append(type(event))
        with pytest.raises(KeyUnavailable):
            region.call()

    region.breaker = RegionBreaker(REGION, region.clock, observer)
    region.opened()
    assert told == [BreakerOpened]


def test_each_region_has_a_breaker_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A region that is away stops no call to another one."""
    use_fake_credentials(monkeypatch)
    clock, seen = ManualClock(), CollectingObserver()
    with KMSServer(region=REGION) as server:
        here, there = server.create_key(), server.create_key(region="us-east-1")
        provider = AWSKMSKeyProvider(here, endpoint_url=server.url, trusted_keys=[there], clock=clock, observer=seen)
        other = AWSKMSKeyProvider(there, endpoint_url=server.url)
        made = other.generate_data_key(CONTEXT)
        server.fail("KMSInternalException", region=REGION)
        for _ in range(3):
            with pytest.raises(KeyUnavailable):
                provider.generate_data_key(CONTEXT)
        assert server.count("GenerateDataKey", "KMSInternalException") == OPENS_AFTER
        (encrypted,) = made.encrypted
        assert provider.decrypt_data_key(encrypted, there, CONTEXT) == made.plaintext
        assert [event.region for event in seen.of(BreakerOpened)] == [REGION]
        server.heal()
        clock.advance(FIRST_PAUSE_SECONDS)
        provider.generate_data_key(CONTEXT)
        assert [event.region for event in seen.of(BreakerClosed)] == [REGION]
        provider.close()
        other.close()

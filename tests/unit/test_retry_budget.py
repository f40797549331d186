"""What a process may ask of a KMS that fails: per operation, per region, after a refusal. See docs/operations.md."""

from __future__ import annotations

import random
import time
from contextlib import suppress

import pytest

from streamcrypt.decryptor import Decryptor
from streamcrypt.encryptor import Encryptor
from streamcrypt.errors import KeyRefused, KeyUnavailable, StreamcryptError
from streamcrypt.events import KeyServiceCalled
from streamcrypt.keys.aws_kms.breaker import OPENS_AFTER
from streamcrypt.keys.aws_kms.calls import ATTEMPTS, BUDGET_SECONDS, RETRY_BURST, RETRY_SHARE, RegionCalls
from streamcrypt.keys.aws_kms.refusals import PROBE_SECONDS
from streamcrypt.testing import CollectingObserver, ManualClock
from tests.kms import REGION

CONTEXT = {"streamcrypt:topic": "payments"}
MOST_IN_THE_FIRST_MINUTE = 12
MOST_IN_EVERY_OTHER_MINUTE = 4


pytestmark = pytest.mark.usefixtures("fake_credentials")


class Calls:
    """Operations whose waits are written down instead of waited."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.made = 0
        self.region = RegionCalls(REGION, ManualClock(), CollectingObserver(), sleep=self.waits.append)

    def attempt(self, error: StreamcryptError | None) -> str:
        """One attempt, counted."""
        self.made += 1
        if error is not None:
            raise error
        return "ok"


# ---- one operation ----


def test_an_operation_makes_three_attempts_with_full_jitter():
    """The waits are by chance from nothing to 0.2 and 0.4 seconds."""
    waits = []
    for _ in range(200):
        calls = Calls()
        with pytest.raises(KeyUnavailable, match="away"):
            calls.region.run(lambda calls=calls: calls.attempt(KeyUnavailable("away")))
        assert calls.made == ATTEMPTS
        waits.append(calls.waits)
    first, second = zip(*waits, strict=True)
    assert min(first) < 0.04
    assert 0.16 < max(first) <= 0.2
    assert min(second) < 0.08
    assert 0.32 < max(second) <= 0.4


@pytest.mark.parametrize("error", [KeyRefused("denied"), StreamcryptError("record")])
def test_what_no_retry_mends_is_not_retried(error):
    """Refusals and faults of the record."""
    calls = Calls()
    with pytest.raises(type(error)):
        calls.region.run(lambda: calls.attempt(error))
    assert (calls.made, calls.waits) == (1, [])


def test_no_attempt_begins_after_the_budget(monkeypatch):
    """A slow failure is the last one."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    calls = Calls()

    def slow():
        nonlocal now
        now += BUDGET_SECONDS
        calls.attempt(KeyUnavailable("timed out"))

    with pytest.raises(KeyUnavailable, match="timed out"):
        calls.region.run(slow)
    assert calls.made == 1


def test_the_attempts_of_one_operation_are_all_there_are(server, provider_of, observer):
    """None is added by botocore, and each attempt is an event."""
    provider = provider_of(server.create_key())
    server.fail("ThrottlingException", count=2)
    provider.generate_data_key(CONTEXT)
    assert server.count("GenerateDataKey") == 3
    outcomes = [event.outcome for event in observer.of(KeyServiceCalled)]
    assert outcomes == ["ThrottlingException", "ThrottlingException", "ok"]


# ---- one region ----


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_retries_are_a_fifth_of_the_operations_in_the_long_run(share):
    """Whatever share of the calls is throttled: 1,000 operations make no more than 1,210 calls."""
    calls, chance, operations = Calls(), random.Random(7), 1000
    for _ in range(operations):
        try:
            calls.region.run(lambda: calls.attempt(KeyUnavailable("slow") if chance.random() < share else None))
        except KeyUnavailable:
            calls.region.breaker = Calls().region.breaker  # this is about retries
    assert operations <= calls.made <= operations * (1 + RETRY_SHARE) + RETRY_BURST


def test_a_throttled_region_is_not_stormed(server, provider_of):
    """Over HTTP, with half of the calls throttled."""
    provider, operations = provider_of(server.create_key()), 40
    server.fail("ThrottlingException", fraction=0.5)
    for _ in range(operations):
        with suppress(KeyUnavailable):
            provider.generate_data_key(CONTEXT)
    assert server.count("GenerateDataKey") <= operations * (1 + RETRY_SHARE) + RETRY_BURST


@pytest.mark.parametrize("topics", [1, 12])
def test_an_outage_costs_the_same_few_calls_for_any_number_of_topics(server, provider_of, clock, topics):
    """12 calls in the first minute, 4 in each after it, with a record for each topic five times a second."""
    provider = provider_of(server.create_key())
    with Encryptor(provider, clock=clock) as writer:
        server.fail("ServiceUnavailable")
        minutes = []
        for _ in range(4):
            server.forget_calls()
            for _ in range(300):
                for topic in range(topics):
                    with pytest.raises(KeyUnavailable):
                        writer.encrypt(f"t{topic}", b"v")
                clock.advance(0.2)
            minutes.append(len(server.calls))
    assert OPENS_AFTER < minutes[0] <= MOST_IN_THE_FIRST_MINUTE
    assert all(2 <= calls <= MOST_IN_EVERY_OTHER_MINUTE for calls in minutes[1:])


def test_readers_are_bound_by_the_same_numbers(server, provider_of, clock):
    """Thirty data keys to unwrap, each asked for again and again."""
    provider = provider_of(server.create_key())
    with Encryptor(provider, clock=clock) as writer:
        records = [(f"t{n}", writer.encrypt(f"t{n}", b"v", b"k")) for n in range(30)]
    server.fail("KMSInternalException")
    server.forget_calls()
    with Decryptor(provider, clock=clock) as reader:
        for _ in range(120):
            for topic, (value, headers) in records:
                with pytest.raises(KeyUnavailable):
                    reader.decrypt(topic, value, b"k", headers)
            clock.advance(0.5)
        assert len(server.calls) <= MOST_IN_THE_FIRST_MINUTE
        server.heal()
        clock.advance(30)
        assert all(reader.decrypt(topic, value, b"k", headers)[0] == b"v" for topic, (value, headers) in records)


# ---- after a refusal ----


@pytest.mark.parametrize("code", ["DisabledException", "ExpiredTokenException", "NotFoundException"])
def test_a_refused_key_is_asked_for_slowly_whatever_the_context(server, provider_of, clock, code):
    """One call in ten seconds; the error says the same meanwhile; once mended it goes on by itself."""
    provider = provider_of(server.create_key())
    server.fail(code)
    errors = set()
    for step in range(600):
        with pytest.raises(KeyRefused, match=code) as caught:
            provider.generate_data_key({"streamcrypt:topic": f"t{step % 7}"})
        errors.add((str(caught.value), caught.value.remedy))
        clock.advance(0.1)
    assert 5 <= len(server.calls) <= 60 / PROBE_SECONDS
    assert len(errors) == 1
    server.heal()
    clock.advance(1.25 * PROBE_SECONDS)
    assert provider.generate_data_key(CONTEXT)
    assert provider.generate_data_key(CONTEXT)


def test_a_denial_right_after_the_start_is_asked_about_again_soon(server, provider_of, clock):
    """A grant just made is not known everywhere at once: three more tries within nine seconds, then slowly."""
    provider = provider_of(server.create_key())
    server.fail("AccessDeniedException")
    made = []
    for _ in range(600):
        with pytest.raises(KeyRefused):
            provider.generate_data_key(CONTEXT)
        made.append(len(server.calls))
        clock.advance(0.1)
    assert made[0] == 1
    assert made[90] == 4
    assert made[-1] <= 4 + 50 / PROBE_SECONDS


def test_a_denial_later_on_is_final_until_the_next_slow_probe(server, provider_of, clock):
    """The short tries are for the start."""
    provider = provider_of(server.create_key())
    provider.generate_data_key(CONTEXT)
    clock.advance(60)
    server.fail("AccessDeniedException")
    server.forget_calls()
    for _ in range(int(PROBE_SECONDS * 10)):
        with pytest.raises(KeyRefused):
            provider.generate_data_key(CONTEXT)
        clock.advance(0.099)
    assert len(server.calls) == 1


def test_a_denial_is_about_one_encryption_context(server, provider_of):
    """A policy may allow one topic and not another."""
    provider = provider_of(server.create_key())
    server.fail("AccessDeniedException", count=1)
    with pytest.raises(KeyRefused):
        provider.generate_data_key({"streamcrypt:topic": "secret"})
    assert provider.generate_data_key(CONTEXT)
    with pytest.raises(KeyRefused):
        provider.generate_data_key({"streamcrypt:topic": "secret"})
    assert len(server.calls) == 2


def test_a_refusal_to_mint_stops_no_opening(server, provider_of):
    """Each operation for itself."""
    provider = provider_of(server.create_key())
    made = provider.generate_data_key(CONTEXT)
    server.fail("AccessDeniedException", "GenerateDataKey")
    with pytest.raises(KeyRefused):
        provider.generate_data_key(CONTEXT)
    ((encrypted, key_id),) = provider.trusted(made.encrypted)
    assert provider.decrypt_data_key(encrypted, key_id, CONTEXT) == made.plaintext


def test_refused_credentials_are_read_anew_before_the_next_probe(server, provider_of, clock, monkeypatch):
    """So a renewed file or environment needs no restart."""
    provider = provider_of(server.create_key())
    server.fail("ExpiredTokenException", count=1)
    with pytest.raises(KeyRefused):
        provider.generate_data_key(CONTEXT)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIARENEWED")
    clock.advance(1.25 * PROBE_SECONDS)
    provider.generate_data_key(CONTEXT)
    client = provider._clients.get(REGION)
    assert client._request_signer._credentials.access_key == "AKIARENEWED"


# ---- a bounded wait ----


def test_a_hanging_lookup_of_an_alias_keeps_no_reader_beyond_its_bound(server, provider_of):
    """Neither a record nor ready() waits for DescribeKey longer than max_wait; once it answers, records open."""
    provider = provider_of(server.create_key("alias/payments"))
    with Encryptor(provider) as writer:
        value, headers = writer.encrypt("t", b"v", b"k")
    fresh = provider_of("alias/payments")
    server.hang("DescribeKey", count=1)
    with Decryptor(fresh, max_wait=0.01) as reader:
        with pytest.raises(KeyUnavailable, match="not unwrapped yet"):
            reader.ready()
        with pytest.raises(KeyUnavailable, match="not unwrapped yet"):
            reader.decrypt("t", value, b"k", headers)
        deadline = time.monotonic() + 30
        while True:
            try:
                assert reader.decrypt("t", value, b"k", headers)[0] == b"v"
                break
            except KeyUnavailable:
                assert time.monotonic() < deadline
                time.sleep(0.01)

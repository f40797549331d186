"""Claims about the estimate: hand-computed examples, how it moves with its inputs, and one look at reality."""

from __future__ import annotations

import json
import math
import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from streamcrypt import AWSKMSKeyProvider, Decryptor, Encryptor
from streamcrypt.cli.app import app
from streamcrypt.cli.exits import Exit
from streamcrypt.cost.model import Load, Place, estimate, lz4_overhead, seconds_in_use
from streamcrypt.cost.prices import Prices, request_quota
from streamcrypt.keys.rotation import CachePolicy, RotationPolicy
from streamcrypt.keys.stock import LARGEST
from streamcrypt.testing import KMSServer
from tests.broker import wait_until
from tests.kms import REGION, use_fake_credentials

MESSAGES = RotationPolicy(max_messages=100_000, max_age="30d")
AGE = RotationPolicy(max_messages=2**32, max_age="5m", max_bytes="64GiB")
IRELAND = Place("eu-west-1")
DAY = 86_400
ROOT = Path(__file__).parents[2]
MONTH = 365.25 / 12 * DAY


def load(**changes) -> Load:
    """A load of 1,000 records/s of 1 KiB under one KEK, with 100,000 records a data key."""
    given = Load(rate=1000.0, size=1024, keks=(IRELAND,), rotation=MESSAGES, cache=CachePolicy())
    return replace(given, **changes)


def calls(found) -> dict[tuple[str, str], float]:
    """Calls a second by region and operation."""
    return {(call.region, call.operation): call.per_second for call in found.calls}


# -- how long a data key seals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rotation", "rate", "size", "seconds"),
    [
        (MESSAGES, 1000, 1024, 100),  # 100,000 records
        (RotationPolicy(max_bytes="1GiB", max_age="30d"), 1000, 1024, 1000),  # 1 GiB / 1 KiB = 1,048,576 > 1,000,000
        (RotationPolicy(max_bytes="512MiB", max_age="30d"), 1000, 1024, 524.288),
        (AGE, 1e6, 100, 240),  # the next one is minted at 80 % of the age, and its age runs from there
        (RotationPolicy(max_age=10, max_messages=2**32), 1e6, 100, 5),  # below 20 s the next one is minted at once
        (AGE, 1 / 3600, 100, 3600),  # a record an hour: each gets a data key of its own
        (RotationPolicy(max_messages=1), 50, 100, 0.02),
    ],
)
def test_a_data_key_seals_until_its_first_limit(rotation, rate, size, seconds):
    """Whichever of records, bytes and age comes first, as the issuer mints ahead."""
    assert seconds_in_use(rotation, rate, size) == pytest.approx(seconds, rel=0.1 if rate < 1 else 1e-3)


def test_nothing_is_minted_for_nothing():
    """No record, no data key."""
    assert seconds_in_use(AGE, 0, 1024) == math.inf


# -- examples ----------------------------------------------------------------------------------------------------------


def test_one_writer_by_hand():
    """1,000 records/s at 100,000 a data key: one GenerateDataKey every 100 s, and one Decrypt a reader."""
    found = estimate(load(readers=3), Prices())
    assert found.data_keys == pytest.approx(0.01)
    assert found.records_per_key == pytest.approx(100_000)
    assert calls(found) == {
        ("eu-west-1", "GenerateDataKey"): pytest.approx(0.01),
        ("eu-west-1", "Decrypt"): pytest.approx(0.03),
    }
    assert found.quotas == {"eu-west-1": pytest.approx(0.04 / 100_000)}
    assert found.requests_month == pytest.approx(0.04 * MONTH)
    assert found.requests_money == pytest.approx((0.04 * MONTH - 20_000) / 10_000 * 0.03)
    assert found.keys_money == 1.0


def test_a_fleet_by_hand():
    """20 sidecars and 50 readers with data keys of five minutes: as many calls as the arithmetic on paper says."""
    fleet = load(rate=200_000.0, rotation=AGE, writers=20, readers=50, partitions=60)
    found = estimate(fleet, Prices(), quota=10_000)
    minted = 20 / 240
    assert found.data_keys == pytest.approx(minted, rel=1e-3)
    assert found.replay.data_keys == pytest.approx(minted * 7 * DAY, rel=1e-3)
    assert found.replay.decrypts == pytest.approx(minted * 7 * DAY * 50, rel=1e-3)
    assert found.replay.at_quota == pytest.approx(minted * 7 * DAY * 50 / 10_000, rel=1e-3)
    assert found.replay.money == pytest.approx(minted * 7 * DAY * 50 / 10_000 * 0.03, rel=1e-3)


def test_every_further_kek_is_an_encrypt_in_its_region():
    """The first KEK mints and opens; each other one wraps, and every replica is a key to pay."""
    keks = (Place("eu-west-1", keys=2), Place("eu-central-1"), Place("eu-central-1"))
    found = estimate(load(keks=keks), Prices(), rotations=5)
    assert calls(found) == {
        ("eu-west-1", "GenerateDataKey"): pytest.approx(0.01),
        ("eu-central-1", "Encrypt"): pytest.approx(0.02),
        ("eu-west-1", "Decrypt"): pytest.approx(0.01),
    }
    assert found.keys_money == 4 * (1 + 2)  # the first two rotations of a key cost, later ones do not


def test_more_writers_than_partitions_change_nothing():
    """A partition is written by one sidecar, and one without partitions mints nothing."""
    assert estimate(load(writers=50, partitions=6), Prices()) == estimate(load(writers=6, partitions=6), Prices())


def test_topics_writers_and_tenants_each_have_data_keys_of_their_own():
    """A data key belongs to one writer, one topic and one KEK."""
    aged = load(rate=1e5, size=1, rotation=AGE)
    one = estimate(aged, Prices()).data_keys
    many = estimate(replace(aged, topics=2, writers=3, tenants=5), Prices()).data_keys
    assert many == pytest.approx(30 * one, rel=1e-3)


def test_a_data_key_in_use_longer_than_the_ttl_is_opened_again():
    """A reader keeps an opened data key for the ttl, not for as long as it is in use."""
    long_lived = load(rotation=RotationPolicy(max_messages=2**32, max_age="1h"), rate=1e6, size=1)
    found = calls(estimate(long_lived, Prices()))
    assert found["eu-west-1", "Decrypt"] == pytest.approx(4 * found["eu-west-1", "GenerateDataKey"])


def test_looking_up_has_a_quota_of_its_own():
    """DescribeKey costs money and no share of the quota of Decrypt."""
    found, without = estimate(load(looks=1.0), Prices()), estimate(load(), Prices())
    assert calls(found)["eu-west-1", "DescribeKey"] == pytest.approx(1.0)
    assert found.quotas == without.quotas
    assert found.requests_money > without.requests_money


def test_a_process_looks_at_one_tenant_a_second_at_most():
    """As LookPace has it: a thousand tenants cost no more looks than sixty."""
    found = [calls(estimate(load(looks=1 / 60, writers=2, tenants=n), Prices())) for n in (1, 30, 1000)]
    assert [rate["eu-west-1", "DescribeKey"] for rate in found] == pytest.approx([2 / 60, 1.0, 2.0])


def test_bytes_on_the_wire():
    """The header repeats in every record, and lz4 takes most of it off the wire."""
    found = estimate(load(header=292), Prices())
    assert found.wire == 1000 * 334
    assert found.wire_lz4 == pytest.approx(1000 * lz4_overhead(292, 1024))


@pytest.mark.parametrize(
    ("header", "size", "measured"),
    [
        (292, 100, 22.2),
        (950, 100, 45.9),
        (292, 1024, 31.5),
        (950, 1024, 61.6),
        (292, 10_240, 162.9),
        (950, 10_240, 280.4),
        (292, 65_536, 334.1),
        (950, 65_536, 992.1),
    ],
)
def test_lz4_leaves_what_was_measured(header, size, measured):
    """Bytes that librdkafka sent a record more than for plaintext: the formula is within 20 B, and not below."""
    assert measured - 0.2 <= lz4_overhead(header, size) <= measured + 20


@pytest.mark.parametrize(
    ("changes", "quota", "word"),
    [
        ({"rotation": RotationPolicy(max_messages=1)}, 1000, "quota"),
        ({"cache": CachePolicy(max_entries=5), "topics": 10}, None, "max_entries"),
        ({"rotation": RotationPolicy(max_messages=1000)}, None, "in use for"),
        ({"retention": 400 * DAY, "rotation": RotationPolicy(max_age="1m")}, None, "cold replay"),
    ],
    ids=["quota", "cache", "short life", "replay"],
)
def test_what_is_too_fast_is_told(changes, quota, word):
    """Each warning names what to change."""
    assert any(word in warning for warning in estimate(load(**changes), Prices(), quota).warnings)
    assert estimate(load(), Prices()).warnings == ()


@pytest.mark.parametrize(
    ("region", "quota"), [("eu-west-1", 100_000), ("eu-central-1", 20_000), ("eu-north-1", 10_000)]
)
def test_quotas_differ_by_region(region, quota):
    """As AWS documents them."""
    assert request_quota(region) == quota


# -- properties --------------------------------------------------------------------------------------------------------

rates = st.floats(0.001, 1e6)
sizes = st.integers(1, 10**6)
ages = st.floats(1, 10**6)
counts = st.integers(1, 2**32)


@given(rates, rates, sizes, counts, ages)
def test_more_records_never_mean_fewer_calls(slow, fast, size, messages, age):
    """Calls a second grow with the rate."""
    slow, fast = sorted((slow, fast))
    rotation = RotationPolicy(max_messages=messages, max_age=age)
    assert seconds_in_use(rotation, fast, size) <= seconds_in_use(rotation, slow, size) * (1 + 1e-6)


@given(rates, sizes, sizes, counts, ages)
def test_larger_records_never_mean_fewer_calls(rate, small, large, messages, age):
    """Calls a second grow with the size."""
    small, large = sorted((small, large))
    rotation = RotationPolicy(max_messages=messages, max_age=age)
    assert seconds_in_use(rotation, rate, large) <= seconds_in_use(rotation, rate, small) * (1 + 1e-6)


@given(rates, sizes, counts, counts, ages)
def test_more_records_a_data_key_never_mean_more_calls(rate, size, few, many, age):
    """Calls a second fall as max_messages rises."""
    few, many = sorted((few, many))
    short = seconds_in_use(RotationPolicy(max_messages=few, max_age=age), rate, size)
    assert short <= seconds_in_use(RotationPolicy(max_messages=many, max_age=age), rate, size) * (1 + 1e-6)


@given(rates, sizes, counts, ages)
def test_a_data_key_never_seals_past_its_limits(rate, size, messages, age):
    """Neither more records than max_messages, nor longer than max_age and the pause to the next record."""
    used = seconds_in_use(RotationPolicy(max_messages=messages, max_age=age), rate, size)
    assert used * rate <= messages * (1 + 1e-6)
    assert used <= age + 1 / rate + 1e-6


@given(
    rate=rates,
    readers=st.integers(1, 100),
    more=st.integers(0, 100),
    writers=st.integers(1, 20),
    topics=st.integers(1, 20),
)
def test_more_of_anything_never_costs_less(rate, readers, more, writers, topics):
    """Readers, topics and retention only ever add."""
    small = estimate(load(rate=rate, readers=readers, writers=writers, topics=topics, partitions=64), Prices())
    for changes in ({"readers": readers + more}, {"topics": topics + more}, {"retention": (7 + more) * DAY}):
        given = {"rate": rate, "readers": readers, "writers": writers, "topics": topics, "partitions": 64}
        large = estimate(load(**{**given, **changes}), Prices())
        assert large.requests_money >= small.requests_money - 1e-9
        assert large.replay.decrypts >= small.replay.decrypts * (1 - 1e-9)


# -- reality -----------------------------------------------------------------------------------------------------------


def test_calls_of_a_run_are_those_estimated(monkeypatch):
    """Sealing and opening on the double makes as many calls as the formulas say."""
    use_fake_credentials(monkeypatch)
    topics, per_key, readers, records = [f"topic-{number}" for number in range(3)], 50, 2, 400
    rotation, rate = RotationPolicy(max_messages=per_key, max_age="1h"), 1000.0
    found = estimate(
        Load(rate, 100, (Place(REGION),), rotation, CachePolicy(), topics=len(topics), readers=readers), Prices()
    )
    seconds = records * len(topics) / rate
    minted = round(calls(found)[REGION, "GenerateDataKey"] * seconds, 6)
    opened = round(calls(found)[REGION, "Decrypt"] * seconds, 6)
    with KMSServer() as server:
        arn = server.create_key()
        with closing(AWSKMSKeyProvider(arn, region=REGION, endpoint_url=server.url)) as keys:
            with Encryptor(keys, rotation) as sealer:
                sealed = [(topic, *sealer.encrypt(topic, b"record")) for topic in topics for _ in range(records)]
                # The next data key of each topic lies ready at the end, and where KMS was slow some more.
                wait_until(lambda: server.count("GenerateDataKey", "ok") >= minted + len(topics), "the next data keys")
            for _ in range(readers):
                with Decryptor(keys) as opener:
                    for topic, value, headers in sealed:
                        opener.decrypt(topic, value, None, headers)
        assert server.count("GenerateDataKey") <= minted + LARGEST * len(topics)
        assert server.count("Decrypt") == opened


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_prints_the_estimate_as_json():
    """The document has what it was made from, the calls, and where prices and quotas come from."""
    result = CliRunner().invoke(
        app, ["cost", str(ROOT / "config" / "encrypt.yaml"), "--format", "json", "--readers", "4"]
    )
    assert result.exit_code == Exit.DONE
    tree = json.loads(result.stdout)
    assert tree["from"]["readers"] == 4
    assert tree["from"]["topics"] == 1
    assert 250 < tree["from"]["header"] < 400
    assert {call["operation"] for call in tree["calls"]} == {"GenerateDataKey", "Decrypt", "DescribeKey"}
    assert {call["region"] for call in tree["calls"]} == {"eu-west-1"}
    assert tree["calls"][0]["per_day"] == pytest.approx(tree["calls"][0]["per_second"] * DAY)
    assert set(tree["sources"]) == {"prices", "quotas"}


@pytest.mark.parametrize(
    ("tenants", "dollars"), [([], 3.0), (["--tenants", "2"], 3.0), (["--tenants", "1000"], 1000.0)]
)
def test_every_tenants_kek_is_paid(tenants, dollars):
    """Those that are mapped, and as many as are asked for where these are more."""
    config = str(ROOT / "config" / "tenants.yaml")
    result = CliRunner().invoke(app, ["cost", config, "--format", "json", *tenants])
    assert json.loads(result.stdout)["keys_money"] == dollars


def test_the_command_prints_a_table():
    """Calls, quota, money, bytes and the replay are on one screen."""
    result = CliRunner().invoke(app, ["cost", str(ROOT / "config" / "both.yaml"), "--quota", "1", "--rate", "1e6"])
    assert result.exit_code == Exit.DONE
    for word in ("GenerateDataKey", "Decrypt", "cold replay", "lz4", "warning", "prices:"):
        assert word in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rate", "0"],
        ["--size", "nonsense"],
        ["--format", "html"],
        ["--rotations", "-1"],
        ["--readers", "0"],
        ["--price", "-1"],
    ],
)
def test_impossible_arguments_exit_2(arguments):
    """A number that cannot be is refused, with exit code 2 and nothing on standard output."""
    result = CliRunner().invoke(app, ["cost", str(ROOT / "config" / "encrypt.yaml"), *arguments])
    assert result.exit_code == Exit.USAGE
    assert result.stdout == ""


def test_every_option_is_documented():
    """docs/cost.md names each option of the command."""
    options = set(re.findall(r"--[a-z-]+", CliRunner().invoke(app, ["cost", "--help"]).stdout)) - {"--help"}
    page = (ROOT / "docs" / "cost.md").read_text()
    assert [option for option in sorted(options) if option not in page] == []


def test_a_local_keyring_costs_nothing():
    """The local provider makes no call, and says so."""
    result = CliRunner().invoke(app, ["cost", str(ROOT / "config" / "local-development.yaml")])
    assert result.exit_code == Exit.USAGE
    assert "local keyring" in result.stderr

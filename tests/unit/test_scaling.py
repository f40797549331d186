"""Claims about the scaling model: counts by hand, how rows grow, what it warns of, and that the page shows it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.scaling_page import PAGE, filled
from streamcrypt.cli.app import app
from streamcrypt.cli.exits import Exit
from streamcrypt.cost.measured import CPU
from streamcrypt.cost.model import MONTH
from streamcrypt.cost.scaling import BROKER_PARTITIONS, SCALES, Fleet, Scale, grow
from streamcrypt.keys.rotation import RotationPolicy

BY_AGE = RotationPolicy(max_messages=2**32, max_age="5m", max_bytes="64GiB")
CONFIG = """
kafka: {bootstrap.servers: broker:9092}
keys: {provider: %s}
pipelines: [{name: a, mode: encrypt, from: a, to: b}]
"""


def row(rate: int, **changes) -> Scale:
    """The row of one rate."""
    return grow(replace(Fleet(rotation=BY_AGE), **changes), (rate,)).rows[0]


def test_cores_and_workers_are_the_measured_cpu_of_a_record_with_headroom():
    """CPU a record times rate, over the share of a core that is planned with, rounded up."""
    found = row(1_000_000, modes=("encrypt",), headroom=0.5)
    cost = CPU["encrypt", "exactly_once"].at(1024)
    assert found.cores == {"encrypt": pytest.approx(cost)}
    assert found.workers == {"encrypt": -int(-cost // 0.5)}
    assert found.pods == -(-found.workers["encrypt"] // 4)
    assert found.partitions == max(6, 2 * found.workers["encrypt"])


def test_every_worker_and_topic_mints_one_data_key_in_four_minutes():
    """With max_age 5m the next data key is minted after 240 s."""
    found = row(10_000_000, modes=("encrypt",), topics=3, partitions=3000)
    calls = {call.operation: call.per_second for call in found.estimate.calls}
    assert calls["GenerateDataKey"] == pytest.approx(3 * found.workers["encrypt"] / 240, rel=0.02)
    assert calls["Decrypt"] == 0


def test_readers_that_keep_partitions_meet_the_data_keys_of_their_own_partitions():
    """Two partitions a writer are read by two members; keyed anew, every member meets every data key."""
    kept, anew = row(10_000_000), row(10_000_000, kept=False)
    minted = kept.estimate.data_keys
    decrypts = [{c.operation: c.per_second for c in one.estimate.calls}["Decrypt"] for one in (kept, anew)]
    times = -(-300 // 285) if kept.estimate.seconds_in_use > 285 else 1
    assert decrypts == [pytest.approx(minted * 2 * times), pytest.approx(minted * anew.workers["decrypt"] * times)]


def test_a_second_group_of_readers_doubles_decrypts_and_readers():
    """Fan-out is a factor on whatever readers do."""
    one, two = row(1_000_000), row(1_000_000, fan_out=2)
    assert two.workers["decrypt"] == 2 * one.workers["decrypt"]
    assert two.restart_decrypts == 2 * one.restart_decrypts


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
@pytest.mark.parametrize("kept", [True, False])
def test_nothing_shrinks_as_the_rate_grows(delivery, kept):
    """Workers, pods, partitions, calls, money and bytes."""
    rows = grow(Fleet(delivery=delivery, kept=kept)).rows
    for a, b in pairwise(rows):
        assert sum(a.workers.values()) <= sum(b.workers.values())
        assert a.pods <= b.pods
        assert a.partitions <= b.partitions
        assert a.kms_calls <= b.kms_calls
        assert a.money <= b.money
        assert a.network < b.network
        assert a.header < b.header
        assert a.transactions <= b.transactions
    assert [one.rate for one in rows] == list(SCALES)


def test_compute_money_is_core_hours_and_memory():
    """One worker is one core and a quarter of a GB, all month."""
    found = row(1_000, modes=("encrypt",), core_hour=1.0, gb_hour=0.0)
    assert found.compute_money == pytest.approx(MONTH / 3600)


def test_too_few_partitions_are_named_with_what_they_allow():
    """A partition has one worker."""
    warnings = " ".join(row(10_000_000, partitions=6).warnings)
    assert "6 partitions feed 6 workers at most" in warnings


def test_short_lives_and_every_reader_everywhere_are_over_the_quota_and_said_so():
    """The quota warning of the calls behind a fleet comes through."""
    short = RotationPolicy(max_messages=100_000, max_age="5m")
    found = row(100_000_000, rotation=short, kept=False)
    assert max(found.estimate.quotas.values()) > 1
    assert any("KMS request quota" in warning for warning in found.warnings)
    assert any("raise max_messages" in warning for warning in found.warnings)


def test_large_groups_commits_and_partitions_are_warned_of():
    """At a hundred million records a second a single group is too much."""
    warnings = " ".join(row(100_000_000).warnings)
    assert "members in a group" in warnings
    assert "commits/s at the coordinator" in warnings
    assert f"more than {BROKER_PARTITIONS:,}" in warnings or "partition replicas" in warnings


def test_a_thousand_records_a_second_need_no_advice():
    """One worker of each mode does."""
    found = row(1_000)
    assert (found.workers, found.warnings) == ({"encrypt": 1, "decrypt": 1}, ())


def test_the_page_shows_what_the_model_gives():
    """Run ``python -m bench.scaling_page`` after a change."""
    text = PAGE.read_text(encoding="utf-8")
    assert filled(text) == text
    assert text.count("<!-- table: ") == 5


def test_the_command_prints_a_row_for_each_rate(tmp_path: Path):
    """From a configuration; a local keyring has no costs."""
    path = tmp_path / "c.yaml"
    arn = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    path.write_text(CONFIG % f'aws-kms, key_id: "{arn}"')
    done = CliRunner().invoke(app, ["cost", str(path), "--scale"])
    assert done.exit_code == Exit.DONE, done.output
    assert all(f"{rate:,}" in done.output for rate in SCALES)
    path.write_text(CONFIG % "local, keyring: k")
    assert CliRunner().invoke(app, ["cost", str(path), "--scale"]).exit_code != Exit.DONE

"""The short form of the chaos suite: a minute of what ``make chaos`` does for half an hour.

A failure names its seed; ``CHAOS_SEED`` repeats it.
"""

from __future__ import annotations

import contextlib
import os
import random

import pytest

from tests.broker import private_broker
from tests.chaos.closing import fail_closed
from tests.chaos.poison import KINDS
from tests.chaos.poisoning import poisoned
from tests.chaos.scenarios import Context, broker_restarts, kills, kms_outages

pytestmark = pytest.mark.broker

SEED = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(10**6))


@pytest.fixture(scope="module")
def own_broker():
    """One broker for this module, which may stop and kill it."""
    with contextlib.closing(private_broker()) as broker:
        yield broker


@pytest.fixture
def context(own_broker, tmp_path):
    return Context(own_broker, tmp_path, SEED)


def _assert_held(outcome) -> None:
    assert not outcome.findings, outcome.tell()


def test_kills_at_random_instants_neither_lose_nor_double_nor_reorder_a_record(context):
    outcome = kills(context, records=8_000, kills=4)
    _assert_held(outcome)
    assert outcome.figures["process starts"] == 5


def test_a_broker_restart_under_load_costs_no_record(context):
    _assert_held(broker_restarts(context, records=6_000, restarts=1))


def test_kms_outages_cost_no_record_and_no_storm_of_calls(context):
    _assert_held(kms_outages(context, seconds=15, rate=500, pace=0.15))


def test_each_poisoned_record_becomes_one_true_dead_letter_and_replay_brings_back_the_mended(context):
    """Two of every kind, and every sound neighbour arrives."""
    _assert_held(poisoned(context, records=2_000, poison=2 * len(KINDS), rounds=1))


def test_what_cannot_pass_leaves_no_plaintext_behind(context):
    _assert_held(fail_closed(context, records=100, plays=["stripped headers", "sealed already"]))

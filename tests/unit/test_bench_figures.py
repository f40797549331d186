"""What the benchmark says of its samples."""

from __future__ import annotations

import pytest

from bench.figures import added, collect, names_under, percentile, ratio, spread
from bench.targets import TARGETS, judge


def test_a_median_comes_with_its_quartiles():
    found = spread([3.0, 1.0, 2.0, 5.0, 4.0])
    assert (found.low, found.median, found.high, found.rounds) == (2.0, 3.0, 4.0, 5)


def test_a_single_round_has_no_spread():
    found = spread([7.0])
    assert (found.low, found.median, found.high, found.rounds) == (7.0, 7.0, 7.0, 1)


def test_nothing_has_no_median():
    with pytest.raises(ValueError, match="no value"):
        spread([])


def test_a_ratio_is_taken_round_by_round():
    # One slow round takes both figures down alike, and the ratio not at all.
    samples = {"ours": [80.0, 8.0, 80.0], "copy": [100.0, 10.0, 100.0]}
    assert ratio(samples, "ours", "copy") == pytest.approx([0.8, 0.8, 0.8])


def test_a_ratio_of_what_was_not_measured_is_empty():
    assert ratio({"ours": [1.0]}, "ours", "copy") == []


def test_what_is_added_can_be_given_in_units_of_the_same_round():
    samples = {"wrapper": [3.0, 6.0], "plain": [1.0, 2.0], "call": [0.5, 1.0]}
    assert added(samples, "wrapper", "plain") == [2.0, 4.0]
    assert added(samples, "wrapper", "plain", "call") == [4.0, 4.0]


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 50), (0.99, 99), (0.999, 100), (1.0, 100)])
def test_a_percentile_is_a_value_that_was_measured(share, value):
    assert percentile(list(range(1, 101)), share) == value


def test_rounds_are_collected_in_order():
    samples: dict[str, list[float]] = {}
    for rate in (1.0, 2.0):
        collect(samples, "loop/copy", {"records_per_s": rate})
    assert samples == {"loop/copy/records_per_s": [1.0, 2.0]}


def test_names_below_a_prefix_come_once_and_in_order():
    samples = ["loop/1024/copy/a", "loop/1024/copy/b", "loop/1024/encrypt/a", "loop/100/copy/a", "loops/x/y"]
    assert names_under(samples, "loop/1024") == ["copy", "encrypt"]
    assert names_under(samples, "loop") == ["1024", "100"]


def _loops(**rates: float) -> dict[str, list[float]]:
    return {f"loop/1024/{name.replace('_', ' ')}/records_per_s": [rate] * 3 for name, rate in rates.items()}


@pytest.mark.parametrize(("rate", "met"), [(79.0, False), (80.0, True), (81.0, True)])
def test_a_lower_limit_is_met_from_the_limit_on(rate, met):
    verdict = judge(_loops(copy=100.0, encrypt=rate))[0]
    assert (verdict.target.limit, verdict.met) == (0.80, met)


@pytest.mark.parametrize(("bytes_", "met"), [(130.0, True), (131.0, False)])
def test_an_upper_limit_is_met_up_to_the_limit(bytes_, met):
    samples = {"loop/100/encrypt/wire_bytes": [bytes_], "loop/100/plain topic/wire_bytes": [100.0]}
    verdicts = {verdict.target.claim: verdict for verdict in judge(samples)}
    assert verdicts["wire bytes above plaintext with lz4, 100 B"].met is met


def test_the_median_decides_not_the_best_round():
    samples = {"loop/1024/encrypt/records_per_s": [99.0, 70.0, 70.0], "loop/1024/copy/records_per_s": [100.0] * 3}
    assert judge(samples)[0].met is False


def test_what_was_not_measured_is_neither_met_nor_missed():
    assert [(verdict.measured, verdict.met) for verdict in judge({})] == [(None, None)] * len(TARGETS)


def test_confluents_share_is_of_what_its_rule_adds():
    samples = {
        "peer/streamcrypt/encrypt_us": [1.0],
        "peer/Confluent without the rule/encrypt_us": [5.0],
        "peer/Confluent payload encryption/encrypt_us": [15.0],
    }
    verdicts = {verdict.target.claim: verdict for verdict in judge(samples)}
    measured = verdicts["Encryptor.encrypt, share of what Confluent's rule adds"].measured
    assert measured is not None
    assert measured.median == pytest.approx(0.1)


def test_each_target_names_a_section_that_measures_it():
    from bench.core import SECTIONS

    sections = {target.command.removeprefix("python -m bench ") for target in TARGETS}
    assert sections <= set(SECTIONS)

"""Claims about single metrics: what an event adds, what goes with its pipeline, and how several workers are merged."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

import streamcrypt as sc
from streamcrypt import events
from streamcrypt.observe.metrics import Metrics
from streamcrypt.testing import ManualClock


@pytest.fixture
def metrics() -> Metrics:
    """The metrics of a process whose decrypting pipeline has started."""
    metrics = Metrics()
    metrics(events.PipelineStarting("p", "decrypt", "g"))
    return metrics


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """One sample."""
    return metrics.registry.get_sample_value(f"streamcrypt_{name}", labels)


def test_what_was_read_either_passed_or_failed(metrics):
    """Records read are those handed over and those that failed, of which dead letters are counted by themselves too."""
    metrics(events.BatchDone("p", "t", 90, 900, 800, 0, 0.01))
    for action in ("dead_letter", "skip"):
        metrics(events.RecordFailed("p", "t", 0, 7, "AuthenticationFailed", "no", action))
    where = {"pipeline": "p", "topic": "t"}
    assert value(metrics, "records_read_total", **where) == 92
    assert value(metrics, "records_total", **where) == 90
    assert value(metrics, "dead_letters_total", **where) == 1


def test_hits_are_the_records_that_needed_no_new_data_key(metrics):
    """Of 100 records two opened a data key, three are null and five had no envelope: 90 found theirs at hand."""
    for _ in range(2):
        metrics(events.DataKeyOpened("t", "aa", "k", 0.02, shared=False))
    metrics(events.BatchDone("p", "t", 100, 1000, 800, 3, 0.01, 0.005, 5))
    assert value(metrics, "decrypt_cache_hits_total") == 90
    metrics(events.BatchDone("p", "t", 10, 100, 80, 0, 0.01, 0.005))
    assert value(metrics, "decrypt_cache_hits_total") == 100
    assert value(metrics, "transform_seconds_count", pipeline="p", mode="decrypt") == 2


def test_a_sealing_pipeline_has_no_hits():
    """Nothing is looked up in the cache there."""
    metrics = Metrics()
    metrics(events.PipelineStarting("p", "encrypt", "g"))
    metrics(events.BatchDone("p", "t", 100, 1000, 800, 0, 0.01, 0.005))
    assert value(metrics, "decrypt_cache_hits_total") == 0
    assert value(metrics, "transform_seconds_count", pipeline="p", mode="encrypt") == 1


@pytest.mark.parametrize("kind", [events.PartitionsRevoked, events.PartitionsLost], ids=lambda kind: kind.__name__)
def test_the_lag_of_a_partition_goes_with_it(metrics, kind):
    """Another member counts it then: no series of here may add to its."""
    metrics(events.LagMeasured("p", (("t", 0, 17), ("t", 1, 5))))
    metrics(kind("p", (("t", 0),)))
    assert value(metrics, "consumer_lag_records", pipeline="p", topic="t", partition="0") is None
    assert value(metrics, "consumer_lag_records", pipeline="p", topic="t", partition="1") == 5


def test_a_pipeline_that_ends_leaves_no_gauge_behind(metrics):
    """An alert on an old turn of the loop, a lag or a data key's age must not fire for ever after."""
    metrics(events.LoopTurned("p", 1, 0))
    metrics(events.LagMeasured("p", (("t", 0, 17),)))
    metrics(events.DataKeysInUse("p", "out", 1, "aa", 5, 50, 1.0, 0.1))
    metrics(events.DataKeysHeld("p", 4))
    assert value(metrics, "data_key_age_seconds", pipeline="p", topic="out") == 1.0
    metrics(events.PipelineStopped("p", clean=True, records=5))
    left = {
        sample.name
        for family in metrics.registry.collect()
        if family.type == "gauge"
        for sample in family.samples
        if sample.labels.get("pipeline") == "p" and sample.value
    }
    assert left == set()
    assert value(metrics, "loop_turned_timestamp_seconds", pipeline="p") is None


def test_brokers_are_reachable_again_once_one_answers(metrics):
    """The gauge follows what the clients say; one broker of several does not change it."""
    said = []
    for event in (
        events.PartitionsAssigned("p", (("t", 0),)),
        events.KafkaClientError("p", "consumer", "_TRANSPORT", "broker 2"),
        events.KafkaClientError("p", "consumer", "_ALL_BROKERS_DOWN", "3/3"),
        events.BrokersAnswered("p"),
        events.KafkaClientError("p", "metadata", "_TRANSPORT", "no answer"),
    ):
        metrics(event)
        said.append(value(metrics, "brokers_reachable", pipeline="p"))
    assert said == [1, 1, 0, 1, 0]


def test_the_breaker_of_a_region_is_seen_from_its_first_call_on(metrics):
    """A gauge of 0 says that it is closed; no series would say nothing."""
    metrics(events.KeyServiceCalled("Decrypt", "eu-west-1", "k", "", (), "ok", "r", 0.02))
    assert value(metrics, "key_service_breaker_open", region="eu-west-1") == 0


def test_an_encryptor_says_how_much_of_a_limit_its_data_key_has_used():
    """Records, bytes and age are those of the current key, the ratio that of the limit that is nearest."""
    clock = ManualClock()
    rotation = sc.RotationPolicy(max_messages=100, max_age=1000.0)
    with sc.Encryptor(sc.LocalKeyProvider.generate(), rotation, clock=clock, wall_clock=clock) as sealer:
        assert sealer.in_use("p") == []
        for _ in range(30):
            sealer.encrypt("t", b"value", partition=0)
        clock.advance(10)
        (use,) = sealer.in_use("p")
        assert (use.pipeline, use.topic, use.live, use.messages, use.age) == ("p", "t", 1, 30, 10)
        assert use.bytes > 30 * len(b"value")
        assert use.used == pytest.approx(0.3)
        clock.advance(490)
        assert sealer.in_use("p")[0].used == pytest.approx(0.5)
        sealer.retire("t", "failure")
        (none,) = sealer.in_use("p")
        assert (none.live, none.data_key, none.used) == (0, "", 0.0)


WORKER = """
import typing, json, sys
from dataclasses import fields
from streamcrypt import events
from streamcrypt.observe.metrics import Metrics
samples = json.loads(sys.argv[1])
metrics = Metrics()
for kind in typing.get_args(events.Event):
    metrics(kind(**{f.name: samples.get(f.type, (("t", 0, 17),)) for f in fields(kind)}))
where = dict(pipeline="p", topic="t")
metrics(events.PipelineReady("p", 1))
metrics(events.LoopTurned("p", 2, 0))
metrics(events.LagMeasured("p", (("t", 0, 17), ("t", 1, 5))))
metrics(events.PartitionsRevoked("p", (("t", 0),)))
metrics(events.DataKeysInUse("p", "t", 1, "aa", int(sys.argv[2]), 50, 1.0, 0.1))
metrics(events.BatchDone("p", "t", 10, 100, 200, 0, 0.01, 0.005))
metrics(events.PipelineStopped("gone", True, 0))
"""


def test_every_event_is_counted_where_several_processes_are_merged(tmp_path):
    """Without a warning of the library: counters add up, and gauges are summed, or the largest or smallest."""
    samples = {"str": "x", "int": 1, "float": 0.5, "bool": True, "tuple[str, ...]": ["a"]}
    samples |= {"tuple[tuple[str, str], ...]": [["a", "b"]], "tuple[tuple[str, int], ...]": [["t", 0]]}
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for messages in ("30", "70"):
        call = [sys.executable, "-W", "error", "-c", WORKER, json.dumps(samples), messages]
        subprocess.run(call, check=True, env=environment, timeout=60)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(tmp_path))

    def merged(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"streamcrypt_{name}", {"pipeline": "p", **labels})

    # The two have ended, and their gauges are there until the supervisor drops them.
    assert merged("records_total", topic="t") == 20
    assert merged("partitions_assigned") == 4
    assert merged("pipeline_ready") == 1
    assert merged("consumer_lag_records", topic="t", partition="0") == 0
    assert merged("consumer_lag_records", topic="t", partition="1") == 10
    assert merged("data_key_records", topic="t") == 70
    assert merged("data_keys_live", topic="t") == 2
    assert registry.get_sample_value("streamcrypt_loop_turned_timestamp_seconds", {"pipeline": "gone"}) == math.inf

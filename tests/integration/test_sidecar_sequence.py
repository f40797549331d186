"""Sequence evidence in a running pipeline: a record deleted by hand is found, and fails where that is asked for."""

from __future__ import annotations

import pytest

import streamcrypt as sc
from tests.broker import unique_name, wait_until
from tests.sidecar import Sidecar, config_of, keyring_at


@pytest.mark.parametrize("mode", ["report", "enforce"])
def test_a_record_that_was_deleted_by_hand_is_found(broker, tmp_path, mode):
    """The gap is an event at the record behind it; under enforce that record halts the pipeline as well."""
    source, target = broker.create_topic(), broker.create_topic()
    section = keyring_at(tmp_path)
    with sc.Encryptor(sc.LocalKeyProvider.from_file(section["keyring"])) as encryptor:
        sealed = [encryptor.encrypt(source, b"%d" % n, b"k", partition=0) for n in range(300)]
    kept = [{"key": b"k", "value": v, "headers": h} for n, (v, h) in enumerate(sealed) if n != 100]
    broker.produce(source, kept)
    pipeline = {"name": "open", "mode": "decrypt", "from": source, "to": target, "group": unique_name("g")}
    with Sidecar(tmp_path, config_of(broker.bootstrap, section, pipeline | {"sequence": mode})) as sidecar:
        if mode == "report":
            wait_until(lambda: len(broker.read(target)) == 299, "299 records")
            assert sidecar.stop() == 0
        else:
            assert sidecar.wait() == 1
            assert f"{source}[0] offset 100: SequenceViolated" in sidecar.complaint
            assert len(broker.read(target)) == 100
        [found] = sidecar.of("sequence.found")
    assert (found["kind"], found["offset"], found["expected"], found["found"]) == ("gap", 100, 101, 102)

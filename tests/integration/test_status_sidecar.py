"""The status page of a real sidecar process during an outage of KMS."""

from __future__ import annotations

import json
import urllib.request

from streamcrypt.testing import KMSServer
from tests.broker import Broker, wait_until
from tests.sidecar import Sidecar, config_of, kms_keys

TOKEN = "correct-horse-battery"


def test_the_first_sentence_names_the_outage_and_goes_with_it(broker: Broker, tmp_path):
    """What waits, since when and why, over HTTP with the token alone; no payload, no whole id; well again later."""
    source, target = broker.create_topic(partitions=2), broker.create_topic(partitions=2)
    pipeline = {"name": "protect", "mode": "encrypt", "from": source, "to": target}
    with KMSServer(region="eu-west-1") as kms:
        kms.create_key("alias/payments")
        config = config_of(broker.bootstrap, kms_keys(kms), pipeline, rotation={"max_messages": 5, "grace": 0})
        config["http"]["token"] = TOKEN
        with Sidecar(tmp_path, config) as sidecar:
            sidecar.ready()
            assert sidecar.get("/status.json")[0] == sidecar.get("/")[0] == sidecar.get("/metrics")[0] == 401
            kms.darken("eu-west-1")
            broker.produce(source, [{"value": b"PLAINTEXT", "partition": n % 2} for n in range(40)])
            sidecar.wait_for("key_service.breaker_opened")
            sidecar.wait_for("partition.paused")
            wait_until(lambda: _said(sidecar)["sentences"][0]["text"].startswith("protect waits"), "the first sentence")
            said = _said(sidecar)
            first = said["sentences"][0]
            assert first["text"].endswith("AWS KMS in eu-west-1 does not answer.")
            assert first["then"].startswith("Records wait in Kafka; nothing is lost while the topics keep them.")
            assert "PLAINTEXT" not in json.dumps(said)
            minted = {event["data_key"] for event in sidecar.of("data_key.minted")}
            assert not [data_key for data_key in minted if data_key in json.dumps(said)]
            kms.heal()
            sidecar.committed(40)
            wait_until(lambda: _said(sidecar)["sentences"][0]["level"] == "ok", "all well on the page")
            (found,) = _said(sidecar)["pipelines"]
            assert (found["records"], found["assigned"], found["state"]) == (40, 2, "running")
            assert sidecar.stop() == 0


def _said(sidecar: Sidecar) -> dict:
    url = f"http://127.0.0.1:{sidecar.config['http']['port']}/status.json"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)

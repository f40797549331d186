"""A topic that began to be encrypted: plaintext passes a decrypting pipeline below its cut-over, and nowhere else."""

from __future__ import annotations

import streamcrypt as sc
from tests.broker import unique_name, wait_until
from tests.sidecar import Sidecar, config_of, keyring_at


def test_plaintext_passes_below_the_cut_over_and_halts_the_pipeline_above_it(broker, tmp_path):
    """Bare records pass unchanged up to the offset, sealed ones are opened, a later bare one is refused."""
    source, target = broker.create_topic(), broker.create_topic()
    section = keyring_at(tmp_path)
    with sc.Encryptor(sc.LocalKeyProvider.from_file(section["keyring"])) as encryptor:
        sealed, headers = encryptor.encrypt(source, b"sealed", b"k")
    plain = [{"key": b"k", "value": b"plain-%d" % n} for n in range(300)]
    broker.produce(source, [*plain, {"key": b"k", "value": sealed, "headers": headers}])
    ids = sidecar_cutover(broker, source)
    pipeline = {
        "name": "migrate",
        "mode": "decrypt",
        "from": source,
        "to": target,
        "group": unique_name("g"),
        "plaintext": {"pass_until": {source: {"id": ids, 0: 300}}},
    }
    with Sidecar(tmp_path, config_of(broker.bootstrap, section, pipeline)) as sidecar:
        wait_until(lambda: len(broker.read(target)) == 301, "301 records")
        broker.produce(source, [{"key": b"k", "value": b"too late"}])
        assert sidecar.wait() == 1
        assert f"{source}[0] offset 301: PlaintextRejected" in sidecar.complaint
        assert sum(line["records"] for line in sidecar.of("record.plaintext_passed")) == 300
    assert [message.value() for message in broker.read(target)] == [*(r["value"] for r in plain), b"sealed"]


def sidecar_cutover(broker, topic: str) -> str:
    """The topic's id, as ``streamcrypt cutover`` prints it."""
    from streamcrypt.sidecar.cutover import describe_topics

    return describe_topics(broker.admin, [topic])[topic].topic_id

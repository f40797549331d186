"""``streamcrypt demo`` shows the main job, by itself and on real servers, and leaves nothing behind."""

from __future__ import annotations

import re
import subprocess
import sys

from streamcrypt.keys.stock import LARGEST
from streamcrypt.testing import KMSServer


def _demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "streamcrypt", "demo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_demo_runs_by_itself_and_says_what_a_newcomer_wants_to_see():
    """Plaintext in, ciphertext with a header on the topic, rotations, plaintext out, a tampered record refused."""
    done = _demo()
    assert done.returncode == 0, done.stdout + done.stderr
    shown = " ".join(done.stdout.split())
    facts = ("records/s", "9 rotations", "under 10 data keys", "0 found", "AuthenticationFailed", "encrypted data key")
    for fact in facts:
        assert fact in shown, fact


def test_the_demo_runs_on_a_real_broker_and_a_kms_and_removes_its_topics(broker):
    """KMS is called once a data key, for some ahead of need, and once a data key and reader; no topic is left."""
    with KMSServer() as kms:
        kms.create_key("alias/streamcrypt-demo", region="eu-west-1")
        done = _demo("--bootstrap", broker.bootstrap, "--kms-endpoint", kms.url)
        assert done.returncode == 0, done.stdout + done.stderr
        assert 10 <= kms.count("GenerateDataKey") <= 10 + LARGEST
        assert kms.count("Decrypt") == 20
    topic = re.search(r"streamcrypt-demo-\S+\.payments\b", done.stdout)
    assert topic is not None
    assert not [name for name in broker.admin.list_topics(timeout=30).topics if name.startswith(topic[0])]


def test_the_demo_says_in_one_line_that_it_reaches_no_broker():
    """No traceback, exit code 1."""
    done = _demo("--bootstrap", "127.0.0.1:1")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("streamcrypt: no answer from 127.0.0.1:1")

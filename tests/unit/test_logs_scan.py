"""The search through logs finds what is planted, in every form, and nothing where nothing is."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.log_scan import CANARIES, KEY_BYTES, SCAN, Scan, find
from tests.sidecar import environment, marked

KEY = bytes(range(0x61, 0x61 + 16)) + bytes([0, 0xFF, 0x0A, 0x22, 0x5C, 0x80, 0x1F, 0x27, *range(0xC0, 0xC8)])
QUIET = b'{"event": "key_service.called", "request_id": "0f8fad5b-d9cb-469f-a165-70867728950e"}\n' * 50
FORMS = {
    "raw": lambda secret: secret,
    "repr": lambda secret: repr(secret).encode(),
    "repr of a bytearray": lambda secret: repr(bytearray(secret)).encode(),
    "JSON of a repr": lambda secret: json.dumps(repr(secret)).encode(),
    "JSON": lambda secret: json.dumps(secret.decode("latin-1")).encode(),
    "hex": lambda secret: secret.hex().encode(),
    "upper hex": lambda secret: secret.hex().upper().encode(),
    "base64": base64.b64encode,
    "url-safe base64": base64.urlsafe_b64encode,
    "base64 within more": lambda secret: base64.b64encode(b"x" + secret + b"yz"),
    "base64 within less": lambda secret: base64.b64encode(b"xy" + secret)[3:],
    "numbers": lambda secret: str(list(secret)).encode(),
    "its beginning": lambda secret: repr(secret[:13]).encode(),
    "its end": lambda secret: base64.b64encode(secret[-14:]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("secret", [KEY, marked(7), b'{"iban": "NL91ABNA0417164300"}'], ids=["key", "value", "json"])
def test_a_planted_secret_is_found_in_every_form(form, secret):
    planted = QUIET + b'{"event": "x", "detail": "about ' + FORMS[form](secret) + b' here"}\n' + QUIET
    assert find(planted, [secret])


@pytest.mark.parametrize("form", FORMS)
def test_another_secret_is_not_found(form):
    """Nor in random bytes, of which a log may hold public ones."""
    assert find(QUIET + FORMS[form](os.urandom(KEY_BYTES)), [KEY, marked(7), *CANARIES]) == []


def test_every_value_that_tests_mark_holds_a_canary():
    """In the chaos suite every 16 bytes do."""
    from tests.chaos.records import MARK

    assert any(canary in marked(123_456) for canary in CANARIES)
    assert any(canary in MARK * 2 for canary in CANARIES)


@pytest.fixture
def scan():
    with Scan().open() as opened:
        yield opened


def test_what_the_test_kms_issues_is_searched_for(scan, server):
    """A log that quotes a data key of it is found."""
    arn = server.create_key()
    key = base64.b64decode(server.call("GenerateDataKey", KeyId=arn, KeySpec="AES_256")["Plaintext"])
    assert key in scan.secrets
    scan.add(QUIET)
    assert scan.look() == []
    scan.add(b'{"detail": "the answer was ' + base64.b64encode(key) + b'"}')
    assert [found.split(":")[0] for found in scan.look()] == ["in base64"] * 3


_SEALS = """
import sys
from streamcrypt import Encryptor, LocalKeyProvider
with Encryptor(LocalKeyProvider.generate()) as sealer:
    sealer.encrypt("payments", b"value")
import os
sys.stderr.write(os.urandom(32).hex() if sys.argv[1:] else "nothing")
"""


@pytest.mark.parametrize("planted", [True, False], ids=["planted", "clean"])
def test_what_a_process_draws_is_searched_for(planted):
    """KEK and data key of a local keyring; by a process under another sitecustomize, and its children, as well."""
    with SCAN.open() as scan:
        before = len(scan.secrets)
        command = [sys.executable, "-c", _SEALS, *(["plant"] if planted else [])]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True, timeout=30)
        assert len(scan.secrets) >= before + 2
        scan.add(done.stderr)
        assert bool(scan.look()) is planted


@pytest.mark.parametrize("planted", ["key", "value", ""], ids=["a key", "a value", "nothing"])
def test_a_scenario_of_the_chaos_suite_is_violated_by_what_is_planted_in_a_process_s_log(planted):
    """As `python -m tests.chaos` plays it, and so `make chaos`."""
    from tests.chaos.__main__ import _played
    from tests.chaos.records import MARK
    from tests.chaos.scenarios import Outcome

    said = {"key": "os.urandom(32).hex()", "value": repr(f"about {MARK.decode('latin-1') * 2}"), "": "'nothing'"}
    script = f"import os, sys; sys.stderr.write({said[planted]})"

    def play(_context):
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment(), capture_output=True, check=True, timeout=30
        )
        SCAN.add(done.stderr)
        return Outcome("planted", 1)

    outcome = _played("planted", play, SimpleNamespace(seed=1))
    assert list(outcome.findings.found) == (["in a log"] if planted else [])


def test_the_log_of_the_test_s_own_process_is_searched(scan):
    import logging

    scan.written(b"a value of its own, without a canary")
    logging.getLogger("somebody.else").warning("could not parse %r", b"a value of its own, without a canary")
    assert scan.look()
    assert scan.look() == [], "once"


def test_values_too_plain_to_be_told_are_left_out(scan):
    """A log may have cause for them."""
    for value in (None, b"", b"short", b"v" * 500, marked(1)):
        scan.written(value)
    assert scan._values == set()


def test_a_closed_scan_changes_nothing():
    """Processes are started as ever, and os.urandom is the system's."""
    draw = os.urandom
    with Scan().open():
        assert os.urandom is not draw
    assert os.urandom is draw
    assert "LOG_SCAN_DRAWS" not in Scan().environment({})

"""A forked child writes under data keys of its own, and no lock that was held at the fork stops it.

Each test forks within a fresh interpreter: pytest's own threads stay out of it.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

PRELUDE = """
import os, sys, threading, traceback
import streamcrypt as sc
from streamcrypt.testing.slow_keys import DECRYPT, GENERATE, ScriptedKeyProvider

ring = sc.LocalKeyProvider.generate()
keys = ScriptedKeyProvider(ring)

def header(sealer, topic="t"):
    return sealer.encrypt(topic, b"v", partition=0)[1][-1][1]

def in_child(work):
    # Runs work in a forked child and gives what it returned, as bytes.
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, work())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, status
    return answer
"""


def run(script: str) -> None:
    """Run the script; it has to end well and say so."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELUDE + script + '\nprint("well")\n'],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("well\n", "", 0)


def test_parent_and_child_never_seal_under_the_same_key() -> None:
    """Neither the current one nor the one minted ahead; the parent goes on with its own. spec: 4.4.1"""
    run("""
sealer = sc.Encryptor(keys, sc.RotationPolicy(max_messages=4))
before = [header(sealer) for _ in range(3)]
issuer = sealer.topic("t").issuer
while not issuer._stock:
    pass
child = in_child(lambda: b"".join(header(sealer) for _ in range(8)))
size = len(before[0])
theirs = {child[n:n + size] for n in range(0, len(child), size)}
mine = {header(sealer) for _ in range(5)}
assert len(theirs) == 2 and len(child) == 8 * size, len(theirs)
assert before[0] in mine and len(mine) == 2
assert theirs.isdisjoint(mine)
""")


def test_the_child_counts_from_one() -> None:
    """Under its own key, in every lane. spec: 5.1.3"""
    run("""
sealer = sc.Encryptor(keys)
for _ in range(5):
    sealer.encrypt("t", b"v", partition=0)
nonce = in_child(lambda: sealer.encrypt("t", b"v", partition=0)[0][:12])
assert nonce == bytes(11) + b"\\x01", nonce
assert sealer.encrypt("t", b"v", partition=0)[0][:12] == bytes(11) + b"\\x06"
""")


def test_grandchildren_and_siblings_have_keys_of_their_own() -> None:
    """Every process has."""
    run("""
sealer = sc.Encryptor(keys)
def both():
    mine = header(sealer)
    return mine + in_child(lambda: header(sealer))
first = header(sealer)
size = len(first)
families = [in_child(both) for _ in range(3)]
found = {first} | {f[:size] for f in families} | {f[size:] for f in families}
assert len(found) == 7, len(found)
""")


@pytest.mark.parametrize(
    "lock",
    [
        'sealer.topic("t").issuer.lock',
        "sealer._minter._executor_lock",
        "opener._cache._lock",
        "opener._bounded._lock",
    ],
)
def test_a_lock_that_is_held_at_the_fork_does_not_stop_the_child(lock: str) -> None:
    """The thread that held it is not there to let it go."""
    run(f"""
sealer = sc.Encryptor(keys, sc.RotationPolicy(max_messages=2))
opener = sc.Decryptor(keys, max_wait=30)
first, headers = sealer.encrypt("t", b"first")
held, done = threading.Event(), threading.Event()
def hold():
    with {lock}:
        held.set()
        done.wait(30)
thread = threading.Thread(target=hold)
thread.start()
held.wait(30)
def work():
    assert opener.decrypt("t", first, None, headers)[0] == b"first"
    for n in range(6):
        value, sent = sealer.encrypt("t", b"%d" % n)
        assert opener.decrypt("t", value, None, sent)[0] == b"%d" % n
    sealer.encrypt("another", b"v")
    sealer.close()
    opener.close()
    return b"done"
assert in_child(work) == b"done"
done.set()
thread.join()
sealer.close()
""")


@pytest.mark.parametrize("operation", ["GENERATE", "DECRYPT"])
def test_a_call_that_is_under_way_at_the_fork_is_not_waited_for_in_the_child(operation: str) -> None:
    """Its thread is not there to finish it."""
    run(f"""
sealer = sc.Encryptor(ring)
value, headers = sealer.encrypt("t", b"v")
sealer, opener = sc.Encryptor(keys), sc.Decryptor(keys)
keys.hold({operation}, lambda call: call.thread == "stuck")
def call():
    sealer.encrypt("t", b"v")
    opener.decrypt("t", value, None, headers)
thread = threading.Thread(target=call, name="stuck")
thread.start()
while not keys.count({operation}):
    pass
def work():
    call()
    return b"done"
assert in_child(work) == b"done"
keys.release({operation})
thread.join()
""")


def test_background_threads_are_started_anew_in_the_child() -> None:
    """So the next key is minted ahead there too."""
    run("""
sealer = sc.Encryptor(keys, sc.RotationPolicy(max_messages=4))
for _ in range(3):
    header(sealer)
while not sealer.topic("t").issuer._stock:
    pass
def work():
    for _ in range(3):
        header(sealer)
    issuer = sealer.topic("t").issuer
    while not issuer._stock:
        pass
    names = {call.thread.partition("_")[0] for call in keys.calls[-2:]}
    sealer.close()
    return repr(sorted(names)).encode()
assert in_child(work) == b"['MainThread', 'streamcrypt-mint']"
sealer.close()
""")


def test_a_child_may_open_what_its_parent_opened() -> None:
    """Keys for reading are no writer's; what was cached stays so, without a call."""
    run("""
sealer, opener = sc.Encryptor(ring), sc.Decryptor(keys)
value, headers = sealer.encrypt("t", b"v")
opener.decrypt("t", value, None, headers)
def work():
    opener.decrypt("t", value, None, headers)
    return b"%d" % keys.count(DECRYPT)
assert in_child(work) == b"1"
""")


def test_a_closed_encryptor_is_closed_in_the_child() -> None:
    """The fork opens nothing again."""
    run("""
sealer = sc.Encryptor(keys)
header(sealer)
sealer.close()
def work():
    try:
        header(sealer)
    except sc.ConfigError:
        return b"closed"
assert in_child(work) == b"closed"
""")


def test_multiprocessing_forks_are_covered() -> None:
    """They are forks like any other."""
    run("""
import multiprocessing
sealer = sc.Encryptor(keys)
first = header(sealer)
context = multiprocessing.get_context("fork")
receive, send = context.Pipe(duplex=False)
process = context.Process(target=lambda: send.send_bytes(header(sealer)))
process.start()
process.join()
assert process.exitcode == 0
assert receive.recv_bytes() != first == header(sealer)
""")

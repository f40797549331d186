"""``python -m bench.native``: builds the prototype with the system's compiler and OpenSSL, proves it, measures it."""

from __future__ import annotations

import gc
import importlib.util
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from timeit import repeat
from types import ModuleType
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import streamcrypt as sc
from streamcrypt.envelope.binding import block_aad_builder

RECORDS = 250
"""A block, as the sidecar seals them."""

SIZES = (100, 1024, 10_240)
ROUNDS = 9
_SOURCE = Path(__file__).with_name("sealer.c")


def build(directory: Path) -> ModuleType:
    """Compile and import the prototype.

    Raises:
        FileNotFoundError: There is no C compiler.
        CalledProcessError: It did not compile: the headers of Python or OpenSSL are missing.
    """
    target = directory / f"native_sealer{sysconfig.get_config_var('EXT_SUFFIX')}"
    include = sysconfig.get_path("include")
    command = ["cc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", f"-I{include}", str(_SOURCE), "-o", str(target)]
    subprocess.run([*command, "-lcrypto"], check=True)
    spec = importlib.util.spec_from_file_location("native_sealer", target)
    if spec is None or spec.loader is None:
        raise ImportError(target)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def same_bytes(sealer: Any, cipher: AESGCM, lane: int) -> None:
    """Hold the prototype against AESGCM.

    Raises:
        AssertionError: A byte differs.
    """
    for size in (0, 1, 15, 16, 17, 1024, 100_000):
        values = [os.urandom(size) for _ in range(5)]
        aads = [os.urandom(number) for number in range(5)]
        for number, sealed in enumerate(sealer.seal_block(values, aads, lane, 7)):
            nonce = lane.to_bytes(4, "big") + (7 + number).to_bytes(8, "big")
            assert sealed == nonce + cipher.encrypt(nonce, values[number], aads[number]), size


def measure(native: ModuleType, size: int) -> dict[str, float]:
    """Give nanoseconds a record, the median of alternating runs: bare AESGCM, sealing as shipped, the prototype."""
    key = os.urandom(32)
    cipher, sealer = AESGCM(key), native.Sealer(key)
    same_bytes(sealer, cipher, 3)
    values = [os.urandom(size) for _ in range(RECORDS)]
    keys: list[bytes | None] = [b"key-%d" % number for number in range(RECORDS)]
    headers: list[Any] = [None] * RECORDS
    aads_of = block_aad_builder(("key",))
    with sc.Encryptor(sc.LocalKeyProvider.generate(), rotation=_NEVER) as encryptor:
        shipped = encryptor.topic("t")
        nonce, aad = bytes(12), aads_of(keys, headers)[0]

        def as_shipped() -> None:
            if shipped.seal_block(values, keys, headers, 3) is None:
                # The limits of a data key are looked at between blocks.
                shipped.seal(values[0], keys[0], None, 3)

        ways: dict[str, Callable[[], Any]] = {
            "bare AESGCM": lambda: [cipher.encrypt(nonce, value, aad) for value in values],
            "as shipped": as_shipped,
            "prototype": lambda: sealer.seal_block(values, aads_of(keys, headers), 3, 1),
        }
        runs: dict[str, list[float]] = {name: [] for name in ways}
        gc.collect()
        for _ in range(ROUNDS):
            for name, way in ways.items():
                runs[name].append(min(repeat(way, number=40, repeat=2)) / 40 / RECORDS * 1e9)
    return {name: statistics.median(times) for name, times in runs.items()}


_NEVER = sc.RotationPolicy(max_messages=2**31, max_age="1h", max_bytes=2**35)


def main() -> int:
    """Build, prove, measure, print."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            native = build(Path(directory))
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"the prototype cannot be built here: {error}", file=sys.stderr)
            return 1
        print(f"{'bytes':>8} {'bare AESGCM':>14} {'as shipped':>14} {'prototype':>14}   ns a record")
        for size in SIZES:
            figures = measure(native, size)
            print(f"{size:>8} " + " ".join(f"{figure:>14.0f}" for figure in figures.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

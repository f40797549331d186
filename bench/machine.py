"""On what and of what a result was measured."""

from __future__ import annotations

import hashlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["code_fingerprint", "describe"]

ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("confluent-kafka", "cryptography", "aws-encryption-sdk", "tink", "boto3", "streamcrypt")


def describe() -> dict[str, Any]:
    """Describe machine, interpreter, libraries and code; no host name, no path."""
    import confluent_kafka
    from cryptography.hazmat.backends.openssl import backend

    from tests.broker import KAFKA_VERSION

    return {
        "processor": _proc("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory GiB": round(int(_proc("/proc/meminfo", "MemTotal").split()[0]) / 2**20, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "librdkafka": confluent_kafka.libversion()[0],
        "openssl": backend.openssl_version_text(),
        "kafka broker": KAFKA_VERSION,
        **{name: _version(name) for name in _PACKAGES},
        "streamcrypt code": code_fingerprint(ROOT / "streamcrypt"),
    }


def code_fingerprint(folder: Path) -> str:
    """Give twelve hex digits that change with any source file below: a result belongs to the code it was made with."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _proc(file: str, name: str) -> str:
    lines = Path(file).read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "0")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"

"""Algorithm suites: names, sizes and the ceilings that no configuration exceeds. spec: 3.1.5, 7.1"""

from __future__ import annotations

from enum import StrEnum

__all__ = [
    "DEK_BYTES",
    "MAX_BYTES_PER_DATA_KEY",
    "MAX_RECORDS_PER_DATA_KEY",
    "NONCE_BYTES",
    "OVERHEAD_BYTES",
    "TAG_BYTES",
    "Suite",
]

DEK_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
OVERHEAD_BYTES = NONCE_BYTES + TAG_BYTES
"""What sealing adds to a value, and all that a tombstone's proof is."""

# NIST SP 800-38D section 8.3 allows 2^32 invocations under one key; the nonces here are counters and need no less.
MAX_RECORDS_PER_DATA_KEY = 2**32
# 64 GiB is s = 2^32 blocks of 16 bytes: with q = 2^32 records, (s + q + 1)^2 / 2^129 = 2^-63. spec: 7.1.1
MAX_BYTES_PER_DATA_KEY = 64 * 2**30


class Suite(StrEnum):
    """An AEAD with 256-bit keys, 96-bit nonces and 128-bit tags.

    ``AES_256_GCM`` (RFC 5116) is the default. ``AES_256_GCM_SIV`` (RFC 8452) is for hosts whose memory is
    snapshotted, cloned or restored while running: a cloned GCM writer repeats nonces and so loses secrecy and
    authenticity, a cloned SIV writer leaks only which values are equal. It is about six times slower.
    """

    AES_256_GCM = "AES_256_GCM"
    AES_256_GCM_SIV = "AES_256_GCM_SIV"

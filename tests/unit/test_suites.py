"""Suites: sizes, names and ceilings."""

from __future__ import annotations

import pytest

from streamcrypt.crypto.data_key import DataKey, check_suite
from streamcrypt.crypto.suites import (
    DEK_BYTES,
    MAX_BYTES_PER_DATA_KEY,
    MAX_RECORDS_PER_DATA_KEY,
    NONCE_BYTES,
    TAG_BYTES,
    Suite,
)
from streamcrypt.errors import ConfigError
from streamcrypt.keys.rotation import RotationPolicy


def test_suites_are_written_as_in_configuration_files() -> None:
    """Their order is their number in the header, so a suite is never inserted. spec: 3.1.5"""
    assert list(Suite) == ["AES_256_GCM", "AES_256_GCM_SIV"]


def test_sizes_are_those_of_both_rfcs() -> None:
    """RFC 5116 section 5.2 and RFC 8452 section 6. spec: 3.1.5, 4.2.1"""
    assert (DEK_BYTES, NONCE_BYTES, TAG_BYTES) == (32, 12, 16)


@pytest.mark.parametrize("suite", Suite)
def test_the_installed_library_does_every_suite_and_copies_keys(suite: Suite) -> None:
    """A buffer that is overwritten after use leaves the cipher as it was. spec: 4.2.2"""
    check_suite(suite)


def test_no_name_falls_through_to_another_cipher() -> None:
    """A suite by its bare name is that suite; a name that is none raises. spec: 3.1.5"""
    dek, nonce = bytes(range(32)), bytes(12)
    by_name = DataKey(bytearray(dek), "AES_256_GCM", b"")
    assert by_name.seal(nonce, b"x", b"") == DataKey(bytearray(dek), Suite.AES_256_GCM, b"").seal(nonce, b"x", b"")
    with pytest.raises(KeyError):
        DataKey(bytearray(dek), "AES_128_GCM", b"")


@pytest.mark.parametrize(
    "over",
    [
        {"max_messages": MAX_RECORDS_PER_DATA_KEY + 1},
        {"max_bytes": MAX_BYTES_PER_DATA_KEY + 1},
        {"max_bytes": "65GiB"},
        {"max_messages": 0},
        {"max_bytes": 0},
        {"max_age": 0},
        {"max_age": "-1s"},
        {"max_age": float("nan")},
        {"max_messages": True},
        {"max_messages": 1e6},
    ],
)
def test_no_configuration_passes_a_ceiling(over: dict[str, object]) -> None:
    """spec: 7.1.1"""
    with pytest.raises(ConfigError):
        RotationPolicy(**over)


def test_the_ceilings_themselves_are_allowed() -> None:
    """2^32 records and 64 GiB. spec: 7.1.1"""
    policy = RotationPolicy(max_messages=2**32, max_bytes="64GiB")
    assert policy.due(2**32 - 1, 0, 0, 0) is None
    assert policy.due(2**32, 0, 0, 0) == "messages"
    assert policy.due(1, 2**36 - 5, 0, 5) is None
    assert policy.due(1, 2**36 - 5, 0, 6) == "bytes"

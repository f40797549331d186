"""The ways to encrypt a record that are compared; those that every installation has."""

from __future__ import annotations

import pytest

from bench.peers import aes, streamcrypt
from streamcrypt.testing import KMSServer
from tests.kms import REGION, fake_credentials

__all__ = ["fake_credentials"]


@pytest.mark.usefixtures("fake_credentials")
def test_our_way_gives_back_what_it_was_given_and_counts_its_bytes():
    with KMSServer(region=REGION) as kms:
        (way,) = streamcrypt.ways({"key_id": kms.create_key(), "region": REGION, "endpoint_url": kms.url})
        sealed = way.encrypt(b"value")
        assert way.decrypt(sealed) == b"value"
        assert 300 < way.size(sealed) < 450
        way.close()


def test_the_bare_cipher_gives_back_what_it_was_given():
    (way,) = aes.ways({})
    assert way.decrypt(way.encrypt(b"value")) == b"value"
    assert way.size(way.encrypt(b"value")) == len(b"value") + 28

"""The gate before a server: open, it passes bytes both ways; closed, it refuses; opened again, it is the same port."""

from __future__ import annotations

import contextlib
import socket
import urllib.error
import urllib.request

import pytest

from streamcrypt.testing import KMSServer
from tests.chaos.gate import Gate


def _status(url: str) -> int:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.status


def test_a_gate_passes_refuses_and_passes_again():
    with KMSServer() as kms, Gate(kms.url) as gate:
        for _ in range(2):
            assert _status(gate.url) == 200
            gate.close()
            with pytest.raises(urllib.error.URLError) as refused:
                _status(gate.url)
            assert isinstance(refused.value.reason, ConnectionRefusedError)
            gate.open()


def test_closing_a_gate_ends_connections_that_stand():
    with (
        KMSServer() as kms,
        Gate(kms.url) as gate,
        contextlib.closing(socket.create_connection(("127.0.0.1", int(gate.url.rpartition(":")[2])))) as client,
    ):
        client.settimeout(60)
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(1)
        gate.close()
        with contextlib.suppress(ConnectionResetError):
            while client.recv(4096):
                pass

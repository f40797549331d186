"""Claims about who may read the status page and metrics, over real HTTP."""

from __future__ import annotations

import base64
import http.client
import json
import socket

import pytest

from streamcrypt import events
from streamcrypt.config import load
from streamcrypt.config.tokens import read_token
from streamcrypt.errors import ConfigError
from streamcrypt.observe.health import Health
from streamcrypt.observe.http import MOST_CONNECTIONS, HTTPServer
from streamcrypt.observe.http_access import Access, is_loopback
from streamcrypt.observe.metrics import Metrics
from streamcrypt.observe.status import Status

TOKEN = "correct-horse-battery"
GUARDED = ("/", "/status.json", "/metrics")


def serve(host: str = "127.0.0.1", token: str | None = None) -> HTTPServer:
    status = Status()
    status(events.PipelineReady("protect-payments", 2))
    return HTTPServer(Metrics().registry, Health(("p",)), host, 0, status=status.snapshot, token=token)


def ask(
    server: HTTPServer, path: str, method: str = "GET", **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.address[1], timeout=30)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def test_the_page_comes_whole_with_a_policy_that_allows_it_alone():
    """One file, no other source; style and script by hash; never framed, never cached, never guessed."""
    with serve() as server:
        status, headers, body = ask(server, "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert policy.count("'sha256-") == 2
    assert (headers["X-Content-Type-Options"], headers["Cache-Control"]) == ("nosniff", "no-store")
    assert headers["Server"] == "streamcrypt"
    for outside in (b"src=", b'href="http', b"@import", b"url(", b"innerHTML"):
        assert outside not in body, outside


def test_the_status_is_json_with_its_sentences():
    with serve() as server:
        status, headers, body = ask(server, "/status.json")
    said = json.loads(body)
    assert (status, headers["Content-Type"], said["version"]) == (200, "application/json", 1)
    assert said["pipelines"][0]["name"] == "protect-payments"
    assert said["sentences"][0]["text"].startswith("protect-payments runs")


@pytest.mark.parametrize("path", [*GUARDED, "/healthz"])
def test_head_has_the_headers_of_get_and_no_content(path):
    with serve() as server:
        status, headers, body = ask(server, path, "HEAD")
        assert (status, body) == (200, b"")
        assert int(headers["Content-Length"]) > 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_nothing_can_be_changed(method):
    with serve() as server:
        for path in GUARDED:
            status, headers, _ = ask(server, path, method)
            assert (status, headers["Allow"]) == (405, "GET, HEAD")


def test_with_a_token_only_the_probes_are_open():
    """A wrong token, a part of it and none are refused alike; a browser is asked for a password."""
    basic = base64.b64encode(f"anybody:{TOKEN}".encode()).decode()
    refused = ("", "Bearer", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"Token {TOKEN}", "Basic !!", f"Basic {TOKEN}")
    with serve(token=TOKEN) as server:
        for path in GUARDED:
            for shown in (f"Bearer {TOKEN}", f"bearer  {TOKEN}", f"Basic {basic}"):
                assert ask(server, path, Authorization=shown)[0] == 200, (path, shown)
            for shown in refused:
                status, headers, body = ask(server, path, Authorization=shown)
                assert status == 401, (path, shown)
                assert TOKEN.encode() not in body
                assert [h.split()[0] for h in headers.get_all("WWW-Authenticate")] == ["Bearer", "Basic"]
            assert ask(server, path)[0] == 401
        assert ask(server, "/healthz")[0] == 200
        assert ask(server, "/readyz")[0] == 503


def test_with_a_token_a_probe_gives_its_reasons_to_who_shows_it_alone():
    """They name topics; an orchestrator needs the code."""
    with serve(token=TOKEN) as server:
        for path, code, said in (("/healthz", 200, "ok"), ("/readyz", 503, "failing")):
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                status, _, body = ask(server, path, **headers)
                assert (status, json.loads(body)) == (code, {"status": said})
            status, _, body = ask(server, path, Authorization=f"Bearer {TOKEN}")
            assert (status, json.loads(body)["pipelines"].keys()) == (code, {"p"})
    with serve() as server:
        assert json.loads(ask(server, "/readyz")[2])["reasons"]


def test_a_name_that_is_not_this_hosts_gets_nothing():
    """A page of somebody else whose name points to 127.0.0.1 has its own name as Host."""
    with serve() as server:
        for host in (
            "evil.example",
            "evil.example:9464",
            "localhost.evil.example",
            "10.0.0.1",
            "127.0.0.1.evil.example",
        ):
            for path in (*GUARDED, "/readyz"):
                assert ask(server, path, Host=host)[0] == 421, (host, path)
        for host in ("localhost", "LOCALHOST:1", "127.0.0.1:9464", "[::1]:9464", "[::1]"):
            assert ask(server, "/", Host=host)[0] == 200, host


def test_beyond_loopback_any_name_will_do_and_a_missing_token_is_known():
    with serve("0.0.0.0") as server:
        assert ask(server, "/metrics", Host="sidecar.example")[0] == 200
        assert server.unprotected
    with serve("0.0.0.0", TOKEN) as server:
        assert not server.unprotected
    assert not Access("127.0.0.1", None).unprotected
    assert [is_loopback(h) for h in ("localhost", "::1", "127.8.8.8", "0.0.0.0", "example.org")] == [True] * 3 + [
        False
    ] * 2


def test_connections_that_hang_neither_keep_a_probe_out_nor_pile_up():
    """Of too many the oldest is ended."""
    with serve() as server:
        hanging = [socket.create_connection(server.address, 5) for _ in range(MOST_CONNECTIONS + 5)]
        try:
            assert ask(server, "/healthz")[0] == 200
            hanging[0].settimeout(5)
            assert hanging[0].recv(1) == b""
            hanging[-1].sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert hanging[-1].recv(12) == b"HTTP/1.0 200"
        finally:
            for one in hanging:
                one.close()


def test_a_mistake_of_ours_is_an_answer_without_its_text():
    def broken() -> dict:
        raise RuntimeError("the plaintext")

    with HTTPServer(Metrics().registry, Health(), port=0, status=broken) as server:
        status, _, body = ask(server, "/status.json")
    assert (status, json.loads(body)) == (500, {"error": "RuntimeError"})


def config(tmp_path, http: dict) -> str:
    path = tmp_path / "config.yaml"
    pipeline = {"name": "p", "mode": "encrypt", "from": "a", "to": "b"}
    keys = {"provider": "local", "keyring": "keyring.json"}
    settings = {"kafka": {"bootstrap.servers": "localhost:9092"}, "keys": keys, "http": http, "pipelines": [pipeline]}
    path.write_text(json.dumps(settings))
    return str(path)


def test_the_token_comes_from_the_file_the_environment_or_a_file_of_its_own(tmp_path):
    assert load(config(tmp_path, {"token": TOKEN}), {}).http.read_token() == TOKEN
    assert load(config(tmp_path, {}), {"STREAMCRYPT__HTTP__TOKEN": TOKEN}).http.read_token() == TOKEN
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    settings = load(config(tmp_path, {"token_file": "token"}), {})
    assert settings.http.read_token() == TOKEN
    assert TOKEN not in repr(load(config(tmp_path, {"token": TOKEN}), {}))
    assert load(config(tmp_path, {}), {}).http.read_token() is None


@pytest.mark.parametrize("token", ["tiny-secret", "with a space in its middle", "ümlaut-beyond-ascii-text"])
def test_a_token_that_cannot_be_one_is_refused_without_being_shown(tmp_path, token):
    with pytest.raises(ConfigError, match="openssl rand") as caught:
        load(config(tmp_path, {"token": token}), {})
    assert token not in str(caught.value)
    path = tmp_path / "token"
    path.write_text(token)
    with pytest.raises(ConfigError, match="does not hold one token") as caught:
        read_token(str(path))
    assert token not in str(caught.value)


def test_a_token_file_that_is_missing_or_one_too_many_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_token(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="both set"):
        load(config(tmp_path, {"token": TOKEN, "token_file": "x"}), {})

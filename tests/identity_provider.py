"""An identity provider on loopback: gives tokens for client credentials (RFC 6749, section 4.4), signed with RS256."""

from __future__ import annotations

import base64
import json
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

__all__ = ["IdentityProvider"]


class IdentityProvider:
    """Gives tokens to whoever shows the client secret. A context manager.

    Args:
        secret: What a client must show.
        seconds: How long a token lasts.

    Attributes:
        jwks: The keys by which brokers check tokens.
        given: How many tokens it has given.
    """

    def __init__(self, secret: str, seconds: int = 300) -> None:
        self._secret = secret
        self._seconds = seconds
        self._key = rsa.generate_private_key(65537, 2048)
        numbers = self._key.public_key().public_numbers()
        own = {"kty": "RSA", "kid": "one", "use": "sig", "alg": "RS256"}
        self.jwks = {"keys": [{**own, "n": _number(numbers.n), "e": _number(numbers.e)}]}
        self.given = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def url(self) -> str:
        """The token endpoint."""
        return f"http://127.0.0.1:{self._server.server_port}/token"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                scheme, _, shown = self.headers.get("Authorization", "").partition(" ")
                name, _, secret = base64.b64decode(shown).decode().partition(":")
                is_known = scheme == "Basic" and urllib.parse.unquote(secret) == provider._secret
                if not is_known or "grant_type=client_credentials" not in body:
                    self._answer(401, {"error": "invalid_client", "error_description": "no such secret"})
                    return
                provider.given += 1
                self._answer(200, {"access_token": provider._token(name), "token_type": "Bearer"})

            def _answer(self, status: int, tree: dict[str, Any]) -> None:
                content = json.dumps(tree).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_arguments: Any) -> None:
                pass

        return Handler

    def _token(self, subject: str) -> str:
        now = int(time.time())
        claims = {"iss": "tests", "sub": subject, "aud": "kafka", "iat": now, "exp": now + self._seconds}
        head = _json({"alg": "RS256", "typ": "JWT", "kid": "one"})
        signed = f"{head}.{_json(claims)}"
        return f"{signed}.{_bytes(self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def _bytes(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _number(value: int) -> str:
    return _bytes(value.to_bytes((value.bit_length() + 7) // 8))


def _json(tree: dict[str, Any]) -> str:
    return _bytes(json.dumps(tree).encode())

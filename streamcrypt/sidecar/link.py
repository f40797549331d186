"""What is wrong with the way to the brokers, by what librdkafka says: whether it is TLS, the login or the address.

librdkafka's words stay as they are; they quote no password and no token. Source: its rdkafka_ssl.c and rdkafka_sasl*.c.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["remedy_of", "telling"]

_UNREACHABLE = "Is the broker up, the name right, the port open, and security.protocol what that listener speaks?"
_UNVERIFIED = (
    "One of three: ssl.ca.location is not who signed the brokers' certificate; that certificate has expired; or it "
    "does not hold the name in bootstrap.servers. 'openssl s_client -connect HOST:PORT -CAfile CA' tells which."
)
_OUR_CERTIFICATE = (
    "The brokers refuse our certificate, or the lack of one: set ssl.certificate.location and ssl.key.location to a "
    "pair that has not expired and that they trust."
)
_REMEDIES = (
    ("certificate verify failed", _UNVERIFIED),
    (
        "connecting to a plaintext broker",
        "That listener speaks no TLS: take the port of the TLS listener.",
    ),
    ("alert", _OUR_CERTIFICATE),
    ("invalid credentials", "Correct sasl.username or sasl.password, or make that user at the brokers."),
    ("unsupported sasl mechanism", "Set sasl.mechanisms to one of those that the brokers name."),
    ("oauthbearer token", "Look at sasl.oauthbearer.* and at what the token endpoint answers."),
    ("sasl authentication error", "Look at sasl.*: the brokers refuse the login."),
    ("failed to resolve", "No address belongs to that name here: correct bootstrap.servers, or look at DNS."),
    ("ssl handshake failed", "Is that the port of a TLS listener?"),
)
_TELLS_LITTLE = ("brokers are down", "broker transport failure", "local: timed out")


def telling(troubles: Sequence[str]) -> str:
    """Choose of what a client reported what says most; empty where it reported nothing."""
    useful = [text for text in troubles if not any(vague in text.lower() for vague in _TELLS_LITTLE)]
    return next(iter([*useful, *troubles]), "")


def remedy_of(trouble: str) -> str:
    """Say what to do about a trouble that librdkafka reports."""
    lowered = trouble.lower()
    return next((remedy for part, remedy in _REMEDIES if part in lowered), _UNREACHABLE)

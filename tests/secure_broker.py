"""A broker that encrypts, asks who is there, and lets nobody do what no ACL allows: TLS, SASL, StandardAuthorizer."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    NewTopic,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from tests.broker import free_ports, wait_until
from tests.certificates import Authority
from tests.kafka_process import ProcessBroker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from streamcrypt.policies.acls import ACL

__all__ = ["PASSWORD", "SecureBroker", "secure_broker"]

PASSWORD = "correct-horse-battery"  # of every user
_ITERATIONS = 4096  # the least that SCRAM allows


class SecureBroker(ProcessBroker):
    """Apache Kafka with three listeners on loopback: SASL_SSL, SSL with client certificates, and one for ourselves.

    On ``bootstrap`` everything is plain and allowed: it is the listener by which tests make users, ACLs and topics.

    Args:
        directory: Where certificates are.
        authority: Signs them.
        certificate: The broker's key and certificate.
        jwks: A JSON Web Key Set; with it OAUTHBEARER tokens that one of these keys signed are accepted.

    Attributes:
        sasl: Address of the SASL_SSL listener.
        tls: Address of the SSL listener.
    """

    def __init__(self, authority: Authority, certificate: Path, jwks: Path | None = None) -> None:
        plain, controller, sasl, tls = free_ports(4)
        self.sasl, self.tls = f"127.0.0.1:{sasl}", f"127.0.0.1:{tls}"
        self.authority = authority
        inside = f"PLAINTEXT://127.0.0.1:{plain}"
        outside = f"SASL_SSL://127.0.0.1:{sasl},SSL://127.0.0.1:{tls}"
        mechanisms = ["SCRAM-SHA-256", "SCRAM-SHA-512", *(["OAUTHBEARER"] if jwks else [])]
        config = {
            "listeners": f"{inside},{outside},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"{inside},{outside}",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "sasl.enabled.mechanisms": ",".join(mechanisms),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(certificate),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(authority.certificate),
            "listener.name.ssl.ssl.client.auth": "required",
            **{
                f"listener.name.sasl_ssl.{name.lower()}.sasl.jaas.config": (
                    "org.apache.kafka.common.security.scram.ScramLoginModule required;"
                )
                for name in mechanisms[:2]
            },
            **(_oauthbearer(jwks) if jwks else {}),
        }
        allowed = [f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={jwks.as_uri()}"] if jwks else []
        super().__init__(config=config, port=plain, java=allowed)

    def add_users(self, *names: str) -> None:
        """Make users who may log in by SCRAM with :data:`PASSWORD`, and may do nothing."""
        # A user may not stand in one request twice.
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
            secret = ScramCredentialInfo(mechanism, _ITERATIONS)
            wanted = [UserScramCredentialUpsertion(name, secret, PASSWORD.encode()) for name in names]
            for made in self.admin.alter_user_scram_credentials(wanted).values():
                made.result(30)

    def create_topics(self, names: Iterable[str]) -> None:
        """Create topics with one partition each, together."""
        wanted = [NewTopic(name, 1, 1) for name in names]
        for made in self.admin.create_topics(wanted).values():
            made.result(30)
        names = {topic.topic for topic in wanted}
        wait_until(lambda: names <= set(self.admin.list_topics(timeout=30).topics), "the topics in the metadata")

    def allow(self, user: str, acls: Iterable[ACL]) -> None:
        """Add ACLs for a user."""
        self.allow_all({user: acls})

    def allow_all(self, acls: Mapping[str, Iterable[ACL]]) -> None:
        """Add ACLs of several users at once."""
        wanted = [_binding(AclBinding, user, acl) for user, theirs in acls.items() for acl in theirs]
        for made in self.admin.create_acls(list(dict.fromkeys(wanted))).values():
            made.result(30)
        # The controller has them; the broker judges by what it has heard of so far.
        names = {_name(binding) for binding in wanted}
        wait_until(lambda: names <= set(map(_name, self.admin.describe_acls(_EVERY).result(30))), "the ACLs in force")

    def withdraw(self, user: str, acl: ACL) -> None:
        """Remove one ACL of a user."""
        [gone] = self.admin.delete_acls([_binding(AclBindingFilter, user, acl)]).values()
        assert gone.result(30), f"there was no {acl} of {user}"

    def login(self, user: str, mechanism: str = "SCRAM-SHA-512") -> dict[str, str]:
        """The librdkafka properties with which a user logs in."""
        return {
            "bootstrap.servers": self.sasl,
            "security.protocol": "SASL_SSL",
            "ssl.ca.location": str(self.authority.certificate),
            "sasl.mechanisms": mechanism,
            "sasl.username": user,
            "sasl.password": PASSWORD,
        }


@contextlib.contextmanager
def secure_broker(jwks: Mapping[str, Any] | None = None) -> Iterator[SecureBroker]:
    """Start one with an authority of its own, and end it."""
    with tempfile.TemporaryDirectory(prefix="streamcrypt-tls-") as name:
        directory = Path(name)
        keys = None
        if jwks is not None:
            keys = directory / "jwks.json"
            keys.write_text(json.dumps(jwks))
        authority = Authority(directory)
        with contextlib.closing(SecureBroker(authority, authority.issue("broker"), keys)) as broker:
            yield broker


_EVERY = AclBindingFilter(
    ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.ANY
)


def _name(binding: Any) -> tuple[Any, ...]:
    resource = (binding.restype, binding.name, binding.resource_pattern_type)
    return (*resource, binding.principal, binding.host, binding.operation, binding.permission_type)


def _binding(kind: Any, user: str, acl: ACL) -> Any:
    resource = acl.resource
    return kind(
        ResourceType.BROKER if resource.kind == "cluster" else ResourceType[resource.kind.upper()],
        resource.name,
        ResourcePatternType[resource.pattern.upper()],
        f"User:{user}",
        "*",
        AclOperation[_underscored(acl.operation)],
        AclPermissionType.ALLOW,
    )


def _underscored(operation: str) -> str:
    """Write an operation as librdkafka's names are: IdempotentWrite is IDEMPOTENT_WRITE."""
    return "".join(f"_{c}" if c.isupper() and i else c for i, c in enumerate(operation)).upper()


def _oauthbearer(jwks: Path) -> dict[str, str]:
    listener = "listener.name.sasl_ssl.oauthbearer"
    validator = "org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler"
    return {
        f"{listener}.sasl.server.callback.handler.class": validator,
        f"{listener}.sasl.jaas.config": (
            "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;"
        ),
        f"{listener}.sasl.oauthbearer.jwks.endpoint.url": jwks.as_uri(),
        f"{listener}.sasl.oauthbearer.expected.audience": "kafka",
    }

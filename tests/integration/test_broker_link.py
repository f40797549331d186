"""Claims about the ways to log in, and about what every command needs of a broker that allows nothing else."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from streamcrypt.cli.app import app
from streamcrypt.cli.exits import Exit
from streamcrypt.cli.policy_acls import needed_by
from streamcrypt.config import load
from streamcrypt.diagnosis.cluster import list_partitions
from streamcrypt.policies.acls import Feature
from tests.broker import unique_name
from tests.certificates import Authority
from tests.identity_provider import IdentityProvider
from tests.secure_broker import PASSWORD, SecureBroker, secure_broker
from tests.sidecar import config_of, keyring_at, streamcrypt

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def provider() -> Iterator[IdentityProvider]:
    with IdentityProvider("client-secret") as found:
        yield found


@pytest.fixture(scope="module")
def broker(provider) -> Iterator[SecureBroker]:
    with secure_broker(provider.jwks) as found:
        found.add_users("u")
        found.create_topics(["orders", "sealed", "letters"])
        yield found


def oidc(broker: SecureBroker, provider: IdentityProvider, secret: str = "client-secret") -> dict[str, str]:
    """The properties of config/oauthbearer.yaml, for this broker."""
    return {
        "bootstrap.servers": broker.sasl,
        "security.protocol": "sasl_ssl",
        "ssl.ca.location": str(broker.authority.certificate),
        "sasl.mechanisms": "OAUTHBEARER",
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.token.endpoint.url": provider.url,
        "sasl.oauthbearer.client.id": "streamcrypt",
        "sasl.oauthbearer.client.secret": secret,
        "sasl.oauthbearer.scope": "kafka",
    }


def test_a_client_logs_in_by_scram_by_certificate_and_by_token(broker, provider):
    """Each login gets through TLS and is known, and sees nothing that no ACL allows it."""
    pair = str(broker.authority.issue("client", password=PASSWORD))
    by_certificate = {
        "bootstrap.servers": broker.tls,
        "security.protocol": "ssl",
        "ssl.ca.location": str(broker.authority.certificate),
        "ssl.certificate.location": pair,
        "ssl.key.location": pair,
        "ssl.key.password": PASSWORD,
    }
    for login in (broker.login("u", "SCRAM-SHA-256"), broker.login("u"), by_certificate, oidc(broker, provider)):
        assert list_partitions(login, "producer") == {}
    assert provider.given == 1


def test_check_and_run_say_what_is_wrong_with_the_link(broker, provider, tmp_path):
    """In librdkafka's words, with a remedy, and without a secret. Together, since each waits 5 s for an answer."""
    login, wrong = broker.login("u"), "wrong-horse"
    cases = {
        "ca": ("check", {"ssl.ca.location": str(Authority(tmp_path, "another").certificate)}, "has expired"),
        "password": ("check", {"sasl.password": wrong}, "invalid credentials"),
        "secret": ("check", oidc(broker, provider, wrong), "what the token endpoint answers"),
        "name": ("run", {"bootstrap.servers": broker.sasl.replace("127.0.0.1", "localhost")}, "does not hold the name"),
    }

    def told(case: str) -> tuple[int, str]:
        command, change, _ = cases[case]
        kept = {} if "sasl.oauthbearer.method" in change else login
        done = streamcrypt(tmp_path, command, config(tmp_path, broker, {**kept, **change}))
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    with ThreadPoolExecutor(len(cases)) as pool:
        found = dict(zip(cases, pool.map(told, cases), strict=True))
    for case, (_, _, said) in cases.items():
        code, output = found[case]
        assert code == Exit.FAILED, output
        assert said in output, case
        assert PASSWORD not in output
        assert wrong not in output


@pytest.mark.parametrize(
    ("features", "command"),
    [
        ([Feature.RUN], ["check"]),
        ([Feature.RUN, Feature.DOCTOR], ["doctor"]),
        ([Feature.READ], ["audit", "orders"]),
        ([Feature.REPLAY], ["replay", "letters"]),
    ],
    ids=["check", "doctor", "audit", "replay"],
)
def test_a_command_works_with_the_acls_of_the_table(broker, tmp_path, features, command):
    user = unique_name("u")
    path = written(tmp_path, broker, broker.login(user))
    broker.add_users(user)
    settings = load(path, {})
    broker.allow(user, [acl for feature in features for acl in needed_by(settings, feature)])
    name, *arguments = command
    done = CliRunner().invoke(app, [name, str(path), *arguments])
    assert done.exit_code == Exit.DONE, done.output
    assert "not known" not in done.output


def config(directory: Path, broker: SecureBroker, login: dict[str, str]) -> dict[str, Any]:
    """A configuration for a login, with everything a command may ask for."""
    letters = {"on_failure": "dead_letter", "dead_letter": "letters"}
    pipeline = {"mode": "encrypt", "from": "orders", "to": "sealed", **letters}
    made = config_of(broker.sasl, keyring_at(directory), pipeline)
    return {**made, "kafka": login}


def written(directory: Path, broker: SecureBroker, login: dict[str, str]) -> Path:
    """The same as a file."""
    path = directory / f"{unique_name('config')}.yaml"
    path.write_text(json.dumps(config(directory, broker, login)))
    return path

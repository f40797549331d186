"""Claims about the link to the brokers that need no broker: secrets, tokens for MSK, words for refusals."""

from __future__ import annotations

import base64
import builtins
import json
import time
import urllib.parse
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException
from typer.testing import CliRunner

from streamcrypt import events
from streamcrypt.cli.app import app
from streamcrypt.cli.compose import consumer_config, producer_config, unusable_client
from streamcrypt.cli.exits import Exit
from streamcrypt.cli.policy import INCOMPLETE
from streamcrypt.clients.msk_iam import BrokerLoginFailed, MSKTokens
from streamcrypt.config import load
from streamcrypt.config.secrets import SECRETS
from streamcrypt.errors import ConfigError
from streamcrypt.policies.acls import ACL, Feature, Pipe, Resource, acls_of, as_one_login
from streamcrypt.sidecar.access import Logins, explained, principal_of
from streamcrypt.sidecar.failures import AccessRefused, Backoff, ConnectionLost, from_kafka
from streamcrypt.sidecar.link import remedy_of, telling
from streamcrypt.sidecar.spec import Mode, OnFailure, PipelineSpec

EXAMPLES = Path(__file__).parents[2] / "config"
SECRET = "correct-horse-battery"


def config_at(directory: Path, kafka: dict, **pipeline: object) -> Path:
    """Write a configuration with this ``kafka`` section."""
    one = {"name": "p", "mode": "encrypt", "from": "orders", "to": "sealed", "group": "g", **pipeline}
    tree = {
        "kafka": {"bootstrap.servers": "127.0.0.1:9", **kafka},
        "keys": {"provider": "local", "keyring": "k.json"},
        "pipelines": [one],
    }
    path = directory / "config.yaml"
    path.write_text(json.dumps(tree))
    return path


# -- secrets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_a_secret_may_stand_in_a_file_and_shows_nowhere(tmp_path, name):
    """As a mounted Kubernetes secret does; relative paths begin at the configuration, a last line break is dropped."""
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    settings = load(config_at(tmp_path, {f"{name}.file": "secret"}), {})
    assert settings.kafka.properties[name] == SECRET
    assert f"{name}.file" not in settings.kafka.properties
    assert SECRET not in f"{settings!r} {settings} {settings.kafka!r}"


@pytest.mark.parametrize("overlay", ["consumer", "producer"])
def test_each_side_may_have_a_secret_of_its_own(tmp_path, overlay):
    (tmp_path / "secret").write_text(SECRET)
    settings = load(config_at(tmp_path, {overlay: {"sasl.password.file": "secret"}}), {})
    assert getattr(settings.kafka, overlay)["sasl.password"] == SECRET


def test_a_variable_may_name_the_file(tmp_path):
    (tmp_path / "secret").write_text(SECRET)
    environ = {"STREAMCRYPT__KAFKA__SASL_PASSWORD_FILE": str(tmp_path / "secret")}
    assert load(config_at(tmp_path, {}), environ).kafka.properties["sasl.password"] == SECRET


@pytest.mark.parametrize(
    ("kafka", "said"),
    [
        ({"sasl.password.file": "missing"}, "cannot be read"),
        ({"sasl.password.file": "empty"}, "is empty"),
        ({"sasl.password.file": "large"}, "is too large"),
        ({"sasl.password.file": "binary"}, "is not UTF-8"),
        ({"sasl.password.file": 5}, "is no path"),
        ({"sasl.password.file": "a\0b"}, "is no path"),
        ({"sasl.password.file": "secret", "sasl.password": SECRET}, "is given beside"),
        ({"sasl.mechanisms.file": "secret"}, "is no property"),
    ],
    ids=["missing", "empty", "large", "binary", "no path", "nul", "both", "no secret"],
)
def test_a_secret_file_that_does_not_do_is_told_with_its_place_and_without_content(tmp_path, kafka, said):
    for name, content in {
        "empty": b"\n",
        "large": SECRET.encode() * 4000,
        "binary": b"\xff" + SECRET.encode(),
        "secret": SECRET.encode(),
    }.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        load(config_at(tmp_path, kafka), {})
    assert said in str(refused.value)
    assert "config.yaml:1:" in str(refused.value)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("name", sorted(SECRETS - {"sasl.username"}))
def test_no_error_of_configuration_or_client_quotes_a_secret(tmp_path, name):
    """Whether the file is wrong elsewhere, or librdkafka refuses the property itself."""
    path = config_at(tmp_path, {name: SECRET, "bootstrap.server": "x"}, mode="encypt")
    with pytest.raises(ConfigError) as refused:
        load(path, {})
    assert SECRET not in str(refused.value)
    done = CliRunner().invoke(app, ["check", str(config_at(tmp_path, {name: SECRET, "security.protocol": "odd"}))])
    assert done.exit_code == Exit.USAGE
    assert "security.protocol" in done.output
    assert SECRET not in done.output


# -- MSK IAM -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def dummy_credentials(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIADUMMY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    monkeypatch.delenv("AWS_PROFILE", raising=False)


@pytest.fixture
def no_credentials(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def signed_url(token: str) -> dict[str, str]:
    """The parameters of the presigned URL in a token."""
    url = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
    assert url.startswith("https://kafka.eu-west-1.amazonaws.com/?")
    return dict(urllib.parse.parse_qsl(url.partition("?")[2]))


def test_a_token_for_msk_is_a_presigned_url_of_the_identity_that_expires_in_a_quarter_of_an_hour(dummy_credentials):
    """And the expiry is in seconds, as confluent-kafka wants it."""
    tokens = MSKTokens("eu-west-1")
    tokens.begin()
    token, expiry = tokens("")
    query = signed_url(token)
    assert query["Action"] == "kafka-cluster:Connect"
    assert query["X-Amz-Credential"].startswith("AKIADUMMY/")
    assert query["X-Amz-Expires"] == "900"
    assert 800 < expiry - time.time() <= 900
    assert SECRET not in token


def test_the_first_token_is_handed_over_once_and_later_ones_are_new(dummy_credentials, monkeypatch):
    tokens = MSKTokens("eu-west-1")
    tokens.begin()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOTHER")
    found = [signed_url(tokens("")[0])["X-Amz-Credential"].partition("/")[0] for _ in range(2)]
    assert found == ["AKIADUMMY", "AKIAOTHER"]


def test_every_client_of_a_configuration_for_msk_logs_in_by_tokens_over_tls(tmp_path, dummy_credentials):
    settings = load(EXAMPLES / "msk-iam.yaml", {})
    for config in (consumer_config, producer_config):
        made = config(settings, settings.pipelines[0])
        assert (made["security.protocol"], made["sasl.mechanisms"]) == ("SASL_SSL", "OAUTHBEARER")
        signed_url(made["oauth_cb"]("")[0])


def test_without_credentials_composing_says_so_at_once_and_later_failures_are_events(no_credentials):
    settings = load(EXAMPLES / "msk-iam.yaml", {})
    with pytest.raises(BrokerLoginFailed, match="no AWS credentials"):
        consumer_config(settings, settings.pipelines[0])
    seen: list[events.Event] = []
    tokens = MSKTokens("eu-west-1", client="p", observer=seen.append)
    with pytest.raises(BrokerLoginFailed):
        tokens("")
    assert seen == [
        events.BrokerTokenFailed("p", "BrokerLoginFailed", "no AWS credentials to log in at the brokers with")
    ]


def test_without_an_observer_a_failure_is_logged(no_credentials, caplog):
    with pytest.raises(BrokerLoginFailed):
        MSKTokens("eu-west-1", profile="absent", client="p")("")
    assert "absent" in caplog.text


def test_without_the_extra_an_error_names_it(monkeypatch):
    real = builtins.__import__

    def importing(name, *arguments, **options):
        if name == "aws_msk_iam_sasl_signer":
            raise ModuleNotFoundError(name=name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(ConfigError) as refused:
        MSKTokens("eu-west-1")
    assert "streamcrypt[sidecar,msk]" in refused.value.remedy


def test_a_client_that_got_no_token_in_time_is_tried_again_and_not_called_misconfigured(tmp_path):
    settings = load(config_at(tmp_path, {}), {})
    error = KafkaException(KafkaError(KafkaError.SASL_AUTHENTICATION_FAILED, "OAuth token not set within 10 seconds"))
    assert isinstance(unusable_client(settings, error), ConnectionLost)


@pytest.mark.parametrize(
    ("kafka", "said"),
    [
        ({"msk_iam": {}}, "region: is missing"),
        ({"msk_iam": {"region": "eu-west-1", "sasl": 1}}, "is not known here"),
        ({"msk_iam": {"region": "eu-west-1"}, "sasl.mechanisms": "PLAIN"}, "does not go with msk_iam"),
        ({"msk_iam": {"region": "eu-west-1"}, "producer": {"security.protocol": "plaintext"}}, "is SASL_SSL"),
        ({"msk_iam": {"region": "eu-west-1", "profile": "a", "role_arn": "arn:aws:iam::111122223333:role/a"}}, "both"),
    ],
    ids=["no region", "unknown", "another login", "no TLS", "two identities"],
)
def test_what_contradicts_msk_iam_is_refused(tmp_path, kafka, said):
    with pytest.raises(ConfigError, match=said):
        load(config_at(tmp_path, kafka), {})


def test_variables_reach_msk_iam(tmp_path):
    settings = load(config_at(tmp_path, {}), {"STREAMCRYPT__KAFKA__MSK_IAM__REGION": "eu-west-1"})
    assert settings.kafka.msk_iam.region == "eu-west-1"


# -- refusals ----------------------------------------------------------------------------------------------------------

SPEC = PipelineSpec("p", Mode.ENCRYPT, "g", ("orders",), "sealed", on_failure=OnFailure.DEAD_LETTER, dead_letter="dlq")
LOGINS = Logins("User:reader", "User:writer", "g.i.0")


@pytest.mark.parametrize(
    ("code", "topic", "cause", "right", "principal"),
    [
        ("TOPIC", "orders", "Fetch from broker 1 failed", ("Read", "topic", "orders"), "User:reader"),
        ("TOPIC", "sealed", "x", ("Write", "topic", "sealed or dlq"), "User:writer"),
        (
            "TOPIC",
            "sealed",
            "Failed to commit offsets to transaction on b: orders((null))[0](Broker: Topic authorization failed)",
            ("Read", "topic", "orders"),
            "User:writer",
        ),
        ("GROUP", "", "JoinGroup failed", ("Read", "group", "g"), "User:reader"),
        ("GROUP", "", "Failed to add offsets to transaction", ("Read", "group", "g"), "User:writer"),
        ("TRANSACTIONAL_ID", "", "x", ("Write", "transactional_id", "g.i.0"), "User:writer"),
        ("CLUSTER", "", "x", ("IdempotentWrite", "cluster", "kafka-cluster"), "User:writer"),
    ],
    ids=["source", "target", "offsets", "group", "group by transaction", "transactional id", "cluster"],
)
def test_a_refusal_names_who_may_not_do_what_and_the_command_that_mends_it(code, topic, cause, right, principal):
    error = KafkaError(getattr(KafkaError, f"{code}_AUTHORIZATION_FAILED"), cause)
    told = explained(from_kafka(error, "p", topic), SPEC, LOGINS)
    assert (told.right, told.principal) == (right, principal)
    assert f"{principal} may not {right[0]}" in str(told)
    assert f"--allow-principal {principal} --operation {right[0]} " in told.remedy


def test_a_refusal_is_probed_slowly():
    assert Backoff.for_error(AccessRefused("x")).next() >= 1.0


@pytest.mark.parametrize(
    ("config", "principal"),
    [
        ({}, "User:ANONYMOUS"),
        ({"security.protocol": "SASL_SSL", "sasl.mechanisms": "SCRAM-SHA-512", "sasl.username": "u"}, "User:u"),
        ({"security.protocol": "sasl_ssl", "sasl.mechanism": "PLAIN", "sasl.username": "u"}, "User:u"),
        ({"security.protocol": "ssl"}, ""),
        ({"security.protocol": "sasl_ssl", "sasl.mechanisms": "OAUTHBEARER"}, ""),
    ],
    ids=["nobody", "scram", "plain", "certificate", "token"],
)
def test_a_principal_is_told_only_where_the_settings_know_it(config, principal):
    assert principal_of(config) == principal


@pytest.mark.parametrize(
    ("trouble", "remedy"),
    [
        ("SSL handshake failed: …certificate verify failed: broker certificate could not be verified", "expired"),
        ("SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker listener?", "no TLS"),
        ("ssl/tls alert certificate unknown: SSL alert number 46", "ssl.certificate.location"),
        ("SASL authentication error: Authentication failed due to invalid credentials", "sasl.password"),
        ("Unsupported SASL mechanism: broker's supported mechanisms: SCRAM-SHA-512", "sasl.mechanisms"),
        ("Failed to acquire SASL OAUTHBEARER token: invalid_client", "token endpoint"),
        ("Failed to resolve 'x:1': Name or service not known", "DNS"),
        ("1/1 brokers are down", "security.protocol"),
    ],
    ids=["ca", "plaintext", "client certificate", "password", "mechanism", "token", "name", "nothing known"],
)
def test_a_trouble_with_the_link_has_a_remedy(trouble, remedy):
    assert remedy in remedy_of(trouble)


def test_the_report_that_tells_most_is_chosen():
    assert telling(["1/1 brokers are down", "SSL handshake failed"]) == "SSL handshake failed"
    assert telling(["1/1 brokers are down"]) == "1/1 brokers are down"
    assert telling([]) == ""


# -- the table of ACLs -------------------------------------------------------------------------------------------------

TOPIC = Resource("topic", "t")
PIPE = Pipe((TOPIC,), (Resource("topic", "u"),), Resource("group", "g"), Resource("transactional_id", "g.", "prefixed"))


def test_one_login_has_every_right_once_and_none_that_another_implies():
    acls = [ACL("Describe", TOPIC, "producer"), ACL("Read", TOPIC, "consumer"), ACL("Read", TOPIC, "producer")]
    assert as_one_login(acls) == (ACL("Read", TOPIC, "consumer"),)


@pytest.mark.parametrize("feature", list(Feature), ids=str)
def test_no_feature_asks_for_more_than_reading_writing_and_describing(feature):
    """Nothing creates, alters or deletes."""
    assert {acl.operation for acl in acls_of(feature, PIPE)} <= {"Read", "Write", "Describe", "DescribeConfigs"}


def test_the_command_prints_the_table_as_text_commands_and_json():
    path = str(EXAMPLES / "scram.yaml")
    table = CliRunner().invoke(app, ["policy", path, "--acls"])
    assert table.exit_code == Exit.DONE
    assert len(table.stdout.splitlines()) == 7
    found = json.loads(CliRunner().invoke(app, ["policy", path, "--acls", "--format", "json"]).stdout)
    assert found[0]["principal"] == "User:streamcrypt"
    commands = CliRunner().invoke(app, ["policy", path, "--acls", "--format", "commands"]).stdout.splitlines()
    assert len(commands) == len(found) == 6
    assert all(line.startswith('kafka-acls.sh --bootstrap-server "$BOOTSTRAP" --add ') for line in commands)


def test_a_principal_that_only_the_brokers_know_is_asked_for():
    path = str(EXAMPLES / "tls.yaml")
    bare = CliRunner().invoke(app, ["policy", path, "--acls"])
    assert bare.exit_code == INCOMPLETE
    named = CliRunner().invoke(app, ["policy", path, "--acls", "--principal", "both=User:CN=streamcrypt"])
    assert named.exit_code == Exit.DONE
    assert "User:CN=streamcrypt" in named.stdout


def test_two_logins_have_the_rights_of_their_side():
    path = str(EXAMPLES / "tls.yaml")
    options = ["--principal", "consumer=User:r", "--principal", "producer=User:w", "--format", "json"]
    found = json.loads(CliRunner().invoke(app, ["policy", path, "--acls", *options]).stdout)
    reads = [row["principal"] for row in found if row["operation"] == "Read" and row["resource_type"] == "group"]
    assert reads == ["User:r", "User:w"]
    assert {row["principal"] for row in found if row["operation"] == "Write"} == {"User:w"}


def test_an_expression_becomes_the_narrowest_prefix_that_holds_it():
    found = json.loads(
        CliRunner().invoke(app, ["policy", str(EXAMPLES / "regex-topics.yaml"), "--acls", "--format", "json"]).stdout
    )
    assert {(row["resource_name"], row["pattern_type"]) for row in found if row["resource_type"] == "topic"} == {
        ("tenant-", "prefixed")
    }

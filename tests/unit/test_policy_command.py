"""Claims about ``streamcrypt policy``: what it prints for the examples, and how it ends."""

from __future__ import annotations

import json
import re
from pathlib import Path

import hcl2
import pytest
import yaml
from typer.testing import CliRunner, Result

from streamcrypt.cli.app import app
from streamcrypt.cli.exits import Exit
from streamcrypt.cli.policy import INCOMPLETE
from streamcrypt.config import load
from streamcrypt.policies.needs import Role
from streamcrypt.testing import KMSServer
from tests.kms import REGION, use_fake_credentials

GOLDEN = Path(__file__).parents[1] / "golden"
EXAMPLES = Path(__file__).parents[2] / "config"
KEY = "arn:aws:kms:eu-west-1:111122223333:key/9234abcd-12ab-34cd-56ef-1234567890ab"
TRUSTED = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
PARTNER = "arn:aws:kms:eu-west-1:444455556666:key/0987dcba-09fe-87dc-65ba-ab0987654321"
READER = "arn:aws:iam::111122223333:role/reader"
ADMINISTRATOR = "arn:aws:iam::111122223333:role/keys"
GIVEN = [
    *("--key-arn", f"alias/payments={KEY}"),
    *("--key-arn", f"alias/tenants={KEY.replace('eu-west-1', 'eu-central-1')}"),
]
WITH_GOLDEN = ("encrypt", "decrypt", "both", "regex-topics")
SEALED_BY_KMS = sorted(
    path.stem
    for path in EXAMPLES.glob("*.yaml")
    if yaml.safe_load(path.read_text())["keys"].get("provider", "aws-kms") == "aws-kms"
)


def policy(*arguments: str) -> Result:
    """Run the command without asking AWS."""
    return CliRunner().invoke(app, ["policy", *arguments, "--offline"])


def example(name: str) -> str:
    """The path of an example."""
    return str(EXAMPLES / f"{name}.yaml")


# -- the examples ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_GOLDEN)
def test_policies_of_the_examples_are_those_reviewed(name):
    """A change of a generated policy shows in a diff: renew the file with the command that this test runs."""
    result = policy(example(name), *GIVEN)
    assert result.stdout == (GOLDEN / f"policy-{name}.json").read_text()


def test_terraform_of_an_example_is_that_reviewed():
    """Likewise for HCL."""
    result = policy(example("decrypt"), "--format", "terraform")
    assert result.exit_code == Exit.DONE
    assert result.stdout == (GOLDEN / "policy-decrypt.tf").read_text()


@pytest.mark.parametrize("name", SEALED_BY_KMS)
def test_every_example_has_policies_without_wildcards(name):
    """Each example gives identity and key policies, and Terraform that parses."""
    result = policy(example(name))
    assert result.exit_code == INCOMPLETE  # nobody said who has the roles
    tree = json.loads(result.stdout)
    documents = [*tree["iam"].values(), *tree["keys"].values()]
    assert documents
    for statement in [statement for document in documents for statement in document["Statement"]]:
        assert not [text for text in (*statement["Action"], *statement["Resource"]) if "*" in text or "?" in text]
    assert set(hcl2.loads(policy(example(name), "--format", "terraform").stdout)) >= {"data", "resource", "variable"}


def test_an_example_gives_each_mode_its_role():
    """Encrypting and decrypting pipelines are two roles."""
    tree = json.loads(policy(example("both"), "--kind", "iam").stdout)
    assert set(tree["iam"]) == {"encryptor", "decryptor"}


# -- what is printed ---------------------------------------------------------------------------------------------------


def test_one_role_alone_is_its_document():
    """--role with --kind iam prints the document itself, ready for 'aws iam put-role-policy'."""
    result = policy(example("encrypt"), *GIVEN, "--role", "encryptor", "--kind", "iam")
    assert result.exit_code == Exit.DONE
    assert result.stderr == ""
    document = json.loads(result.stdout)
    assert document["Version"] == "2012-10-17"
    assert document["Statement"][-1]["Resource"] == [KEY]


def test_one_key_alone_is_its_document():
    """--key with --kind key prints the document itself, ready for 'aws kms put-key-policy'."""
    principals = ["--principal", f"decryptor={READER}", "--principal", f"administrator={ADMINISTRATOR}"]
    result = policy(example("decrypt"), *GIVEN, *principals, "--kind", "key", "--key", TRUSTED)
    assert (result.exit_code, result.stderr) == (Exit.DONE, "")
    statements = json.loads(result.stdout)["Statement"]
    assert [statement["Principal"] for statement in statements] == [{"AWS": ADMINISTRATOR}, {"AWS": READER}]


def test_several_identities_may_have_a_role():
    """A principal may be given several times."""
    two = [READER, READER + "-2"]
    principals = [part for arn in two for part in ("--principal", f"decryptor={arn}")]
    result = policy(example("decrypt"), *GIVEN, *principals, "--kind", "key")
    assert json.loads(result.stdout)["keys"][TRUSTED]["Statement"][-1]["Principal"] == {"AWS": two}


def test_what_is_not_known_is_told_and_ends_with_3():
    """An alias that nobody resolved, and roles that nobody named: placeholders, each with its remedy."""
    result = policy(example("encrypt"))
    assert result.exit_code == INCOMPLETE
    assert "pass --key-arn alias/payments=ARN" in result.stderr
    assert "pass --principal encryptor=ARN" in result.stderr
    assert "REPLACE-ME:key-arn-of:alias/payments" in result.stdout
    identity = policy(example("encrypt"), *GIVEN, "--kind", "iam")
    assert (identity.exit_code, identity.stderr) == (Exit.DONE, "")


def test_terraform_asks_itself():
    """Where Terraform has variables for what is not known, the output is complete."""
    result = policy(example("encrypt"), "--format", "terraform")
    assert result.exit_code == Exit.DONE
    assert "REPLACE-ME" not in result.stdout


def test_roles_at_will_are_printed_when_asked_for():
    """Auditor, doctor and key rotator are no pipelines: --role or a principal brings them."""
    asked = policy(example("decrypt"), *GIVEN, "--role", "auditor", "--role", "key-rotator", "--kind", "iam")
    assert set(json.loads(asked.stdout)["iam"]) == {"auditor", "key-rotator"}
    named = policy(example("decrypt"), *GIVEN, "--principal", f"doctor={READER}", "--kind", "key")
    assert "kms:GetKeyRotationStatus" in named.stdout


def test_configurations_are_joined(tmp_path):
    """Two sidecars on one KEK: one key policy that lets both in."""
    tree = yaml.safe_load(Path(example("encrypt")).read_text())
    tree["pipelines"][0] |= {"mode": "decrypt", "from": "payments.encrypted", "to": "payments"}
    (tmp_path / "decrypt.yaml").write_text(yaml.safe_dump(tree))
    result = policy(example("encrypt"), str(tmp_path / "decrypt.yaml"), *GIVEN)
    document = json.loads(result.stdout)
    assert set(document["iam"]) == {"encryptor", "decryptor"}
    assert {s["Sid"] for s in document["keys"][KEY]["Statement"]} >= {"DecryptorDecrypt", "EncryptorGenerateDataKey"}


def test_a_key_of_another_account_gets_statements_to_add():
    """Its owner has an administrator already: the policy is not ours to write whole."""
    keys = json.loads(policy(example("both"), "--kind", "key").stdout)["keys"]
    assert [statement["Sid"] for statement in keys[PARTNER]["Statement"]] == ["DecryptorDecrypt"]
    assert keys[TRUSTED]["Statement"][0]["Sid"] == "Administrator"


def test_further_names_of_other_writers(tmp_path):
    """--context-name lets records with more pairs be opened."""
    result = policy(example("decrypt"), *GIVEN, "--context-name", "team", "--role", "decryptor", "--kind", "iam")
    conditions = json.loads(result.stdout)["Statement"][0]["Condition"]
    assert conditions["ForAllValues:StringEquals"]["kms:EncryptionContextKeys"] == ["app", "streamcrypt:topic", "team"]


def test_an_expression_for_everything_is_told(tmp_path):
    """A policy for every topic is printed, and said to be one."""
    tree = yaml.safe_load(Path(example("decrypt")).read_text())
    tree["pipelines"][0] |= {"from": "^.*$", "to": "{topic}.plain"}
    (tmp_path / "all.yaml").write_text(yaml.safe_dump(tree))
    result = policy(str(tmp_path / "all.yaml"), *GIVEN, "--kind", "iam")
    assert "matches every topic" in result.stderr


def test_a_policy_too_long_for_aws_is_told(tmp_path):
    """IAM would refuse it, so say so first."""
    tree = yaml.safe_load(Path(example("decrypt")).read_text())
    tree["pipelines"][0] |= {"from": [f"topic-{number:04}" for number in range(600)], "to": "{topic}.plain"}
    (tmp_path / "many.yaml").write_text(yaml.safe_dump(tree))
    result = policy(str(tmp_path / "many.yaml"), *GIVEN, "--kind", "iam")
    assert "characters over" in result.stderr


def test_a_context_that_no_policy_can_hold_is_told(tmp_path):
    """A pair beyond Latin-1 cannot be required."""
    tree = yaml.safe_load(Path(example("decrypt")).read_text())
    tree["context"] = {"miasto": "Łódź"}
    (tmp_path / "lodz.yaml").write_text(yaml.safe_dump(tree))
    result = policy(str(tmp_path / "lodz.yaml"), *GIVEN, "--kind", "iam")
    assert "'miasto'" in result.stderr


# -- aliases -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def at_kms(tmp_path, monkeypatch):
    """Writes the encrypting example for a KMS at a URL, and runs the command on it."""
    use_fake_credentials(monkeypatch)

    def run(url: str, *arguments: str) -> Result:
        tree = yaml.safe_load(Path(example("encrypt")).read_text())
        tree["keys"] |= {"endpoint_url": url, "region": REGION}
        (tmp_path / "here.yaml").write_text(yaml.safe_dump(tree))
        return CliRunner().invoke(app, ["policy", str(tmp_path / "here.yaml"), "--kind", "iam", *arguments])

    return run


def test_an_alias_is_resolved_by_asking(at_kms):
    """DescribeKey gives the ARN, once."""
    with KMSServer() as server:
        arn = server.create_key("alias/payments")
        result = at_kms(server.url)
        assert (result.exit_code, result.stderr) == (Exit.DONE, "")
        assert json.loads(result.stdout)["iam"]["encryptor"]["Statement"][0]["Resource"] == [arn]
        assert [call.operation for call in server.calls] == ["DescribeKey"]


def test_an_alias_that_cannot_be_resolved_is_told(at_kms):
    """The reason is on standard error, a placeholder in its place, and the exit code is 3."""
    with KMSServer() as server:
        result = at_kms(server.url)
    assert result.exit_code == INCOMPLETE
    assert "alias/payments" in result.stderr
    assert "REPLACE-ME:key-arn-of:alias/payments" in result.stdout


def test_a_name_that_is_given_is_not_asked_for(at_kms):
    """--key-arn wins."""
    with KMSServer() as server:
        assert at_kms(server.url, *GIVEN).exit_code == Exit.DONE
        assert server.calls == []


# -- arguments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--role", "king"], "king"),
        (["--role", "decryptor"], "no pipeline gives that role work"),
        (["--kind", "both", "--format", "yaml"], "yaml"),
        (["--kind", "all"], "all"),
        (["--principal", "encryptor"], "NAME=ARN"),
        (["--principal", f"king={READER}"], "king"),
        (["--principal", "encryptor=everybody"], "everybody"),
        (["--principal", "encryptor=*"], "no ARN"),
        (["--key-arn", "alias/payments=alias/other"], "alias/other"),
        (["--key-arn", f"alias/payments={KEY}", "--key-arn", f"alias/payments={KEY}"], "twice"),
        (["--key", KEY], "none of the keys in use"),
        (["--key", KEY, "--kind", "iam"], "--kind iam"),
        (["--key", "alias/payments"], "not a key ARN"),
    ],
    ids=[
        "unknown role",
        "idle role",
        "unknown format",
        "unknown kind",
        "no pair",
        "unknown principal",
        "no ARN",
        "everybody",
        "an alias as ARN",
        "a name twice",
        "a key not in use",
        "a key among identities",
        "an alias as key",
    ],
)
def test_wrong_arguments_exit_2(arguments, words):
    """The message names what is wrong, and nothing is printed."""
    result = policy(example("encrypt"), *arguments)
    assert result.exit_code == Exit.USAGE
    assert words in result.stderr
    assert result.stdout == ""


def test_every_role_and_option_is_documented():
    """docs/policies.md names each role, and each option of the command."""
    page = (EXAMPLES.parent / "docs" / "policies.md").read_text()
    assert [role for role in (*Role, "administrator") if f"`{role}`" not in page] == []
    options = set(re.findall(r"--[a-z-]+", policy("--help").stdout)) - {"--help"}
    assert [option for option in sorted(options) if option not in page] == []


def test_a_local_keyring_has_no_policies():
    """The local provider knows no AWS, and says so."""
    result = policy(example("local-development"))
    assert result.exit_code == Exit.USAGE
    assert "local keyring" in result.stderr


def test_the_golden_files_belong_to_examples():
    """No golden file is left behind."""
    assert {path.name for path in GOLDEN.glob("policy-*")} == {
        *(f"policy-{name}.json" for name in WITH_GOLDEN),
        "policy-decrypt.tf",
    }
    assert all(load(EXAMPLES / f"{name}.yaml") for name in WITH_GOLDEN)

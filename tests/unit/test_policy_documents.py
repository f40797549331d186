"""Claims about policies: the least that each role needs, no wildcard, nothing that IAM would read another way."""

from __future__ import annotations

import json

import hcl2
import pytest

from streamcrypt.errors import ConfigError
from streamcrypt.policies.documents import (
    ADMINISTRATOR_ACTIONS,
    identity_policy,
    is_placeholder,
    key_placeholder,
    key_policy,
    principal_placeholder,
    too_long,
    unnameable,
)
from streamcrypt.policies.needs import (
    KEK,
    Role,
    Way,
    inspecting,
    merged,
    opening,
    rewrapping,
    rotating,
    sealing,
)
from streamcrypt.policies.terraform import as_terraform
from streamcrypt.policies.topics import Topics

ARN = "arn:aws:kms:{region}:111122223333:key/{key}"
IRELAND = ARN.format(region="eu-west-1", key="1234abcd-12ab-34cd-56ef-1234567890ab")
FRANKFURT = ARN.format(region="eu-central-1", key="2234abcd-12ab-34cd-56ef-1234567890ab")
OLD = ARN.format(region="eu-west-1", key="0234abcd-12ab-34cd-56ef-1234567890ab")
REPLICAS = tuple(
    ARN.format(region=region, key="mrk-1234abcd12ab34cd56ef1234567890ab") for region in ("eu-west-1", "eu-central-1")
)
PAYMENTS = Topics(("payments",))


def actions(needs) -> dict[str, tuple[str, ...]]:
    """Action to keys."""
    return {need.action: need.keys for need in needs}


# -- what each role needs ----------------------------------------------------------------------------------------------


def test_sealing_mints_under_the_first_kek_and_encrypts_under_the_others():
    """GenerateDataKey on one, Encrypt on the rest, DescribeKey on all; never Decrypt."""
    way = Way((KEK((IRELAND,)), KEK((FRANKFURT,))))
    assert actions(sealing(Role.ENCRYPTOR, way, PAYMENTS)) == {
        "kms:GenerateDataKey": (IRELAND,),
        "kms:Encrypt": (FRANKFURT,),
        "kms:DescribeKey": (FRANKFURT,),
    }


def test_any_kek_mints_where_any_suffices():
    """With 'require: any' the first that answers mints, so that each may do both."""
    way = Way((KEK((IRELAND,)), KEK((FRANKFURT,))), any_mints=True)
    found = actions(sealing(Role.ENCRYPTOR, way, PAYMENTS))
    assert found["kms:GenerateDataKey"] == found["kms:Encrypt"] == (IRELAND, FRANKFURT)


def test_every_replica_mints():
    """Of a multi-region key the nearest replica that answers mints, and no Encrypt is needed."""
    found = actions(sealing(Role.ENCRYPTOR, Way((KEK(REPLICAS),)), PAYMENTS))
    assert found == {"kms:GenerateDataKey": REPLICAS, "kms:DescribeKey": REPLICAS}


def test_opening_needs_decrypt_alone():
    """A reader may Decrypt under the configured and the trusted KEKs, and looks up what is named by an alias only."""
    by_arn = Way((KEK((IRELAND,)),), trusted=(OLD,))
    assert actions(opening(Role.DECRYPTOR, by_arn, PAYMENTS)) == {"kms:Decrypt": (IRELAND, OLD)}
    by_alias = Way((KEK((IRELAND,), ("alias/payments",), by_arn=False),), trusted=(OLD,))
    assert actions(opening(Role.DECRYPTOR, by_alias, PAYMENTS)) == {
        "kms:Decrypt": (IRELAND, OLD),
        "kms:DescribeKey": (IRELAND,),
    }


def test_rewrapping_within_a_region_never_sees_a_data_key():
    """ReEncryptFrom on sources and ReEncryptTo on destinations are enough where they share a region."""
    way = Way((KEK((IRELAND,)),), trusted=(OLD,))
    assert actions(rewrapping(Role.RE_ENCRYPTOR, way, PAYMENTS)) == {
        "kms:ReEncryptFrom": (IRELAND, OLD),
        "kms:ReEncryptTo": (IRELAND,),
        "kms:DescribeKey": (IRELAND,),
    }


def test_rewrapping_across_regions_decrypts_and_encrypts_there_alone():
    """KMS re-encrypts within one region only: what shares none goes by Decrypt and Encrypt."""
    found = actions(rewrapping(Role.RE_ENCRYPTOR, Way((KEK((FRANKFURT,)),), trusted=(OLD,)), PAYMENTS))
    assert found["kms:Decrypt"] == (OLD,)
    assert found["kms:Encrypt"] == (FRANKFURT,)
    assert found["kms:ReEncryptFrom"] == found["kms:ReEncryptTo"] == (FRANKFURT,)
    near = actions(rewrapping(Role.RE_ENCRYPTOR, Way((KEK(REPLICAS),), trusted=(OLD,)), PAYMENTS))
    assert "kms:Decrypt" not in near
    assert "kms:Encrypt" not in near


def test_a_way_of_one_topic_counts_for_that_topic():
    """A KEK that serves one topic is not allowed for another."""
    way = Way((KEK((IRELAND,)),), topic="payments")
    assert [need.context.topics for need in opening(Role.DECRYPTOR, way, Topics(like=("*",)))] == [PAYMENTS]
    assert list(opening(Role.DECRYPTOR, way, Topics(("orders",)))) == []
    assert list(sealing(Role.ENCRYPTOR, way, Topics(("orders",)))) == []
    assert list(rewrapping(Role.RE_ENCRYPTOR, way, Topics(("orders",)))) == []


def test_needs_of_several_pipelines_are_joined_by_keys_and_pairs():
    """Two pipelines under one KEK become one statement with both topics; under two KEKs they stay apart."""
    way, other = Way((KEK((IRELAND,)),)), Way((KEK((FRANKFURT,)),))
    needs = merged(
        [
            *opening(Role.DECRYPTOR, way, PAYMENTS),
            *opening(Role.DECRYPTOR, way, Topics(("orders",))),
            *opening(Role.DECRYPTOR, other, Topics(("audit",))),
        ]
    )
    assert [(need.keys, need.context.topics.exact) for need in needs] == [
        ((FRANKFURT,), ("audit",)),
        ((IRELAND,), ("orders", "payments")),
    ]


# -- documents ---------------------------------------------------------------------------------------------------------


def test_conditions_hold_the_context_to_the_configured_one():
    """The topic, every pair, and no name besides: three conditions, all of which have to hold."""
    way = Way((KEK((IRELAND,)),), pairs={"app": "billing"})
    [statement] = identity_policy(opening(Role.DECRYPTOR, way, PAYMENTS)).as_tree()["Statement"]
    assert statement == {
        "Sid": "DecryptorDecrypt",
        "Effect": "Allow",
        "Action": ["kms:Decrypt"],
        "Resource": [IRELAND],
        "Condition": {
            "ForAllValues:StringEquals": {"kms:EncryptionContextKeys": ["app", "streamcrypt:topic"]},
            "StringEquals": {
                "kms:EncryptionContext:streamcrypt:topic": "payments",
                "kms:EncryptionContext:app": "billing",
            },
        },
    }


def test_what_differs_in_keys_or_actions_only_is_one_statement():
    """Actions on the same keys are joined, and so are keys of the same actions: policies are short."""
    way = Way((KEK((IRELAND,)), KEK((FRANKFURT,))), any_mints=True)
    statements = identity_policy(merged(sealing(Role.ENCRYPTOR, way, PAYMENTS))).as_tree()["Statement"]
    found = {tuple(statement["Action"]): set(statement["Resource"]) for statement in statements}
    assert found == {
        ("kms:DescribeKey",): {IRELAND, FRANKFURT},
        ("kms:Encrypt", "kms:GenerateDataKey"): {IRELAND, FRANKFURT},
    }


def test_patterns_and_exclusions_become_conditions():
    """Expressions use StringLike, and what is excluded StringNotEquals."""
    topics = Topics(("plain",), ("tenant-*",), ("tenant-demo",))
    [statement] = identity_policy(opening(Role.DECRYPTOR, Way((KEK((IRELAND,)),)), topics)).as_tree()["Statement"]
    name = "kms:EncryptionContext:streamcrypt:topic"
    assert statement["Condition"]["StringLike"] == {name: ["plain", "tenant-*"]}
    assert statement["Condition"]["StringNotEquals"] == {name: "tenant-demo"}


def test_further_names_are_let_through_when_opening_only():
    """Records of other writers may have more pairs than configured; our own never do."""
    way = Way((KEK((IRELAND,)),), further=("team",))
    [read] = identity_policy(opening(Role.DECRYPTOR, way, PAYMENTS)).as_tree()["Statement"]
    written = identity_policy(sealing(Role.ENCRYPTOR, way, PAYMENTS)).as_tree()["Statement"][0]
    names = ("ForAllValues:StringEquals", "kms:EncryptionContextKeys")
    assert read["Condition"][names[0]][names[1]] == ["streamcrypt:topic", "team"]
    assert written["Condition"][names[0]][names[1]] == ["streamcrypt:topic"]


def test_a_dollar_in_a_pair_is_no_policy_variable():
    """IAM replaces ${…} in values: a pair of that form would match another one."""
    way = Way((KEK((IRELAND,)),), pairs={"app": "${aws:username}"})
    [statement] = identity_policy(opening(Role.DECRYPTOR, way, PAYMENTS)).as_tree()["Statement"]
    assert statement["Condition"]["StringEquals"]["kms:EncryptionContext:app"] == "${$}{aws:username}"


def test_a_pair_that_no_policy_can_hold_is_left_out_and_told():
    """A policy takes Latin-1 only; the list of names would lock the pair's records out, so it goes as well."""
    pairs = {"app": "billing", "stadt": "Łódź", "ort": "Köln"}
    way = Way((KEK((IRELAND,)),), pairs=pairs)
    [statement] = identity_policy(opening(Role.DECRYPTOR, way, PAYMENTS)).as_tree()["Statement"]
    assert unnameable(pairs) == ("stadt",)
    assert "ForAllValues:StringEquals" not in statement["Condition"]
    assert "kms:EncryptionContext:stadt" not in statement["Condition"]["StringEquals"]
    assert statement["Condition"]["StringEquals"]["kms:EncryptionContext:ort"] == "Köln"


def test_an_alias_is_looked_up_by_its_name_only():
    """DescribeKey is allowed for the alias, not for the key under any other name."""
    way = Way((KEK((IRELAND,), ("alias/payments",), by_arn=False),))
    statements = identity_policy(sealing(Role.ENCRYPTOR, way, PAYMENTS)).as_tree()["Statement"]
    [lookup] = [s for s in statements if s["Action"] == ["kms:DescribeKey"]]
    assert lookup["Condition"] == {"StringEquals": {"kms:RequestAlias": "alias/payments"}}


def every_need():
    """What all roles need, under aliases, replicas, several KEKs and trusted ones."""
    way = Way(
        (KEK((IRELAND,), ("alias/payments",), by_arn=False), KEK(REPLICAS)), (OLD, FRANKFURT), pairs={"app": "billing"}
    )
    topics = Topics(("payments",), ("tenant-?*",))
    return merged(
        [
            *sealing(Role.ENCRYPTOR, way, topics),
            *opening(Role.DECRYPTOR, way, topics),
            *rewrapping(Role.RE_ENCRYPTOR, way, topics),
            *inspecting(way),
            *rotating(way),
        ]
    )


def every_document():
    """Identity policies of all roles, and key policies of all keys."""
    needs = every_need()
    roles = {str(role): identity_policy(n for n in needs if n.role is role) for role in {n.role for n in needs}}
    keys = {key: key_policy(key, needs, {}) for key in {key for need in needs for key in need.keys}}
    return dict(sorted(roles.items())), dict(sorted(keys.items()))


def test_no_action_and_no_resource_holds_a_wildcard():
    """Not in identity policies, and not in key policies, where each statement names its own key."""
    roles, keys = every_document()
    for document in [*roles.values(), *keys.values()]:
        for statement in document.as_tree()["Statement"]:
            assert not [text for text in (*statement["Action"], *statement["Resource"]) if "*" in text or "?" in text]
    for key, document in keys.items():
        assert {resource for s in document.statements for resource in s.resources} == {key}


def test_nobody_may_hand_out_grants_or_use_a_key_as_administrator():
    """A grant could hand out Decrypt past every condition; administrators manage keys and never use them."""
    roles, keys = every_document()
    allowed = {a for d in [*roles.values(), *keys.values()] for s in d.statements for a in s.actions}
    assert "kms:CreateGrant" not in allowed
    using = {"Decrypt", "Encrypt", "GenerateDataKey", "ReEncryptFrom", "ReEncryptTo"}
    assert not using & {action.removeprefix("kms:") for action in ADMINISTRATOR_ACTIONS}


def test_names_of_statements_are_unique_and_alphanumeric():
    """IAM takes letters and digits in a Sid, each once in a document."""
    roles, keys = every_document()
    for document in [*roles.values(), *keys.values()]:
        names = [statement.sid for statement in document.statements]
        assert len(set(names)) == len(names)
        assert all(name.isalnum() and name.isascii() for name in names)


def test_a_key_policy_names_who_may_and_keeps_its_administrator():
    """Principals are those given; a key of another account gets statements to add, without an administrator."""
    needs = merged(opening(Role.DECRYPTOR, Way((KEK((IRELAND,)),), (OLD,)), PAYMENTS))
    reader, admin = "arn:aws:iam::111122223333:role/reader", "arn:aws:iam::111122223333:role/keys"
    principals = {"decryptor": [reader], "administrator": [admin]}
    first, second = key_policy(IRELAND, needs, principals).as_tree()["Statement"]
    assert (first["Sid"], first["Principal"]) == ("Administrator", {"AWS": admin})
    assert "kms:PutKeyPolicy" in first["Action"]
    assert (second["Action"], second["Principal"], second["Resource"]) == (["kms:Decrypt"], {"AWS": reader}, [IRELAND])
    [only] = key_policy(OLD, needs, principals, administrator=False).as_tree()["Statement"]
    assert only["Resource"] == [OLD]


def test_an_administrator_replicates_multi_region_keys_only():
    """ReplicateKey and UpdatePrimaryRegion mean nothing for a key of one region."""
    needs = merged(opening(Role.DECRYPTOR, Way((KEK((*REPLICAS, IRELAND)),)), PAYMENTS))
    assert "kms:ReplicateKey" in key_policy(REPLICAS[0], needs, {}).statements[0].actions
    assert "kms:ReplicateKey" not in key_policy(IRELAND, needs, {}).statements[0].actions


def test_placeholders_are_told_and_are_no_arns():
    """What is not known stands there as text that AWS refuses: neither an ARN nor a wildcard."""
    unknown = key_placeholder("alias/payments")
    needs = merged(opening(Role.DECRYPTOR, Way((KEK((unknown,), ("alias/payments",), by_arn=False),)), PAYMENTS))
    assert identity_policy(needs).placeholders == (unknown,)
    assert set(key_policy(unknown, needs, {}).placeholders) == {
        unknown,
        principal_placeholder("administrator"),
        principal_placeholder("decryptor"),
    }
    assert is_placeholder(unknown)
    assert not unknown.startswith("arn:")
    assert not is_placeholder(IRELAND)


def test_too_long_a_policy_is_told_by_how_much():
    """6,144 characters for an identity, 32,768 bytes for a key."""
    many = Topics(tuple(f"topic-{number:04}" for number in range(600)))
    document = identity_policy(opening(Role.DECRYPTOR, Way((KEK((IRELAND,)),)), many))
    size = len(json.dumps(document.as_tree(), separators=(",", ":")))
    assert too_long(document, of_key=False) == size - 6144
    assert too_long(document, of_key=True) == 0


# -- Terraform ---------------------------------------------------------------------------------------------------------


def parsed(text: str) -> dict:
    """Parse HCL, with strings as they mean."""

    def plain(value):
        if isinstance(value, dict):
            return {plain(name): plain(item) for name, item in value.items() if name != "__is_block__"}
        if isinstance(value, list):
            return [plain(item) for item in value]
        if isinstance(value, str) and value.startswith('"'):
            return json.loads(value).replace("$${", "${").replace("%%{", "%{")
        return value

    return plain(hcl2.loads(text))


def as_json_statements(block: dict) -> list[dict]:
    """Give the statements of an aws_iam_policy_document as the JSON that Terraform makes of it."""
    statements = []
    for given in block["statement"]:
        tree = {"Sid": given["sid"], "Effect": "Allow"}
        for principals in given.get("principals", ()):
            [*identifiers] = principals["identifiers"]
            tree["Principal"] = {"AWS": identifiers[0] if len(identifiers) == 1 else identifiers}
        tree |= {"Action": given["actions"], "Resource": given["resources"]}
        for condition in given.get("condition", ()):
            values = condition["values"]
            single = len(values) == 1 and not condition["test"].startswith("ForAllValues")
            grouped = tree.setdefault("Condition", {}).setdefault(condition["test"], {})
            grouped[condition["variable"]] = values[0] if single else values
        statements.append(tree)
    return statements


def test_terraform_says_what_json_says():
    """Parsed by an independent parser, the HCL holds the very statements of the JSON."""
    roles, keys = every_document()
    principals = {**{role: ["arn:aws:iam::111122223333:role/r"] for role in [*Role, "administrator"]}}
    keys = {key: key_policy(key, every_need(), principals) for key in keys}
    tree = parsed(as_terraform(roles, keys))
    documents = {name: block for item in tree["data"] for name, block in item["aws_iam_policy_document"].items()}
    for role, document in roles.items():
        found = documents[f"streamcrypt_{role.replace('-', '_')}"]
        assert as_json_statements(found) == document.as_tree()["Statement"]
    for number, document in enumerate(keys.values(), start=1):
        assert as_json_statements(documents[f"streamcrypt_key_{number}"]) == document.as_tree()["Statement"]
    resources = [name for item in tree["resource"] for name in item]
    assert resources == ["aws_iam_policy"] * len(roles) + ["aws_kms_key_policy"] * len(keys)
    assert "variable" not in tree


def test_terraform_asks_for_what_is_not_known():
    """A placeholder becomes a variable without default: Terraform plans nothing before it is given."""
    unknown = key_placeholder("alias/payments")
    needs = merged(opening(Role.DECRYPTOR, Way((KEK((unknown,)),)), PAYMENTS))
    text = as_terraform({"decryptor": identity_policy(needs)}, {unknown: key_policy(unknown, needs, {})})
    assert "REPLACE-ME" not in text
    variables = {name: block for item in parsed(text)["variable"] for name, block in item.items()}
    assert set(variables) == {"key_arn_of_alias_payments", "arn_of_the_administrator", "arn_of_the_decryptor"}
    assert all("default" not in block for block in variables.values())
    assert "key_id = var.key_arn_of_alias_payments" in text


@pytest.mark.parametrize("value", ["${x}", "%{if}", 'quote " back \\', "ä&é", "tab\tend"])
def test_terraform_reads_values_as_they_are(value):
    """Templates of HCL, quotes and backslashes in a pair arrive in the policy unchanged."""
    way = Way((KEK((IRELAND,)),), pairs={"app": value})
    document = identity_policy(opening(Role.DECRYPTOR, way, PAYMENTS))
    [item] = parsed(as_terraform({"decryptor": document}, {}))["data"]
    [block] = item["aws_iam_policy_document"].values()
    assert as_json_statements(block) == document.as_tree()["Statement"]


def test_what_the_provider_would_read_as_a_variable_is_refused():
    """The AWS provider turns '&{' into '${', for which it knows no escape."""
    way = Way((KEK((IRELAND,)),), pairs={"app": "&{aws:username}"})
    document = identity_policy(opening(Role.DECRYPTOR, way, PAYMENTS))
    with pytest.raises(ConfigError, match=r"&\{"):
        as_terraform({"decryptor": document}, {})

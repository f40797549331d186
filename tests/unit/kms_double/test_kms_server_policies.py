"""The KMS that we ship for tests: who may do what, by identity policies, key policies and grants."""

from __future__ import annotations

import base64
import json

import pytest
from botocore.exceptions import ClientError

from streamcrypt.errors import ConfigError
from streamcrypt.testing.kms_conditions import PolicyError, arn_like, like, parse_conditions
from streamcrypt.testing.kms_policy import Policy
from tests.kms import make_client, refusal

ACCOUNT = "111122223333"
CONTEXT = {"streamcrypt:topic": "payments", "app": "billing"}
EVERYTHING = {"Statement": {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}}
DENIED = "AccessDeniedException"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/sealer"
FAR = "us-east-1"


@pytest.fixture
def client_of(server):
    clients = []

    def make(access_key_id="AKIASEALER", region="eu-west-1"):
        clients.append(make_client(server.url, region, access_key_id))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def allowing(*actions, resource="*", effect="Allow", **condition):
    statement = {"Effect": effect, "Action": [f"kms:{action}" for action in actions], "Resource": resource}
    return {"Version": "2012-10-17", "Statement": [statement | ({"Condition": condition} if condition else {})]}


def key_policy(*statements):
    filled = [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"} | statement for statement in statements]
    return json.dumps({"Version": "2012-10-17", "Statement": filled})


def seal(client, arn, context=None):
    return client.generate_data_key(KeyId=arn, KeySpec="AES_256", EncryptionContext=context or CONTEXT)


def text_of(call, **members):
    with pytest.raises(ClientError) as caught:
        call(**members)
    assert caught.value.response["Error"]["Code"] == DENIED
    return caught.value.response["Error"]["Message"]


# ---- identity policies ----


def test_nothing_is_judged_before_the_first_identity(server, client_of):
    """Whoever signs may do everything; the first allow() changes that for all."""
    arn = server.create_key()
    seal(client_of("AKIAANY"), arn)
    server.allow("AKIASEALER", EVERYTHING)
    seal(client_of(), arn)
    assert refusal(seal, client=client_of("AKIAANY"), arn=arn) == DENIED
    assert server.call("GenerateDataKey", KeyId=arn, KeySpec="AES_256")


def test_an_identity_may_do_what_its_policies_say_and_nothing_else(server, client_of):
    """By action and by resource; several policies add up."""
    ours, theirs = server.create_key("alias/ours"), server.create_key()
    blob = server.call("GenerateDataKey", KeyId=ours, KeySpec="AES_256")
    server.allow("AKIASEALER", allowing("GenerateDataKey", resource=ours), "sealer")
    client = client_of()
    assert seal(client, ours)["KeyId"] == ours
    assert seal(client, "alias/ours")["KeyId"] == ours
    assert refusal(seal, client=client, arn=theirs) == DENIED
    assert refusal(client.describe_key, KeyId=ours) == DENIED
    assert refusal(client.decrypt, KeyId=ours, CiphertextBlob=b"blob of another") == DENIED
    assert refusal(client.list_keys) == DENIED
    assert blob["KeyId"] == ours
    server.allow("AKIASEALER", allowing("DescribeKey", resource=ours))
    assert client.describe_key(KeyId=ours)["KeyMetadata"]["Arn"] == ours


def test_a_refusal_says_who_what_which_and_why_in_the_words_of_aws(server, client_of):
    """The texts are those that AWS users search for."""
    arn = server.create_key()
    server.allow("AKIASEALER", allowing("DescribeKey"), "sealer")
    client = client_of()
    start = f"User: {ROLE} is not authorized to perform: kms:GenerateDataKey on resource: {arn}"
    missing = "because no identity-based policy allows the kms:GenerateDataKey action"
    assert text_of(seal, client=client, arn=arn) == f"{start} {missing}"
    server.allow("AKIASEALER", allowing("GenerateDataKey", effect="Deny"))
    assert text_of(seal, client=client, arn=arn) == f"{start} with an explicit deny in an identity-based policy"
    assert text_of(client.create_key).endswith(
        "perform: kms:CreateKey because no identity-based policy allows the kms:CreateKey action"
    )


def test_a_denied_decrypt_without_a_key_id_does_not_tell_whether_the_key_exists(server, client_of):
    """AWS answers such a caller with one text for absent, elsewhere and forbidden."""
    blob = server.call("GenerateDataKey", KeyId=server.create_key(), KeySpec="AES_256")["CiphertextBlob"]
    server.allow("AKIASEALER", allowing("GenerateDataKey"))
    said = text_of(client_of().decrypt, CiphertextBlob=base64.b64decode(blob))
    assert said.startswith("The ciphertext refers to a customer master key that does not exist")


def test_a_deny_wins_over_every_allow(server, client_of):
    """Explicitly, in whichever policy it stands."""
    arn = server.create_key()
    server.allow("AKIASEALER", EVERYTHING)
    server.allow("AKIASEALER", allowing("GenerateDataKey", effect="Deny", resource=arn))
    assert refusal(seal, client=client_of(), arn=arn) == DENIED
    seal(client_of(), server.create_key())


def test_the_encryption_context_decides_where_the_policy_says_so(server, client_of):
    """Another topic, a missing pair and a pair too many are refused before the key is used."""
    arn = server.create_key()
    server.allow(
        "AKIASEALER",
        allowing(
            "GenerateDataKey",
            resource=arn,
            StringEquals={"kms:EncryptionContext:streamcrypt:topic": "payments"},
            **{"ForAllValues:StringEquals": {"kms:EncryptionContextKeys": ["streamcrypt:topic", "app"]}},
        ),
    )
    client = client_of()
    seal(client, arn)
    shouted = {"STREAMCRYPT:TOPIC": "payments", "streamcrypt:topic": "refunds"}
    for context in ({"streamcrypt:topic": "refunds"}, {"app": "billing"}, {**CONTEXT, "more": "x"}, shouted):
        assert refusal(seal, client=client, arn=arn, context=context) == DENIED
    assert refusal(client.generate_data_key, KeyId=arn, KeySpec="AES_256") == DENIED


def test_re_encryption_needs_both_rights_each_under_its_own_context(server, client_of):
    """ReEncryptFrom on the source under the source's context, ReEncryptTo on the destination under its own."""
    source, target = server.create_key(), server.create_key()
    made = seal(client_of("AKIAANY"), source)
    server.allow("AKIASEALER", allowing("ReEncryptFrom", resource=source))
    client = client_of()
    members = {
        "CiphertextBlob": made["CiphertextBlob"],
        "SourceKeyId": source,
        "SourceEncryptionContext": CONTEXT,
        "DestinationKeyId": target,
        "DestinationEncryptionContext": {"app": "other"},
    }
    assert "kms:ReEncryptTo" in text_of(client.re_encrypt, **members)
    server.allow("AKIASEALER", allowing("ReEncryptTo", StringEquals={"kms:EncryptionContext:app": "other"}))
    assert client.re_encrypt(**members)["KeyId"] == target
    assert "kms:ReEncryptTo" in text_of(client.re_encrypt, **members | {"DestinationEncryptionContext": CONTEXT})
    assert "kms:ReEncryptFrom" in text_of(client.re_encrypt, **members | {"SourceKeyId": target})


@pytest.mark.parametrize(
    ("condition", "granted"),
    [
        ({"StringEquals": {"kms:RequestAlias": "alias/payments"}}, True),
        ({"StringEquals": {"kms:RequestAlias": "alias/other"}}, False),
        ({"ForAnyValue:StringEquals": {"kms:ResourceAliases": "alias/payments"}}, True),
        ({"StringEquals": {"aws:ResourceTag/team": "payments"}}, True),
        ({"StringEquals": {"aws:RequestedRegion": "eu-west-1"}}, True),
        ({"StringEquals": {"aws:RequestedRegion": FAR}}, False),
        ({"ArnEquals": {"aws:PrincipalArn": ROLE}}, True),
        ({"StringEquals": {"kms:KeySpec": "SYMMETRIC_DEFAULT", "kms:KeyOrigin": "AWS_KMS"}}, True),
        ({"Bool": {"kms:MultiRegion": True}}, False),
        ({"StringEquals": {"kms:ViaService": "s3.eu-west-1.amazonaws.com"}}, False),
        ({"StringNotEquals": {"kms:ViaService": "s3.eu-west-1.amazonaws.com"}}, True),
        ({"Null": {"kms:ViaService": "true"}}, True),
        ({"Bool": {"aws:SecureTransport": "true"}}, True),
        ({"DateLessThan": {"aws:CurrentTime": "2030-01-01T00:00:00Z"}}, True),
        ({"DateGreaterThan": {"aws:CurrentTime": "2030-01-01T00:00:00Z"}}, False),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else None,
)
def test_the_condition_keys_of_a_request_are_those_of_kms(server, client_of, condition, granted):
    """What a policy can ask about a GenerateDataKey by alias."""
    server.create_key("alias/payments", Tags=[{"TagKey": "team", "TagValue": "payments"}])
    server.allow("AKIASEALER", allowing("GenerateDataKey", **condition), "sealer")
    if granted:
        seal(client_of(), "alias/payments")
    else:
        assert refusal(seal, client=client_of(), arn="alias/payments") == DENIED


def test_a_dry_run_tells_of_permission_without_doing_anything(server, client_of):
    """Allowed ends in DryRunOperationException, denied in AccessDeniedException; no ciphertext is needed for it."""
    arn = server.create_key()
    server.allow("AKIASEALER", allowing("GenerateDataKey", "ReEncryptFrom", resource=arn))
    client = client_of()
    dry = {"KeyId": arn, "DryRun": True}
    assert refusal(client.generate_data_key, **dry, KeySpec="AES_256") == "DryRunOperationException"
    assert refusal(client.encrypt, **dry, Plaintext=b"x") == DENIED
    blind = {"DryRunModifiers": ["IGNORE_CIPHERTEXT"]}
    assert refusal(client.decrypt, **dry, **blind) == DENIED
    server.allow("AKIASEALER", allowing("Decrypt", resource=arn))
    assert refusal(client.decrypt, **dry, **blind) == "DryRunOperationException"
    re_encrypt = {"SourceKeyId": arn, "DestinationKeyId": arn, "DryRun": True, **blind}
    assert "kms:ReEncryptTo" in text_of(client.re_encrypt, **re_encrypt)


def test_taking_policies_away_leaves_an_identity_with_nothing(server, client_of):
    """disallow() revokes; the identity stays judged."""
    arn = server.create_key()
    server.allow("AKIASEALER", EVERYTHING)
    seal(client_of(), arn)
    server.disallow("AKIASEALER")
    assert refusal(seal, client=client_of(), arn=arn) == DENIED


def test_aliases_are_judged_with_the_keys_they_point_to(server, client_of):
    """Moving an alias takes the right on the alias, on the old key and on the new one."""
    old, new = server.create_key("alias/a"), server.create_key()
    alias = f"arn:aws:kms:eu-west-1:{ACCOUNT}:alias/a"
    client = client_of()
    for resource in (alias, old, new):
        server.allow("AKIASEALER", allowing("UpdateAlias", resource=resource))
        if resource != new:
            assert refusal(client.update_alias, AliasName="alias/a", TargetKeyId=new) == DENIED
    client.update_alias(AliasName="alias/a", TargetKeyId=new)


# ---- key policies ----


def test_a_key_policy_may_let_in_an_identity_without_policies_of_its_own(server, client_of):
    """Named in the key policy, no identity policy is needed; unnamed, none helps."""
    arn = server.create_key(Policy=key_policy({"Principal": {"AWS": ROLE}, "Action": "kms:GenerateDataKey"}))
    server.allow("AKIASEALER", allowing("ListKeys"), "sealer")
    server.allow("AKIAOTHER", EVERYTHING, "other")
    seal(client_of(), arn)
    assert text_of(seal, client=client_of("AKIAOTHER"), arn=arn).endswith(
        "because no resource-based policy allows the kms:GenerateDataKey action"
    )


def test_the_account_in_a_key_policy_leaves_it_to_identity_policies(server, client_of):
    """Within what the statement covers."""
    root = {"Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "Action": "kms:GenerateDataKey"}
    arn = server.create_key(Policy=key_policy(root))
    server.allow("AKIASEALER", EVERYTHING)
    seal(client_of(), arn)
    assert "no resource-based policy" in text_of(client_of().describe_key, KeyId=arn)
    server.allow("AKIAOTHER", allowing("ListKeys"))
    assert "no identity-based policy" in text_of(seal, client=client_of("AKIAOTHER"), arn=arn)


def test_a_deny_in_a_key_policy_is_named(server, client_of):
    """For the account as a whole too, and by NotPrincipal for all but one."""
    root = {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}
    arn = server.create_key(
        Policy=key_policy(
            {"Principal": root}, {"Effect": "Deny", "NotPrincipal": {"AWS": ROLE}, "Action": "kms:Decrypt"}
        )
    )
    server.allow("AKIASEALER", EVERYTHING, "sealer")
    server.allow("AKIAOTHER", EVERYTHING, "other")
    blob = seal(client_of(), arn)["CiphertextBlob"]
    members = {"KeyId": arn, "CiphertextBlob": blob, "EncryptionContext": CONTEXT}
    client_of().decrypt(**members)
    assert text_of(client_of("AKIAOTHER").decrypt, **members).endswith(
        "with an explicit deny in a resource-based policy"
    )


def test_a_replica_is_judged_by_its_own_policy(server, client_of):
    """Policies are not copied from the primary."""
    primary = server.create_key(MultiRegion=True, Policy=key_policy({"Principal": {"AWS": ROLE}}))
    server.replicate(primary, FAR)
    server.allow("AKIASEALER", allowing("ListKeys"), "sealer")
    seal(client_of(), primary)
    assert refusal(seal, client=client_of(region=FAR), arn=primary.replace("eu-west-1", FAR)) == DENIED


def test_a_key_policy_that_locks_its_author_out_is_refused(server, client_of):
    """Unless the author says that it is meant."""
    arn = server.create_key()
    server.allow("AKIASEALER", EVERYTHING, "sealer")
    document = key_policy({"Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:role/other"}})
    client = client_of()
    assert refusal(client.put_key_policy, KeyId=arn, Policy=document) == "MalformedPolicyDocumentException"
    client.put_key_policy(KeyId=arn, Policy=document, BypassPolicyLockoutSafetyCheck=True)
    assert refusal(client.get_key_policy, KeyId=arn) == DENIED
    assert refusal(client.create_key, Policy=document) == "MalformedPolicyDocumentException"
    primary = client.create_key(MultiRegion=True)["KeyMetadata"]["Arn"]
    replicate = {"KeyId": primary, "ReplicaRegion": FAR, "Policy": document}
    assert refusal(client.replicate_key, **replicate) == "MalformedPolicyDocumentException"
    family = client.describe_key(KeyId=primary)["KeyMetadata"]["MultiRegionConfiguration"]
    assert family["ReplicaKeys"] == []


# ---- documents ----


@pytest.mark.parametrize(
    "document",
    [
        "{",
        "[]",
        {"Statement": []},
        {"Statement": [{"Effect": "Allow", "Resource": "*"}]},
        {"Statement": [{"Effect": "Allow", "Action": "kms:*"}]},
        {"Statement": [{"Effect": "Maybe", "Action": "kms:*", "Resource": "*"}]},
        {"Statement": [{"Effect": "Allow", "Action": [1], "Resource": "*"}]},
        {"Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*", "Condition": []}]},
        {"Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*", "Condition": {"Same": {"a": "b"}}}]},
        {"Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*", "Condition": {"Bool": {"a": {}}}}]},
        {"Version": "2020-01-01", "Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]},
        {"Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*", "Actoin": "x"}]},
    ],
    ids=json.dumps,
)
def test_what_iam_would_refuse_is_refused(server, document):
    """With the reason, as an identity policy and as a key policy."""
    with pytest.raises(ConfigError, match="identity policy of sealer: "):
        server.allow("AKIASEALER", document, "sealer")
    with pytest.raises(PolicyError):
        Policy.parse(document, of_key=True)


def test_a_key_policy_names_principals_and_an_identity_policy_does_not():
    """IAM knows whose an identity policy is."""
    statement = {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}
    for of_key, more in ((True, {}), (False, {"Principal": "*"}), (True, {"Principal": {"Robot": "x"}})):
        with pytest.raises(PolicyError, match="Statement 0"):
            Policy.parse({"Statement": statement | more}, of_key=of_key)


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("kms:Re*", "kms:ReEncryptTo", True),
        ("k?s:Decrypt", "kms:Decrypt", True),
        ("kms.Decrypt", "kms:Decrypt", False),
        ("${aws:PrincipalArn}", "x*", True),
        ("${aws:principalarn}", "xy", False),
        ("${aws:Absent}", "", False),
        ("a${*}b", "a*b", True),
        ("a${*}b", "axb", False),
    ],
)
def test_patterns_know_wildcards_and_variables(pattern, text, matches):
    """A wildcard inside a variable's value is a letter like any other."""
    assert like(pattern, text, {"aws:principalarn": ("x*",)}) is matches


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("*", True),
        ("arn:aws:kms:*:111122223333:key/mrk-1", True),
        ("arn:aws:kms:eu-west-1:111122223333:key/*", True),
        ("arn:aws:kms:*:key/mrk-1", False),
        ("arn:aws:kms:eu-west-1:*", False),
        ("arn:aws:kms:eu-west-1:111122223333:alias/*", False),
    ],
)
def test_a_wildcard_does_not_reach_over_the_colons_of_an_arn(pattern, matches):
    """Except the lone star."""
    assert arn_like(pattern, "arn:aws:kms:eu-west-1:111122223333:key/mrk-1", {}) is matches


@pytest.mark.parametrize(
    ("operator", "values", "given", "holds"),
    [
        ("StringEquals", ["a", "b"], ("b",), True),
        ("StringEquals", "A", ("a",), False),
        ("StringEqualsIgnoreCase", "A", ("a",), True),
        ("StringLike", "a*", ("abc",), True),
        ("StringNotLike", ["a*", "b*"], ("abc",), False),
        ("StringNotEquals", ["a", "b"], ("c",), True),
        ("StringNotEqualsIgnoreCase", "A", ("a",), False),
        ("StringEquals", "a", None, False),
        ("StringEqualsIfExists", "a", None, True),
        ("StringNotEquals", "a", None, True),
        ("StringEquals", "a", ("a", "b"), False),
        ("ForAllValues:StringEquals", ["a", "b"], ("a", "b"), True),
        ("ForAllValues:StringEquals", "a", ("a", "b"), False),
        ("ForAllValues:StringEquals", "a", None, True),
        ("ForAnyValue:StringEquals", "a", ("a", "b"), True),
        ("ForAnyValue:StringEquals", "c", ("a", "b"), False),
        ("ForAnyValue:StringEquals", "a", None, False),
        ("ForAnyValue:StringNotEquals", "a", ("a", "b"), True),
        ("ForAllValues:StringNotEquals", "a", ("a", "b"), False),
        ("ArnLike", "arn:aws:iam::1:role/*", ("arn:aws:iam::1:role/x",), True),
        ("ArnNotEquals", "arn:aws:iam::1:role/x", ("arn:aws:iam::1:role/x",), False),
        ("NumericLessThanEquals", 365, ("365",), True),
        ("NumericGreaterThan", "365", ("365",), False),
        ("NumericEquals", "365", ("many",), False),
        ("DateLessThan", "2024-01-01T00:00:00Z", ("1700000000",), True),
        ("Bool", False, ("false",), True),
        ("IpAddress", "127.0.0.0/8", ("127.0.0.1",), True),
        ("NotIpAddress", "10.0.0.0/8", ("127.0.0.1",), True),
        ("Null", True, None, True),
        ("Null", "false", ("a",), True),
        ("Null", "true", ("a",), False),
    ],
)
def test_operators_mean_what_iam_says(operator, values, given, holds):
    """With qualifiers, IfExists and absent keys; condition keys ignore case."""
    (condition,) = parse_conditions({operator: {"KMS:Thing": values}})
    assert condition.holds({"kms:thing": given} if given is not None else {}) is holds


# ---- grants ----


def grant(server, arn, *operations, **members):
    """Grant to the role of the sealer."""
    members = {"KeyId": arn, "GranteePrincipal": ROLE, "Operations": list(operations)} | members
    return server.call("CreateGrant", **members)


def test_a_grant_allows_what_no_policy_does(server, client_of):
    """Only its operations, only on its key, and the call log says which grant it was; revoked, it is over."""
    arn, other = server.create_key(), server.create_key()
    server.allow("AKIASEALER", allowing("ListKeys"), "sealer")
    made = grant(server, arn, "GenerateDataKey", "DescribeKey")
    client = client_of()
    seal(client, arn)
    assert server.calls[-1].grants == (made["GrantId"],)
    assert refusal(seal, client=client, arn=other) == DENIED
    assert refusal(client.encrypt, KeyId=arn, Plaintext=b"x") == DENIED
    server.call("RevokeGrant", KeyId=arn, GrantId=made["GrantId"])
    assert refusal(seal, client=client, arn=arn) == DENIED


@pytest.mark.parametrize(
    ("constraint", "context", "granted"),
    [
        ("EncryptionContextSubset", CONTEXT, True),
        ("EncryptionContextSubset", {"app": "billing"}, True),
        ("EncryptionContextSubset", {"APP": "billing"}, True),
        ("EncryptionContextSubset", {"app": "Billing"}, False),
        ("EncryptionContextEquals", {"app": "billing"}, True),
        ("EncryptionContextEquals", CONTEXT, False),
        ("EncryptionContextEquals", None, False),
    ],
)
def test_a_constraint_holds_a_grant_to_a_context(server, client_of, constraint, context, granted):
    """Subset wants the pairs, Equals nothing else; names ignore case, values do not; DescribeKey is not held to it."""
    arn = server.create_key()
    server.allow("AKIASEALER", allowing("ListKeys"), "sealer")
    grant(server, arn, "Encrypt", "DescribeKey", Constraints={constraint: {"app": "billing"}})
    members = {"KeyId": arn, "Plaintext": b"x", **({"EncryptionContext": context} if context else {})}
    if granted:
        client_of().encrypt(**members)
    else:
        assert refusal(client_of().encrypt, **members) == DENIED
    client_of().describe_key(KeyId=arn)


def test_a_named_grant_is_made_once(server):
    """The same request gives the same grant; without a name each makes another."""
    arn = server.create_key()
    ids = [grant(server, arn, "Decrypt", Name="one")["GrantId"] for _ in range(2)]
    assert ids[0] == ids[1]
    assert grant(server, arn, "Decrypt")["GrantId"] != grant(server, arn, "Decrypt")["GrantId"]
    assert len(server.call("ListGrants", KeyId=arn)["Grants"]) == 3
    assert len(server.call("ListGrants", KeyId=arn, GrantId=ids[0])["Grants"]) == 1


def test_a_grant_is_retired_by_whom_it_names(server, client_of):
    """By its retiring principal, by token or by id; others need the right."""
    arn = server.create_key()
    server.allow("AKIASEALER", allowing("ListKeys"), "sealer")
    server.allow("AKIAOTHER", allowing("ListKeys"), "other")
    made = grant(server, arn, "Decrypt", RetiringPrincipal=ROLE)
    members = {"KeyId": arn, "GrantId": made["GrantId"]}
    assert refusal(client_of("AKIAOTHER").retire_grant, **members) == DENIED
    assert refusal(client_of().retire_grant, **members, DryRun=True) == "DryRunOperationException"
    client_of().retire_grant(GrantToken=made["GrantToken"])
    assert refusal(client_of().retire_grant, GrantToken=made["GrantToken"]) == "InvalidGrantTokenException"
    assert server.call("ListGrants", KeyId=arn)["Grants"] == []


def test_a_grant_hands_on_only_what_it_allows_itself(server, client_of):
    """Fewer operations, and every constraint kept."""
    arn = server.create_key()
    server.allow("AKIASEALER", allowing("ListKeys"), "sealer")
    subset = {"EncryptionContextSubset": {"app": "billing"}}
    grant(server, arn, "CreateGrant", "Decrypt", Constraints=subset)
    members = {"KeyId": arn, "GranteePrincipal": f"arn:aws:iam::{ACCOUNT}:role/next", "Operations": ["Decrypt"]}
    client = client_of()
    assert refusal(client.create_grant, **members) == DENIED
    assert refusal(client.create_grant, **members | {"Operations": ["Encrypt"]}, Constraints=subset) == DENIED
    client.create_grant(**members, Constraints=subset)
    grant(server, arn, "CreateGrant", "Encrypt")
    client.create_grant(**members | {"Operations": ["Encrypt"]})


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"Operations": ["Sign"]}, "ValidationException"),
        ({"Operations": []}, "ValidationException"),
        ({"GranteePrincipal": "sealer"}, "InvalidArnException"),
        ({"Constraints": {"EncryptionContextSubset": {f"n{n}": "v" for n in range(9)}}}, "ValidationException"),
        ({"Constraints": {"EncryptionContextEquals": {"n": "v" * 385}}}, "ValidationException"),
    ],
    ids=["Sign", "no operation", "principal", "nine pairs", "long value"],
)
def test_a_malformed_grant_is_refused(server, client_of, members, code):
    """Operations of another kind of key, no ARN, and constraints over their limits."""
    whole = {"KeyId": server.create_key(), "GranteePrincipal": ROLE, "Operations": ["Decrypt"]} | members
    assert refusal(client_of().create_grant, **whole) == code


def test_an_unknown_grant_or_token_is_refused(server, client_of):
    """NotFoundException for the id, InvalidGrantTokenException for the token."""
    arn = server.create_key()
    client = client_of()
    assert refusal(client.revoke_grant, KeyId=arn, GrantId="0" * 64) == "NotFoundException"
    members = {"KeyId": arn, "KeySpec": "AES_256", "GrantTokens": ["none"]}
    assert refusal(client.generate_data_key, **members) == "InvalidGrantTokenException"
    blob = seal(client, arn)["CiphertextBlob"]
    server.allow("AKIASEALER", EVERYTHING)
    opening = {"CiphertextBlob": blob, "EncryptionContext": CONTEXT, "GrantTokens": ["none"]}
    assert refusal(client.decrypt, **opening) == "InvalidGrantTokenException"

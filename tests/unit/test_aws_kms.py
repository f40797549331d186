"""The AWS KMS provider against a KMS over HTTP."""

from __future__ import annotations

import base64
import json
import logging
import os
import pickle
import subprocess
import sys
import threading

import boto3
import pytest

from streamcrypt.envelope.header import EncryptedDataKey
from streamcrypt.errors import (
    AuthenticationFailed,
    ConfigError,
    KeyRefused,
    KeyUnavailable,
    UntrustedKey,
)
from streamcrypt.events import KeyAliasMoved, KeyServiceCalled
from streamcrypt.keys.aws_kms import AWSKMSKeyProvider
from streamcrypt.keys.provider import KeyProvider
from streamcrypt.testing import KMSServer
from tests.kms import REGION, make_client

CONTEXT = {"streamcrypt:topic": "payments", "app": "billing"}
ARN = f"arn:aws:kms:{REGION}:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
MRK_ARN = f"arn:aws:kms:{REGION}:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab"
OTHER_ARN = f"arn:aws:kms:{REGION}:111122223333:key/aaaaaaaa-12ab-34cd-56ef-1234567890ab"


pytestmark = pytest.mark.usefixtures("fake_credentials")


def open_again(provider, made, context=CONTEXT):
    (encrypted, key_id), *_ = provider.trusted(made.encrypted)
    return provider.decrypt_data_key(encrypted, key_id, context)


# ---- minting and opening ----


def test_a_data_key_is_minted_and_opened_under_the_arn_with_its_context(server, provider_of):
    """A full ARN needs no DescribeKey; KeyId and context are in every call."""
    arn = server.create_key()
    provider = provider_of(arn)
    made = provider.generate_data_key(CONTEXT)
    assert isinstance(made.plaintext, bytearray)
    assert len(made.plaintext) == 32
    assert [(key.provider, key.key_id) for key in made.encrypted] == [("aws-kms", arn)]
    assert open_again(provider, made) == made.plaintext
    pairs = tuple(sorted(CONTEXT.items()))
    assert [(call.operation, call.key_arn, call.context) for call in server.calls] == [
        ("GenerateDataKey", arn, pairs),
        ("Decrypt", arn, pairs),
    ]


def test_it_is_a_key_provider(provider_of):
    """The protocol is met, so that Encryptor and Decryptor take it."""
    assert isinstance(provider_of(ARN), KeyProvider)


@pytest.mark.parametrize("form", ["alias", "alias ARN", "id", "mrk id", "list of one"])
def test_every_other_name_is_resolved_once_to_the_arn(server, provider_of, form):
    """The envelope carries the ARN, whatever the user wrote, and KMS is asked once."""
    arn = server.create_key("alias/payments", MultiRegion=form == "mrk id")
    name = {
        "alias": "alias/payments",
        "alias ARN": f"arn:aws:kms:{REGION}:111122223333:alias/payments",
        "list of one": ["alias/payments"],
    }.get(form, arn.split("/")[1])
    provider = provider_of(name)
    made = provider.generate_data_key(CONTEXT)
    assert made.encrypted[0].key_id == arn
    assert open_again(provider, made) == made.plaintext
    assert server.count("DescribeKey") == 1


def test_a_custom_key_store_key_serves(server, provider_of):
    """No material id is shown for it, and none is needed."""
    arn = server.create_key(Origin="AWS_CLOUDHSM", CustomKeyStoreId="cks-1234567890abcdef0")
    provider = provider_of(arn)
    made = provider.generate_data_key(CONTEXT)
    assert open_again(provider, made) == made.plaintext
    assert provider.check() == arn


def test_a_session_of_ones_own_is_used(server, provider_of, monkeypatch):
    """Credentials come from the session that was given."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    session = boto3.session.Session(aws_access_key_id="AKIAOTHER", aws_secret_access_key="x")
    assert provider_of(server.create_key(), session=session).generate_data_key({})


# ---- names, regions, endpoints ----


@pytest.mark.parametrize(
    ("key_id", "settings", "said"),
    [
        ("", {}, "key_id"),
        ("payments", {}, "key_id"),
        (None, {}, "key_id"),
        ("arn:aws:kms:eu-west-1:1:key/x", {}, "key_id"),
        ("arn:aws:s3:::bucket", {}, "key_id"),
        ("1234ABCD-12ab-34cd-56ef-1234567890ab", {}, "key_id"),
        ("alias/aws/kafka", {}, "AWS managed"),
        (f"arn:aws:kms:{REGION}:111122223333:alias/aws/kafka", {}, "AWS managed"),
        ([], {}, "empty"),
        ([f"alias/k{n}" for n in range(9)], {}, "9 keys"),
        ([ARN, OTHER_ARN], {"region": "us-east-1"}, "contradicts"),
        (ARN, {"regions": ["us-east-1"]}, "multi-region keys"),
        (ARN, {"regions": "us-east-1"}, "not a string"),
        (ARN, {"trusted_keys": [MRK_ARN], "regions": ["us east"]}, "regions[0]"),
        (ARN, {"only_region": "eu west"}, "region"),
        (ARN, {"require": "most"}, "require"),
        (ARN, {"region": "us-east-1"}, "contradicts"),
        (ARN, {"region": "eu west"}, "region"),
        (ARN, {"trusted_keys": OTHER_ARN}, "trusted_keys"),
        (ARN, {"trusted_keys": [OTHER_ARN, "alias/x"]}, "trusted_keys[1]"),
        (ARN, {"endpoint_url": "http://kms.example:4599"}, "endpoint_url"),
        (ARN, {"endpoint_url": {REGION: "http://10.0.0.1"}}, "endpoint_url"),
        (ARN, {"endpoint_url": "localhost:4599"}, "endpoint_url"),
        (ARN, {"endpoint_url": "https://user@kms.example"}, "endpoint_url"),
        (ARN, {"endpoint_url": "http://localhost:port"}, "endpoint_url"),
        (ARN, {"endpoint_url": "http://[::1"}, "endpoint_url"),
        (ARN, {"endpoint_url": 4599}, "endpoint_url"),
    ],
)
def test_a_wrong_setting_is_refused_by_name_before_any_call(key_id, settings, said):
    """ConfigError names the setting; nothing is loaded or asked."""
    with pytest.raises(ConfigError) as caught:
        AWSKMSKeyProvider(key_id, **settings)
    assert said in str(caught.value)


def test_an_aws_managed_key_is_refused_with_the_remedy(server, provider_of):
    """Known by its alias at once, and by DescribeKey where its id is given."""
    with pytest.raises(ConfigError) as caught:
        AWSKMSKeyProvider("alias/aws/kafka")
    assert "customer managed key" in caught.value.remedy
    hidden = server.call("DescribeKey", KeyId="alias/aws/kafka")["KeyMetadata"]["KeyId"]
    with pytest.raises(ConfigError) as caught:
        provider_of(hidden).generate_data_key(CONTEXT)
    assert "customer managed key" in caught.value.remedy


@pytest.mark.parametrize("url", ["http://localhost:1", "http://127.8.9.1", "http://[::1]:4599", "https://kms.example"])
def test_https_and_loopback_are_accepted(url):
    """Plain http may not leave the machine; https may."""
    AWSKMSKeyProvider(ARN, endpoint_url=url)


def test_http_elsewhere_needs_a_word(server, provider_of):
    """insecure_endpoint is for containers on a network of their own."""
    AWSKMSKeyProvider(ARN, endpoint_url="http://kms:4599", insecure_endpoint=True)


def test_an_endpoint_from_the_environment_is_held_to_the_same_rule(provider_of, monkeypatch):
    """AWS_ENDPOINT_URL cannot send data keys over the network in clear either."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://kms.example")
    with pytest.raises(ConfigError, match="in clear"):
        provider_of(ARN, endpoint_url=None).generate_data_key({})


def test_endpoints_are_picked_by_region(server, provider_of):
    """A region without an endpoint is an error: AWS itself is not silently taken."""
    arn = server.create_key()
    assert provider_of(arn, endpoint_url={REGION: server.url}).generate_data_key({})
    with pytest.raises(ConfigError, match="no endpoint for region eu-west-1"):
        provider_of(arn, endpoint_url={"us-east-1": server.url}).generate_data_key({})


def test_the_region_comes_from_the_argument_the_arn_or_the_environment(server, provider_of, monkeypatch):
    """Without any, the error says what to set."""
    server.create_key("alias/a", region="us-east-1")
    provider_of("alias/a", region="us-east-1").check()
    provider_of("arn:aws:kms:us-east-1:111122223333:alias/a", region=None).check()
    with pytest.raises(ConfigError) as caught:
        provider_of("alias/a", region=None).check()
    assert "AWS_REGION" in caught.value.remedy
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    provider_of("alias/a", region=None).check()
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-3")
    provider_of("alias/a", region=None).check()
    assert {call.region for call in server.calls} == {"us-east-1"}


def test_a_trusted_key_of_another_region_is_called_there(server, provider_of):
    """Decrypt goes to the region of the trusted ARN."""
    here, there = server.create_key(), server.create_key(region="us-east-1")
    made = provider_of(there, region="us-east-1").generate_data_key(CONTEXT)
    assert open_again(provider_of(here, trusted_keys=[there]), made) == made.plaintext
    assert server.calls[-1].region == "us-east-1"


# ---- trust ----


def test_only_trusted_kek_arns_are_picked_in_order_of_preference(server, provider_of):
    """The configured KEK first, then the list; other providers and KEKs never; the string is ours."""
    alias_target, listed, foreign = server.create_key("alias/a"), server.create_key(), server.create_key()
    provider = provider_of("alias/a", trusted_keys=[listed])
    keys = {arn: EncryptedDataKey("aws-kms", arn, b"x") for arn in (foreign, listed, alias_target)}
    provider.check()
    picked = provider.trusted([*keys.values(), EncryptedDataKey("local", alias_target, b"x")])
    assert [key_id for _, key_id in picked] == [alias_target, listed]
    assert [encrypted for encrypted, _ in picked] == [keys[alias_target], keys[listed]]
    assert provider.trusted([keys[foreign]]) == []
    assert provider.trusted([EncryptedDataKey("local", listed, b"x")]) == []
    assert provider.trusted([EncryptedDataKey("aws-kms", "alias/a", b"x")]) == []


def test_a_listed_kek_opens_without_describe_key(server, provider_of):
    """A reader that may only Decrypt still opens."""
    server.create_key("alias/a")
    listed = server.create_key()
    made = provider_of(listed).generate_data_key(CONTEXT)
    server.fail("AccessDeniedException", "DescribeKey")
    assert open_again(provider_of("alias/a", trusted_keys=[listed]), made) == made.plaintext


def test_a_moved_alias_is_noticed_and_the_earlier_target_is_trusted_no_more(server, provider_of, clock, observer):
    """After five minutes; generation grows, an event tells, the old KEK is refused."""
    old, new = server.create_key("alias/a"), server.create_key()
    provider = provider_of("alias/a")
    made = provider.generate_data_key(CONTEXT)
    server.call("UpdateAlias", AliasName="alias/a", TargetKeyId=new)
    clock.advance(299)
    assert provider.generate_data_key(CONTEXT).encrypted[0].key_id == old
    assert provider.trust_generation == 0
    clock.advance(1)
    assert provider.generate_data_key(CONTEXT).encrypted[0].key_id == new
    assert provider.trust_generation == 1
    assert observer.of(KeyAliasMoved) == [KeyAliasMoved("alias/a", old, new)]
    assert provider.trusted(made.encrypted) == []
    assert server.count("DescribeKey") == 2


def test_a_moved_alias_leaves_its_earlier_target_trusted_where_it_is_listed(server, provider_of, clock):
    """trusted_keys is how old records stay readable."""
    old, new = server.create_key("alias/a"), server.create_key()
    provider = provider_of("alias/a", trusted_keys=[old])
    made = provider.generate_data_key(CONTEXT)
    server.call("UpdateAlias", AliasName="alias/a", TargetKeyId=new)
    clock.advance(300)
    assert provider.check() == new
    assert open_again(provider, made) == made.plaintext


def test_an_alias_is_resolved_anew_before_a_record_is_refused(server, provider_of, clock):
    """A writer that saw the move first is believed within ten seconds, and junk costs no call a record."""
    server.create_key("alias/a")
    new = server.create_key()
    provider = provider_of("alias/a")
    provider.check()
    made = provider_of(new).generate_data_key(CONTEXT)
    server.call("UpdateAlias", AliasName="alias/a", TargetKeyId=new)
    clock.advance(9)
    assert provider.trusted(made.encrypted) == []
    assert server.count("DescribeKey") == 1
    clock.advance(1)
    assert [key_id for _, key_id in provider.trusted(made.encrypted)] == [new]
    assert provider.trust_generation == 1
    junk = [EncryptedDataKey("aws-kms", OTHER_ARN, b"x")]
    assert [provider.trusted(junk) for _ in range(50)] == [[]] * 50
    assert server.count("DescribeKey") == 2


def test_while_kms_is_away_the_alias_stays_where_it_was(server, provider_of, clock):
    """An outage of DescribeKey stops nobody who knows the target, and is not hammered."""
    arn = server.create_key("alias/a")
    provider = provider_of("alias/a")
    made = provider.generate_data_key(CONTEXT)
    server.fail("KMSInternalException", "DescribeKey")
    clock.advance(300)
    assert open_again(provider, made) == made.plaintext
    asked = server.count("DescribeKey")
    assert open_again(provider, made) == made.plaintext
    assert server.count("DescribeKey") == asked
    server.heal()
    clock.advance(10)
    assert provider.generate_data_key(CONTEXT).encrypted[0].key_id == arn
    assert server.count("DescribeKey") == asked + 1


def test_an_alias_that_cannot_be_resolved_leaves_trust_unknown(server, provider_of, clock):
    """Neither trusted nor refused: the error says what is wrong, now and after the alias was deleted."""
    provider = provider_of("alias/a")
    junk = [EncryptedDataKey("aws-kms", OTHER_ARN, b"x")]
    with pytest.raises(KeyRefused, match="NotFoundException"):
        provider.trusted(junk)
    server.create_key("alias/a")
    clock.advance(12.5)  # what was refused is asked again slowly
    assert provider.trusted(junk) == []
    server.call("DeleteAlias", AliasName="alias/a")
    clock.advance(300)
    with pytest.raises(KeyRefused, match="NotFoundException"):
        provider.generate_data_key(CONTEXT)


# ---- refusals and outages ----


def test_another_context_or_altered_blob_is_authentication_failed(server, provider_of):
    """KMS says InvalidCiphertext; it never says which."""
    provider = provider_of(server.create_key())
    made = provider.generate_data_key(CONTEXT)
    with pytest.raises(AuthenticationFailed):
        open_again(provider, made, {**CONTEXT, "app": "other"})
    blob = made.encrypted[0].ciphertext
    altered = EncryptedDataKey("aws-kms", made.encrypted[0].key_id, blob[:-1] + bytes([blob[-1] ^ 1]))
    with pytest.raises(AuthenticationFailed):
        provider.decrypt_data_key(altered, altered.key_id, CONTEXT)


def test_a_data_key_of_another_kek_is_untrusted(server, provider_of):
    """A record that names a trusted KEK over a blob of another one: IncorrectKeyException."""
    ours, theirs = server.create_key(), server.create_key()
    made = provider_of(theirs).generate_data_key(CONTEXT)
    forged = EncryptedDataKey("aws-kms", ours, made.encrypted[0].ciphertext)
    with pytest.raises(UntrustedKey):
        provider_of(ours).decrypt_data_key(forged, ours, CONTEXT)


def test_a_disabled_or_doomed_key_is_refused_with_a_remedy(server, provider_of):
    """Sealing, opening and check all say so, and none of them calls it the record's fault."""
    arn = server.create_key()
    provider = provider_of(arn)
    made = provider.generate_data_key(CONTEXT)
    for change, state in (("DisableKey", "Disabled"), ("ScheduleKeyDeletion", "PendingDeletion")):
        server.call(change, KeyId=arn)
        for act in (provider.check, lambda: provider.generate_data_key(CONTEXT), lambda: open_again(provider, made)):
            with pytest.raises(KeyRefused) as caught:
                act()
            assert arn in caught.value.remedy
        with pytest.raises(KeyRefused, match=state):
            provider.check()


def test_a_key_that_is_gone_is_refused_and_not_the_records_fault(server, provider_of):
    """NotFound while opening: an operator must act, the record may wait."""
    provider = provider_of(ARN)
    with pytest.raises(KeyRefused) as caught:
        provider.decrypt_data_key(EncryptedDataKey("aws-kms", ARN, b"x" * 184), ARN, CONTEXT)
    assert ARN in caught.value.remedy


def test_a_key_of_another_kind_is_a_config_error(server, provider_of):
    """An RSA key is told by DescribeKey, and by GenerateDataKey where a full ARN spares that call."""
    arn = server.create_key("alias/rsa", KeySpec="RSA_2048")
    for act in (
        provider_of("alias/rsa").check,
        provider_of(arn).check,
        lambda: provider_of(arn).generate_data_key(CONTEXT),
    ):
        with pytest.raises(ConfigError) as caught:
            act()
        assert "SYMMETRIC_DEFAULT" in caught.value.remedy


def test_denied_access_names_the_action_and_the_arn(server, provider_of):
    """The operator knows which permission on which key is missing."""
    arn = server.create_key()
    server.fail("AccessDeniedException", "GenerateDataKey")
    with pytest.raises(KeyRefused) as caught:
        provider_of(arn).generate_data_key(CONTEXT)
    assert "kms:GenerateDataKey" in caught.value.remedy
    assert arn in caught.value.remedy
    assert caught.value.request_id == server.calls[-1].request_id


def test_check_accepts_a_full_arn_that_may_not_be_described(server, provider_of):
    """Least privilege: an identity with GenerateDataKey alone is no error; an alias needs DescribeKey."""
    arn = server.create_key("alias/a")
    server.fail("AccessDeniedException", "DescribeKey")
    assert provider_of(arn).check() == arn
    with pytest.raises(KeyRefused, match="DescribeKey"):
        provider_of("alias/a").check()


@pytest.mark.parametrize("code", ["ExpiredTokenException", "UnrecognizedClientException", "InvalidSignatureException"])
def test_refused_credentials_are_told_as_such(server, provider_of, code):
    """An operator renews credentials; no retry helps."""
    server.fail(code)
    with pytest.raises(KeyRefused) as caught:
        provider_of(ARN).generate_data_key(CONTEXT)
    assert "credentials" in caught.value.remedy


def test_absent_credentials_are_told_as_such(server, provider_of, monkeypatch):
    """Nothing in the environment, no metadata service: KeyRefused, before any call."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(KeyRefused) as caught:
        provider_of(ARN).generate_data_key(CONTEXT)
    assert "credentials" in caught.value.remedy
    assert server.calls == []


def test_throttling_is_retried_twice_and_then_unavailable(server, provider_of):
    """Three attempts in all: a short throttle is not seen, a long one is KeyUnavailable."""
    provider = provider_of(server.create_key())
    server.fail("ThrottlingException", count=2)
    assert provider.generate_data_key(CONTEXT)
    assert server.count("GenerateDataKey") == 3
    server.fail("ThrottlingException")
    with pytest.raises(KeyUnavailable):
        provider.generate_data_key(CONTEXT)
    assert server.count("GenerateDataKey") == 6


def test_a_server_fault_is_unavailable(server, provider_of):
    """5xx of KMS passes by itself."""
    server.fail("KMSInternalException")
    with pytest.raises(KeyUnavailable) as caught:
        provider_of(ARN).generate_data_key(CONTEXT)
    assert caught.value.retriable


def test_a_hang_is_given_up_and_tried_again(server, provider_of):
    """The read timeout is ours, not the sixty seconds of botocore."""
    provider = provider_of(server.create_key())
    server.hang("GenerateDataKey", count=1)
    assert provider.generate_data_key(CONTEXT)
    assert [call.outcome for call in server.calls] == ["hang", "ok"]


def test_a_service_that_is_not_there_is_unavailable(provider_of):
    """Connection refused passes by itself."""
    gone = KMSServer()
    gone.close()
    with pytest.raises(KeyUnavailable):
        provider_of(ARN, endpoint_url=gone.url).generate_data_key(CONTEXT)


def _made(**changed):
    good = {
        "KeyId": ARN,
        "Plaintext": base64.b64encode(b"k" * 32).decode(),
        "CiphertextBlob": base64.b64encode(b"c" * 184).decode(),
    }
    return json.dumps({name: value for name, value in (good | changed).items() if value is not None}).encode()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"\x00<html>", KeyUnavailable),
        (b"", KeyUnavailable),
        (b"[]", KeyUnavailable),
        (b"{}", KeyUnavailable),
        (_made(Plaintext=None), KeyUnavailable),
        (_made(Plaintext=base64.b64encode(b"k" * 31).decode()), KeyUnavailable),
        (_made(Plaintext=7), KeyUnavailable),
        (_made(Plaintext="%%%"), KeyUnavailable),
        (_made(CiphertextBlob=None), KeyUnavailable),
        (_made(CiphertextBlob=""), KeyUnavailable),
        (_made(CiphertextBlob=base64.b64encode(b"c" * 6145).decode()), KeyUnavailable),
        (_made(KeyId=None), KeyUnavailable),
        (_made(KeyId=OTHER_ARN), KeyRefused),
    ],
)
def test_an_unusable_answer_to_generate_data_key_is_typed(server, provider_of, body, kind):
    """Garbage, absent members, wrong sizes and another key: never a KeyError, never a key used."""
    server.garble("GenerateDataKey", body=body)
    with pytest.raises(kind) as caught:
        provider_of(ARN).generate_data_key(CONTEXT)
    assert caught.value.operation == "GenerateDataKey"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"\x00<html>", KeyUnavailable),
        (b"[]", KeyUnavailable),
        (b"{}", KeyUnavailable),
        (_made(Plaintext=None), KeyUnavailable),
        (_made(Plaintext=""), KeyUnavailable),
        (_made(KeyId=None), KeyUnavailable),
        (_made(KeyId=OTHER_ARN), UntrustedKey),
        (_made(Plaintext=base64.b64encode(b"k" * 16).decode()), AuthenticationFailed),
    ],
)
def test_an_unusable_answer_to_decrypt_is_typed(server, provider_of, body, kind):
    """What KMS opens to something else than a DEK is the record's fault; garbage is not."""
    server.garble("Decrypt", body=body)
    with pytest.raises(kind):
        provider_of(ARN).decrypt_data_key(EncryptedDataKey("aws-kms", ARN, b"x"), ARN, CONTEXT)


@pytest.mark.parametrize(
    "body", [b"{}", b'{"KeyMetadata": 7}', b'{"KeyMetadata": {}}', b'{"KeyMetadata": {"Arn": "alias/x"}}', b"\x00"]
)
def test_an_unusable_answer_to_describe_key_is_unavailable(server, provider_of, body):
    """No alias is taken to point anywhere by a broken answer."""
    server.garble("DescribeKey", body=body)
    with pytest.raises(KeyUnavailable):
        provider_of("alias/a").check()


# ---- what an operator and a process see ----


def test_every_call_is_an_event_with_its_request_and_material_id(server, provider_of, observer):
    """One event a call: what CloudTrail needs to find it, its outcome, and nothing secret."""
    arn = server.create_key()
    provider = provider_of(arn)
    made = provider.generate_data_key(CONTEXT)
    with pytest.raises(AuthenticationFailed):
        open_again(provider, made, {})
    good, bad = observer.of(KeyServiceCalled)
    assert (good.operation, good.region, good.key_id, good.outcome) == ("GenerateDataKey", REGION, arn, "ok")
    assert good.context == tuple(sorted(CONTEXT.items()))
    assert len(good.key_material_id) == 64
    assert (bad.operation, bad.outcome) == ("Decrypt", "InvalidCiphertextException")
    assert [good.request_id, bad.request_id] == [call.request_id for call in server.calls]


def test_no_log_at_any_level_holds_a_data_key(server, provider_of):
    """Whole answers are logged by botocore at DEBUG, keys included, except while our calls are under way."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    root, handler = logging.getLogger(), Keep()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    plain = make_client(server.url)
    try:
        arn = server.create_key("alias/a")
        provider = provider_of("alias/a")
        keys = [bytes(provider.generate_data_key(CONTEXT).plaintext) for _ in range(2)]
        made = provider.generate_data_key(CONTEXT)
        keys += [bytes(made.plaintext), bytes(open_again(provider, made))]
        assert lines
        leaked = plain.generate_data_key(KeyId=arn, KeySpec="AES_256")["Plaintext"]
    finally:
        plain.close()
        root.setLevel(before)
        root.removeHandler(handler)
    text = "\n".join(lines)

    def shows(key):
        return any(
            form in text for form in (base64.b64encode(key).decode(), key.hex(), repr(key)[2:-1], str(list(key)))
        )

    assert shows(leaked), "the scan would see a key, and other clients keep their logs"
    assert not any(shows(key) for key in keys)


def test_neither_repr_nor_pickle_gives_anything_away(server, provider_of):
    """A provider names its KEK and stays in its process."""
    provider = provider_of("alias/a")
    assert repr(provider) == "AWSKMSKeyProvider('alias/a')"
    with pytest.raises(TypeError):
        pickle.dumps(provider)


def test_many_threads_make_one_client_and_one_lookup(server, provider_of):
    """The first use is shared: one client, one DescribeKey, every thread served."""
    server.create_key("alias/a")
    made_clients = []

    class CountingSession(boto3.session.Session):
        def client(self, *arguments, **settings):
            made_clients.append(arguments)
            return super().client(*arguments, **settings)

    provider = provider_of("alias/a", session=CountingSession())
    gate, served = threading.Barrier(8), []

    def use():
        gate.wait()
        served.append(provider.generate_data_key(CONTEXT))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(served) == 8
    assert len(made_clients) == 1
    assert server.count("DescribeKey") == 1


def test_a_forked_child_makes_its_own_connection(server, provider_of):
    """The child's calls work though locks were held at the fork, and the parent's connection still does."""
    provider = provider_of(server.create_key())
    provider.generate_data_key(CONTEXT)
    with provider._clients._lock, provider._keks[0].target._lock, provider._watch._lock:
        child = os.fork()
        if child == 0:
            try:
                os._exit(0 if len(provider.generate_data_key(CONTEXT).plaintext) == 32 else 1)
            finally:
                os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert provider.generate_data_key(CONTEXT)
    assert server.count("GenerateDataKey", "ok") == 3


def test_a_closed_provider_refuses(server, provider_of):
    """A late call after close opens no new connection."""
    provider = provider_of(server.create_key())
    provider.generate_data_key(CONTEXT)
    provider.close()
    provider.close()
    with pytest.raises(ConfigError, match="closed"):
        provider.generate_data_key(CONTEXT)


def test_boto3_is_loaded_at_first_use_only():
    """Building a provider from a config costs no second of imports."""
    code = (
        "import sys; from streamcrypt.keys.aws_kms import AWSKMSKeyProvider; AWSKMSKeyProvider('alias/a');"
        "sys.exit(any(name in sys.modules for name in ('boto3', 'botocore')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""Several KEKs: each data key is wrapped for every one, any one opens; ``require`` says what an absent one means."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING

import pytest

from streamcrypt.decryptor import Decryptor
from streamcrypt.encryptor import Encryptor
from streamcrypt.errors import AuthenticationFailed, ConfigError, KeyRefused, KeyUnavailable, UntrustedKey
from streamcrypt.events import DataKeyMinted, DataKeyWrappedForFewer, KeyServiceCalled
from streamcrypt.keys import hedging
from streamcrypt.keys.aws_kms import sealing
from streamcrypt.keys.aws_kms.breaker import OPENS_AFTER
from tests.broker import wait_until
from tests.kms import REGION

if TYPE_CHECKING:
    from streamcrypt.keys.aws_kms import AWSKMSKeyProvider

NEAR, FAR, THIRD = REGION, "eu-central-1", "us-east-1"
CONTEXT = {"streamcrypt:topic": "payments", "app": "billing"}
PAIRS = tuple(sorted(CONTEXT.items()))


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """On a loaded machine, too, a KEK is absent only where a test makes it."""
    monkeypatch.setattr(sealing, "PATIENCE_SECONDS", 60.0)
    monkeypatch.setattr(hedging, "HEAD_START_SECONDS", 60.0)


@pytest.fixture
def keks(server):
    """A KEK in each of three regions, most preferred first."""
    return [server.create_key(region=region) for region in (NEAR, FAR, THIRD)]


def names(made) -> list[str]:
    return [key.key_id for key in made.encrypted]


def open_break(provider: AWSKMSKeyProvider, server, region: str) -> None:
    """Fail in a region until its breaker is open, and let it answer again."""
    server.darken(region, how="error")
    for _ in range(OPENS_AFTER):
        with pytest.raises(KeyUnavailable):
            provider._service.call("DescribeKey", region, "alias/x", {})
        if not provider._service.is_callable(region):
            break
    server.lighten(region)
    server.forget_calls()


# ---- all is well ----


@pytest.mark.parametrize("require", ["all", "any"])
def test_a_data_key_is_wrapped_for_every_kek_and_each_opens_alone(server, provider_of, keks, require):
    """One GenerateDataKey, an Encrypt each for the others, the same context; entries ascend as the envelope wants."""
    provider = provider_of(keks, require=require)
    made = provider.generate_data_key(CONTEXT)
    assert names(made) == sorted(keks)
    assert made.missing == ()
    assert [(c.operation, c.key_arn, c.context) for c in server.calls[:1]] == [("GenerateDataKey", keks[0], PAIRS)]
    assert {(c.operation, c.key_arn, c.context) for c in server.calls[1:]} == {
        ("Encrypt", arn, PAIRS) for arn in keks[1:]
    }
    for arn in keks:
        alone = provider_of(arn, region=None)
        ((encrypted, key_id),) = alone.trusted(made.encrypted)
        assert alone.decrypt_data_key(encrypted, key_id, CONTEXT) == made.plaintext


def test_eight_keks_are_wrapped_for(server, provider_of):
    """As many as an envelope holds; records open."""
    arns = [server.create_key() for _ in range(8)]
    provider = provider_of(arns)
    with Encryptor(provider) as writer, Decryptor(provider_of(arns[7])) as reader:
        value, headers = writer.encrypt("t", b"v", b"k")
        assert reader.decrypt("t", value, b"k", headers)[0] == b"v"


def test_a_reader_asks_in_its_own_order(server, provider_of, keks):
    """Whatever the order of the envelope; the first one opens, so there is one call."""
    made = provider_of(keks).generate_data_key(CONTEXT)
    server.forget_calls()
    reader = provider_of([keks[2], keks[0]], trusted_keys=[keks[1]])
    assert [arn for _, arn in reader.trusted(made.encrypted)] == [keks[2], keks[0], keks[1]]


def test_two_names_of_one_key_are_one_kek(server, provider_of):
    """Two aliases: wrapped once, or the envelope would hold the same entry twice."""
    arn = server.create_key("alias/a", "alias/b")
    provider = provider_of(["alias/a", "alias/b", arn])
    assert names(provider.generate_data_key(CONTEXT)) == [arn]
    assert provider.key_arns() == (arn,)


def test_every_call_is_told_with_kek_material_and_context(server, provider_of, keks, observer):
    """Encrypt shows no material, since KMS names none."""
    provider_of(keks[:2]).generate_data_key(CONTEXT)
    generated, encrypted = observer.of(KeyServiceCalled)
    assert (generated.operation, generated.key_id, generated.region) == ("GenerateDataKey", keks[0], NEAR)
    assert (encrypted.operation, encrypted.key_id, encrypted.region) == ("Encrypt", keks[1], FAR)
    assert len(generated.key_material_id) == 64
    assert encrypted.key_material_id == ""
    assert generated.context == encrypted.context == PAIRS
    assert [generated.request_id, encrypted.request_id] == [call.request_id for call in server.calls]


# ---- require: all ----


@pytest.mark.parametrize("away", [0, 1, 2])
@pytest.mark.parametrize("how", ["drop", "error"])
def test_all_gives_no_data_key_while_one_kek_is_away(server, provider_of, keks, clock, away, how):
    """KeyUnavailable, whichever it is; once it is back data keys come by themselves."""
    provider = provider_of(keks)
    region = (NEAR, FAR, THIRD)[away]
    server.darken(region, how=how)
    with pytest.raises(KeyUnavailable):
        provider.generate_data_key(CONTEXT)
    server.lighten(region)
    clock.advance(30)
    assert names(provider.generate_data_key(CONTEXT)) == sorted(keks)


def test_all_asks_nobody_while_the_breaker_of_one_is_open(server, provider_of, keks):
    """A data key that cannot be wrapped for all is not minted: the good regions are spared."""
    provider = provider_of(keks)
    open_break(provider, server, FAR)
    with pytest.raises(KeyUnavailable, match=FAR) as caught:
        provider.generate_data_key(CONTEXT)
    assert "require: any" in caught.value.remedy
    assert server.calls == []


def test_all_is_refused_where_one_kek_refuses(server, provider_of, keks):
    """A refusal bites, also where another KEK is away at the same time: an operator must act."""
    server.call("DisableKey", KeyId=keks[1], region=FAR)
    with pytest.raises(KeyRefused, match="DisabledException"):
        provider_of(keks).generate_data_key(CONTEXT)
    server.darken(THIRD)
    with pytest.raises(KeyRefused, match="DisabledException"):
        provider_of(keks).generate_data_key(CONTEXT)


# ---- require: any ----


@pytest.mark.parametrize("away", [0, 1, 2])
@pytest.mark.parametrize("how", ["drop", "error"])
def test_any_goes_on_with_those_that_answer(server, provider_of, keks, away, how):
    """Whichever is away; the absent one is named with its error."""
    provider = provider_of(keks, require="any")
    server.darken((NEAR, FAR, THIRD)[away], how=how)
    made = provider.generate_data_key(CONTEXT)
    assert names(made) == sorted(arn for arn in keks if arn != keks[away])
    assert made.missing == ((keks[away], "KeyUnavailable"),)
    assert provider.decrypt_data_key(*provider.trusted(made.encrypted)[0], CONTEXT) == made.plaintext


@pytest.mark.parametrize("away", [0, 1])
def test_a_region_that_hangs_is_left_out_and_soon_not_asked(server, provider_of, keks, away, monkeypatch):
    """It is left out after its head start or the patience, and skipped at once when its breaker is open."""
    monkeypatch.setattr(sealing, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(hedging, "HEAD_START_SECONDS", 0.5)
    provider = provider_of(keks[:2], require="any")
    region = (NEAR, FAR)[away]
    server.darken(region, how="hang")
    provider.generate_data_key(CONTEXT)
    wait_until(lambda: not _mint_until_open(provider, region), "the breaker to open", 60)
    server.forget_calls()
    assert names(provider.generate_data_key(CONTEXT)) == [keks[1 - away]]
    assert {call.region for call in server.calls} == {(NEAR, FAR)[1 - away]}


def _mint_until_open(provider, region) -> bool:
    if provider._service.is_callable(region):
        provider.generate_data_key(CONTEXT)
    return provider._service.is_callable(region)


def test_any_goes_on_where_a_kek_refuses_and_says_so(server, provider_of, keks):
    """Disabled as first, denied as another: both are named as refused."""
    server.call("DisableKey", KeyId=keks[0], region=NEAR)
    server.fail("AccessDeniedException", region=FAR)
    made = provider_of(keks, require="any").generate_data_key(CONTEXT)
    assert names(made) == [keks[2]]
    assert sorted(made.missing) == sorted([(keks[0], "KeyRefused"), (keks[1], "KeyRefused")])


def test_a_custom_key_store_that_is_away_is_a_kek_that_refuses(server, provider_of):
    """Until somebody connects it: the other KEK goes on under any, and under all nothing does."""
    stored = server.create_key(Origin="AWS_CLOUDHSM", CustomKeyStoreId="cks-1234567890abcdef0")
    other = server.create_key(region=FAR)
    server.disconnect_store("cks-1234567890abcdef0")
    made = provider_of([stored, other], require="any").generate_data_key(CONTEXT)
    assert (names(made), made.missing) == ([other], ((stored, "KeyRefused"),))
    with pytest.raises(KeyRefused, match="KMSInvalidStateException"):
        provider_of([stored, other]).generate_data_key(CONTEXT)
    server.connect_store("cks-1234567890abcdef0")
    made = provider_of([stored, other]).generate_data_key(CONTEXT)
    assert names(made) == sorted([stored, other])


def test_any_wraps_under_a_kek_that_may_only_encrypt(server, provider_of, keks):
    """A first KEK that refuses GenerateDataKey alone is wrapped for all the same."""
    server.fail("AccessDeniedException", "GenerateDataKey", region=NEAR)
    made = provider_of(keks, require="any").generate_data_key(CONTEXT)
    assert names(made) == sorted(keks)
    assert made.missing == ()


def test_any_needs_one(server, provider_of, keks):
    """All away, or some away and the others refusing: a retry may help. All refusing: an operator must act."""
    provider = provider_of(keks, require="any")
    for region in (NEAR, FAR, THIRD):
        server.darken(region)
    with pytest.raises(KeyUnavailable):
        provider.generate_data_key(CONTEXT)
    server.lighten(NEAR)
    server.call("DisableKey", KeyId=keks[0], region=NEAR)
    with pytest.raises(KeyUnavailable):
        provider_of(keks, require="any").generate_data_key(CONTEXT)
    server.heal()
    for arn, region in zip(keks[1:], (FAR, THIRD), strict=True):
        server.call("DisableKey", KeyId=arn, region=region)
    with pytest.raises(KeyRefused):
        provider_of(keks, require="any").generate_data_key(CONTEXT)


@pytest.mark.parametrize("require", ["all", "any"])
@pytest.mark.parametrize("place", [0, 1])
def test_a_kek_of_another_kind_is_a_config_error_under_either(server, provider_of, keks, require, place):
    """No outage explains an RSA key."""
    arns = [keks[0], keks[1]]
    arns[place] = server.create_key(KeySpec="RSA_2048", region=(NEAR, FAR)[place])
    with pytest.raises(ConfigError):
        provider_of(arns, require=require).generate_data_key(CONTEXT)


@pytest.mark.parametrize("require", ["all", "any"])
def test_an_alias_that_cannot_be_resolved_is_an_absent_kek(server, provider_of, require):
    """Under any it is left out by its name; under all it stops."""
    here = server.create_key("alias/here")
    server.create_key("alias/there", region=FAR)
    there = f"arn:aws:kms:{FAR}:111122223333:alias/there"
    provider = provider_of(["alias/here", there], require=require)
    server.darken(FAR)
    if require == "all":
        with pytest.raises(KeyUnavailable):
            provider.generate_data_key(CONTEXT)
        return
    made = provider.generate_data_key(CONTEXT)
    assert (names(made), made.missing) == ([here], ((there, "KeyUnavailable"),))


def test_each_data_key_wrapped_for_fewer_is_told_with_its_public_id(server, provider_of, keks, observer):
    """What was minted, for which KEKs, without which, and why."""
    server.darken(THIRD)
    with Encryptor(provider_of(keks, require="any"), observer=observer) as writer:
        writer.encrypt("payments", b"v", b"k")
    (fewer,) = observer.of(DataKeyWrappedForFewer)
    (minted,) = observer.of(DataKeyMinted)
    assert fewer.topic == "payments"
    assert fewer.data_key == minted.data_key
    assert fewer.key_ids == minted.key_ids == tuple(sorted(keks[:2]))
    assert (fewer.missing, fewer.errors) == ((keks[2],), ("KeyUnavailable",))


# ---- answers that are wrong ----


def _answer(arn: str, **changed: object) -> bytes:
    good = {"KeyId": arn, "CiphertextBlob": base64.b64encode(b"c" * 184).decode()}
    return json.dumps({name: value for name, value in (good | changed).items() if value is not None}).encode()


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"CiphertextBlob": None}, KeyUnavailable),
        ({"CiphertextBlob": ""}, KeyUnavailable),
        ({"CiphertextBlob": base64.b64encode(b"c" * 6145).decode()}, KeyUnavailable),
        ({"KeyId": None}, KeyUnavailable),
        ({"KeyId": "other"}, KeyRefused),
    ],
)
def test_an_unusable_answer_to_encrypt_is_typed(server, provider_of, keks, changed, kind):
    """Never a data key whose entry nobody can open."""
    server.garble("Encrypt", body=_answer(keks[1], **changed))
    with pytest.raises(kind) as caught:
        provider_of(keks[:2]).generate_data_key(CONTEXT)
    assert caught.value.operation == "Encrypt"


@pytest.mark.parametrize("fault", ["refused", "away", "defect"])
def test_the_dek_is_overwritten_where_it_is_not_given_away(server, provider_of, keks, monkeypatch, fault):
    """Both ours and the copies that Encrypt was given."""
    taken: list[bytearray] = []
    sent: list[bytearray] = []
    take, encrypt = sealing.take_plaintext, sealing.encrypt

    def keep(answer):
        taken.append(take(answer))
        return taken[-1]

    def record(service, arn, dek, context):
        sent.append(dek)
        if fault == "defect":
            raise ZeroDivisionError
        return encrypt(service, arn, dek, context)

    monkeypatch.setattr(sealing, "take_plaintext", keep)
    monkeypatch.setattr(sealing, "encrypt", record)
    if fault == "refused":
        server.call("DisableKey", KeyId=keks[1], region=FAR)
    if fault == "away":
        server.darken(FAR)
    with pytest.raises((KeyRefused, KeyUnavailable, ZeroDivisionError)):
        provider_of(keks[:2]).generate_data_key(CONTEXT)
    assert taken == [bytearray(32)]
    wait_until(lambda: sent == [bytearray(32)], "the copy to be overwritten")


def test_a_good_data_key_is_not_overwritten(server, provider_of, keks):
    """Only the copies are."""
    assert provider_of(keks).generate_data_key(CONTEXT).plaintext != bytearray(32)


# ---- opening ----


def test_a_record_opens_while_the_first_region_is_dark_and_waits_only_at_first(server, provider_of, keks):
    """Dropped connections: the second KEK opens; with the breaker open the dark region is not asked."""
    provider = provider_of(keks[:2])
    with Encryptor(provider) as writer:
        records = [(f"t{n}", *writer.encrypt(f"t{n}", b"v", b"k")) for n in range(8)]
    server.darken(NEAR)
    reader = Decryptor(provider)
    with reader:
        for topic, value, headers in records:
            assert reader.decrypt(topic, value, b"k", headers)[0] == b"v"
            if not provider._service.is_callable(NEAR):
                break
        server.forget_calls()
        made = [record for record in records if record[0] != topic][-1]
        assert reader.decrypt(made[0], made[1], b"k", made[2])[0] == b"v"
        assert {call.region for call in server.calls} <= {FAR}


def test_a_hanging_region_delays_a_miss_by_its_head_start_only(server, provider_of, keks, monkeypatch):
    """The answer of the other KEK is taken while the first one still hangs."""
    provider = provider_of(keks[:2])
    with Encryptor(provider) as writer:
        value, headers = writer.encrypt("t", b"v", b"k")
    monkeypatch.setattr(hedging, "HEAD_START_SECONDS", 0.5)
    server.darken(NEAR, how="hang")
    with Decryptor(provider) as reader:
        assert reader.decrypt("t", value, b"k", headers)[0] == b"v"
        # The call that hangs ends by its own timeout; nobody waited for it.
        assert [call.outcome for call in server.calls if call.operation == "Decrypt" and call.region == FAR] == ["ok"]


def test_two_disabled_keks_do_not_hide_a_third(server, provider_of, keks):
    """A reader asks two at a time: those that refused lately come last."""
    provider = provider_of(keks)
    with Encryptor(provider) as writer:
        value, headers = writer.encrypt("t", b"v", b"k")
    for arn, region in zip(keks[:2], (NEAR, FAR), strict=True):
        server.call("DisableKey", KeyId=arn, region=region)
    with Decryptor(provider) as reader:
        with pytest.raises(KeyRefused):
            reader.decrypt("t", value, b"k", headers)
        assert reader.decrypt("t", value, b"k", headers)[0] == b"v"


def test_no_more_than_two_keks_are_asked_for_a_record(server, provider_of, keks):
    """Whoever alters all entries of a header causes two calls a header, and no more."""
    provider = provider_of(keks)
    with Encryptor(provider) as writer:
        value, headers = writer.encrypt("t", b"v", b"k")
    server.garble("Decrypt", body=_answer(keks[0], Plaintext=base64.b64encode(b"k" * 32).decode()))
    server.forget_calls()
    with Decryptor(provider) as reader, pytest.raises((UntrustedKey, AuthenticationFailed)):
        reader.decrypt("t", value, b"k", headers)
    assert server.count("Decrypt") == 2


# ---- check, key_arns, confined_to ----


def test_check_looks_at_every_kek_and_any_needs_one(server, provider_of, keks):
    """The first that is well is named."""
    provider = provider_of(keks)
    assert provider.check() == keks[0]
    server.call("DisableKey", KeyId=keks[0], region=NEAR)
    with pytest.raises(KeyRefused, match="Disabled"):
        provider.check()
    assert provider_of(keks, require="any").check() == keks[1]
    for arn, region in zip(keks[1:], (FAR, THIRD), strict=True):
        server.call("DisableKey", KeyId=arn, region=region)
    with pytest.raises(KeyRefused, match=keks[0]):
        provider_of(keks, require="any").check()


def test_key_arns_are_in_order_of_preference_with_aliases_resolved(server, provider_of, keks):
    """The audit compares the KEKs of records with these."""
    server.call("CreateAlias", AliasName="alias/first", TargetKeyId=keks[0])
    assert provider_of(["alias/first", keks[2]]).key_arns() == (keks[0], keks[2])


def test_confined_to_a_region_everything_else_is_away(server, provider_of, keks):
    """It opens what that region can open, and calls no other."""
    provider = provider_of(keks[:2])
    made = provider.generate_data_key(CONTEXT)
    alone = provider_of(keks[2], region=None).generate_data_key(CONTEXT)
    server.forget_calls()
    confined = provider.confined_to(FAR)
    try:
        encrypted, arn = confined.trusted(made.encrypted)[0]
        assert arn == keks[1]
        assert confined.decrypt_data_key(encrypted, arn, CONTEXT) == made.plaintext
        assert confined.trusted(alone.encrypted) == []
        with pytest.raises(KeyUnavailable, match="confined"):
            confined.decrypt_data_key(made.encrypted[0], keks[0], CONTEXT)
        with pytest.raises(KeyUnavailable):
            confined.generate_data_key(CONTEXT)
    finally:
        confined.close()
    assert {call.region for call in server.calls} == {FAR}
    assert provider.generate_data_key(CONTEXT)


def test_providers_under_other_keks_share_connections_and_breakers(server, provider_of, keks):
    """What one of them found away is not asked by the others; the settings hold as far as they fit."""
    family = provider_of(keks[0])
    other = family.under([keks[1], keks[2]])
    assert names(other.generate_data_key(CONTEXT)) == sorted(keks[1:])
    open_break(family, server, FAR)
    with pytest.raises(KeyUnavailable):
        other.generate_data_key(CONTEXT)
    assert server.calls == []
    assert family.generate_data_key(CONTEXT)


# ---- processes ----


def test_a_forked_child_mints_though_threads_hung_at_the_fork(server, provider_of, keks, monkeypatch):
    """No lock and no thread of the parent is missed."""
    import os

    provider = provider_of(keks[:2], require="any")
    monkeypatch.setattr(sealing, "PATIENCE_SECONDS", 0.5)
    server.darken(FAR, how="hang")
    provider.generate_data_key(CONTEXT)
    with provider._watch._lock:
        child = os.fork()
        if child == 0:
            try:
                made = provider.generate_data_key(CONTEXT)
                os._exit(0 if names(made) == [keks[0]] and provider.sealing_generation == 0 else 1)
            finally:
                os._exit(2)
    deadline = time.monotonic() + 60
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert os.waitstatus_to_exitcode(ended[1]) == 0

"""Wrapping an existing data key under other KEKs: by ReEncrypt, from one trusted entry, the context as it was."""

from __future__ import annotations

import json

import pytest

from streamcrypt.envelope.header import EncryptedDataKey
from streamcrypt.errors import AuthenticationFailed, KeyRefused, KeyUnavailable, UntrustedKey
from streamcrypt.events import KeyServiceCalled
from streamcrypt.keys.aws_kms import opening
from streamcrypt.keys.local import LocalKeyProvider
from streamcrypt.keys.provider import RewrappingKeyProvider
from tests.kms import REGION

NEAR, FAR = REGION, "eu-central-1"
CONTEXT = {"streamcrypt:topic": "payments", "app": "billing"}
PAIRS = tuple(sorted(CONTEXT.items()))


def opened(provider, keys, context=CONTEXT) -> bytes:
    """The DEK that a reader of ``provider`` gets."""
    encrypted, key_id = provider.trusted(keys)[0]
    return bytes(provider.decrypt_data_key(encrypted, key_id, context))


def test_both_providers_rewrap(provider_of, server):
    """The protocol is met."""
    assert isinstance(provider_of(server.create_key()), RewrappingKeyProvider)
    assert isinstance(LocalKeyProvider.generate(), RewrappingKeyProvider)


def test_a_data_key_is_wrapped_anew_by_one_call_and_never_seen(server, provider_of, observer):
    """ReEncrypt with the trusted source, both contexts the record's; the new KEK alone opens it to the same DEK."""
    old, new = server.create_key(), server.create_key()
    made = provider_of(old).generate_data_key(CONTEXT)
    server.forget_calls()
    observer.clear()
    (wrapped,) = provider_of(new, trusted_keys=[old]).rewrap_data_key(made.encrypted, CONTEXT)
    assert (wrapped.provider, wrapped.key_id) == ("aws-kms", new)
    assert [(call.operation, call.region, call.context) for call in server.calls] == [("ReEncrypt", NEAR, PAIRS)]
    assert opened(provider_of(new), [wrapped]) == bytes(made.plaintext)
    called, _ = observer.of(KeyServiceCalled)
    assert (called.operation, called.key_id, called.source_key_id, called.context) == ("ReEncrypt", new, old, PAIRS)
    assert called.request_id == server.calls[0].request_id
    assert len({called.key_material_id, called.source_key_material_id, ""}) == 3


def test_it_is_wrapped_for_every_configured_kek(server, provider_of):
    """One call each, ascending, whatever require says; the old KEK is left out."""
    old = server.create_key()
    new = [server.create_key() for _ in range(3)]
    made = provider_of(old).generate_data_key(CONTEXT)
    server.forget_calls()
    wrapped = provider_of(new, require="any", trusted_keys=[old]).rewrap_data_key(made.encrypted, CONTEXT)
    assert [key.key_id for key in wrapped] == sorted(new)
    assert [call.operation for call in server.calls] == ["ReEncrypt"] * 3
    for arn in new:
        assert opened(provider_of(arn), wrapped) == bytes(made.plaintext)


def test_the_same_kek_wraps_under_its_current_material(server, provider_of):
    """That is how a rotation reaches records written before it."""
    arn = server.create_key()
    provider = provider_of(arn)
    made = provider.generate_data_key(CONTEXT)
    server.rotate(arn)
    (wrapped,) = provider.rewrap_data_key(made.encrypted, CONTEXT)
    assert wrapped.ciphertext != made.encrypted[0].ciphertext
    assert opened(provider, [wrapped]) == bytes(made.plaintext)


def test_a_rotation_is_noticed_by_the_next_data_key_that_is_rewrapped(server, provider_of):
    """Without DescribeKey: what was rewrapped before is to be forgotten."""
    old, new = server.create_key(), server.create_key()
    made = provider_of(old).generate_data_key(CONTEXT)
    provider = provider_of(new, trusted_keys=[old])
    for _ in range(2):
        provider.rewrap_data_key(made.encrypted, CONTEXT)
    before = provider.sealing_generation
    server.rotate(new)
    provider.rewrap_data_key(made.encrypted, CONTEXT)
    assert (before, provider.sealing_generation) == (0, 1)
    assert "DescribeKey" not in [call.operation for call in server.calls]


def test_a_record_wrapped_for_fewer_is_wrapped_for_all(server, provider_of):
    """After an outage under require: any."""
    keks = [server.create_key(), server.create_key(region=FAR)]
    made = provider_of(keks[0]).generate_data_key(CONTEXT)
    wrapped = provider_of(keks, require="any").rewrap_data_key(made.encrypted, CONTEXT)
    assert sorted(key.key_id for key in wrapped) == sorted(keks)
    assert opened(provider_of(keks[1], region=None), wrapped) == bytes(made.plaintext)


def test_regions_that_are_not_shared_take_decrypt_and_encrypt(server, provider_of, monkeypatch):
    """KMS cannot do it alone; the DEK is overwritten here afterwards."""
    old, new = server.create_key(), server.create_key(region=FAR)
    made = provider_of(old).generate_data_key(CONTEXT)
    taken = []
    take = opening.take_plaintext

    def keep(answer):
        taken.append(take(answer))
        return taken[-1]

    monkeypatch.setattr(opening, "take_plaintext", keep)
    server.forget_calls()
    (wrapped,) = provider_of(new, region=None, trusted_keys=[old]).rewrap_data_key(made.encrypted, CONTEXT)
    assert [(call.operation, call.region) for call in server.calls] == [("Decrypt", NEAR), ("Encrypt", FAR)]
    assert taken == [bytearray(32)]
    assert opened(provider_of(new, region=None), [wrapped]) == bytes(made.plaintext)


def test_a_multi_region_key_is_taken_where_the_regions_meet(server, provider_of):
    """A replica beside the destination spares Decrypt and Encrypt."""
    old = server.create_key(MultiRegion=True)
    replica = server.replicate(old, FAR)
    new = server.create_key(region=FAR)
    made = provider_of(old).generate_data_key(CONTEXT)
    server.forget_calls()
    provider = provider_of(new, region=None, trusted_keys=[old], regions=[FAR])
    provider.rewrap_data_key(made.encrypted, CONTEXT)
    ((call, region),) = [(call.operation, call.region) for call in server.calls]
    assert (call, region) == ("ReEncrypt", FAR)
    assert replica in {arn for _, arn in provider.trusted(made.encrypted)}


def test_it_goes_to_another_region_while_one_is_dark(server, provider_of):
    """Both keys have a replica there."""
    old, new = server.create_key(MultiRegion=True), server.create_key(MultiRegion=True)
    for arn in (old, new):
        server.replicate(arn, FAR)
    made = provider_of(old).generate_data_key(CONTEXT)
    server.darken(NEAR)
    (wrapped,) = provider_of(new, regions=[FAR], trusted_keys=[old]).rewrap_data_key(made.encrypted, CONTEXT)
    assert wrapped.key_id == new.replace(NEAR, FAR)


def test_without_a_trusted_entry_nothing_is_asked(server, provider_of):
    """UntrustedKey, as a reader says."""
    made = provider_of(server.create_key()).generate_data_key(CONTEXT)
    server.forget_calls()
    with pytest.raises(UntrustedKey):
        provider_of(server.create_key()).rewrap_data_key(made.encrypted, CONTEXT)
    assert server.calls == []


def test_an_altered_entry_or_context_is_authentication_failed(server, provider_of):
    """KMS says InvalidCiphertext, of the blob and of the context."""
    provider = provider_of(server.create_key())
    made = provider.generate_data_key(CONTEXT)
    with pytest.raises(AuthenticationFailed):
        provider.rewrap_data_key(made.encrypted, {**CONTEXT, "app": "other"})
    blob = made.encrypted[0].ciphertext
    altered = EncryptedDataKey("aws-kms", made.encrypted[0].key_id, blob[:-1] + bytes([blob[-1] ^ 1]))
    with pytest.raises(AuthenticationFailed):
        provider.rewrap_data_key([altered], CONTEXT)


def test_an_entry_of_another_kek_is_untrusted(server, provider_of):
    """It names a trusted one: IncorrectKeyException."""
    ours, theirs = server.create_key(), server.create_key()
    made = provider_of(theirs).generate_data_key(CONTEXT)
    forged = EncryptedDataKey("aws-kms", ours, made.encrypted[0].ciphertext)
    with pytest.raises(UntrustedKey):
        provider_of(ours).rewrap_data_key([forged], CONTEXT)


def test_the_second_entry_helps_where_the_first_does_not_open(server, provider_of):
    """And then all of the result comes from it: two entries of an altered header may hold two DEKs."""
    one, two = server.create_key(), server.create_key()
    new = [server.create_key(), server.create_key()]
    made = provider_of([one, two]).generate_data_key(CONTEXT)
    entries = {key.key_id: key for key in made.encrypted}
    altered = [EncryptedDataKey("aws-kms", one, b"\x01" * 184), entries[two]]
    wrapped = provider_of(new, trusted_keys=[one, two]).rewrap_data_key(altered, CONTEXT)
    assert {opened(provider_of(arn), wrapped) for arn in new} == {bytes(made.plaintext)}


def test_two_entries_with_two_deks_are_never_mixed(server, provider_of):
    """Also where the first one gives out in the middle: under one KEK of two it was wrapped already."""
    one, two = server.create_key(), server.create_key()
    new = [server.create_key(), server.create_key(region=FAR)]
    first, second = (provider_of(arn).generate_data_key(CONTEXT) for arn in (one, two))
    provider = provider_of(new, trusted_keys=[one, two])
    server.forget_calls()
    server.fail("DisabledException", "Decrypt", count=1)
    wrapped = provider.rewrap_data_key([*first.encrypted, *second.encrypted], CONTEXT)
    assert [call.operation for call in server.calls] == ["ReEncrypt", "Decrypt", "ReEncrypt", "Decrypt", "Encrypt"]
    assert {opened(provider_of(arn, region=None), wrapped) for arn in new} == {bytes(second.plaintext)}


def test_a_refused_destination_says_which_permissions_are_needed(server, provider_of):
    """IAM has two actions for the one operation."""
    old, new = server.create_key(), server.create_key()
    made = provider_of(old).generate_data_key(CONTEXT)
    server.fail("AccessDeniedException", "ReEncrypt")
    with pytest.raises(KeyRefused) as caught:
        provider_of(new, trusted_keys=[old]).rewrap_data_key(made.encrypted, CONTEXT)
    for said in ("kms:ReEncryptFrom", "kms:ReEncryptTo", new):
        assert said in caught.value.remedy


def test_an_outage_is_unavailable_and_not_the_records_fault(server, provider_of):
    """The pipeline waits."""
    provider = provider_of(server.create_key())
    made = provider.generate_data_key(CONTEXT)
    server.fail("KMSInternalException", "ReEncrypt")
    with pytest.raises(KeyUnavailable):
        provider.rewrap_data_key(made.encrypted, CONTEXT)


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"CiphertextBlob": None}, KeyUnavailable),
        ({"KeyId": None}, KeyUnavailable),
        ({"KeyId": "other"}, KeyRefused),
        ({"SourceKeyId": None}, KeyUnavailable),
        ({"SourceKeyId": "other"}, UntrustedKey),
    ],
)
def test_an_unusable_answer_to_re_encrypt_is_typed(server, provider_of, changed, kind):
    """The KEKs of the answer are held against those asked for."""
    arn = server.create_key()
    provider = provider_of(arn)
    made = provider.generate_data_key(CONTEXT)
    good = {"KeyId": arn, "SourceKeyId": arn, "CiphertextBlob": "Y2M="}
    body = json.dumps({name: value for name, value in (good | changed).items() if value is not None}).encode()
    server.garble("ReEncrypt", body=body)
    with pytest.raises(kind):
        provider.rewrap_data_key(made.encrypted, CONTEXT)


# ---- the local provider ----


def test_a_keyring_wraps_under_its_primary():
    """Whatever KEK of the keyring it was under."""
    old = LocalKeyProvider({"a": b"a" * 32, "b": b"b" * 32}, "a")
    new = LocalKeyProvider({"a": b"a" * 32, "b": b"b" * 32}, "b")
    made = old.generate_data_key(CONTEXT)
    (wrapped,) = new.rewrap_data_key(made.encrypted, CONTEXT)
    assert (wrapped.provider, wrapped.key_id) == ("local", "b")
    assert new.decrypt_data_key(wrapped, "b", CONTEXT) == made.plaintext
    with pytest.raises(AuthenticationFailed):
        new.rewrap_data_key(made.encrypted, {})
    with pytest.raises(UntrustedKey):
        LocalKeyProvider.generate("c").rewrap_data_key(made.encrypted, CONTEXT)

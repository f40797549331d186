"""Multi-region keys: one KEK with a replica in several regions, called where it is near and up, and nowhere else."""

from __future__ import annotations

import pytest

from streamcrypt.decryptor import Decryptor
from streamcrypt.encryptor import Encryptor
from streamcrypt.envelope.header import EncryptedDataKey
from streamcrypt.errors import KeyRefused, KeyUnavailable, UntrustedKey
from streamcrypt.events import KeyAliasMoved
from streamcrypt.keys import hedging
from streamcrypt.keys.aws_kms import AWSKMSKeyProvider
from streamcrypt.keys.aws_kms.keks import match, order
from streamcrypt.keys.aws_kms.names import identity_of, in_region
from tests.kms import REGION

NEAR, FAR, THIRD = REGION, "eu-central-1", "us-east-1"
CONTEXT = {"streamcrypt:topic": "payments"}
MRK = "mrk-1234abcd12ab34cd56ef1234567890ab"
ACCOUNT = "111122223333"


def arn(region: str, key_id: str = MRK, account: str = ACCOUNT, partition: str = "aws") -> str:
    return f"arn:{partition}:kms:{region}:{account}:key/{key_id}"


def entry(key_id: str) -> EncryptedDataKey:
    return EncryptedDataKey("aws-kms", key_id, b"x")


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """On a loaded machine, too, a region is passed over only where a test makes it."""
    monkeypatch.setattr(hedging, "HEAD_START_SECONDS", 60.0)


@pytest.fixture
def replicas(server):
    """The ARNs of one multi-region key in three regions; the first is the primary."""
    primary = server.create_key("alias/a", MultiRegion=True)
    return [primary, server.replicate(primary, FAR, "alias/a"), server.replicate(primary, THIRD)]


# ---- names ----


def test_replicas_are_one_key_and_nothing_else_is():
    """Same partition, account and mrk- id."""
    assert identity_of(arn(NEAR)) == identity_of(arn(FAR))
    others = {
        identity_of(arn(NEAR)),
        identity_of(arn(NEAR, account="444455556666")),
        identity_of(arn(NEAR, partition="aws-cn")),
        identity_of(arn(NEAR, "mrk-" + "0" * 32)),
        identity_of(arn(NEAR, "1234abcd-12ab-34cd-56ef-1234567890ab")),
        identity_of(arn(FAR, "1234abcd-12ab-34cd-56ef-1234567890ab")),
    }
    assert len(others) == 6
    assert in_region(arn(NEAR), FAR) == arn(FAR)
    single = arn(NEAR, "1234abcd-12ab-34cd-56ef-1234567890ab")
    assert in_region(single, FAR) == single


# ---- opening ----


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_record_of_any_listed_region_opens_with_the_nearest_replica(server, provider_of, replicas, written):
    """KMS is called with the trusted replica's ARN, whichever ARN the record names."""
    made = provider_of(replicas[written], region=None).generate_data_key(CONTEXT)
    assert [key.key_id for key in made.encrypted] == [replicas[written]]
    server.forget_calls()
    reader = provider_of(replicas[1], region=FAR, regions=[NEAR, THIRD])
    pairs = reader.trusted(made.encrypted)
    assert [key_id for _, key_id in pairs] == [replicas[1], replicas[0], replicas[2]]
    assert reader.decrypt_data_key(*pairs[0], CONTEXT) == made.plaintext
    assert [(call.region, call.key_arn) for call in server.calls] == [(FAR, replicas[1])]


def test_a_record_of_a_region_that_is_not_listed_is_untrusted(server, provider_of, replicas):
    """Though it is the same key, and would open: where keys are used is the operator's choice."""
    with Encryptor(provider_of(replicas[2], region=None)) as writer:
        value, headers = writer.encrypt("payments", b"v", b"k")
    server.forget_calls()
    with Decryptor(provider_of(replicas[0], regions=[FAR])) as reader, pytest.raises(UntrustedKey):
        reader.decrypt("payments", value, b"k", headers)
    assert server.calls == []


@pytest.mark.parametrize(
    ("settings", "listed"),
    [
        ({"key_id": arn(NEAR)}, [NEAR]),
        ({"key_id": arn(NEAR), "region": FAR}, [FAR, NEAR]),
        ({"key_id": arn(NEAR), "regions": [FAR, THIRD]}, [NEAR, FAR, THIRD]),
        ({"key_id": arn(NEAR), "region": FAR, "regions": [THIRD]}, [FAR, THIRD, NEAR]),
        ({"key_id": [arn(NEAR), arn(FAR)]}, [NEAR, FAR]),
        ({"key_id": [arn(FAR), arn(NEAR)], "regions": [THIRD]}, [FAR, THIRD, NEAR]),
        ({"key_id": arn(NEAR, "mrk-" + "0" * 32), "trusted_keys": [arn(FAR)]}, [FAR]),
        ({"key_id": arn(NEAR, "mrk-" + "0" * 32), "trusted_keys": [arn(FAR), arn(THIRD)]}, [FAR, THIRD]),
        ({"key_id": arn(NEAR, "mrk-" + "0" * 32), "trusted_keys": [arn(FAR)], "regions": [THIRD]}, [FAR, THIRD]),
        (
            {
                "key_id": arn(NEAR, "mrk-" + "0" * 32),
                "trusted_keys": [arn(FAR)],
                "region": NEAR,
                "regions": [THIRD],
            },
            [NEAR, THIRD, FAR],
        ),
        ({"key_id": "alias/a", "trusted_keys": [arn(FAR)], "region": NEAR}, [FAR]),
    ],
)
def test_where_a_multi_region_key_is_called(settings, listed):
    """Region first, then regions, then where it is listed; a key that only opens is called where it is listed."""
    provider = AWSKMSKeyProvider(**settings)
    found = {key_id for _, key_id in provider.trusted([entry(arn(listed[0]))])}
    assert found == {arn(region) for region in listed}
    first = [key_id for _, key_id in provider.trusted([entry(arn(listed[-1]))])]
    assert first == [arn(region) for region in listed]


@pytest.mark.parametrize(
    "named",
    [
        arn("ap-south-1"),
        arn(NEAR, account="444455556666"),
        arn(NEAR, partition="aws-cn"),
        arn(NEAR, "mrk-" + "0" * 32),
        arn(NEAR).replace("key/", "alias/"),
        MRK,
        f"key/{MRK}",
        arn(NEAR) + "x",
        arn(NEAR).upper(),
        arn(""),
        "arn:aws:kms",
    ],
)
def test_a_record_that_names_anything_else_is_untrusted(named):
    """Another region, account, partition, key or form."""
    assert AWSKMSKeyProvider(arn(NEAR), regions=[FAR]).trusted([entry(named)]) == []


def test_a_multi_region_key_is_matched_in_the_region_of_any_listed_arn():
    """Where it may be called is narrower: nothing says that it has a replica there."""
    provider = AWSKMSKeyProvider(arn(NEAR), trusted_keys=[arn(FAR, "1234abcd-12ab-34cd-56ef-1234567890ab")])
    assert [key_id for _, key_id in provider.trusted([entry(arn(FAR))])] == [arn(NEAR)]


def test_a_single_region_key_is_no_replica_of_anything(server, provider_of):
    """Its region is never swapped."""
    single = server.create_key()
    mrk = server.create_key(MultiRegion=True)
    provider = provider_of([single, mrk], regions=[FAR])
    assert [key_id for _, key_id in provider.trusted([entry(single)])] == [single]
    assert provider.trusted([entry(single.replace(NEAR, FAR))]) == []


def test_a_reader_goes_to_the_next_replica_while_a_region_is_dark(server, provider_of, replicas):
    """And asks the dark one no more once its breaker is open."""
    provider = provider_of(replicas[0], regions=[FAR])
    with Encryptor(provider) as writer:
        records = [(f"t{n}", *writer.encrypt(f"t{n}", b"v", b"k")) for n in range(6)]
    server.darken(NEAR)
    with Decryptor(provider) as reader:
        for topic, value, headers in records[:4]:
            assert reader.decrypt(topic, value, b"k", headers)[0] == b"v"
        assert not provider._service.is_callable(NEAR)
        server.forget_calls()
        for topic, value, headers in records[4:]:
            assert reader.decrypt(topic, value, b"k", headers)[0] == b"v"
    assert {call.region for call in server.calls} == {FAR}


def test_a_disabled_replica_is_passed_over_by_a_reader(server, provider_of, replicas):
    """States are not shared between replicas: the other one opens."""
    provider = provider_of(replicas[0], regions=[FAR])
    with Encryptor(provider) as writer:
        value, headers = writer.encrypt("t", b"v", b"k")
    server.call("DisableKey", KeyId=replicas[0])
    with Decryptor(provider) as reader:
        assert reader.decrypt("t", value, b"k", headers)[0] == b"v"


# ---- sealing ----


def test_sealing_goes_to_the_first_region_that_is_up_and_says_which(server, provider_of, replicas):
    """The header names the replica that wrapped; one GenerateDataKey, no Encrypt."""
    provider = provider_of(replicas[0], regions=[FAR, THIRD])
    assert [key.key_id for key in provider.generate_data_key(CONTEXT).encrypted] == [replicas[0]]
    assert [(call.operation, call.region) for call in server.calls] == [("GenerateDataKey", NEAR)]
    server.darken(NEAR)
    made = provider.generate_data_key(CONTEXT)
    assert [key.key_id for key in made.encrypted] == [replicas[1]]
    server.darken(FAR)
    assert [key.key_id for key in provider.generate_data_key(CONTEXT).encrypted] == [replicas[2]]
    server.darken(THIRD)
    with pytest.raises(KeyUnavailable):
        provider.generate_data_key(CONTEXT)
    server.heal()
    assert provider_of(replicas[0], regions=[FAR]).decrypt_data_key(made.encrypted[0], replicas[0], CONTEXT)


def test_a_refusal_of_the_first_replica_is_an_answer(server, provider_of, replicas):
    """Sealing does not go round a replica that somebody disabled."""
    server.call("DisableKey", KeyId=replicas[0])
    with pytest.raises(KeyRefused, match="DisabledException"):
        provider_of(replicas[0], regions=[FAR]).generate_data_key(CONTEXT)
    assert {call.region for call in server.calls} == {NEAR}


def test_sealing_comes_back_to_the_first_region(server, provider_of, replicas, clock):
    """The breaker's probe is a data key like any other."""
    provider = provider_of(replicas[0], regions=[FAR])
    server.darken(NEAR)
    while provider._service.is_callable(NEAR):
        provider.generate_data_key(CONTEXT)
    server.lighten(NEAR)
    assert [key.key_id for key in provider.generate_data_key(CONTEXT).encrypted] == [replicas[1]]
    clock.advance(30)
    assert [key.key_id for key in provider.generate_data_key(CONTEXT).encrypted] == [replicas[0]]


def test_a_multi_region_key_beside_a_key_of_its_own_region(server, provider_of, replicas):
    """Two KEKs of three ARNs: the replicas are one KEK."""
    single = server.create_key(region=THIRD)
    provider = provider_of([*replicas[:2], single], region=None, endpoint_url=server.url)
    made = provider.generate_data_key(CONTEXT)
    assert sorted(key.key_id for key in made.encrypted) == sorted([replicas[0], single])
    assert provider.key_arns() == (replicas[0], single)
    server.darken(NEAR)
    made = provider.generate_data_key(CONTEXT)
    assert sorted(key.key_id for key in made.encrypted) == sorted([replicas[1], single])


# ---- aliases ----


def test_an_alias_of_a_multi_region_key_is_resolved_in_the_first_region_that_is_up(server, provider_of, replicas):
    """Also at the start; the same key found elsewhere is no move."""
    provider = provider_of("alias/a", regions=[FAR])
    server.darken(NEAR)
    made = provider.generate_data_key(CONTEXT)
    assert [key.key_id for key in made.encrypted] == [replicas[1]]
    assert next(key_id for _, key_id in provider.trusted(made.encrypted)) in replicas[:2]


def test_finding_an_alias_in_another_region_is_no_move(server, provider_of, replicas, clock, observer):
    """The data keys in use stay."""
    provider = provider_of("alias/a", regions=[FAR])
    server.darken(NEAR)
    provider.check()
    server.lighten(NEAR)
    clock.advance(600)
    assert provider.check() == replicas[0]
    assert (provider.trust_generation, provider.sealing_generation) == (0, 0)
    assert observer.of(KeyAliasMoved) == []


def test_an_alias_of_another_key_in_the_second_region_is_not_taken(server, provider_of):
    """Only the first region says which key is meant, unless it is the same key everywhere."""
    server.create_key("alias/b")
    server.create_key("alias/b", region=FAR)
    provider = provider_of("alias/b", regions=[FAR])
    server.darken(NEAR)
    with pytest.raises(KeyUnavailable):
        provider.check()
    server.lighten(NEAR)
    assert f":{NEAR}:" in provider.check()


def test_an_alias_that_is_missing_in_the_first_region_is_an_answer(server, provider_of):
    """NotFound is not looked for elsewhere."""
    server.create_key("alias/c", region=FAR, MultiRegion=True)
    with pytest.raises(KeyRefused, match="NotFoundException"):
        provider_of("alias/c", regions=[FAR]).check()


def test_an_alias_that_is_missing_in_the_second_region_says_nothing_while_the_first_is_away(server, provider_of, clock):
    """It is unavailable, no refusal; and where it was known it stays what it was."""
    key = server.create_key("alias/c", MultiRegion=True)
    server.replicate(key, FAR)
    known, fresh = provider_of("alias/c", regions=[FAR]), provider_of("alias/c", regions=[FAR])
    known.check()
    server.darken(NEAR, how="drop")
    clock.advance(600)
    with pytest.raises(KeyUnavailable):
        fresh.check()
    assert [key.key_id for key in known.generate_data_key(CONTEXT).encrypted] == [in_region(key, FAR)]


def test_the_home_region_is_listed_though_nobody_wrote_it_down(server, provider_of, replicas, monkeypatch):
    """It comes from the environment and is first."""
    monkeypatch.setenv("AWS_REGION", NEAR)
    provider = provider_of("alias/a", region=None, regions=[FAR])
    made = provider.generate_data_key(CONTEXT)
    assert [key.key_id for key in made.encrypted] == [replicas[0]]
    assert [key_id for _, key_id in provider.trusted(made.encrypted)] == replicas[:2]


# ---- which two are tried ----


class Health:
    """Which regions are up, and which KEKs refused lately."""

    def __init__(self, away: tuple[str, ...] = (), refused: tuple[str, ...] = ()) -> None:
        self._away, self._refused = away, refused

    def is_callable(self, region: str) -> bool:
        return region not in self._away

    def was_refused(self, _operation: str, key_id: str) -> bool:
        return key_id in self._refused


A_NEAR, A_FAR = arn(NEAR), arn(FAR)
B_NEAR = arn(NEAR, "1234abcd-12ab-34cd-56ef-1234567890ab")
C_THIRD = arn(THIRD, "aaaaaaaa-12ab-34cd-56ef-1234567890ab")


@pytest.mark.parametrize(
    ("arns", "health", "first_two"),
    [
        ([A_NEAR], Health(), [A_NEAR]),
        ([B_NEAR, C_THIRD], Health(), [B_NEAR, C_THIRD]),
        # another KEK in another region fails least together with the first
        ([A_NEAR, A_FAR, B_NEAR, C_THIRD], Health(), [A_NEAR, C_THIRD]),
        ([A_NEAR, B_NEAR, A_FAR], Health(), [A_NEAR, A_FAR]),
        ([A_NEAR, B_NEAR], Health(), [A_NEAR, B_NEAR]),
        # what is away, or refused lately, comes last and in order
        ([A_NEAR, A_FAR], Health(away=(NEAR,)), [A_FAR, A_NEAR]),
        ([A_NEAR, B_NEAR, C_THIRD], Health(away=(NEAR,)), [C_THIRD, A_NEAR]),
        ([B_NEAR, C_THIRD], Health(refused=(B_NEAR,)), [C_THIRD, B_NEAR]),
        ([A_NEAR, A_FAR, C_THIRD], Health(refused=(A_NEAR, A_FAR)), [C_THIRD, A_NEAR]),
        ([B_NEAR, C_THIRD], Health(away=(NEAR, THIRD)), [B_NEAR, C_THIRD]),
    ],
)
def test_the_two_that_are_tried_are_well_chosen(arns, health, first_two):
    """Preference first, then what does not fail together."""
    pairs = [(entry(key_id), key_id) for key_id in arns]
    ordered = order(pairs, health)
    assert [key_id for _, key_id in ordered[:2]] == first_two
    assert sorted(key_id for _, key_id in ordered) == sorted(arns)


def test_match_gives_no_arn_twice():
    """A KEK that is both configured and listed is tried once."""
    pairs = match([entry(A_NEAR)], [[A_NEAR, A_FAR], [A_FAR]], frozenset())
    assert [key_id for _, key_id in pairs] == [A_NEAR, A_FAR]

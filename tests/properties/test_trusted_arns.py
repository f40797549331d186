"""Whatever a record says, KMS is only ever called with an ARN that follows from the operator's own settings."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamcrypt.envelope.header import EncryptedDataKey
from streamcrypt.keys.aws_kms import AWSKMSKeyProvider

REGIONS = ("eu-west-1", "eu-central-1", "us-east-1", "ap-south-1")
ACCOUNTS = ("111122223333", "444455556666")
PARTITIONS = ("aws", "aws-cn")
IDS = (
    "mrk-1234abcd12ab34cd56ef1234567890ab",
    "mrk-00000000000000000000000000000000",
    "1234abcd-12ab-34cd-56ef-1234567890ab",
    "aaaaaaaa-12ab-34cd-56ef-1234567890ab",
)


def arn(partition: str, region: str, account: str, key_id: str) -> str:
    return f"arn:{partition}:kms:{region}:{account}:key/{key_id}"


arns = st.builds(
    arn, st.sampled_from(PARTITIONS), st.sampled_from(REGIONS), st.sampled_from(ACCOUNTS), st.sampled_from(IDS)
)
further = st.lists(st.sampled_from(REGIONS), max_size=3, unique=True)
# What a record may say of itself: a key ARN, one that was tampered with, or any text at all.
named = st.one_of(
    arns,
    st.builds(lambda text, at, extra: text[:at] + extra + text[at:], arns, st.integers(0, 60), st.text(max_size=3)),
    st.text(alphabet=st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=80),
)


def _swaps(text: str, regions: frozenset[str]) -> set[str]:
    """A second way to say it: the ARN itself, and of a multi-region key those of every listed region."""
    head, kms, _, account, resource = text.split(":")[:2], "kms", "", text.split(":")[4], text.split(":")[5]
    if not resource.startswith("key/mrk-"):
        return {text}
    return {":".join([*head, kms, region, account, resource]) for region in regions}


@given(st.lists(arns, min_size=1, max_size=3, unique=True), st.lists(arns, max_size=3, unique=True), further, named)
def test_no_arn_outside_the_listed_set_is_ever_called(configured, trusted, regions, record):
    """Neither the record's string nor a replica in a region that is not listed."""
    could = any("key/mrk-" in text for text in [*configured, *trusted])
    provider = AWSKMSKeyProvider(configured, trusted_keys=trusted, regions=regions if could else ())
    listed = frozenset([*(regions if could else ()), *(text.split(":")[3] for text in [*configured, *trusted])])
    allowed = set().union(*(_swaps(text, listed) for text in [*configured, *trusted]))
    pairs = provider.trusted([EncryptedDataKey("aws-kms", record, b"x")])
    assert {key_id for _, key_id in pairs} <= allowed
    assert bool(pairs) == (record in allowed)
    assert all(encrypted.key_id == record for encrypted, _ in pairs)


@given(st.lists(arns, min_size=1, max_size=2, unique=True), further, st.lists(named, max_size=8, unique=True))
def test_every_entry_is_paired_with_a_replica_of_its_own_key(configured, regions, records):
    """An entry is never tried under a KEK that it does not name."""
    could = any("key/mrk-" in text for text in configured)
    provider = AWSKMSKeyProvider(configured, regions=regions if could else ())
    pairs = provider.trusted([EncryptedDataKey("aws-kms", text, b"x") for text in records])
    for encrypted, key_id in pairs:
        ours, theirs = key_id.split(":"), encrypted.key_id.split(":")
        assert (ours[1], ours[4], ours[5]) == (theirs[1], theirs[4], theirs[5])
        assert ours[3] == theirs[3] or ours[5].startswith("key/mrk-")
    assert len(set(pairs)) == len(pairs)

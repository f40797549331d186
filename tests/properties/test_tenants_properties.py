"""Whatever records say: a mapping never falls back, and no value of one tenant opens as another's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamcrypt as sc
from streamcrypt.envelope.codec import decode_header
from streamcrypt.errors import StreamcryptError
from tests.tenants import envelopes, tenant_keys

TENANTS = ("acme", "globex", "A", "a-1", "x" * 64)
T = "orders"
KEYS = tenant_keys(*TENANTS, max_live=3, new_keys_per_minute=10**9)
SEALER = sc.Encryptor(KEYS)
OPENER = sc.Decryptor(KEYS)

NEAR = [
    *TENANTS,
    "",
    "main",
    "tenant-acme",
    "acme ",
    " acme",
    "acme\n",
    "ACME",
    "acm",
    "acmee",
    "x" * 65,
    "a/1",
    "{key}",
]
values = st.one_of(
    st.sampled_from(NEAR).map(str.encode), st.binary(max_size=70), st.none(), st.text(max_size=8).map(str.encode)
)
names = st.sampled_from(["tenant", "Tenant", "tenant ", "type", "key", "topic"])
header_lists = st.lists(st.tuples(names, values), max_size=4)
tenants = st.sampled_from(TENANTS)


def mapped(headers):
    """What the mapping says of a record, by hand; None where it has no KEK."""
    found = [value for name, value in headers if name == "tenant"]
    if len(found) != 1 or found[0] is None:
        return None
    return next((name for name in TENANTS if name.encode() == found[0]), None)


@given(headers=header_lists, key=st.binary(max_size=5) | st.none(), value=st.binary(max_size=20))
def test_a_record_is_sealed_under_the_kek_of_its_value_or_not_at_all(headers, key, value):
    """No record is ever sealed under a KEK that the mapping does not give for it. spec: 9.3.2"""
    tenant = mapped(headers)
    if tenant is None:
        with pytest.raises(sc.KeyNotMapped):
            SEALER.encrypt(T, value, key, headers)
        return
    sealed, sent = SEALER.encrypt(T, value, key, headers)
    header = decode_header(envelopes(sent)[0])
    assert [wrapped.key_id for wrapped in header.keys] == [f"tenant-{tenant}"]
    assert dict(header.context)["streamcrypt:header:tenant"] == tenant
    assert OPENER.decrypt(T, sealed, key, sent) == (value, headers)


@given(tenant=tenants, headers=header_lists, beside=st.booleans(), value=st.binary(max_size=20))
def test_a_record_of_one_tenant_opens_for_no_other(tenant, headers, beside, value):
    """Whatever headers it is given instead of its own. spec: 9.3.3"""
    sealed, sent = SEALER.encrypt(T, value, b"k", [("tenant", tenant.encode())])
    given_headers = [*headers, sent[-1]] if beside else [sent[-1], *headers]
    if mapped(headers) == tenant:
        assert OPENER.decrypt(T, sealed, b"k", given_headers) == (value, headers)
        return
    with pytest.raises(StreamcryptError):
        OPENER.decrypt(T, sealed, b"k", given_headers)
    assert not (OPENER.open_block(T, [sealed], [b"k"], [given_headers], 0) or ([], []))[0]


@given(mine=tenants, other=tenants, value=st.binary(max_size=20))
def test_a_reader_that_maps_values_otherwise_opens_what_both_agree_on(mine, other, value):
    """The mapping, not the record, says which KEK is trusted. spec: 9.3.4"""
    swapped = sc.TenantKeys(tenant_keys(*TENANTS)._family, "tenant-{header:tenant}", {mine: f"tenant-{other}"})
    sealed, sent = SEALER.encrypt(T, value, None, [("tenant", mine.encode())])
    with sc.Decryptor(swapped) as opener:
        if mine == other:
            assert opener.decrypt(T, sealed, None, sent)[0] == value
        else:
            with pytest.raises(sc.UntrustedKey):
                opener.decrypt(T, sealed, None, sent)


@given(
    order=st.lists(st.sampled_from([*TENANTS, *TENANTS, "evil", None]), min_size=1, max_size=60),
    repeat=st.integers(1, 12),
)
def test_a_block_ends_at_the_first_record_that_leads_nowhere(order, repeat):
    """Sealed in blocks or one by one, the records are the same, and so is where it stops."""
    order = [name for name in order for _ in range(repeat)]
    headers = [[("tenant", name.encode())] if name else [] for name in order]
    plain = [b"%d" % n for n in range(len(order))]
    good = next((n for n, name in enumerate(order) if name not in TENANTS), len(order))
    block = SEALER.topic(T).seal_block(plain, plain, headers, 0)
    if block is None:
        assert good == 0
        return
    assert len(block[0]) == len(block[1]) == good
    opened = [OPENER.decrypt(T, *record) for record in zip(block[0], plain, block[1], strict=False)]
    assert opened == list(zip(plain[:good], headers[:good], strict=True))

"""Headers and records of any kind that the format allows."""

from __future__ import annotations

import string

from hypothesis import strategies as st

from streamcrypt.crypto.suites import Suite
from streamcrypt.envelope.header import Content, EncryptedDataKey, EnvelopeHeader, build_bound

unicode_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
header_names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6).filter(
    lambda name: not name.startswith("streamcrypt")
)
record_keys = st.none() | st.binary(max_size=20)
record_headers = st.lists(st.tuples(header_names, st.none() | st.binary(max_size=8)), max_size=5)
bound_lists = st.lists(st.just("key") | header_names.map("header:{}".format), max_size=5).map(build_bound)
user_contexts = st.dictionaries(
    unicode_text.filter(lambda name: name and not name.casefold().startswith("streamcrypt:")), unicode_text, max_size=5
).filter(lambda context: len({name.casefold() for name in context}) == len(context))

_providers = st.from_regex(r"[a-z0-9][a-z0-9-]{0,31}", fullmatch=True)
_key_ids = st.text(string.ascii_letters + string.digits + string.punctuation, min_size=1, max_size=40)
_keys = st.lists(
    st.builds(EncryptedDataKey, _providers, _key_ids, st.binary(min_size=1, max_size=60)),
    min_size=1,
    max_size=8,
    unique_by=lambda key: (key.provider, key.key_id),
).map(lambda keys: tuple(sorted(keys, key=lambda key: (key.provider, key.key_id))))


@st.composite
def headers(draw: st.DrawFn) -> EnvelopeHeader:
    """Any header that keeps the rules."""
    context = {**draw(user_contexts), "streamcrypt:topic": draw(unicode_text.filter(bool))}
    return EnvelopeHeader(
        draw(st.sampled_from(Suite)),
        draw(st.binary(min_size=32, max_size=32)),
        tuple(sorted(context.items(), key=lambda pair: pair[0].encode())),
        draw(bound_lists),
        Content.PAYLOAD,
        draw(_keys),
    )

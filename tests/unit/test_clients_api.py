"""No public method of the base classes is inherited unseen: a release of confluent-kafka that adds one fails here."""

from __future__ import annotations

import inspect

import pytest
from confluent_kafka import Consumer, Producer

import streamcrypt
from streamcrypt.clients.consumer import DecryptingConsumer
from streamcrypt.clients.producer import EncryptingProducer

# Sends or shows record values, or has to do with data keys, offsets or pauses.
PRODUCER_OVERRIDDEN = {"__init__", "__exit__", "abort_transaction", "close", "produce", "produce_batch", "purge"}
# Carries no record value: metadata, credentials, transactions' control, waiting, the queue's length.
PRODUCER_INHERITED = {
    "__bool__",
    "__enter__",
    "__len__",
    "begin_transaction",
    "cluster_id",
    "commit_transaction",
    "flush",
    "init_transactions",
    "list_topics",
    "poll",
    "send_offsets_to_transaction",
    "set_sasl_credentials",
}
CONSUMER_OVERRIDDEN = {
    "__init__",
    "__enter__",
    "__exit__",
    "assign",
    "close",
    "commit",
    "consume",
    "incremental_unassign",
    "pause",
    "poll",
    "position",
    "resume",
    "seek",
    "store_offsets",
    "subscribe",
    "unassign",
    "unsubscribe",
}
# Metadata, credentials, and what the group's coordinator knows; incremental_assign only adds partitions.
CONSUMER_INHERITED = {
    "assignment",
    "cluster_id",
    "committed",
    "consumer_group_metadata",
    "get_watermark_offsets",
    "incremental_assign",
    "list_topics",
    "memberid",
    "offsets_for_times",
    "set_sasl_credentials",
}
PYTHONS_OWN = {"__doc__", "__new__"}

CASES = [
    (Producer, EncryptingProducer, PRODUCER_OVERRIDDEN, PRODUCER_INHERITED),
    (Consumer, DecryptingConsumer, CONSUMER_OVERRIDDEN, CONSUMER_INHERITED),
]


def _own(wrapper: type, base: type) -> set[str]:
    return {name for cls in wrapper.__mro__ if issubclass(cls, base) and cls is not base for name in vars(cls)}


@pytest.mark.parametrize(("base", "wrapper", "overridden", "inherited"), CASES)
def test_every_method_of_the_base_class_is_classified(base, wrapper, overridden, inherited) -> None:
    """A method that is in neither list may send plaintext or show ciphertext: look at it, then list it."""
    assert set(vars(base)) - PYTHONS_OWN == overridden | inherited
    assert not overridden & inherited


@pytest.mark.parametrize(("base", "wrapper", "overridden", "inherited"), CASES)
def test_what_is_listed_as_overridden_is(base, wrapper, overridden, inherited) -> None:
    """And nothing that is listed as inherited."""
    assert overridden <= _own(wrapper, base)
    assert not inherited & _own(wrapper, base)


@pytest.mark.parametrize(("base", "wrapper", "overridden", "inherited"), CASES)
def test_the_wrappers_are_real_subclasses_and_add_one_public_name(base, wrapper, overridden, inherited) -> None:
    """So that isinstance() holds, and no name of ours can clash with a later one of theirs but ``bound``."""
    assert issubclass(wrapper, base)
    assert {name for name in _own(wrapper, base) - set(vars(base)) if not name.startswith("_")} == {"bound"}


def test_produce_takes_the_eight_arguments_in_the_base_class_order() -> None:
    """The order that confluent-kafka parses, with its defaults."""
    parameters = list(inspect.signature(EncryptingProducer.produce).parameters.values())[1:]
    assert [(p.name, p.default) for p in parameters[1:]] == [
        ("value", None),
        ("key", None),
        ("partition", -1),
        ("callback", None),
        ("on_delivery", None),
        ("timestamp", 0),
        ("headers", None),
    ]
    assert parameters[0].name == "topic"


def test_the_package_offers_the_wrappers() -> None:
    """Under the names of the documentation."""
    assert streamcrypt.EncryptingProducer is EncryptingProducer
    assert streamcrypt.DecryptingConsumer is DecryptingConsumer

"""Fixtures that every test may use: a real broker, brokers of one's own, and librdkafka's mock cluster."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Producer

from tests.broker import Broker, private_broker, shared_broker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


# A shell starts background jobs with SIGINT ignored, and every process that a test starts would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """A real Apache Kafka, started once when the first test asks for it; it creates no topics by itself."""
    with contextlib.closing(shared_broker()) as found:
        yield found


@pytest.fixture
def broker_factory() -> Iterator[Callable[..., Broker]]:
    """Starts brokers that belong to one test: ``broker_factory(auto_create=True, config={...})``."""
    with contextlib.ExitStack() as started:
        yield lambda **options: started.enter_context(contextlib.closing(private_broker(**options)))


@pytest.fixture
def mock_cluster() -> Iterator[str]:
    """Bootstrap servers of librdkafka's in-process mock cluster, which lives as long as the test."""
    owner = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "replaced-by-the-mock:9092", "log_level": 0})
    yield ",".join(f"{b.host}:{b.port}" for b in owner.list_topics(timeout=10).brokers.values())
    owner.flush(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests that need a real broker, so that ``-m 'not broker'`` leaves them out."""
    for item in items:
        if {"broker", "broker_factory"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("broker")

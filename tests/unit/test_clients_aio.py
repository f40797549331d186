"""Producing from asyncio: sealed, in order, with a future for each delivery."""

from __future__ import annotations

import asyncio

import pytest
from confluent_kafka import KafkaError, KafkaException

from streamcrypt import AlreadySealed, Decryptor, Encryptor, LocalKeyProvider
from streamcrypt.clients.aio import AIOEncryptingProducer
from streamcrypt.testing.slow_keys import GENERATE, ScriptedKeyProvider
from tests.wrapping import SECONDS, eventually, raw, unique


@pytest.fixture
def keys():
    """A key service that can be held."""
    return ScriptedKeyProvider(LocalKeyProvider.generate())


@pytest.fixture
def encryptor(keys):
    """Closed at the end of the test."""
    with Encryptor(keys) as made:
        yield made


def test_records_arrive_sealed_and_in_order(mock_cluster, keys, encryptor) -> None:
    """With key, partition and headers; the future gives the message as it was sent."""
    topic = unique()

    async def send() -> list:
        async with AIOEncryptingProducer({"bootstrap.servers": mock_cluster, "log_level": 0}, encryptor=encryptor) as p:
            waiting = [await p.produce(topic, f"{n}", "k", partition=0, headers={"n": str(n)}) for n in range(50)]
            return await asyncio.wait_for(asyncio.gather(*waiting), SECONDS)

    delivered = asyncio.run(send())
    records = raw(mock_cluster, topic, 50)
    assert [message.offset() for message in delivered] == list(range(50))
    assert [message.value() for message in delivered] == [record.value() for record in records]
    opener = Decryptor(keys)
    for number, record in enumerate(records):
        opened = opener.decrypt(topic, record.value(), record.key(), record.headers(), 0)
        assert opened == (str(number).encode(), [("n", str(number).encode())])


def test_the_event_loop_turns_while_a_data_key_is_minted(mock_cluster, keys, encryptor) -> None:
    """Only the record waits."""
    topic = unique()

    async def send() -> None:
        async with AIOEncryptingProducer({"bootstrap.servers": mock_cluster, "log_level": 0}, encryptor=encryptor) as p:
            keys.hold(GENERATE)
            sending = asyncio.ensure_future(p.produce(topic, b"v"))
            while not keys.count(GENERATE):  # noqa: ASYNC110  the double is no asyncio code
                await asyncio.sleep(0.001)
            assert not sending.done()
            keys.release(GENERATE)
            await asyncio.wait_for(await sending, SECONDS)

    asyncio.run(send())


def test_a_full_queue_waits_and_a_failed_delivery_is_the_futures_exception(encryptor) -> None:
    """Nobody is there to deliver to."""

    async def send() -> list:
        config = {"queue.buffering.max.messages": 2, "message.timeout.ms": 100, "linger.ms": 0, "log_level": 0}
        async with AIOEncryptingProducer(config, encryptor=encryptor) as p:
            waiting = [await p.produce("t", b"v") for _ in range(6)]
            assert await p.flush(SECONDS) == 0
            return await asyncio.gather(*waiting, return_exceptions=True)

    failures = asyncio.run(send())
    assert [type(failure) for failure in failures] == [KafkaException] * 6
    assert {failure.args[0].code() for failure in failures} == {KafkaError._MSG_TIMED_OUT}


def test_what_produce_raises_comes_out_of_the_call(encryptor) -> None:
    """Nothing is queued, and close() may be called twice."""

    async def send() -> None:
        p = AIOEncryptingProducer({"log_level": 0}, encryptor=encryptor)
        with pytest.raises(AlreadySealed):
            await p.produce("t", b"v", headers={"streamcrypt": b""})
        with pytest.raises(TypeError):
            await p.produce("t", 3)
        assert len(p) == 0
        await p.close()
        await p.close()
        with pytest.raises(RuntimeError):
            await p.produce("t", b"v")

    asyncio.run(send())


def test_a_purge_fails_the_futures(encryptor) -> None:
    """And a cancelled one stays cancelled."""

    async def send() -> None:
        async with AIOEncryptingProducer({"log_level": 0}, encryptor=encryptor) as p:
            first, second = await p.produce("t", b"v"), await p.produce("t", b"v")
            first.cancel()
            await p.purge()
            with pytest.raises(KafkaException):
                await asyncio.wait_for(second, SECONDS)
            assert first.cancelled()

    asyncio.run(send())


def test_transactions(mock_cluster, encryptor) -> None:
    """Begin, commit, begin, abort."""
    topic = unique()

    async def send() -> None:
        config = {"bootstrap.servers": mock_cluster, "transactional.id": unique("tx"), "log_level": 0}
        async with AIOEncryptingProducer(config, encryptor=encryptor) as p:
            await p.init_transactions(SECONDS)
            for end in (p.commit_transaction, p.abort_transaction):
                await p.begin_transaction()
                await p.produce(topic, b"v", partition=0)
                await end(SECONDS)

    asyncio.run(send())
    assert eventually(lambda: len(raw(mock_cluster, topic, 1)) == 1, "the committed record")

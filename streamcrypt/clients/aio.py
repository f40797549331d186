"""Producing sealed records from asyncio.

confluent-kafka's ``AIOProducer`` builds a ``Producer`` of its own and sends by ``produce_batch()`` without headers, so
that it can carry no envelope. This client stands over ``produce()``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Self, TypeVar

from confluent_kafka import KafkaException, Message

from streamcrypt.clients.producer import EncryptingProducer
from streamcrypt.encryptor import Encryptor

__all__ = ["AIOEncryptingProducer"]

_T = TypeVar("_T")

_POLL_SECONDS = 0.1


class AIOEncryptingProducer:
    """An :class:`EncryptingProducer` for asyncio. Make it, and use it, in a running event loop.

    Args:
        config: As :class:`EncryptingProducer`; further properties may be given by keyword.
        encryptor: Seals; it is not closed here.

    Calls go through one thread, in order, so that a data key being minted does not stall the event loop; that costs
    some 50 µs a record. Where that is too much, use :class:`EncryptingProducer` in a thread.
    """

    def __init__(self, config: dict[str, Any] | None = None, /, *, encryptor: Encryptor, **properties: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._producer = EncryptingProducer(config, encryptor=encryptor, **properties)
        self._closed = False
        self._calls = ThreadPoolExecutor(1, "streamcrypt-aio-calls")
        self._reports = ThreadPoolExecutor(1, "streamcrypt-aio-reports")
        self._polling = self._loop.create_task(self._poll())

    def __len__(self) -> int:
        return len(self._producer)

    async def produce(
        self,
        topic: str,
        value: str | bytes | None = None,
        key: str | bytes | None = None,
        *,
        partition: int = -1,
        timestamp: int = 0,
        headers: Any = None,
    ) -> asyncio.Future[Message]:
        """Seal and queue one record, waiting for room in the queue.

        Returns:
            A future of the delivered message, or of a KafkaException where it is not delivered.

        Raises:
            As :meth:`EncryptingProducer.produce`, but BufferError only when the producer is closed meanwhile.
        """
        delivered: asyncio.Future[Message] = self._loop.create_future()
        report = partial(self._report, delivered)
        await self._call(self._queue, topic, value, key, partition, report, None, timestamp, headers)
        return delivered

    async def flush(self, *args: Any, **kwargs: Any) -> int:
        """Wait for the delivery of what was queued; give the number of records left. See ``Producer.flush``."""
        return await self._call(self._producer.flush, *args, **kwargs)

    async def purge(self, *args: Any, **kwargs: Any) -> None:
        """Purge what is queued and in flight; its futures fail. See ``Producer.purge``."""
        await self._call(self._producer.purge, *args, **kwargs)

    async def init_transactions(self, *args: Any) -> None:
        """See ``Producer.init_transactions``."""
        await self._call(self._producer.init_transactions, *args)

    async def begin_transaction(self) -> None:
        """See ``Producer.begin_transaction``."""
        await self._call(self._producer.begin_transaction)

    async def send_offsets_to_transaction(self, *args: Any) -> None:
        """See ``Producer.send_offsets_to_transaction``."""
        await self._call(self._producer.send_offsets_to_transaction, *args)

    async def commit_transaction(self, *args: Any) -> None:
        """See ``Producer.commit_transaction``."""
        await self._call(self._producer.commit_transaction, *args)

    async def abort_transaction(self, *args: Any) -> None:
        """See ``Producer.abort_transaction``; the data keys of this producer's topics are retired."""
        await self._call(self._producer.abort_transaction, *args)

    async def close(self) -> None:
        """Deliver what is queued and end. The encryptor stays open."""
        if self._closed:
            return
        self._closed = True
        await self._polling
        await self._call(self._producer.close)
        self._calls.shutdown()
        self._reports.shutdown()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def _poll(self) -> None:
        while not self._closed:
            await self._loop.run_in_executor(self._reports, self._producer.poll, _POLL_SECONDS)

    def _queue(self, *record: Any) -> None:
        while True:
            try:
                self._producer.produce(*record)
            except BufferError:
                if self._closed:
                    raise
                self._producer.poll(_POLL_SECONDS)
            else:
                return

    def _report(self, delivered: asyncio.Future[Message], error: Any, message: Message) -> None:
        self._loop.call_soon_threadsafe(_settle, delivered, error, message)

    async def _call(self, work: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
        return await self._loop.run_in_executor(self._calls, partial(work, *args, **kwargs))


def _settle(delivered: asyncio.Future[Message], error: Any, message: Message) -> None:
    if delivered.done():
        return  # its awaiter was cancelled; the record was sent all the same
    if error is None:
        delivered.set_result(message)
    else:
        delivered.set_exception(KafkaException(error))

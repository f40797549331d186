"""``streamcrypt demo``: the main job in front of one's eyes, on a mock cluster and a local key or on real servers."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

import streamcrypt as sc
from streamcrypt.cli.exits import Exit
from streamcrypt.encryptor import header_list
from streamcrypt.envelope.codec import decode_header
from streamcrypt.envelope.header import HEADER_NAME, EnvelopeHeader
from streamcrypt.events import DataKeyMinted, DataKeyOpened, DataKeyRetired, Event, KeyServiceCalled, Observer
from streamcrypt.sidecar.failures import ConnectionLost
from streamcrypt.sidecar.loop import Pipeline
from streamcrypt.sidecar.spec import Mode, PipelineSpec
from streamcrypt.sidecar.supervisor import PipelineFactory, Supervisor
from streamcrypt.sidecar.transform import Seal

if TYPE_CHECKING:
    from confluent_kafka import Message, Producer

__all__ = ["demo"]

_RECORDS = 20_000
_PER_DATA_KEY = 2_000
_SHOWN = 3
_PARTITIONS = 4
_PATIENCE = 60.0
_FIRST_ANSWER = 5.0
_DEMO_ALIAS = "alias/streamcrypt-demo"
_NAMES = ("Amara", "Bo", "Chidi", "Dana", "Emre", "Freya")


@dataclass(slots=True)
class _Counts:
    """What the observer saw."""

    minted: int = 0
    opened: int = 0
    retired: list[DataKeyRetired] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)

    def __call__(self, event: Event) -> None:
        match event:
            case DataKeyMinted():
                self.minted += 1
            case DataKeyOpened(shared=False):
                self.opened += 1
            case DataKeyRetired(reason="messages"):
                self.retired.append(event)
            case KeyServiceCalled(operation=operation):
                self.calls[operation] = self.calls.get(operation, 0) + 1
            case _:
                pass


@dataclass(frozen=True, slots=True)
class _Stage:
    """Where the demo plays: brokers, topics and a key."""

    client: dict[str, Any]
    plain: str
    sealed: str
    keys: sc.KeyProvider
    key_text: str


def demo(bootstrap: str | None, kms_endpoint: str | None) -> int:
    """Seal 20,000 records with a pipeline, open them with the consumer, and try to pass a tampered one.

    Args:
        bootstrap: Brokers to use, or None for librdkafka's mock cluster in this process.
        kms_endpoint: A KMS endpoint with a key ``alias/streamcrypt-demo``, or None for a local key.

    Returns:
        The exit code: 0 where every record came back as it was and the tampered one was refused.

    Raises:
        StreamcryptError: The key service or the pipeline failed.
    """
    console = Console(highlight=False)
    counts = _Counts()
    with _stage(bootstrap, kms_endpoint, counts) as stage:
        console.rule("[bold]streamcrypt demo")
        brokers = bootstrap or "librdkafka's mock cluster, in this process"
        console.print(
            f"Kafka    {brokers}\nKEK      {stage.key_text}\nrotation a new data key every {_PER_DATA_KEY:,} records\n"
        )
        written = _write_plaintext(stage)
        console.print(f"[green]1[/] {len(written):,} payments written in plaintext to [bold]{stage.plain}[/]")
        seconds = _seal_all(stage, counts)
        rate = _RECORDS / seconds
        console.print(
            f"[green]2[/] the encrypt pipeline sealed them into [bold]{stage.sealed}[/]: {rate:,.0f} records/s, "
            f"{len(counts.retired)} rotations"
        )
        found = _read_sealed(stage)
        leaks = _leaks(found, written)
        headers = {_envelope(message) for message in found}
        console.print(
            f"[green]3[/] the topic holds {len(found):,} sealed records under {len(headers)} data keys; "
            f"searched for the plaintext: [bold]{leaks}[/] found"
        )
        opened, seconds = _open_all(stage, counts)
        console.print(
            f"[green]4[/] a DecryptingConsumer opened {len(opened):,} of them ({len(opened) / seconds:,.0f} records/s) "
            f"with {counts.opened} data keys unwrapped\n"
        )
        _show_records(console, found, opened)
        refusal = _tamper(stage, found[0], counts)
        _show_ending(console, counts, refusal)
    return _judge(console, written, opened, leaks, refusal)


@contextmanager
def _stage(bootstrap: str | None, kms_endpoint: str | None, observer: Observer) -> Iterator[_Stage]:
    from confluent_kafka import KafkaException, Producer
    from confluent_kafka.admin import AdminClient

    mock: Producer | None = None
    if bootstrap is None:
        mock = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "mock:9092", "log_level": 0})
        brokers = mock.list_topics(timeout=10).brokers.values()
        bootstrap = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
    client: dict[str, Any] = {"bootstrap.servers": bootstrap, "log_level": 2}
    suffix = f"{os.getpid()}-{int(time.time())}"
    topics = (f"streamcrypt-demo-{suffix}.payments", f"streamcrypt-demo-{suffix}.payments.encrypted")
    keys = _keys(kms_endpoint, observer)
    admin = AdminClient(client)
    try:
        admin.list_topics(timeout=_FIRST_ANSWER)
    except KafkaException:
        raise ConnectionLost(f"no answer from {bootstrap}", remedy="Check --bootstrap.") from None
    try:
        key_text = keys.check() if kms_endpoint else "a local key, made for this run"
        _create(admin, topics, mock)
        yield _Stage(client, *topics, keys, key_text)
    finally:
        if mock is None:
            for outcome in admin.delete_topics(list(topics)).values():
                outcome.exception()
        keys.close()


def _keys(kms_endpoint: str | None, observer: Observer) -> sc.KeyProvider:
    if kms_endpoint is None:
        return sc.LocalKeyProvider.generate("demo-key", observer=observer)
    if urlsplit(kms_endpoint).hostname in {"127.0.0.1", "localhost", "::1"}:
        # A KMS on this machine asks for a signature and checks none.
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            os.environ.setdefault(name, "local")
    return sc.AWSKMSKeyProvider(
        _DEMO_ALIAS,
        region=os.environ.get("AWS_REGION", "eu-west-1"),
        endpoint_url=kms_endpoint,
        observer=observer,
    )


def _create(admin: Any, topics: tuple[str, ...], mock: Producer | None) -> None:
    from confluent_kafka.cimpl import NewTopic

    if mock is not None:
        # The mock cluster creates a topic when it is asked for it, and knows no other way.
        for topic in topics:
            mock.list_topics(topic, timeout=10)
        return
    for outcome in admin.create_topics([NewTopic(t, _PARTITIONS, -1) for t in topics], operation_timeout=10).values():
        outcome.result(timeout=15)


def _write_plaintext(stage: _Stage) -> dict[bytes, bytes]:
    from confluent_kafka import Producer

    producer = Producer({**stage.client, "linger.ms": 5})
    chance = random.Random(7)  # noqa: S311  the same payments every time
    written = {}
    for number in range(_RECORDS):
        payment = {
            "id": number,
            "iban": f"DE{chance.randrange(10**20):020d}",
            "payer": chance.choice(_NAMES),
            "eur": number,
        }
        key, value = f"payment-{number}".encode(), json.dumps(payment).encode()
        written[key] = value
        producer.produce(stage.plain, value, key, headers={"source": b"demo"})
        producer.poll(0)
    producer.flush(_PATIENCE)
    return written


def _seal_all(stage: _Stage, counts: _Counts) -> float:
    stop = threading.Event()
    progress = _Progress(counts, stop)
    spec = PipelineSpec(
        "demo", Mode.ENCRYPT, f"{stage.plain}-pipeline", (stage.plain,), stage.sealed, commit_interval=0.2
    )
    encryptor = sc.Encryptor(
        stage.keys, sc.RotationPolicy(max_messages=_PER_DATA_KEY), {"app": "demo"}, observer=progress, max_wait=0.5
    )
    transform = Seal(encryptor)
    consumer = {
        **stage.client,
        "group.id": spec.group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "allow.auto.create.topics": False,
        "partition.assignment.strategy": "cooperative-sticky",
        "fetch.queue.backoff.ms": 5,
    }
    producer = {**stage.client, "linger.ms": 5, "enable.idempotence": True, "delivery.report.only.error": True}
    factory = PipelineFactory("demo", transform, lambda: Pipeline(spec, consumer, producer, transform, progress))
    end = threading.Timer(_PATIENCE, stop.set)
    end.start()
    try:
        failures = Supervisor([factory], progress, stop).run()
    finally:
        end.cancel()
    if failures:
        raise failures[0]
    return progress.seconds


class _Progress:
    """Ends the pipeline once every record has passed."""

    def __init__(self, counts: _Counts, stop: threading.Event) -> None:
        self._counts = counts
        self._stop = stop
        self._records = 0
        self._began = 0.0
        self.seconds = 1.0

    def __call__(self, event: Event) -> None:
        from streamcrypt.events import BatchDone

        self._counts(event)
        if isinstance(event, BatchDone):
            self._began = self._began or time.perf_counter() - event.seconds
            self._records += event.records
            if self._records >= _RECORDS:
                self.seconds = time.perf_counter() - self._began
                self._stop.set()


def _read(consumer: Any, topic: str, wanted: int) -> tuple[list[Message], float]:
    """Read that many records; give them, and the seconds from the first to the last."""
    consumer.subscribe([topic])
    found: list[Message] = []
    began = deadline = time.monotonic() + _PATIENCE
    while len(found) < wanted and time.monotonic() < deadline:
        found.extend(consumer.consume(1000, 0.2))
        if found:
            began = min(began, time.monotonic())
    return found, time.monotonic() - began


def _reader_config(stage: _Stage, name: str) -> dict[str, Any]:
    return {
        **stage.client,
        "group.id": f"{stage.plain}-{name}",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "fetch.queue.backoff.ms": 5,
    }


def _read_sealed(stage: _Stage) -> list[Message]:
    from confluent_kafka import Consumer

    consumer = Consumer(_reader_config(stage, "raw"))
    try:
        return _read(consumer, stage.sealed, _RECORDS)[0]
    finally:
        consumer.close()


def _open_all(stage: _Stage, counts: _Counts) -> tuple[list[Message], float]:
    decryptor = sc.Decryptor(stage.keys, require_context={"app": "demo"}, observer=counts)
    consumer = sc.DecryptingConsumer(_reader_config(stage, "app"), decryptor=decryptor)
    try:
        return _read(consumer, stage.sealed, _RECORDS)
    finally:
        consumer.close()
        decryptor.close()


def _tamper(stage: _Stage, genuine: Message, counts: _Counts) -> sc.StreamcryptError | None:
    """Send a sealed record with one bit flipped to the sealed topic; return what the consumer says of it."""
    from confluent_kafka import Producer

    value = bytearray(genuine.value() or b"")
    value[len(value) // 2] ^= 1
    producer = Producer(stage.client)
    producer.produce(stage.sealed, bytes(value), genuine.key(), headers=genuine.headers())
    producer.flush(_PATIENCE)
    decryptor = sc.Decryptor(stage.keys, observer=counts)
    consumer = sc.DecryptingConsumer(_reader_config(stage, "second"), decryptor=decryptor)
    try:
        failures = map(sc.failure_of, _read(consumer, stage.sealed, _RECORDS + 1)[0])
        return next(filter(None, failures), None)
    finally:
        consumer.close()
        decryptor.close()


def _envelope(message: Message) -> bytes:
    return next((value for name, value in header_list(message.headers()) if name == HEADER_NAME), None) or b""


def _leaks(found: list[Message], written: Mapping[bytes, bytes]) -> int:
    return sum(written[message.key() or b""] in (message.value() or b"") for message in found)


def _show_records(console: Console, found: list[Message], opened: list[Message]) -> None:
    by_key = {message.key(): message for message in opened}
    table = Table(expand=True)
    table.add_column("key", no_wrap=True)
    table.add_column("what the topic holds (nonce, ciphertext, tag)", overflow="ellipsis", no_wrap=True, ratio=1)
    table.add_column("what comes back", overflow="ellipsis", no_wrap=True, ratio=1)
    for message in found[:_SHOWN]:
        plain = by_key[message.key()].value() if message.key() in by_key else b""
        table.add_row((message.key() or b"").decode(), (message.value() or b"").hex(), Text((plain or b"").decode()))
    console.print(table)
    header_bytes = _envelope(found[0])
    console.print(Panel(_describe(decode_header(header_bytes), header_bytes), title="its Kafka header 'streamcrypt'"))


def _describe(header: EnvelopeHeader, header_bytes: bytes) -> Text:
    key = header.keys[0]
    return Text(
        f"{len(header_bytes)} bytes, the same for every record of one data key\n"
        f"suite               {header.suite}\n"
        f"key commitment      {header.commitment.hex()}\n"
        f"encryption context  {dict(header.context)}\n"
        f"bound to the value  {', '.join(header.bound)}\n"
        f"KEK                 {key.provider} {key.key_id}\n"
        f"encrypted data key  {key.ciphertext.hex()[:64]}… ({len(key.ciphertext)} bytes)"
    )


def _show_ending(console: Console, counts: _Counts, refusal: sc.StreamcryptError | None) -> None:
    what = f"{type(refusal).__name__}: {refusal}" if refusal else "not refused"
    console.print(f"[green]5[/] one bit flipped in a sealed record: [bold]{what}[/]")
    if counts.calls:
        calls = ", ".join(f"{number} {operation}" for operation, number in sorted(counts.calls.items()))
    else:
        calls = f"{counts.minted} data keys minted, one of them ahead of need; {counts.opened} unwrapped"
    console.print(f"[green]6[/] key service for {_RECORDS:,} records sealed and opened twice: {calls}\n")


def _judge(
    console: Console,
    written: Mapping[bytes, bytes],
    opened: list[Message],
    leaks: int,
    refusal: sc.StreamcryptError | None,
) -> int:
    came_back = {message.key(): message.value() for message in opened}
    good = came_back == dict(written) and not leaks and isinstance(refusal, sc.AuthenticationFailed)
    console.print("[bold green]all as it should be" if good else "[bold red]something is wrong")
    return Exit.DONE if good else Exit.FAILED

"""Facts that leave streamcrypt sideways, as data: for logs, metrics and the status page.

An observer is called once per data key, call to the key service, batch or failure, never once per record.
No event has a field that can hold a key or a record's content.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = [
    "BatchDone",
    "BreakerClosed",
    "BreakerOpened",
    "BrokerRefused",
    "BrokerTokenFailed",
    "BrokersAnswered",
    "CommitFailed",
    "ConfigRefused",
    "ConfigReloaded",
    "ControlAsked",
    "ControlUnavailable",
    "DataKeyBudgetSpent",
    "DataKeyDropped",
    "DataKeyGraceBegan",
    "DataKeyGraceEnded",
    "DataKeyMintFailed",
    "DataKeyMinted",
    "DataKeyOpened",
    "DataKeyRefused",
    "DataKeyRetired",
    "DataKeyRewrapped",
    "DataKeyWrappedForFewer",
    "DataKeysHeld",
    "DataKeysInUse",
    "DevelopmentKeyInUse",
    "Event",
    "HTTPUnprotected",
    "KafkaClientError",
    "KeyAliasMoved",
    "KeyServiceCalled",
    "LagMeasured",
    "LoopTurned",
    "Observer",
    "OffsetsCommitted",
    "PartitionPaused",
    "PartitionResumed",
    "PartitionsAssigned",
    "PartitionsLost",
    "PartitionsRevoked",
    "PipelineFailed",
    "PipelinePaused",
    "PipelineReady",
    "PipelineReloaded",
    "PipelineRestarting",
    "PipelineResumed",
    "PipelineStarting",
    "PipelineStopped",
    "PlaintextPassed",
    "RecordDiffers",
    "RecordFailed",
    "ReencryptionPlanned",
    "ReencryptionProgress",
    "ReencryptionVerified",
    "SequenceFound",
    "SourcesChanged",
    "UnitGivenUp",
    "WorkerRestarting",
    "WorkerStarted",
    "ignore_events",
]


@dataclass(frozen=True, slots=True)
class DataKeyMinted:
    """A new data key was issued for a topic. ``data_key`` is its public id (the commitment, hex)."""

    topic: str
    data_key: str
    key_ids: tuple[str, ...]
    seconds: float
    ahead: bool


@dataclass(frozen=True, slots=True)
class DataKeyWrappedForFewer:
    """A new data key was wrapped for some of the configured KEKs only, under ``require: any``.

    ``missing``: the KEKs that did not wrap it, and ``errors`` the class name of the error of each, in the same order.
    Records under it need one of ``key_ids`` until they are rewrapped.
    """

    topic: str
    data_key: str
    key_ids: tuple[str, ...]
    missing: tuple[str, ...]
    errors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DataKeyRetired:
    """A data key seals nothing more.

    ``reason``: messages, bytes, age (the limit that was reached), clock (a clock jumped), kek_changed (a new one would
    be wrapped otherwise: an alias moved, the key material changed, a KEK that was away is back), closed, operator (who
    asked for another one), lru or disabled (where each record has a KEK of its own), or what was given to
    :meth:`streamcrypt.Encryptor.retire`, such as failure.
    """

    topic: str
    data_key: str
    reason: str
    messages: int
    bytes: int
    age: float


@dataclass(frozen=True, slots=True)
class DataKeyGraceBegan:
    """A data key is due and seals on, since the key service is away: for ``seconds``, or so many ``messages`` in all.

    ``reason``: why it is due: messages, bytes, age, kek_changed.
    """

    topic: str
    data_key: str
    reason: str
    seconds: float
    messages: int


@dataclass(frozen=True, slots=True)
class DataKeyGraceEnded:
    """A data key in grace seals nothing more. ``messages`` and ``seconds``: what it sealed in grace, and how long.

    ``outcome``: minted (a new key took over), refused (the key service said no), spent (the grace is used up), or why
    the key was dropped, as in :class:`DataKeyRetired`.
    """

    topic: str
    data_key: str
    outcome: str
    messages: int
    seconds: float


@dataclass(frozen=True, slots=True)
class DataKeyMintFailed:
    """The key service gave no new data key. ``error`` is the error's class name.

    ``request_id``: of the call that failed, where it was answered; as in :class:`KeyServiceCalled`.
    """

    topic: str
    error: str
    detail: str
    retriable: bool
    ahead: bool
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class DataKeyBudgetSpent:
    """No data key is minted for a KEK that has none at hand: ``per_minute`` were. Told at most once a minute.

    ``records`` were refused for it since it was told last; ``live`` data keys are at hand.
    """

    topic: str
    per_minute: int
    live: int
    records: int


@dataclass(frozen=True, slots=True)
class DataKeyOpened:
    """A reader unwrapped a data key (a cache miss). ``shared``: known already under another header, no call made."""

    topic: str
    data_key: str
    key_id: str
    seconds: float
    shared: bool


@dataclass(frozen=True, slots=True)
class DataKeyRefused:
    """A reader could not get a data key. ``record_fault``: the record is to blame, not the key service.

    ``request_id``: as in :class:`DataKeyMintFailed`.
    """

    topic: str
    error: str
    detail: str
    record_fault: bool
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class DataKeyDropped:
    """A reader dropped a data key from its cache. ``reason``: lru, ttl, untrusted, closed."""

    data_key: str
    reason: str


@dataclass(frozen=True, slots=True)
class DataKeyRewrapped:
    """A data key was wrapped anew: under ``from_key_ids``, as its records say, before, and under ``key_ids`` now."""

    topic: str
    data_key: str
    from_key_ids: tuple[str, ...]
    key_ids: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class KeyServiceCalled:
    """One call to the key service ended. ``outcome`` is ``ok`` or the service's error code.

    ``request_id`` finds the call in CloudTrail, together with ``key_id``, ``key_material_id`` and ``context``. Of a
    ReEncrypt these are the KEK and material that wrap from now on; ``source_key_id`` and ``source_key_material_id``
    those that unwrapped. KMS names no material in answer to Encrypt, nor where a call failed.
    """

    operation: str
    region: str
    key_id: str
    key_material_id: str
    context: tuple[tuple[str, str], ...]
    outcome: str
    request_id: str
    seconds: float
    source_key_id: str = ""
    source_key_material_id: str = ""


@dataclass(frozen=True, slots=True)
class BreakerOpened:
    """A KMS region was unavailable ``failures`` times in a row: but for a probe after ``seconds``, no call is made."""

    region: str
    failures: int
    seconds: float


@dataclass(frozen=True, slots=True)
class BreakerClosed:
    """A KMS region answered a probe; calls go out again. ``seconds``: how long the breaker was open."""

    region: str
    seconds: float


@dataclass(frozen=True, slots=True)
class KeyAliasMoved:
    """An alias points to another KEK now. The earlier target stays trusted only where it is listed."""

    alias: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class DevelopmentKeyInUse:
    """The local provider is in use: fit for development and tests only."""

    key_id: str


@dataclass(frozen=True, slots=True)
class PipelineStarting:
    """A pipeline is about to join its consumer group. ``kek_per_record``: a KEK that is away holds its own records."""

    pipeline: str
    mode: str
    group: str
    kek_per_record: bool = False


@dataclass(frozen=True, slots=True)
class PipelineReady:
    """A pipeline has its assignment and a key at hand."""

    pipeline: str
    partitions: int


@dataclass(frozen=True, slots=True)
class PipelineStopped:
    """A pipeline has ended. ``clean``: everything read was delivered and committed."""

    pipeline: str
    clean: bool
    records: int


@dataclass(frozen=True, slots=True)
class PipelineFailed:
    """A pipeline halts on an error it may not pass. ``request_id``: as in :class:`DataKeyMintFailed`."""

    pipeline: str
    error: str
    detail: str
    remedy: str
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class PartitionsAssigned:
    """The consumer group gave this member partitions."""

    pipeline: str
    partitions: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class PartitionsRevoked:
    """The consumer group takes partitions away; what was done was committed first."""

    pipeline: str
    partitions: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class PartitionsLost:
    """Partitions went to another member before this one could commit."""

    pipeline: str
    partitions: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class PartitionPaused:
    """A partition waits, nothing of it is passed or committed. ``error`` is the error's class name.

    ``request_id``: as in :class:`DataKeyMintFailed`; empty where it waits for something else than the key service.
    """

    pipeline: str
    topic: str
    partition: int
    offset: int
    error: str
    detail: str
    remedy: str
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class PartitionResumed:
    """A partition goes on after a pause of ``seconds``."""

    pipeline: str
    topic: str
    partition: int
    seconds: float


@dataclass(frozen=True, slots=True)
class RecordFailed:
    """One record could not be passed on. ``action``: halt, skip, return."""

    pipeline: str
    topic: str
    partition: int
    offset: int
    error: str
    detail: str
    action: str


@dataclass(frozen=True, slots=True)
class ReencryptionPlanned:
    """A job of re-encryption found out what is to be done. ``phase``: copy, verify or nothing; ``offsets`` to cover."""

    pipeline: str
    source: str
    target: str
    how: str
    phase: str
    partitions: int
    offsets: int


@dataclass(frozen=True, slots=True)
class ReencryptionProgress:
    """How far a job of re-encryption is, in offsets of its source; ``rate`` is offsets a second, lately."""

    pipeline: str
    phase: str
    done: int
    total: int
    rate: float


@dataclass(frozen=True, slots=True)
class RecordDiffers:
    """Verification: source and target are not the same there. An offset of -1: the record is on the other side only.

    ``what``: missing, extra, twice, does not open (with the class of the error), or the fields that differ.
    """

    pipeline: str
    topic: str
    partition: int
    offset: int
    target: str
    target_offset: int
    what: str


@dataclass(frozen=True, slots=True)
class ReencryptionVerified:
    """Verification has ended. ``compared``: the same on both sides; ``unreadable``: opens on neither.

    ``replaced``: compaction has left the new record alone; ``expired``: retention has taken the source's.
    """

    pipeline: str
    passed: bool
    compared: int
    unreadable: int
    replaced: int
    expired: int
    differences: int


@dataclass(frozen=True, slots=True)
class SequenceFound:
    """Records are missing, repeated, out of order or moved. ``kind``: gap, repeat, disorder, moved.

    ``records`` of the same kind, data key and lane were found in a block, the first of them at ``offset``. ``expected``
    and ``found`` are numbers in the lane; where moved, the partition sealed for and the one found in.
    """

    kind: str
    pipeline: str
    topic: str
    partition: int
    offset: int
    data_key: str
    lane: int
    expected: int
    found: int
    records: int


@dataclass(frozen=True, slots=True)
class PlaintextPassed:
    """Records without an envelope were let through, before the cut-over of their partition; ``offset`` of the last."""

    pipeline: str
    topic: str
    partition: int
    offset: int
    records: int


@dataclass(frozen=True, slots=True)
class PipelineRestarting:
    """A pipeline lost its footing with the broker; it starts again from what was committed, after ``seconds``.

    ``fatal`` says that its clients were beyond repair, fenced for example, and not merely cut off.
    """

    pipeline: str
    error: str
    detail: str
    seconds: float
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class LoopTurned:
    """The loop of a pipeline is alive; at most once a second. ``held``: partitions that wait for a key or a target."""

    pipeline: str
    assigned: int
    held: int


@dataclass(frozen=True, slots=True)
class SourcesChanged:
    """The topics that a pipeline reads have changed."""

    pipeline: str
    topics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KafkaClientError:
    """The Kafka client reports trouble that it handles by itself, such as a broker it cannot reach."""

    pipeline: str
    client: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class BrokerRefused:
    """The brokers' authorizer refuses a pipeline: ``principal`` may not do ``operation`` on that resource.

    ``principal`` is empty where only the brokers know who the login is.
    """

    pipeline: str
    operation: str
    resource: str
    name: str
    principal: str
    detail: str
    remedy: str


@dataclass(frozen=True, slots=True)
class BrokerTokenFailed:
    """No token could be made with which a Kafka client logs in; it asks again after 10 s.

    Connections that stand go on until their token expires.
    """

    client: str
    error: str
    detail: str


@dataclass(frozen=True, slots=True)
class CommitFailed:
    """Offsets could not be committed; what they cover may be read again, nothing is lost."""

    pipeline: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class UnitGivenUp:
    """What was begun since the last commit is dropped (a transaction: aborted) and will be read again."""

    pipeline: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class BatchDone:
    """A fetched batch was sealed or opened and handed to the producer. Sizes are of values, in bytes.

    ``transform_seconds`` of ``seconds`` went into sealing or opening what could be done as blocks; ``as_it_is`` of
    ``records`` had no envelope and were let through.
    """

    pipeline: str
    topic: str
    records: int
    bytes_in: int
    bytes_out: int
    tombstones: int
    seconds: float
    transform_seconds: float = 0.0
    as_it_is: int = 0


@dataclass(frozen=True, slots=True)
class OffsetsCommitted:
    """Offsets up to which everything is delivered were committed.

    ``transaction_seconds``: how long the transaction was open, this commit included; 0 where there is none.
    """

    pipeline: str
    partitions: int
    records: int
    seconds: float
    transaction_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class LagMeasured:
    """How far partitions are from their end, about once a second: ``(topic, partition, offsets)`` of each assigned."""

    pipeline: str
    lags: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class DataKeysInUse:
    """The data keys that seal for a topic, about once a second. ``live``: how many are at hand; 0: the rest is void.

    ``data_key``, ``messages``, ``bytes`` and ``age`` are those of the key that is nearest to a limit of its rotation,
    and ``used`` is how much of that limit is gone; above 1 in grace.
    """

    pipeline: str
    topic: str
    live: int
    data_key: str
    messages: int
    bytes: int
    age: float
    used: float


@dataclass(frozen=True, slots=True)
class DataKeysHeld:
    """Opened data keys in a reader's cache, counted by header, about once a second."""

    pipeline: str
    entries: int


@dataclass(frozen=True, slots=True)
class BrokersAnswered:
    """A broker answered a question for metadata; asked every ten seconds."""

    pipeline: str


@dataclass(frozen=True, slots=True)
class HTTPUnprotected:
    """Metrics and the status page, which name topics and keys, are served beyond this host and ask for no token."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class WorkerStarted:
    """A worker process was started, one of several. ``pid``: as this host, or this container, numbers processes."""

    worker: int
    pid: int


@dataclass(frozen=True, slots=True)
class WorkerRestarting:
    """A worker process ended by itself; in ``seconds`` another takes its place. ``reason``: how it ended."""

    worker: int
    pid: int
    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class PipelinePaused:
    """A pipeline reads and writes nothing more, as an operator asked; what it had in hand is committed."""

    pipeline: str


@dataclass(frozen=True, slots=True)
class PipelineResumed:
    """A pipeline goes on, as an operator asked, after a pause of ``seconds``."""

    pipeline: str
    seconds: float


@dataclass(frozen=True, slots=True)
class PipelineReloaded:
    """What a new configuration means for one pipeline, told before it begins anew.

    ``change``: added, removed, restarted, changed in place or unchanged; ``settings``: those that have changed for it.
    """

    pipeline: str
    change: str
    settings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConfigReloaded:
    """The configuration was read again and is in force; ``settings`` of the process were taken over with it.

    ``seconds``: until every pipeline concerned had drained and the new ones were begun.
    """

    file: str
    settings: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    restarted: tuple[str, ...]
    changed: tuple[str, ...]
    unchanged: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class ConfigRefused:
    """The configuration was read again and changes nothing. ``problems``: what is wrong with it, and where."""

    file: str
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ControlAsked:
    """Somebody gave a command over the control socket. ``uid`` and ``pid`` are the kernel's word for who it was.

    ``outcome``: done, failed (it, or the world), refused (what was asked for is wrong) or denied (they may not ask).
    """

    command: str
    pipelines: tuple[str, ...]
    uid: int
    pid: int
    outcome: str


@dataclass(frozen=True, slots=True)
class ControlUnavailable:
    """There is no control socket: the process runs on without, and signals alone steer it."""

    socket: str
    reason: str


Event = (
    DataKeyMinted
    | DataKeyWrappedForFewer
    | DataKeyRetired
    | DataKeyMintFailed
    | DataKeyOpened
    | DataKeyRefused
    | DataKeyDropped
    | DataKeyRewrapped
    | DataKeyGraceBegan
    | DataKeyGraceEnded
    | DataKeyBudgetSpent
    | KeyServiceCalled
    | BreakerOpened
    | BreakerClosed
    | KeyAliasMoved
    | DevelopmentKeyInUse
    | PipelineStarting
    | PipelineReady
    | PipelineStopped
    | PipelineFailed
    | PartitionsAssigned
    | PartitionsRevoked
    | PartitionsLost
    | PartitionPaused
    | PartitionResumed
    | RecordFailed
    | BatchDone
    | OffsetsCommitted
    | PipelineRestarting
    | LoopTurned
    | SourcesChanged
    | KafkaClientError
    | BrokerRefused
    | BrokerTokenFailed
    | CommitFailed
    | ReencryptionPlanned
    | ReencryptionProgress
    | ReencryptionVerified
    | RecordDiffers
    | SequenceFound
    | PlaintextPassed
    | UnitGivenUp
    | LagMeasured
    | DataKeysInUse
    | DataKeysHeld
    | BrokersAnswered
    | HTTPUnprotected
    | WorkerStarted
    | WorkerRestarting
    | PipelinePaused
    | PipelineResumed
    | PipelineReloaded
    | ConfigReloaded
    | ConfigRefused
    | ControlAsked
    | ControlUnavailable
)

Observer = Callable[[Event], None]
"""Receives events on whatever thread they happen; must not block or raise."""


def ignore_events(_event: Event, /) -> None:
    """Drop every event: the default observer of the library."""

"""Properties of librdkafka: the ones that streamcrypt sets itself, and the names that exist."""

from __future__ import annotations

import logging
import re
from functools import cache

__all__ = ["KNOWN", "REFUSED", "is_known"]

# Property to (why it is refused, what to do instead). Each would undo a guarantee.
REFUSED: dict[str, tuple[str, str]] = {
    "enable.auto.commit": (
        "an offset is committed only once the record is delivered",
        "Remove it; set 'commit_interval' of the pipeline.",
    ),
    "enable.auto.offset.store": (
        "an offset is stored only once the record is delivered",
        "Remove it; set 'commit_interval' of the pipeline.",
    ),
    "isolation.level": ("records of aborted transactions must not be passed on", "Remove it; it is read_committed."),
    "acks": ("a record counts as delivered only when all in-sync replicas have it", "Remove it; it is all."),
    "enable.idempotence": ("a retry would change the order or write twice", "Remove it; it is true."),
    "transactional.id": (
        "it is made from group, instance and worker",
        "Remove it; set 'group' and 'instance' of the pipeline.",
    ),
    "group.id": ("each pipeline has a group of its own", "Remove it; set 'group' of the pipeline."),
    "group.instance.id": (
        "it is made from group, instance and worker",
        "Remove it; set 'instance' of the pipeline.",
    ),
    "auto.offset.reset": (
        "a lost offset would silently skip or repeat records",
        "Remove it; set 'start' of the pipeline, which counts only where the group has no commit.",
    ),
    "delivery.report.only.error": ("failed deliveries must be reported", "Remove it; it is true."),
}
# librdkafka's other names for the same properties.
REFUSED["auto.commit.enable"] = REFUSED["enable.auto.commit"]
REFUSED["request.required.acks"] = REFUSED["acks"]

# CONFIGURATION.md of librdkafka 2.16, for offering the nearest name. A name that is missing here is not refused
# for that: is_known asks the library itself.
_NAMES = """
acks allow.auto.create.topics api.version.fallback.ms api.version.request api.version.request.timeout.ms
auto.commit.enable auto.commit.interval.ms auto.offset.reset batch.num.messages batch.size bootstrap.servers
broker.address.family broker.address.ttl broker.version.fallback check.crcs client.dns.lookup client.id
client.rack client.software.name client.software.version compression.codec compression.level compression.type
connections.max.idle.ms consume.callback.max.messages coordinator.query.interval.ms debug
delivery.report.only.error delivery.timeout.ms enable.auto.commit enable.auto.offset.store
enable.gapless.guarantee enable.idempotence enable.metrics.push enable.partition.eof enable.random.seed
enable.sasl.oauthbearer.unsecure.jwt enable.sparse.connections enable.ssl.certificate.verification
fetch.error.backoff.ms fetch.max.bytes fetch.message.max.bytes fetch.min.bytes fetch.queue.backoff.ms
fetch.wait.max.ms group.id group.instance.id group.protocol group.protocol.type group.remote.assignor
heartbeat.interval.ms https.ca.location https.ca.pem isolation.level linger.ms log.connection.close log.queue
log.thread.name log_level max.in.flight max.in.flight.requests.per.connection max.partition.fetch.bytes
max.poll.interval.ms message.copy.max.bytes message.max.bytes message.send.max.retries message.timeout.ms
metadata.broker.list metadata.max.age.ms metadata.recovery.rebootstrap.trigger.ms metadata.recovery.strategy
metadata.request.timeout.ms offset.store.method offset.store.path offset.store.sync.interval.ms
partition.assignment.strategy partitioner plugin.library.paths produce.offset.report
queue.buffering.backpressure.threshold queue.buffering.max.kbytes queue.buffering.max.messages
queue.buffering.max.ms queued.max.messages.kbytes queued.min.messages queuing.strategy receive.message.max.bytes
reconnect.backoff.jitter.ms reconnect.backoff.max.ms reconnect.backoff.ms request.required.acks retries
retry.backoff.max.ms retry.backoff.ms sasl.kerberos.keytab sasl.kerberos.kinit.cmd
sasl.kerberos.min.time.before.relogin sasl.kerberos.principal sasl.kerberos.service.name sasl.mechanism
sasl.mechanisms sasl.oauthbearer.assertion.algorithm sasl.oauthbearer.assertion.claim.aud
sasl.oauthbearer.assertion.claim.exp.seconds sasl.oauthbearer.assertion.claim.iss
sasl.oauthbearer.assertion.claim.jti.include sasl.oauthbearer.assertion.claim.nbf.seconds
sasl.oauthbearer.assertion.claim.sub sasl.oauthbearer.assertion.file
sasl.oauthbearer.assertion.jwt.template.file sasl.oauthbearer.assertion.private.key.file
sasl.oauthbearer.assertion.private.key.passphrase sasl.oauthbearer.assertion.private.key.pem
sasl.oauthbearer.client.credentials.client.id sasl.oauthbearer.client.credentials.client.secret
sasl.oauthbearer.client.id sasl.oauthbearer.client.secret sasl.oauthbearer.config sasl.oauthbearer.extensions
sasl.oauthbearer.grant.type sasl.oauthbearer.metadata.authentication.type sasl.oauthbearer.method
sasl.oauthbearer.scope sasl.oauthbearer.sub.claim.name sasl.oauthbearer.token.endpoint.url sasl.password
sasl.username security.protocol session.timeout.ms share.acknowledgement.mode socket.blocking.max.ms
socket.connection.setup.timeout.ms socket.keepalive.enable socket.max.fails socket.nagle.disable
socket.receive.buffer.bytes socket.send.buffer.bytes socket.timeout.ms ssl.ca.certificate.stores ssl.ca.location
ssl.ca.pem ssl.certificate.location ssl.certificate.pem ssl.cipher.suites
ssl.crl.location ssl.curves.list ssl.endpoint.identification.algorithm ssl.engine.id ssl.engine.location
ssl.key.location ssl.key.password ssl.key.pem ssl.keystore.location ssl.keystore.password ssl.providers
ssl.sigalgs.list statistics.interval.ms sticky.partitioning.linger.ms test.mock.broker.rtt test.mock.num.brokers
topic.blacklist topic.metadata.propagation.max.ms topic.metadata.refresh.fast.cnt
topic.metadata.refresh.fast.interval.ms topic.metadata.refresh.interval.ms topic.metadata.refresh.sparse
transaction.timeout.ms transactional.id
"""
KNOWN = frozenset(_NAMES.split())

_NAME = re.compile(r"[a-z0-9]+(?:\.[a-z0-9]+)+")


@cache
def is_known(name: str) -> bool:
    """Say whether the installed librdkafka has this property; where it is not installed, whether the list has it."""
    if name in KNOWN:
        return True
    if not _NAME.fullmatch(name):
        return False  # callbacks and objects, such as error_cb, come from code and not from a file
    try:
        from confluent_kafka import KafkaException, Producer
    except ImportError:
        return False
    quiet = logging.getLogger(f"{__name__}.probe")
    quiet.propagate = False
    quiet.addHandler(logging.NullHandler())
    try:
        Producer({name: "", "logger": quiet})
    except KafkaException as error:
        return "No such configuration property" not in str(error)
    except (TypeError, ValueError):
        return False
    return True

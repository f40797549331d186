"""Judgement of topic settings: what would stop a pipeline, and what would quietly take records from its target."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from streamcrypt.diagnosis.facts import LegFacts, Route, TopicSettings
from streamcrypt.diagnosis.findings import Check, Finding, fail, ok, warn
from streamcrypt.diagnosis.units import duration, size

__all__ = ["judge_letters", "judge_route"]

_WEEK = 7 * 86_400_000
_NO_END = -1
_MAX_LONG = 2**63 - 1
_UNKNOWN_REMEDY = "Allow DescribeConfigs on the topic, or run doctor as a login that has it."


def judge_route(leg: LegFacts, route: Route) -> Iterator[Finding]:
    """Hold the topics of one way against each other.

    Args:
        leg: The pipeline.
        route: Its topics; both exist.
    """
    target = route.target
    if target.settings is None:
        for check in (Check.SIZE, Check.CLEANUP, Check.RETENTION, Check.TIMESTAMPS):
            yield warn(check, target.name, "not known: this login may not read the topic's settings", _UNKNOWN_REMEDY)
    else:
        judges: tuple[Callable[[LegFacts, Route], Iterator[Finding]], ...] = (
            _size,
            _compression,
            _cleanup,
            _retention,
            _timestamps,
        )
        for judge in judges:
            yield from judge(leg, route)
    yield from _replicas(target)


def judge_letters(leg: LegFacts, sources: list[TopicSettings], letters: TopicSettings) -> Iterator[Finding]:
    """Hold a dead-letter topic against the topics whose records it may have to take."""
    check, name = Check.DEAD_LETTERS, letters.name
    if letters.settings is None:
        yield warn(check, name, "not known: this login may not read the topic's settings", _UNKNOWN_REMEDY)
        return
    sound = True
    if "compact" in (letters.text("cleanup.policy") or ""):
        sound = False
        remedy = _alter(name, "cleanup.policy=delete")
        yield fail(check, name, "is compacted: of the letters with one key only the last is kept", remedy)
    largest = max((s.number("max.message.bytes") or 0 for s in sources), default=0)
    limit = letters.number("max.message.bytes")
    # A letter carries the record's headers, its origin and, sealed, an envelope.
    needed = largest + leg.growth + LETTER_HEADERS
    if limit is not None and limit < needed:
        sound = False
        seen = f"max.message.bytes is {size(limit)}; a letter may have up to {size(needed)}, and would halt {leg.name}"
        yield warn(check, name, seen, _alter(name, f"max.message.bytes={needed}"))
    kept = letters.number("retention.ms")
    if kept is not None and 0 <= kept < _WEEK:
        sound = False
        seen = f"letters are deleted after {duration(kept)}; whoever looks later finds nothing"
        yield warn(check, name, seen, _alter(name, f"retention.ms={_WEEK}"))
    if sound:
        yield ok(check, name, f"keeps letters of {leg.name} {duration(kept if kept is not None else _NO_END)}")
    yield from _replicas(letters)


LETTER_HEADERS = 2048
"""Room for a letter's own headers: reason and remedy are cut to a few hundred bytes, coordinates are short."""


def _alter(topic: str, setting: str) -> str:
    return f"kafka-configs --alter --entity-type topics --entity-name {topic} --add-config {setting}"


def _size(leg: LegFacts, route: Route) -> Iterator[Finding]:
    source, target = route.source.number("max.message.bytes"), route.target.number("max.message.bytes")
    name = route.target.name
    if source is None or target is None:
        yield warn(Check.SIZE, name, "not known: max.message.bytes of source or target", _UNKNOWN_REMEDY)
        return
    needed = source + leg.growth
    short = [
        text
        for limit, text in (
            (target, f"max.message.bytes of {name} is {size(target)}"),
            (leg.max_message, f"message.max.bytes of the producer is {size(leg.max_message)}"),
        )
        if limit < needed
    ]
    if not short:
        yield ok(
            Check.SIZE, name, f"the largest record of {route.source.name} fits, {leg.growth} B of envelope included"
        )
        return
    largest = max(0, min(target, leg.max_message) - leg.growth)
    seen = (
        f"{' and '.join(short)}: records of {route.source.name} over {size(largest)} of its {size(source)} do not fit"
    )
    remedies = [_alter(name, f"max.message.bytes={needed}")] if target < needed else []
    remedies += [f"set message.max.bytes: {needed} under kafka.producer"] if leg.max_message < needed else []
    yield warn(Check.SIZE, name, seen, "; ".join(remedies) + ".")


def _compression(leg: LegFacts, route: Route) -> Iterator[Finding]:
    if leg.mode == "decrypt":
        return
    name, chosen = route.target.name, route.target.text("compression.type") or "producer"
    used = leg.compression if chosen == "producer" else chosen
    whose = "the producer" if chosen == "producer" else "the topic"
    if used in {"none", "uncompressed"}:
        seen = f"{whose} does not compress: the envelope header, {leg.growth} B, is stored and sent with every record"
        remedy = (
            "Remove compression.type from the kafka section; lz4 is the default."
            if chosen == "producer"
            else _alter(name, "compression.type=producer")
        )
        yield warn(Check.COMPRESSION, name, seen, remedy)
    else:
        yield ok(Check.COMPRESSION, name, f"{used} (chosen by {whose}) takes the repeated header away")


def _cleanup(leg: LegFacts, route: Route) -> Iterator[Finding]:
    name = route.target.name
    source, target = (t.text("cleanup.policy") or "" for t in (route.source, route.target))
    if "compact" in target and "compact" not in source:
        seen = f"is compacted and {route.source.name} is not: of the records with one key only the last is kept"
        yield warn(Check.CLEANUP, name, seen, _alter(name, "cleanup.policy=delete"))
    elif "compact" in target and leg.mode != "decrypt" and not leg.binds_key:
        seen = "is compacted and the key is not bound: whoever may write there can replace one key's value by another's"
        yield warn(Check.CLEANUP, name, seen, "Add 'key' to 'bound' of the pipeline, and of its readers.")
    elif "compact" in source and "compact" not in target:
        seen = f"is not compacted and {route.source.name} is: it keeps old values, and deletes by age or size instead"
        yield warn(Check.CLEANUP, name, seen, _alter(name, f"cleanup.policy={source}"))
    else:
        yield ok(Check.CLEANUP, name, f"cleanup.policy {target}, as the source")


def _retention(leg: LegFacts, route: Route) -> Iterator[Finding]:
    del leg
    name, source, target = route.target.name, route.source, route.target
    if "delete" not in (target.text("cleanup.policy") or "delete"):
        yield ok(Check.RETENTION, name, "nothing is deleted by age")
        return
    shorter = False
    ours, theirs = target.number("retention.ms"), source.number("retention.ms")
    if "delete" not in (source.text("cleanup.policy") or "delete"):
        theirs = _NO_END
    if ours is not None and theirs is not None and _less(ours, theirs):
        shorter = True
        seen = (
            f"keeps records {duration(ours)}, {source.name} {duration(theirs)}: pipelines keep timestamps, so that the "
            "broker deletes older records as soon as they arrive"
        )
        yield warn(Check.RETENTION, name, seen, _alter(name, f"retention.ms={theirs}"))
    ours_bytes, theirs_bytes = target.number("retention.bytes"), source.number("retention.bytes")
    if ours_bytes is not None and theirs_bytes is not None and _less(ours_bytes, theirs_bytes):
        shorter = True
        seen = (
            f"keeps {size(ours_bytes)} a partition, {source.name} {size(theirs_bytes)}; sealed records are larger, too"
        )
        yield warn(Check.RETENTION, name, seen, _alter(name, f"retention.bytes={theirs_bytes}"))
    if not shorter and ours is not None:
        yield ok(Check.RETENTION, name, f"keeps records {duration(ours)}, no shorter than {source.name}")


def _less(ours: int, theirs: int) -> bool:
    return ours >= 0 and (theirs < 0 or ours < theirs)


def _timestamps(leg: LegFacts, route: Route) -> Iterator[Finding]:
    name, target = route.target.name, route.target
    if target.text("message.timestamp.type") == "LogAppendTime":
        seen = "message.timestamp.type is LogAppendTime: the time of a record becomes that of its copying"
        yield warn(Check.TIMESTAMPS, name, seen, _alter(name, "message.timestamp.type=CreateTime"))
        return
    before = target.number("message.timestamp.before.max.ms")
    source_before = route.source.number("message.timestamp.before.max.ms")
    kept = route.source.number("retention.ms")
    if before is not None and before < _MAX_LONG and (kept is None or kept < 0 or before < kept):
        oldest = "for ever" if kept is None else duration(kept)
        seen = (
            f"refuses records older than {duration(before)} (message.timestamp.before.max.ms), and {route.source.name} "
            f"keeps them {oldest}: an old one halts {leg.name}"
        )
        wanted = _MAX_LONG if source_before is None else source_before
        yield warn(Check.TIMESTAMPS, name, seen, _alter(name, f"message.timestamp.before.max.ms={wanted}"))
        return
    after, source_after = (t.number("message.timestamp.after.max.ms") for t in (target, route.source))
    if after is not None and source_after is not None and after < source_after:
        seen = (
            f"refuses records dated more than {duration(after)} ahead, {route.source.name} takes "
            + ("any" if source_after == _MAX_LONG else duration(source_after))
            + f": such a one halts {leg.name}"
        )
        yield warn(Check.TIMESTAMPS, name, seen, _alter(name, f"message.timestamp.after.max.ms={source_after}"))
        return
    yield ok(Check.TIMESTAMPS, name, "takes every timestamp that the source may hold")


def _replicas(topic: TopicSettings) -> Iterator[Finding]:
    minimum, name = topic.number("min.insync.replicas"), topic.name
    if minimum is not None and minimum > topic.replicas:
        seen = f"min.insync.replicas is {minimum} and there are {topic.replicas}: nothing can be written with acks=all"
        yield fail(Check.REPLICAS, name, seen, _alter(name, f"min.insync.replicas={topic.replicas}"))
    elif topic.replicas == 1:
        seen = "has one copy: a lost broker takes acknowledged records with it"
        yield warn(Check.REPLICAS, name, seen, "Raise the replication factor with kafka-reassign-partitions.")
    elif topic.text("unclean.leader.election.enable") == "true":
        seen = "unclean.leader.election.enable is true: a broker that missed records may lead and drop them"
        yield warn(Check.REPLICAS, name, seen, _alter(name, "unclean.leader.election.enable=false"))
    elif minimum == 1:
        seen = f"has {topic.replicas} copies and min.insync.replicas 1: one copy alone may acknowledge a record"
        yield warn(Check.REPLICAS, name, seen, _alter(name, "min.insync.replicas=2"))
    else:
        known = "" if minimum is None else f", {minimum} of them acknowledge"
        yield ok(Check.REPLICAS, name, f"has {topic.replicas} copies{known}")

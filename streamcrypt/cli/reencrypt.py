"""``streamcrypt reencrypt``: the records of a topic under other KEKs, exactly once, and the proof that they are."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streamcrypt.cli.compose import admin_config, build_provider, consumer_config, producer_config, unusable_client
from streamcrypt.cli.compose_reencrypt import build_opener, build_reencryption
from streamcrypt.cli.exits import Exit, complain
from streamcrypt.cli.reencrypt_progress import showing
from streamcrypt.cli.reencrypt_request import JOB_NAME, ReencryptRequest, job_pipeline, job_spec
from streamcrypt.cli.run import end_on_signals, keep_keys_out_of_core_dumps
from streamcrypt.clients.lone import without_membership
from streamcrypt.config import Settings, load
from streamcrypt.errors import ConfigError, KeyUnavailable, StreamcryptError
from streamcrypt.events import (
    Observer,
    PartitionPaused,
    PartitionResumed,
    RecordDiffers,
    ReencryptionPlanned,
    ReencryptionVerified,
)
from streamcrypt.keys.aws_kms.names import parse_key_name
from streamcrypt.observe.logs import Logs
from streamcrypt.sidecar.dead_letters import DeadLetters
from streamcrypt.sidecar.failures import Backoff
from streamcrypt.sidecar.reencrypt import BoundedPipeline, NotedTransactions, Run, read_notes
from streamcrypt.sidecar.reencrypt_in_place import InPlaceTransactions
from streamcrypt.sidecar.reencrypt_plan import Job, Phase, Planned, look, plan_run, rewritten, target_ends, whole_topics
from streamcrypt.sidecar.rewrap import check_names
from streamcrypt.sidecar.safeguards import Safeguards
from streamcrypt.sidecar.supervisor import PipelineFactory, Supervisor
from streamcrypt.sidecar.verify import Difference, Verification, Verified

if TYPE_CHECKING:
    from streamcrypt.config.sections import KeysSettings
    from streamcrypt.keys.provider import KeyProvider
    from streamcrypt.sidecar.loop import Pipeline

__all__ = ["reencrypt"]

# A job is over long before; what it rewrapped once is not rewrapped again.
_TTL = 365 * 86400.0
_MOST_SHOWN = 20


class _Stop(threading.Event):
    """Set by a signal; sets what is under way as well."""

    def __init__(self) -> None:
        super().__init__()
        self.under_way = threading.Event()

    def set(self) -> None:
        super().set()
        self.under_way.set()


def reencrypt(path: Path, request: ReencryptRequest) -> int:
    """Re-encrypt up to where the source ends at the first start, then verify. Run it again to go on after an end.

    Returns:
        The exit code: 0 once everything is verified; 1 where something differs or the copy failed; 130 where a signal
        came first.

    Raises:
        ConfigError: The configuration or the arguments are wrong.
        StreamcryptError, KafkaException: The cluster or the key service.
    """
    request.check()
    settings = load(path)
    keep_keys_out_of_core_dumps()
    stop = _Stop()
    end_on_signals(stop)
    drawn = request.bar and sys.stderr.isatty()
    # A bar and lines of JSON do not go together on one screen.
    with Logs("warning" if drawn else settings.log.level, settings.log.format) as logs:
        task = _Task(settings, request, logs.observer(), stop)
        try:
            return task.run()
        finally:
            task.close()


class _Task:
    """One call of the command."""

    def __init__(self, settings: Settings, request: ReencryptRequest, observer: Observer, stop: _Stop) -> None:
        self._request = request
        self._observer = observer
        self._stop = stop
        self._providers: list[KeyProvider] = []
        self._settings = settings
        self._pipeline = job_pipeline(settings, request)
        names = settings.topic_names
        if request.how == "rewrap":
            check_names(request.source, request.target, lambda topic: names.get(topic, topic))
        self._keys, sources = self._destination()
        self._provider = self._open_provider(self._keys, sources)
        self._consumer = consumer_config(settings, self._pipeline)
        self._verifying = {
            **without_membership(self._consumer),
            "group.id": f"{self._pipeline.group}-verify",
        }
        try:
            self._admin = AdminClient(admin_config(settings, self._pipeline))
        except KafkaException as error:
            raise unusable_client(settings, error) from None
        self._compared = 0
        self._waits_at: tuple[str, int, int] | None = None
        self._backoff = Backoff(0.1, 10.0)

    def _destination(self) -> tuple[KeysSettings, tuple[str, ...]]:
        """Give the key settings of the destination, and the KEKs that records may come from."""
        keys, to_key = self._settings.keys, self._request.to_key
        trusted = self._pipeline.trusted_keys if self._pipeline.trusted_keys is not None else keys.trusted_keys
        if to_key is None:
            return keys, trusted
        if keys.template is not None:
            raise ConfigError(
                "--to-key names one KEK, but the configuration's key_id is a template",
                remedy="Leave it out: each record goes under the KEK that the mapping gives for it.",
            )
        if keys.provider == "aws-kms":
            with closing(build_provider(keys, self._observer)) as now:
                trusted = tuple(dict.fromkeys([*_arns_of(now), *trusted]))
        alone: dict[str, Any] = {"key_id": (to_key,), "require": None}
        if to_key.startswith("arn:"):
            alone["region"] = None
        return keys.model_copy(update=alone), trusted

    def _open_provider(self, keys: KeysSettings, trusted: tuple[str, ...]) -> KeyProvider:
        named = [*(keys.key_id or ()), *trusted] if keys.regions and keys.template is None else []
        if named and not any(parse_key_name(name).may_be_multi_region for name in named):
            # They go with the multi-region keys of the configuration, which are left out here.
            keys = keys.model_copy(update={"regions": ()})
        provider = build_provider(keys, self._observer, trusted_keys=trusted)
        self._providers.append(provider)
        return provider

    def close(self) -> None:
        """Close the key services."""
        for provider in self._providers:
            provider.close()

    def run(self) -> int:
        """Plan, copy, verify."""
        job = Job(self._request.source, self._request.target, _arns_of(self._provider))
        planned = self._plan(job)
        run, phase = planned.run, planned.phase
        places, what = len(run.spans), phase.name.lower()
        self._observer(
            ReencryptionPlanned(JOB_NAME, job.source, job.target, self._request.how, what, places, run.total)
        )
        if phase is Phase.NOTHING:
            sys.stdout.write(f"{job.source}: nothing has come since the last run, which is verified\n")
            return Exit.DONE
        if phase is Phase.COPY and not self._request.verify_only and not run.is_complete:
            self._stop.under_way = run.stop
            if self._stop.is_set():
                return self._interrupted()
            failures = self._copy(run, job)
            for error in failures:
                complain(str(error), error.remedy)
            if failures:
                return Exit.USAGE if isinstance(failures[0], ConfigError) else Exit.FAILED
        if self._stop.is_set():
            return self._interrupted()
        return self._verify(planned, job)

    def _interrupted(self) -> int:
        complain("interrupted", "Run it again with the same arguments to go on.")
        return Exit.INTERRUPTED

    def _plan(self, job: Job) -> Planned:
        if self._request.verify_only:
            plan = look(self._admin, job)
            if not job.in_place:
                return whole_topics(job, plan, threading.Event())
            return rewritten(job, plan, self._consumer, threading.Event())
        return plan_run(
            job,
            lambda: look(self._admin, job),
            self._consumer,
            self._verifying,
            lambda run: NotedTransactions(
                run, self._consumer, JOB_NAME, self._producer(), self._observer, _go_on, _go_on
            ),
            threading.Event(),
        )

    def _producer(self) -> dict[str, Any]:
        return producer_config(self._settings, self._pipeline)

    def _copy(self, run: Run, job: Job) -> list[StreamcryptError]:
        pipeline, settings, observer = self._pipeline, self._settings, self._observer
        transform = build_reencryption(settings, pipeline, self._provider, observer, ttl=_TTL)
        topic = pipeline.dead_letter
        letters = DeadLetters(JOB_NAME, topic, None) if topic else None
        safeguards = Safeguards(letters, pipeline.cutover, None, lambda: self._admin)
        kind = InPlaceTransactions if job.in_place else NotedTransactions
        spec = job_spec(pipeline, self._request)

        def build() -> Pipeline:
            return BoundedPipeline(run, kind, spec, self._consumer, self._producer(), transform, observer, safeguards)

        factory = PipelineFactory(JOB_NAME, transform, build)
        with showing(JOB_NAME, "copy", lambda: run.done, run.total, observer, bar=self._request.bar):
            return list(Supervisor([factory], observer, run.stop).run())

    def _verify(self, planned: Planned, job: Job) -> int:
        run, settings, pipeline = planned.run, self._settings, self._pipeline
        under_way = self._stop.under_way = threading.Event()
        if self._stop.is_set():
            return self._interrupted()
        target_provider = self._open_provider(self._keys, ())
        ends = target_ends(self._admin, job)
        differences: list[Difference] = []

        def tell(found: Difference) -> None:
            differences.append(found)
            where = (*found.place, found.offset)
            self._observer(RecordDiffers(JOB_NAME, *where, job.target, found.target_offset, found.what))

        with (
            closing(build_opener(settings, pipeline, self._provider, self._wait)) as source,
            closing(build_opener(settings, pipeline, target_provider, self._wait, thorough=True)) as target,
        ):
            verification = Verification(
                job.target,
                run.spans,
                ends,
                self._verifying,
                (source, target),
                same_bytes=self._request.how == "rewrap",
                newest=planned.newest,
                in_place=job.in_place,
                bear_unreadable=pipeline.on_failure != "halt",
                tell=tell,
                each=self._count,
                stop=under_way,
                rate=pipeline.rate,
                noted=not self._request.verify_only,
            )
            earlier = {} if self._request.verify_only else self._earlier(run)
            with showing(JOB_NAME, "verify", lambda: self._compared, run.total, self._observer, bar=self._request.bar):
                good = self._until_stopped(lambda: verification.run(earlier))
        if self._stop.is_set():
            return self._interrupted()
        found = verification.counts
        self._observer(
            ReencryptionVerified(
                JOB_NAME, good, found.compared, found.unreadable, found.replaced, found.expired, len(differences)
            )
        )
        lines = _report(job, verification, differences, good=good)
        if good and not self._request.verify_only and not job.in_place and self._has_grown(run, job):
            lines.append(f"more has come to {job.source} since this run began: run it again for that")
        sys.stdout.write("\n".join(lines) + "\n")
        return Exit.DONE if good else Exit.FAILED

    def _has_grown(self, run: Run, job: Job) -> bool:
        now = {place: found.end for place, found in look(self._admin, job).places.items() if place[0] == job.source}
        return any(end > (run.spans[place].end if place in run.spans else 0) for place, end in now.items())

    def _until_stopped(self, work: Callable[[], bool]) -> bool:
        try:
            return work()
        except KeyUnavailable:
            # It waited for the key service when the signal came.
            if not self._stop.is_set():
                raise
            return False

    def _earlier(self, run: Run) -> dict[tuple[str, int], tuple[int, Verified | None]]:
        return read_notes(self._verifying, list(run.spans), Verified.read)

    def _count(self, records: int) -> None:
        self._compared += records

    def _wait(self, topic: str, partition: int, offset: int, error: KeyUnavailable) -> None:
        """Wait before the key service is asked again; what is under way ends where a signal comes."""
        if self._waits_at != (topic, partition, offset):
            self._waits_at, self._backoff = (topic, partition, offset), Backoff.for_error(error)
        why = (type(error).__name__, str(error), error.remedy, error.request_id)
        self._observer(PartitionPaused(JOB_NAME, topic, partition, offset, *why))
        seconds = self._backoff.next()
        if self._stop.wait(seconds):
            raise error
        self._observer(PartitionResumed(JOB_NAME, topic, partition, seconds))


def _go_on() -> None:
    """Nothing else waits while a run is planned."""


def _arns_of(provider: KeyProvider) -> tuple[str, ...]:
    arns: Callable[[], tuple[str, ...]] | None = getattr(provider, "key_arns", None)
    return arns() if arns is not None else (provider.check(),)


def _report(job: Job, verification: Verification, differences: list[Difference], *, good: bool) -> list[str]:
    counts = verification.counts
    lines = [f"{counts.compared} records of {job.source} are the same on {job.target}, opened by the new KEKs alone"]
    if counts.unreadable:
        lines.append(f"{counts.unreadable} records open on neither side")
    if counts.replaced:
        lines.append(f"{counts.replaced} records are compacted away already; the new ones open")
    if counts.expired:
        lines.append(f"{counts.expired} records were taken from {job.source} by retention since")
    for found in differences[:_MOST_SHOWN]:
        topic, partition = found.place
        at = f"{topic}[{partition}] offset {found.offset}" if found.offset >= 0 else f"{topic}[{partition}]"
        there = f" and {job.target}[{partition}] offset {found.target_offset}" if found.target_offset >= 0 else ""
        lines.append(f"{at}{there}: {found.what}")
    if len(differences) > _MOST_SHOWN:
        lines.append(f"and {len(differences) - _MOST_SHOWN} more")
    lines.append("verified" if good else "NOT verified: leave the old KEKs enabled")
    return lines

"""The pipelines of this process, which run by one configuration after the other."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaException

from streamcrypt.cli.commands import settled
from streamcrypt.cli.compose import build_provider, build_rotation
from streamcrypt.cli.run import factory
from streamcrypt.config import PipelineSettings, Settings
from streamcrypt.config.changes import Change, Plan, plan
from streamcrypt.errors import StreamcryptError
from streamcrypt.events import Observer, PipelineReloaded
from streamcrypt.observe import fan_out
from streamcrypt.observe.logs import Logs
from streamcrypt.observe.status import Status
from streamcrypt.sidecar.garbage import collecting_seldom
from streamcrypt.sidecar.supervisor import PipelineFactory, Supervisor

if TYPE_CHECKING:
    from streamcrypt.observe.tracing import Tracing

__all__ = ["Prepared", "Running"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that can fail is done: the new settings, what is to happen, and the pipelines that begin."""

    settings: Settings
    plan: Plan
    factories: tuple[PipelineFactory, ...]

    def drop(self) -> None:
        """Close what was made for it: it will not happen."""
        for one in self.factories:
            one.close()


class Running:
    """The pipelines of a configuration in this process, from their start to their end.

    Args:
        settings: The configuration to begin with.
        observer: Told of everything.
        stop: Set it to end.
        worker: Number of this process among the workers.
        again: As for :class:`streamcrypt.sidecar.supervisor.Supervisor`.
        paused: Names of pipelines that begin paused.
        logs: Whose level follows the configuration.
        status: Which shows what pipelines are to do.

    Raises:
        ConfigError: The keys, or the suite, cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        observer: Observer,
        stop: threading.Event,
        *,
        worker: int = 0,
        again: bool = False,
        paused: Collection[str] = (),
        logs: Logs | None = None,
        status: Status | None = None,
    ) -> None:
        self._settings = settings
        self._tracing = _build_tracing(settings, worker)
        if self._tracing is not None:
            observer = fan_out((self._tracing, observer))
        self._observer = observer
        self._worker = worker
        self._logs = logs
        self._status = status
        factories = self._factories(settings, settings.pipelines)
        self._supervisor = Supervisor(factories, observer, stop, again=again, paused=paused)

    @property
    def names(self) -> tuple[str, ...]:
        """The pipelines."""
        return tuple(pipeline.name for pipeline in self._settings.pipelines)

    def run(self) -> Sequence[StreamcryptError]:
        """Run until one halts or ``stop`` is set; give why they halted. Call it on the main thread."""
        with self._tracing or nullcontext(), collecting_seldom():
            return self._supervisor.run()

    def prepare(self, settings: Settings, replaced: Collection[str] = ()) -> Prepared:
        """Make what a new configuration needs, with clients that are tried; what runs is not touched.

        Args:
            settings: The configuration.
            replaced: As for :func:`streamcrypt.config.changes.plan`.

        Raises:
            StreamcryptError: It cannot be used: a keyring, a suite, a property of librdkafka, a login.
        """
        changes = plan(self._settings, settings, replaced)
        names = changes.names(Change.ADDED, Change.RESTARTED)
        factories = self._factories(settings, [p for p in settings.pipelines if p.name in names])
        prepared = Prepared(settings, changes, tuple(factories))
        try:
            for one in factories:
                one.build().discard()
        except (StreamcryptError, KafkaException):
            prepared.drop()
            raise
        return prepared

    def apply(self, prepared: Prepared) -> None:
        """Have it in force: first those that go drain and commit, all at a time, then those that come begin."""
        settings, changes, supervisor = prepared.settings, prepared.plan, self._supervisor
        rotation = build_rotation(settings)
        for name in changes.names(Change.IN_PLACE):
            supervisor.transform(name).rotate_by(rotation)
        if self._logs is not None:
            self._logs.set_level(settings.log.level)
        with supervisor.changing():
            supervisor.end(changes.names(Change.REMOVED, Change.RESTARTED))
            supervisor.forget(changes.names(Change.REMOVED))
            for name, change in changes.pipelines.items():
                self._observer(PipelineReloaded(name, change.change, change.settings))
            if self._status is not None:
                self._status.follow([settings.spec(pipeline) for pipeline in settings.pipelines], rotation)
            fresh = [name for name, change in changes.pipelines.items() if {"from", "to"} & set(change.settings)]
            self._settings = settings
            supervisor.begin(prepared.factories, fresh)

    def change(self, settings: Settings, changes: Plan, replaced: Collection[str]) -> None:  # noqa: ARG002  made anew
        """See :class:`streamcrypt.cli.reloading.Target`."""
        self.apply(self.prepare(settings, replaced))

    def steer(self, command: str, names: Collection[str]) -> Mapping[str, str]:
        """See :class:`streamcrypt.cli.commands.Steered`."""
        if command == "rotate":
            for name in names:
                self._supervisor.transform(name).rotate()
            return dict.fromkeys(names, "rotated")
        paused = command == "pause"
        for name in names:
            self._supervisor.steering(name).paused = paused
        return settled(self._snapshot, names, paused=paused)

    def _snapshot(self) -> Mapping[str, Any]:
        return self._status.snapshot() if self._status is not None else {"pipelines": []}

    def _factories(self, settings: Settings, pipelines: Sequence[PipelineSettings]) -> list[PipelineFactory]:
        made: list[PipelineFactory] = []
        try:
            made.extend(self._factory(settings, pipeline) for pipeline in pipelines)
        except BaseException:
            for one in made:
                one.close()
            raise
        return made

    def _factory(self, settings: Settings, pipeline: PipelineSettings) -> PipelineFactory:
        provider = build_provider(settings.keys, self._observer, trusted_keys=pipeline.trusted_keys)
        about = (pipeline.name, pipeline.group, pipeline.mode)
        trace = None if self._tracing is None else partial(self._tracing.around, *about)
        try:
            return factory(settings, pipeline, provider, self._observer, self._worker, provider.close, trace)
        except BaseException:
            provider.close()
            raise


def _build_tracing(settings: Settings, worker: int) -> Tracing | None:
    if not settings.tracing.enabled:
        return None
    from streamcrypt.observe.tracing import Tracing

    return Tracing(worker)

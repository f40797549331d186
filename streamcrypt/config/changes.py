"""What a new configuration changes for a process that runs, as a plan. Pure: two settings in, a plan out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from streamcrypt.config.model import Settings
from streamcrypt.config.pipelines import PipelineSettings
from streamcrypt.sidecar.spec import PipelineSpec

__all__ = ["Change", "PipelineChange", "Plan", "plan"]

# Of the process: where it listens, how many processes it is. Another one has to begin for them.
_FIXED = {"http": ("host", "port"), "log": ("format",)}
# Of the process as well, and taken over as it runs.
_IN_PLACE = {"http": ("token", "token_file"), "log": ("level",)}
# Of pipelines: what follows says of which.
_OF_PIPELINES = frozenset({"kafka", "keys", "rotation", "cache", "context", "topic_names", "pipelines"})


class Change(StrEnum):
    """What becomes of one pipeline."""

    ADDED = "added"
    REMOVED = "removed"
    RESTARTED = "restarted"
    """Drained, committed and begun anew; the others go on undisturbed."""
    IN_PLACE = "changed in place"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class PipelineChange:
    """What becomes of one pipeline, and the settings that it is for, as they stand in the file."""

    change: Change
    settings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do for a process to run by a new configuration.

    Attributes:
        pipelines: Name to what becomes of it: those of the new file first, in its order, then those removed.
        process: Settings of the process that are taken over as it runs.
        refused: Settings that have changed and that a running process cannot take over. Where there is one, nothing is.
    """

    pipelines: Mapping[str, PipelineChange]
    process: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    def names(self, *changes: Change) -> tuple[str, ...]:
        """Give the pipelines of which one of these becomes."""
        return tuple(name for name, one in self.pipelines.items() if one.change in changes)

    @property
    def is_empty(self) -> bool:
        """Whether nothing has changed."""
        return not self.process and not self.refused and set(self.names(*Change)) == set(self.names(Change.UNCHANGED))


def plan(old: Settings, new: Settings, replaced: Collection[str] = ()) -> Plan:
    """Compare two configurations.

    Args:
        old: What the process runs by.
        new: What it is to run by.
        replaced: Settings that name a file whose content is another one now, such as ``keys.keyring``.
    """
    before = {pipeline.name: pipeline for pipeline in old.pipelines}
    after = {pipeline.name: pipeline for pipeline in new.pipelines}
    shared = _shared(old, new, replaced)
    changes = {name: _change(old, new, before.get(name), pipeline, shared) for name, pipeline in after.items()}
    changes |= {name: PipelineChange(Change.REMOVED) for name in before if name not in after}
    process = (*_differing(old, new, _IN_PLACE), *(name for name in replaced if name == "http.token_file"))
    return Plan(changes, tuple(dict.fromkeys(process)), tuple(_refused(old, new)))


def _refused(old: Settings, new: Settings) -> Iterator[str]:
    for name in type(new).model_fields:
        if name in _FIXED:
            yield from _differing(old, new, {name: _FIXED[name]})
        elif name == "workers":
            # Written otherwise it may be the same number.
            if old.worker_count != new.worker_count:
                yield name
        elif name not in _OF_PIPELINES and getattr(old, name) != getattr(new, name):
            # Also a section that was added since and that nobody thought of here.
            yield name


def _differing(old: Settings, new: Settings, fields: Mapping[str, Collection[str]]) -> Iterator[str]:
    for section, names in fields.items():
        before, after = getattr(old, section), getattr(new, section)
        yield from (f"{section}.{name}" for name in names if getattr(before, name) != getattr(after, name))


def _shared(old: Settings, new: Settings, replaced: Collection[str]) -> tuple[str, ...]:
    """Give the sections for all pipelines that have changed."""
    sections = [
        name for name in ("kafka", "keys", "context", "topic_names") if getattr(old, name) != getattr(new, name)
    ]
    return (*sections, *(name for name in replaced if name.startswith("keys.")))


def _change(
    old: Settings, new: Settings, before: PipelineSettings | None, after: PipelineSettings, shared: tuple[str, ...]
) -> PipelineChange:
    if before is None:
        return PipelineChange(Change.ADDED)
    own = [
        field.alias or name
        for name, field in PipelineSettings.model_fields.items()
        if getattr(before, name) != getattr(after, name)
    ]
    opens = after.mode != "encrypt"
    if opens and old.cache != new.cache:
        own.append("cache")
    if not own and _reading(old.spec(before)) != _reading(new.spec(after)):
        # A regex must not read what another pipeline writes from now on.
        own.append("pipelines")
    seals = after.mode == "encrypt" or after.how == "reseal"
    rotated = ("rotation",) if seals and old.rotation != new.rotation else ()
    if own or shared:
        return PipelineChange(Change.RESTARTED, (*shared, *own, *rotated))
    return PipelineChange(Change.IN_PLACE, rotated) if rotated else PipelineChange(Change.UNCHANGED)


def _reading(spec: PipelineSpec) -> PipelineSpec:
    by_regex = any(source.startswith("^") for source in spec.sources)
    # The order in which other pipelines stand in the file is nothing to this one.
    return replace(spec, never_read=tuple(sorted(spec.never_read)) if by_regex else ())

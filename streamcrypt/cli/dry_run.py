"""``streamcrypt run --dry-run``: what would happen to the next records of each pipeline. Nothing is written."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streamcrypt.audit.plan import make_plan
from streamcrypt.cli.audit import stopped_by_signals
from streamcrypt.cli.cat_reading import lone_reader
from streamcrypt.cli.compose import (
    CLIENT_LOGGER,
    admin_config,
    build_provider,
    consumer_config,
    producer_config,
    unusable_client,
)
from streamcrypt.cli.dry_run_looking import Foreseen, Rehearsal, Rehearsed
from streamcrypt.cli.dry_run_table import as_tree, show_table
from streamcrypt.cli.exits import Exit
from streamcrypt.cli.form import Form
from streamcrypt.cli.run import build_safeguards, compose, keep_keys_out_of_core_dumps
from streamcrypt.config import PipelineSettings, Settings, load
from streamcrypt.diagnosis.cluster import Unreachable, list_partitions
from streamcrypt.errors import ConfigError, StreamcryptError
from streamcrypt.events import ignore_events
from streamcrypt.sidecar.failures import ConnectionLost, from_kafka
from streamcrypt.sidecar.topics import Routes

__all__ = ["RECORDS", "DryRunRequest", "dry_run"]

RECORDS = 10
"""Records of each pipeline that are looked at, unless told otherwise."""


@dataclass(frozen=True, slots=True)
class DryRunRequest:
    """What is asked.

    Attributes:
        records: The most records of each pipeline.
        form: How it is printed.
    """

    records: int = RECORDS
    form: Form = Form.TABLE

    @classmethod
    def read(cls, records: int | None, form: str | None) -> DryRunRequest:
        """Take the options of the command line; None where one is not given.

        Raises:
            ConfigError: One of them cannot be.
        """
        if records is not None and records < 1:
            raise ConfigError("--records is not above zero")
        if form is not None and form not in set(Form):
            raise ConfigError(f"--format is one of {', '.join(Form)}, not {form!r}")
        return cls(RECORDS if records is None else records, Form(form or Form.TABLE))


def dry_run(path: Path, request: DryRunRequest) -> Exit:
    """Print what would happen to the next records of each pipeline.

    Each pipeline is looked at as the only member of its group, from where the group would go on. A pipeline that seals
    mints a data key of its own, which is dropped at the end with what it sealed.

    Returns:
        DONE where every pipeline would start and every record would pass; USAGE where a pipeline would not start for
        the configuration's sake; INTERRUPTED where a signal came; else FAILED.

    Raises:
        ConfigError: The configuration cannot be used at all.
    """
    settings = load(path)
    keep_keys_out_of_core_dumps()
    logging.getLogger(CLIENT_LOGGER).addHandler(logging.NullHandler())
    logging.getLogger(CLIENT_LOGGER).propagate = False
    with stopped_by_signals() as stop:
        found = [_look_at(settings, pipeline, request.records, stop) for pipeline in settings.pipelines]
        if stop.is_set():
            return Exit.INTERRUPTED
    if request.form is Form.JSON:
        sys.stdout.write(json.dumps(as_tree(found)) + "\n")
    else:
        show_table(found)
    return _exit_code(found)


def _exit_code(found: Sequence[Rehearsed]) -> Exit:
    if all(one.passes for one in found):
        return Exit.DONE
    return Exit.USAGE if any(isinstance(one.problem, ConfigError) for one in found) else Exit.FAILED


def _look_at(settings: Settings, pipeline: PipelineSettings, most: int, stop: threading.Event) -> Rehearsed:
    done = Rehearsed(pipeline.name, pipeline.mode)
    try:
        done.records = _rehearse(settings, pipeline, most, stop)
    except Unreachable as error:
        done.problem = ConnectionLost(f"{settings.kafka.bootstrap_servers} does not answer: {error}")
    except KafkaException as error:
        done.problem = from_kafka(error, f"pipeline {pipeline.name!r}")
    except StreamcryptError as error:
        done.problem = error
    return done


def _rehearse(settings: Settings, pipeline: PipelineSettings, most: int, stop: threading.Event) -> list[Foreseen]:
    spec = replace(settings.spec(pipeline), kek_per_record=settings.keys.template is not None)
    producing = producer_config(settings, pipeline)
    with closing(build_provider(settings.keys, trusted_keys=pipeline.trusted_keys)) as provider:
        # No consumer group waits for this: a record may wait for its key as long as the key service takes.
        transform, letters = compose(settings, pipeline, provider, ignore_events, max_wait=None)
        with closing(transform):
            try:
                admin = AdminClient(admin_config(settings, pipeline))
                consumer = lone_reader(consumer_config(settings, pipeline))
                routes = Routes(spec, dict(list_partitions(producing, "producer")))
            except KafkaException as error:
                raise unusable_client(settings, error) from None
            safeguards = build_safeguards(pipeline, letters, ignore_events, lambda: admin)
            with closing(consumer):
                places = list(make_plan(admin, routes.sources).places.values()) if routes.sources else []
                largest = int(producing.get("message.max.bytes", 0)) or sys.maxsize
                looking = Rehearsal(spec, transform, safeguards, routes, consumer, places, largest, stop)
                return looking.look(most)

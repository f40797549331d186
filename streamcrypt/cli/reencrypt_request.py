"""What ``streamcrypt reencrypt`` is asked for, and the settings of a pipeline that does it."""

from __future__ import annotations

from dataclasses import dataclass

from streamcrypt.config import PipelineSettings, Settings
from streamcrypt.errors import ConfigError
from streamcrypt.sidecar.spec import Mode, OnFailure, PipelineSpec

__all__ = ["JOB_NAME", "ReencryptRequest", "choose_way", "job_pipeline", "job_spec", "read_rate"]

JOB_NAME = "reencrypt"
"""The pipeline in log lines of the job."""

# Bulk: fewer transactions, each far shorter than the coordinator allows.
_COMMIT_INTERVAL = 0.5


@dataclass(frozen=True, slots=True)
class ReencryptRequest:
    """What is asked for.

    Attributes:
        source: The topic to read.
        target: The topic to write.
        how: rewrap or reseal.
        to_key: The destination KEK; None: those of the configuration.
        rate: The most records a second; None: as many as go.
        in_place: The topic's writers are stopped, and it may be rewritten onto itself.
        verify_only: Write nothing.
        bar: Show a progress bar on a terminal.
    """

    source: str
    target: str
    how: str
    to_key: str | None = None
    rate: int | None = None
    in_place: bool = False
    verify_only: bool = False
    bar: bool = True

    def check(self) -> None:
        """Refuse what cannot be asked together.

        Raises:
            ConfigError: One topic without ``--in-place``, or two with it.
        """
        if self.source == self.target and not self.in_place:
            raise ConfigError(
                f"--from and --to are the same topic {self.source!r}",
                remedy="A compacted topic can be rewritten in place: stop every writer, then pass --in-place.",
            )
        if self.source != self.target and self.in_place:
            raise ConfigError("--in-place means one topic, and --from and --to are two", remedy="Leave it out.")


def choose_way(*, rewrap: bool, reseal: bool) -> str:
    """Take one of two flags.

    Raises:
        ConfigError: Both were given, or neither.
    """
    if rewrap == reseal:
        raise ConfigError(
            "pass --rewrap or --reseal",
            remedy="--rewrap wraps the data keys anew, one KMS call each; --reseal seals every record anew.",
        )
    return "rewrap" if rewrap else "reseal"


def read_rate(text: str | None) -> int | None:
    """Read a rate such as ``5000/s``.

    Raises:
        ConfigError: It is none.
    """
    if text is None:
        return None
    number = text.strip().removesuffix("/s")
    if not number.isdecimal() or not int(number):
        raise ConfigError(f"--rate {text!r} is no number of records a second", remedy="Write one such as 5000/s.")
    return int(number)


def job_pipeline(settings: Settings, request: ReencryptRequest) -> PipelineSettings:
    """Give the settings of the job: those of the pipeline that knows the topic best, with what a job fixes."""
    own = {
        "name": JOB_NAME,
        "mode": "reencrypt",
        "how": request.how,
        "source": (request.source,),
        "to": request.target,
        "group": f"streamcrypt-reencrypt-{request.source}-{request.target}-{request.how}",
        "instance": "job",
        "partition": "keep",
        "delivery": "exactly_once",
        "commit_interval": _COMMIT_INTERVAL,
        "sequence": "off",
        "dead_letter_key": None,
    }
    if request.rate is not None:
        own["rate"] = request.rate
    known = _best(settings, request)
    if known is None:
        plain = {
            "name": JOB_NAME,
            "mode": "reencrypt",
            "how": request.how,
            "from": request.source,
            "to": request.target,
        }
        return PipelineSettings.model_validate(plain).model_copy(update=own)
    if known.mode == "encrypt":
        # Its failures are others, and its letters plaintext sealed.
        own |= {"on_failure": "halt", "dead_letter": None, "trusted_keys": None}
    return known.model_copy(update=own)


def _best(settings: Settings, request: ReencryptRequest) -> PipelineSettings | None:
    reading = [p for p in settings.pipelines if settings.spec(p).reads(request.source)]
    for mode in ("reencrypt", "decrypt"):
        for pipeline in reading:
            if pipeline.mode == mode:
                return pipeline
    for pipeline in settings.pipelines:
        spec = settings.spec(pipeline)
        if pipeline.mode == "encrypt" and any(spec.target_of(topic) == request.source for topic in pipeline.topics):
            return pipeline
    return None


def job_spec(pipeline: PipelineSettings, request: ReencryptRequest) -> PipelineSpec:
    """Give the job as the sidecar takes it."""
    return PipelineSpec(
        name=JOB_NAME,
        mode=Mode.REENCRYPT,
        group=pipeline.group,
        sources=(request.source,),
        target=request.target,
        commit_interval=_COMMIT_INTERVAL,
        on_failure=OnFailure(pipeline.on_failure),
        dead_letter=pipeline.dead_letter or "",
        rate=pipeline.rate,
        in_place=request.source == request.target,
    )

"""The commands and their arguments. A command's module is imported when it is called, so that ``--help`` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streamcrypt.cli.exits import reported

__all__ = ["app"]

# Plain text: rich would double the time that --help takes, and its tracebacks show local variables.
app = typer.Typer(
    name="streamcrypt",
    help="Envelope encryption for Kafka record values, with data keys from AWS KMS.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="The YAML file; STREAMCRYPT__… variables win over it.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"streamcrypt {version('streamcrypt')}")
        raise typer.Exit


@app.callback()
def _common(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def run(config: Config) -> None:
    """Encrypt or decrypt between topics until stopped by SIGTERM or SIGINT."""
    with reported():
        from streamcrypt.cli.run import run as run_sidecar

        raise SystemExit(run_sidecar(config))


@app.command()
def check(config: Config) -> None:
    """Say what is wrong with a configuration, and try its brokers, topics, key and port."""
    with reported():
        from streamcrypt.cli.check import check as check_config

        raise SystemExit(check_config(config))


@app.command()
def cutover(
    config: Config,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="A topic that a decrypting pipeline reads.")],
    at: Annotated[
        str | None,
        typer.Option(metavar="RFC3339", help="The first record at or after it must be sealed. Default: now, the end."),
    ] = None,
) -> None:
    """Print from which offsets on a topic must be sealed, for 'plaintext: {pass_until: …}'."""
    with reported():
        from streamcrypt.cli.cutover import cutover as print_cutover

        raise SystemExit(print_cutover(config, topic, at))


@app.command()
def replay(
    config: Config,
    dead_letters: Annotated[str, typer.Argument(metavar="DLQ", help="The dead-letter topic of one of its pipelines.")],
    reason: Annotated[
        str | None,
        typer.Option(metavar="R", help="Only letters of this error class, or whose reason contains this text."),
    ] = None,
    allow_stale: Annotated[
        bool, typer.Option("--allow-stale", help="Replay onto compacted topics, where older values replace newer ones.")
    ] = False,
) -> None:
    """Send dead letters back through their pipeline, exactly once, after the cause is gone."""
    with reported():
        from streamcrypt.cli.replay import replay as replay_letters

        raise SystemExit(replay_letters(config, dead_letters, reason, allow_stale=allow_stale))


@app.command()
def audit(
    config: Config,
    topics: Annotated[list[str] | None, typer.Argument(metavar="TOPIC", help="The topics to read.")] = None,
    form: Annotated[
        str, typer.Option("--format", metavar="table|json|html", help="How it is printed, to standard output.")
    ] = "table",
    safe_to_disable: Annotated[
        str | None,
        typer.Option(metavar="ARN", help="Ask whether a KEK may be disabled. Exit code: 0 yes, 1 no, 3 undetermined."),
    ] = None,
    sequence: Annotated[
        bool, typer.Option("--sequence", help="Count gaps, repeats and disorder by the numbers of the records, too.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="All topics that this login may see.")] = False,
    state: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep there how far it came; a run after an interruption goes on."),
    ] = None,
) -> None:
    """Say which KEKs the records of topics need, from their headers alone."""
    with reported():
        from streamcrypt.cli.audit import AuditRequest, choose_format
        from streamcrypt.cli.audit import audit as audit_topics

        request = AuditRequest(
            tuple(dict.fromkeys(topics or ())), everything, choose_format(form), safe_to_disable, sequence, state
        )
        raise SystemExit(audit_topics(config, request))


@app.command()
def demo(
    bootstrap: Annotated[
        str | None, typer.Option(metavar="SERVERS", help="Brokers to use. Default: a mock cluster in this process.")
    ] = None,
    kms_endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="KMS endpoint to use. Default: a local key, no KMS.")
    ] = None,
) -> None:
    """Show records on their way: sealed, rotated, opened, and one that was tampered with refused."""
    with reported():
        from streamcrypt.cli.demo import demo as show_demo

        raise SystemExit(show_demo(bootstrap, kms_endpoint))

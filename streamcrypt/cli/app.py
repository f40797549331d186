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
def run(
    config: Config,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would happen to the next records instead. Nothing is written.")
    ] = False,
    records: Annotated[
        int | None, typer.Option(metavar="N", help="With --dry-run: records of each pipeline. Default: 10.")
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", metavar="table|json", help="With --dry-run: how it is printed.")
    ] = None,
) -> None:
    """Encrypt or decrypt between topics until stopped by SIGTERM or SIGINT."""
    with reported():
        if dry_run:
            from streamcrypt.cli.dry_run import DryRunRequest
            from streamcrypt.cli.dry_run import dry_run as rehearse

            raise SystemExit(rehearse(config, DryRunRequest.read(records, form)))
        if records is not None or form is not None:
            from streamcrypt.errors import ConfigError

            raise ConfigError("--records and --format go with --dry-run")
        from streamcrypt.cli.run import run as run_sidecar

        raise SystemExit(run_sidecar(config))


@app.command()
def ctl(
    config: Config,
    command: Annotated[
        str, typer.Argument(metavar="pause|resume|rotate|status|reload", help="What the process is to do.")
    ],
    pipelines: Annotated[
        list[str] | None, typer.Argument(metavar="PIPELINE", help="These alone. Default: all.")
    ] = None,
    form: Annotated[
        str, typer.Option("--format", metavar="table|json", help="How it is printed, to standard output.")
    ] = "table",
    place: Annotated[
        Path | None, typer.Option("--socket", metavar="PATH", help="Its control socket, where CONFIG does not tell.")
    ] = None,
) -> None:
    """Steer a sidecar that runs: pause, resume, rotate data keys, show its status, read its configuration again."""
    with reported():
        from streamcrypt.cli.ctl import CtlRequest
        from streamcrypt.cli.ctl import ctl as steer

        raise SystemExit(steer(config, CtlRequest.read(command, pipelines or (), form, place)))


@app.command()
def check(config: Config) -> None:
    """Say what is wrong with a configuration, and try its brokers, topics, key and port."""
    with reported():
        from streamcrypt.cli.check import check as check_config

        raise SystemExit(check_config(config))


@app.command()
def doctor(
    config: Config,
    drill: Annotated[
        str | None,
        typer.Option(metavar="REGION", help="Prove instead that the topics open with this AWS region alone."),
    ] = None,
    form: Annotated[
        str, typer.Option("--format", metavar="table|json", help="How it is printed, to standard output.")
    ] = "table",
    topics: Annotated[
        list[str] | None,
        typer.Option("--topic", metavar="T", help="Look at this topic alone; may be given several times."),
    ] = None,
    drill_records: Annotated[
        int, typer.Option(metavar="N", help="Records of each partition that the drill opens at most.")
    ] = 100,
) -> None:
    """Look at keys, permissions, brokers, topics and this host, and say what to do. Nothing is written."""
    with reported():
        from streamcrypt.cli.doctor import DoctorRequest
        from streamcrypt.cli.doctor import doctor as diagnose

        raise SystemExit(diagnose(config, DoctorRequest.read(form, topics or (), drill, drill_records)))


keys = typer.Typer(help="Look at the KEKs of a configuration, and rotate them.", no_args_is_help=True)
app.add_typer(keys, name="keys")


@keys.command("list")
def list_keys(
    config: Config,
    form: Annotated[
        str, typer.Option("--format", metavar="table|json", help="How it is printed, to standard output.")
    ] = "table",
) -> None:
    """Print the KEKs of a configuration, their state, rotation and replicas."""
    with reported():
        from streamcrypt.cli.keys import list_keys as print_keys

        raise SystemExit(print_keys(config, form))


@keys.command("rotate")
def rotate_keys(
    config: Config,
    automatic: Annotated[bool, typer.Option("--automatic", help="Have KMS rotate by itself from now on.")] = False,
    period: Annotated[
        int | None, typer.Option(metavar="DAYS", help="With --automatic: how often, 90 to 2560. Default 365.")
    ] = None,
    now: Annotated[
        bool, typer.Option("--now", help="Rotate on demand, which a key can do 25 times in its life.")
    ] = False,
    key: Annotated[
        str | None, typer.Option(metavar="KEY", help="This KEK of the configuration alone, as it is named there.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nobody.")] = False,
) -> None:
    """Rotate the key material of the KEKs under which a configuration seals."""
    with reported():
        from streamcrypt.cli.keys import RotateRequest, rotate

        raise SystemExit(rotate(config, RotateRequest.read(automatic, now, period, key, yes), typer.confirm))


@app.command()
def cat(
    config: Config,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="The topic to read.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on behind the end, until Ctrl-C.")] = False,
    start: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="PLACE", help="earliest, latest, an offset, -N for the last N records, or RFC 3339."
        ),
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="PLACE", help="End before it. Default: the end as it is now.")
    ] = None,
    count: Annotated[int | None, typer.Option(metavar="N", help="The most records in all.")] = None,
    partitions: Annotated[
        list[int] | None, typer.Option("--partition", metavar="P", help="This one alone. May be given several times.")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", metavar="text|raw|json|avro", help="Default: text on a terminal, raw elsewhere."),
    ] = None,
    schemas: Annotated[
        list[str] | None,
        typer.Option("--schema", metavar="[ID=]FILE", help="With --format avro: the schema that values have."),
    ] = None,
    delimiter: Annotated[
        str, typer.Option(metavar="TEXT", help=r"Behind each raw value, such as \n, \0 or \x1e.")
    ] = r"\n",
    envelope: Annotated[bool, typer.Option("--envelope", help="Show what the envelopes say, too.")] = False,
    no_open: Annotated[bool, typer.Option("--no-open", help="Show envelopes alone: no call to KMS.")] = False,
    allow_plaintext: Annotated[
        bool, typer.Option("--allow-plaintext", help="Take records without an envelope where there should be one.")
    ] = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="End at the first record that fails.")] = False,
) -> None:
    """Print the records of a topic, opened. Exit code 1: some could not be opened."""
    with reported():
        import sys

        from streamcrypt.cli.cat import cat as print_records
        from streamcrypt.cli.cat_request import CatRequest

        request = CatRequest.read(
            topic,
            terminal=sys.stdout.isatty(),
            follow=follow,
            start=start,
            end=end,
            count=count,
            partitions=partitions or (),
            form=form,
            envelope=envelope,
            no_open=no_open,
            delimiter=delimiter,
            schemas=schemas or (),
            fail_fast=fail_fast,
            allow_plaintext=allow_plaintext,
        )
        raise SystemExit(print_records(config, request))


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
    receipt: Annotated[
        str | None,
        typer.Option(metavar="ARN", help="Write down what can no longer be read once that KEK is gone."),
    ] = None,
    fewer: Annotated[
        bool, typer.Option("--fewer", help="List records that miss one of the configured KEKs, for a later rewrap.")
    ] = False,
    materials: Annotated[
        bool, typer.Option("--materials", help="Unwrap each data key once to tell the KEK's key material.")
    ] = False,
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
            tuple(dict.fromkeys(topics or ())),
            everything,
            choose_format(form),
            safe_to_disable,
            sequence,
            state,
            receipt,
            fewer,
            materials,
        )
        raise SystemExit(audit_topics(config, request))


@app.command()
def policy(
    configs: Annotated[
        list[Path], typer.Argument(metavar="CONFIG…", help="One or more configurations; their needs are joined.")
    ],
    roles: Annotated[
        list[str] | None, typer.Option("--role", metavar="ROLE", help="Only this role. May be given several times.")
    ] = None,
    kind: Annotated[
        str, typer.Option(metavar="iam|key|both", help="Identity policies, key policies, or both.")
    ] = "both",
    form: Annotated[
        str, typer.Option("--format", metavar="json|terraform", help="How they are written; ACLs: see --acls.")
    ] = "",
    key: Annotated[str | None, typer.Option(metavar="ARN", help="The key policy of this key only.")] = None,
    key_arns: Annotated[
        list[str] | None,
        typer.Option(
            "--key-arn", metavar="NAME=ARN", help="What a key_id that is no ARN means, where AWS is not asked."
        ),
    ] = None,
    principals: Annotated[
        list[str] | None,
        typer.Option("--principal", metavar="ROLE=ARN", help="Who has a role, or is the keys' administrator."),
    ] = None,
    context_names: Annotated[
        list[str] | None,
        typer.Option(
            "--context-name", metavar="NAME", help="A name that the context of records to open may have besides."
        ),
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Make no call to AWS.")] = False,
    acls: Annotated[
        bool,
        typer.Option("--acls", help="Print the ACLs at the brokers instead, as table (default), commands or json."),
    ] = False,
    features: Annotated[
        list[str] | None,
        typer.Option("--for", metavar="FEATURE", help="With --acls: run, doctor, replay, read or reencrypt."),
    ] = None,
) -> None:
    """Print least-privilege IAM and key policies, or ACLs. Exit code 3: printed, but a value is not known."""
    with reported():
        if acls:
            from streamcrypt.cli.policy_acls import acls as print_acls

            raise SystemExit(print_acls(configs, features or (), form, principals or ()))
        from streamcrypt.cli.policy import policy as print_policy
        from streamcrypt.cli.policy import read_request

        request = read_request(roles, kind, form or "json", key, key_arns, principals, context_names, offline=offline)
        raise SystemExit(print_policy(configs, request))


@app.command()
def cost(
    config: Config,
    rate: Annotated[float, typer.Option(metavar="RECORDS/S", help="Over all topics.")] = 1000.0,
    size: Annotated[str, typer.Option(metavar="BYTES", help="Of a value, such as 1KiB.")] = "1KiB",
    topics: Annotated[int | None, typer.Option(help="Topics sealed. Default: as the pipelines name them.")] = None,
    partitions: Annotated[int, typer.Option(help="Of a topic.")] = 6,
    instances: Annotated[int, typer.Option(help="Containers that seal, each with the configured workers.")] = 1,
    readers: Annotated[int, typer.Option(help="Processes that open.")] = 1,
    tenants: Annotated[
        int | None, typer.Option(help="KEKs that a topic's records are spread over. Default: as mapped.")
    ] = None,
    retention: Annotated[str, typer.Option(metavar="DURATION", help="How long records are kept.")] = "7d",
    latency: Annotated[str, typer.Option(metavar="DURATION", help="Of a call to KMS.")] = "20ms",
    price: Annotated[float, typer.Option(metavar="USD", help="Of 10,000 requests.")] = 0.03,
    key_price: Annotated[float, typer.Option(metavar="USD", help="Of a key a month, and of a rotation.")] = 1.0,
    free: Annotated[int, typer.Option(metavar="REQUESTS", help="Requests a month that cost nothing.")] = 20_000,
    quota: Annotated[
        int | None, typer.Option(metavar="REQUESTS/S", help="Of each region. Default: AWS's default for the region.")
    ] = None,
    rotations: Annotated[int, typer.Option(help="How often each KEK was rotated.")] = 0,
    form: Annotated[str, typer.Option("--format", metavar="table|json", help="How it is printed.")] = "table",
    scale: Annotated[
        bool, typer.Option("--scale", help="Cores, workers, partitions, calls, money, 1,000 to 100,000,000/s.")
    ] = False,
) -> None:
    """Estimate calls to KMS, money, quota and bytes, and what a cold replay takes."""
    with reported():
        from streamcrypt.cli.cost import CostRequest
        from streamcrypt.cli.cost import cost as print_cost
        from streamcrypt.cost.prices import Prices
        from streamcrypt.keys.rotation import parse_duration, parse_size

        request = CostRequest(
            rate=rate,
            size=parse_size(size),
            topics=topics,
            partitions=partitions,
            instances=instances,
            readers=readers,
            tenants=tenants,
            retention=parse_duration(retention),
            latency=parse_duration(latency),
            prices=Prices(price, key_price, key_price, free),
            quota=quota,
            rotations=rotations,
            form=form,
        )
        if scale:
            from streamcrypt.cli.cost_scale import scale as print_scale

            raise SystemExit(print_scale(config, request))
        raise SystemExit(print_cost(config, request))


@app.command()
def reencrypt(
    config: Config,
    source: Annotated[str, typer.Option("--from", metavar="TOPIC", help="The topic to read.")],
    target: Annotated[str, typer.Option("--to", metavar="TOPIC", help="The topic to write.")],
    rewrap: Annotated[
        bool, typer.Option("--rewrap", help="Data keys go under the new KEK; values stay as they are.")
    ] = False,
    reseal: Annotated[bool, typer.Option("--reseal", help="Open and seal anew, under new data keys.")] = False,
    to_key: Annotated[
        str | None, typer.Option(metavar="ARN", help="The KEK to go to. Default: those of the configuration.")
    ] = None,
    rate: Annotated[str | None, typer.Option(metavar="N/s", help="The most records a second.")] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Rewrite a compacted topic onto itself: every writer is stopped.")
    ] = False,
    verify_only: Annotated[
        bool, typer.Option("--verify-only", help="Write nothing: compare both topics as they are.")
    ] = False,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="Log lines instead of a progress bar.")] = False,
) -> None:
    """Put the records of a topic under other KEKs, exactly once, and verify that they are."""
    with reported():
        from streamcrypt.cli.reencrypt import reencrypt as reencrypt_topic
        from streamcrypt.cli.reencrypt_request import ReencryptRequest, choose_way, read_rate

        how = choose_way(rewrap=rewrap, reseal=reseal)
        request = ReencryptRequest(
            source, target, how, to_key, read_rate(rate), in_place, verify_only, bar=not no_progress
        )
        raise SystemExit(reencrypt_topic(config, request))


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

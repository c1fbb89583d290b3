"""The commands. Each imports what it needs when it runs, so that `interlink --help` answers at once."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from shared.contracts.errors import InterlinkError, Misconfigured

_USAGE_ERROR: Final = 2
_FAILURE: Final = 1

app = typer.Typer(
    name="interlink",
    help="The integration hub of a chat platform.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
provider = typer.Typer(help="The providers' folders.", no_args_is_help=True)
app.add_typer(provider, name="provider")
dead_letters = typer.Typer(help="Records that no retry could help.", no_args_is_help=True)
app.add_typer(dead_letters, name="dead-letters")
keys = typer.Typer(help="The keys that secrets are sealed with.", no_args_is_help=True)
app.add_typer(keys, name="keys")


class ServiceName(StrEnum):
    """The services, by the name of their folder."""

    GATEWAY = "gateway"
    DELIVERY = "delivery"
    SYNC = "sync"
    OAUTH = "oauth"


class SchemeName(StrEnum):
    """The ways of signing that a new provider's folder can begin with."""

    HMAC = "hmac"
    TOKEN = "token"  # noqa: S105 -- a word
    BASIC = "basic"
    ED25519 = "ed25519"
    JWT = "jwt"


ProviderName = Annotated[str, typer.Argument(metavar="ID", help="The provider.")]
DataDir = Annotated[
    Path,
    typer.Option(
        "--data-dir", envvar="INTERLINK_DATA_DIR", help="Data, keys and logs of the embedded default."
    ),
]
FromTopic = Annotated[str | None, typer.Option("--topic", help="Only those that came from this topic.")]
ForReason = Annotated[str | None, typer.Option("--reason", help="Only these: malformed or failed.")]
Workspace = Annotated[str, typer.Option(help="The workspace that it is about.")]
_DATA_DIR: Final = Path(".interlink")


@contextmanager
def _report_errors() -> Iterator[None]:
    """What goes wrong on purpose is one line on standard error and status 2, never a traceback."""
    try:
        yield
    except InterlinkError as error:
        typer.echo(f"interlink: {error}", err=True)
        raise typer.Exit(_USAGE_ERROR) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415

        typer.echo(f"interlink {version('interlink')}")
        raise typer.Exit


@app.callback()
def main(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """The integration hub of a chat platform: webhooks in, signed webhooks out, on Kafka and MongoDB."""


@app.command()
def up(
    port: Annotated[
        int,
        typer.Option(
            min=1, max=65525, help="The hub's port; the next three and the one ten above are used too."
        ),
    ] = 8080,
    data_dir: DataDir = _DATA_DIR,
    minichat: Annotated[bool, typer.Option(help="Start the example chat page too.")] = True,
) -> None:
    """Run the whole hub on this machine until Ctrl-C.

    It brings its own broker and store unless KAFKA_BOOTSTRAP_SERVERS or MONGODB_URI are set.
    """
    from interlink.topology import Plan  # noqa: PLC0415
    from interlink.up import run  # noqa: PLC0415

    with _report_errors():
        raise typer.Exit(run(Plan(port, data_dir, minichat, tuple(name.value for name in ServiceName))))


@app.command()
def serve(service: ServiceName) -> None:
    """Run one service in this process; it is set up by environment variables only."""
    import gc  # noqa: PLC0415
    import importlib  # noqa: PLC0415

    with _report_errors():
        gc.disable()  # nothing that is imported goes away: to look for it is an eighth of the start
        build = importlib.import_module(f"services.{service.value}.app").build
        from shared.runtime.service import run  # noqa: PLC0415

        gc.freeze()
        gc.enable()
        run(service.value, build)


@app.command()
def settings() -> None:
    """Print every environment variable that services read, as docs/settings.md has it."""
    from interlink.settings import render_page  # noqa: PLC0415

    typer.echo(render_page([name.value for name in ServiceName]), nl=False)


@app.command()
def init(
    workspace: Workspace = "default",
    key_file: Annotated[
        Path | None,
        typer.Option(help="Keep the admin key in this file (mode 0600) instead of printing it."),
    ] = None,
    data_dir: DataDir = _DATA_DIR,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say only what is not as expected.")] = False,
) -> None:
    """Create topics and indexes, and the workspace's first admin key. It can be repeated at any time.

    The key is the one in INTERLINK_BOOTSTRAP_ADMIN_KEY, else a new one, which is printed this once.
    """
    import asyncio  # noqa: PLC0415

    from interlink.datadir import join_running  # noqa: PLC0415
    from interlink.prepare import prepare  # noqa: PLC0415

    with _report_errors():
        join_running(data_dir)
        done = asyncio.run(prepare(list(ServiceName), workspace, key_file))
    if not quiet:
        created = ", ".join(done.topics)
        typer.echo(f"topics: {f'created {created}' if created else 'all there'}; indexes: all there")
    for note in done.notes:
        typer.echo(note)
    if done.new_key:
        typer.echo(f"admin key of workspace {workspace!r}, shown this once: {done.new_key}")


@app.command()
def doctor(data_dir: DataDir = _DATA_DIR) -> None:
    """Check the settings, the bus, the store and the clock, and say what to do; status 1 when one fails."""
    import asyncio  # noqa: PLC0415

    from interlink.doctor import print_findings, run_checks  # noqa: PLC0415

    findings = asyncio.run(run_checks(data_dir, list(ServiceName)))
    print_findings(findings)
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(_FAILURE)


@app.command()
def send(
    type_: Annotated[str, typer.Argument(metavar="TYPE", help="A fact in the past tense: message.created.")],
    data: Annotated[str, typer.Option(help="JSON; @file reads a file, - reads standard input.")] = "{}",
    subject: Annotated[str, typer.Option(help="The channel or thing that it is about; keeps order.")] = "",
    source: Annotated[str, typer.Option(help="Who says so, a URI.")] = "/interlink/cli",
    workspace: Workspace = "default",
    topic: Annotated[str, typer.Option(help="The topic.")] = "chat.events",
    data_dir: DataDir = _DATA_DIR,
) -> None:
    """Publish a test event and print its id."""
    import asyncio  # noqa: PLC0415

    from interlink.datadir import join_running  # noqa: PLC0415
    from interlink.send import new_event, publish, read_data  # noqa: PLC0415

    with _report_errors():
        join_running(data_dir)
        event = new_event(type_, read_data(data), subject=subject, source=source, workspace=workspace)
        asyncio.run(publish(topic, event))
    typer.echo(event.id)


@provider.command("new")
def new_provider(
    id_: Annotated[str, typer.Argument(metavar="ID", help="The folder's name: a to z, 0 to 9, _ and -.")],
    name: Annotated[str, typer.Option(help="What the platform is called.")] = "",
    scheme: Annotated[SchemeName, typer.Option(help="How it signs.")] = SchemeName.HMAC,
) -> None:
    """Make the folder of a new provider. It passes the check as it is, and says what to replace."""
    from interlink.provider import new, provider_folder  # noqa: PLC0415

    with _report_errors():
        made = new.create(provider_folder.PROVIDERS_ROOT, id_, name, scheme.value)
    typer.echo(f"{made}: replace what manifest.yaml says; CONTRIBUTING.md has the steps")


@provider.command()
def check(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="All by default.")] = None,
) -> None:
    """Check manifests, fixtures and documents of providers; status 1 when something is wrong."""
    from interlink.provider.checker import check as faults_of  # noqa: PLC0415
    from interlink.provider.provider_folder import find_folders  # noqa: PLC0415

    with _report_errors():
        chosen = find_folders(ids or [])
        faults = [fault for provider_folder in chosen for fault in faults_of(provider_folder)]
    for fault in faults:
        typer.echo(fault)
    if faults:
        raise typer.Exit(_FAILURE)
    typer.echo(f"{len(chosen)} provider{'' if len(chosen) == 1 else 's'} checked, nothing to complain about")


@provider.command("test")
def run_fixtures(
    id_: ProviderName,
    write: Annotated[
        bool, typer.Option("--write", help="Write expected.json where it is missing or differs.")
    ] = False,
) -> None:
    """Run the fixtures of a provider, a line each; status 1 when one is not as expected.

    A line says how the fixture was verified in each way that it was signed in, its events with their
    triggers, and the first line of the message.
    """
    from interlink.provider.provider_folder import load_provider  # noqa: PLC0415
    from interlink.provider.run_fixtures import run  # noqa: PLC0415

    with _report_errors():
        provider_folder, known = load_provider(id_)
        outcomes = list(run(provider_folder, known, write=write))
    if not outcomes:
        if known.definition:
            typer.echo(f"{id_} has no fixtures: CONTRIBUTING.md says how to add one")
            raise typer.Exit(_FAILURE)
        typer.echo(f"{id_} has no webhooks, and so no fixtures")
        return
    width = max((len(outcome.name) for outcome in outcomes), default=0)
    for outcome in outcomes:
        for line in outcome.lines(width):
            typer.echo(line)
    wrong = sum(1 for outcome in outcomes if outcome.faults)
    counted = f"{len(outcomes)} fixture{'' if len(outcomes) == 1 else 's'}"
    typer.echo(f"{counted}, {f'{wrong} wrong' if wrong else 'all as expected'}")
    if wrong:
        raise typer.Exit(_FAILURE)


@provider.command("sign")
def sign_request(
    id_: ProviderName,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The body, or the folder of a fixture.")],
    secret: Annotated[
        str | None,
        typer.Option(
            envvar="INTERLINK_SECRET",
            help="The endpoint's secret, or @file; for key pairs the private key (PEM). Made if not given.",
        ),
    ] = None,
    event: Annotated[str, typer.Option(help="The event, where a header or the query says it.")] = "",
    header: Annotated[list[str] | None, typer.Option("--header", "-H", help="name: value")] = None,
    setting: Annotated[list[str] | None, typer.Option(help="A setting of the endpoint: name=value")] = None,
    query: Annotated[str, typer.Option(help="The query string.")] = "",
    url: Annotated[str, typer.Option(help="The endpoint's address, as the platform knows it.")] = "",
    way: Annotated[str, typer.Option(help="The way of signing: its name, or its number from 0.")] = "",
    method: Annotated[str, typer.Option(help="The method; the provider's first by default.")] = "",
    http: Annotated[bool, typer.Option("--http", help="Print the raw request instead of a command.")] = False,
) -> None:
    """Print a request signed as the platform signs it: a curl command that a shell takes as it is."""
    import time  # noqa: PLC0415

    from interlink.provider import sign  # noqa: PLC0415
    from interlink.provider.provider_folder import load_provider  # noqa: PLC0415

    with _report_errors():
        if secret is None and os.environ.get("INTERLINK_SECRET") == "":
            secret = ""  # which typer takes for one that is not there
        if secret == "":
            raise Misconfigured("--secret, or INTERLINK_SECRET: it is empty: leave it out to have one made")
        wanted = sign.SignOptions(
            file, secret or "", event, header or (), setting or (), query, url, way, method
        )
        signed = sign.sign(load_provider(id_)[1], wanted, time.time())
    for note in signed.notes:
        typer.echo(note, err=True)
    typer.echo(sign.http(signed) if http else sign.curl(signed), nl=not http)


@provider.command("docs")
def write_docs(
    check_only: Annotated[
        bool, typer.Option("--check", help="Write nothing; status 1 when a page is not what it would be.")
    ] = False,
    folder: Annotated[
        Path | None, typer.Option(help="Where the pages are; docs/providers of the project by default.")
    ] = None,
) -> None:
    """Make the pages of the providers from their manifests."""
    from interlink.provider import pages  # noqa: PLC0415
    from interlink.provider.provider_folder import load_all, pages_folder  # noqa: PLC0415

    with _report_errors():
        there = folder or pages_folder()
        made = pages.pages(*load_all())
        if not check_only:
            typer.echo(f"{len(made)} pages in {there}, {pages.write(there, made)} of them changed")
            return
        stale = pages.stale(there, made)
    for line in stale:
        typer.echo(line)
    if stale:
        typer.echo("interlink: run 'interlink provider docs'", err=True)
        raise typer.Exit(_FAILURE)
    typer.echo(f"{len(made)} pages, all current")


@dead_letters.command("list")
def list_dead_letters(
    topic: FromTopic = None,
    reason: ForReason = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The newest, so many.")] = 50,
    data_dir: DataDir = _DATA_DIR,
) -> None:
    """Show what is on `dead.letters`: number, time, reason, origin, consumer group, event, error."""
    import asyncio  # noqa: PLC0415

    from interlink.datadir import join_running  # noqa: PLC0415
    from interlink.dead_letters import DeadLetterFilter, list_newest  # noqa: PLC0415

    with _report_errors():
        join_running(data_dir)
        lines = asyncio.run(list_newest(DeadLetterFilter(topic, reason), limit))
    for line in lines:
        typer.echo(line)
    if not lines:
        typer.echo("no dead letters", err=True)


@dead_letters.command("replay")
def replay_dead_letters(
    topic: FromTopic = None,
    reason: ForReason = None,
    offset: Annotated[
        list[int] | None, typer.Option(min=0, help="This one, by its number in the list; repeatable.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every one that is there.")] = False,
    data_dir: DataDir = _DATA_DIR,
) -> None:
    """Put dead letters back on the topic they came from; status 1 when one of them could not be.

    They stay on `dead.letters` until they expire. Repeating it is harmless: ids are the same.
    """
    import asyncio  # noqa: PLC0415

    from interlink.datadir import join_running  # noqa: PLC0415
    from interlink.dead_letters import DeadLetterFilter, replay  # noqa: PLC0415

    counts = {"replayed": 0, "skipped": 0}

    async def put_back() -> None:
        async for said in replay(DeadLetterFilter(topic, reason, frozenset(offset or ()))):
            counts[said.outcome] += 1
            typer.echo(f"{said.letter.offset}  {said.outcome}: {said.detail}")

    with _report_errors():
        if everything == bool(topic or reason or offset):
            typer.echo("interlink: say which: --topic, --reason, --offset, or --all alone", err=True)
            raise typer.Exit(_USAGE_ERROR)
        join_running(data_dir)
        asyncio.run(put_back())
    missing = len(set(offset or ())) - sum(counts.values())
    if missing > 0:
        typer.echo(f"interlink: {missing} of these are not there, or are none of those asked for", err=True)
    typer.echo(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    if counts["skipped"] or missing > 0:
        raise typer.Exit(_FAILURE)


@keys.command("status")
def keys_status(data_dir: DataDir = _DATA_DIR) -> None:
    """Count what is sealed with each key; status 1 when one of the keys is not there."""
    import asyncio  # noqa: PLC0415

    from interlink.datadir import join_running  # noqa: PLC0415
    from interlink.keys import status  # noqa: PLC0415

    with _report_errors():
        join_running(data_dir, needs_it=True)
        complete = asyncio.run(status(list(ServiceName), _print_line))
    if not complete:
        raise typer.Exit(_FAILURE)


@keys.command("rotate")
def keys_rotate(data_dir: DataDir = _DATA_DIR) -> None:
    """Bring everything sealed under the first key, while services run; status 1 when something is left.

    The keys are those of INTERLINK_ENCRYPTION_KEY or INTERLINK_ENCRYPTION_KEY_FILE, as the services have
    them. It can be stopped and repeated at any time.
    """
    import asyncio  # noqa: PLC0415

    from interlink.datadir import join_running  # noqa: PLC0415
    from interlink.keys import rotate  # noqa: PLC0415

    with _report_errors():
        join_running(data_dir, needs_it=True)
        complete = asyncio.run(rotate(list(ServiceName), _print_line))
    if not complete:
        raise typer.Exit(_FAILURE)


def _print_line(line: str, *, wrong: bool = False) -> None:
    """Print a line at once, without what would move a terminal's cursor."""
    typer.echo("".join(char if char.isprintable() else "?" for char in line), err=wrong)


if __name__ == "__main__":
    sys.exit(app())

"""The commands. Each imports what it needs when it runs, so that `interlink --help` answers at once."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from shared.contracts.errors import InterlinkError

_WRONG: Final = 2
_FAILED: Final = 1

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


class ServiceName(StrEnum):
    """The services, by the name of their folder."""

    GATEWAY = "gateway"
    DELIVERY = "delivery"
    SYNC = "sync"


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
def _one_line() -> Iterator[None]:
    """What goes wrong on purpose is one line on standard error and status 2, never a traceback."""
    try:
        yield
    except InterlinkError as error:
        typer.echo(f"interlink: {error}", err=True)
        raise typer.Exit(_WRONG) from None
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
            min=1, max=65525, help="The hub's port; the next two and the one ten above are used too."
        ),
    ] = 8080,
    data_dir: DataDir = _DATA_DIR,
    minichat: Annotated[bool, typer.Option(help="Start the example chat page too.")] = True,
) -> None:
    """Run the whole hub on this machine until Ctrl-C.

    It brings its own broker and store unless KAFKA_BOOTSTRAP_SERVERS or MONGODB_URI are set.
    """
    from interlink.layout import Plan  # noqa: PLC0415
    from interlink.up import run  # noqa: PLC0415

    with _one_line():
        raise typer.Exit(run(Plan(port, data_dir, minichat, tuple(name.value for name in ServiceName))))


@app.command()
def serve(service: ServiceName) -> None:
    """Run one service in this process; it is set up by environment variables only."""
    import importlib  # noqa: PLC0415

    with _one_line():
        build = importlib.import_module(f"services.{service.value}.app").build
        from shared.runtime.service import run  # noqa: PLC0415

        run(service.value, build)


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

    with _one_line():
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

    from interlink.doctor import examine, table  # noqa: PLC0415

    findings = asyncio.run(examine(data_dir, list(ServiceName)))
    table(findings)
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(_FAILED)


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

    with _one_line():
        join_running(data_dir)
        event = new_event(type_, read_data(data), subject=subject, source=source, workspace=workspace)
        asyncio.run(publish(topic, event))
    typer.echo(event.id)


@provider.command()
def check(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="All by default.")] = None,
) -> None:
    """Check manifests, fixtures and documents of providers; status 1 when something is wrong."""
    from shared.catalog.checker import check as faults_of  # noqa: PLC0415
    from shared.catalog.registry import folders  # noqa: PLC0415

    with _one_line():
        known = {folder.name: folder for folder in folders()}
        unknown = sorted(set(ids or ()) - known.keys())
        if unknown:
            typer.echo(f"interlink: no such provider: {', '.join(unknown)}", err=True)
            raise typer.Exit(_WRONG)
        chosen = [known[name] for name in sorted(ids or known)]
        faults = [fault for folder in chosen for fault in faults_of(Path(str(folder)))]
    for fault in faults:
        typer.echo(fault)
    if faults:
        raise typer.Exit(_FAILED)
    typer.echo(f"{len(chosen)} provider{'' if len(chosen) == 1 else 's'} checked, nothing to complain about")


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
    from interlink.dead_letters import Wanted, newest  # noqa: PLC0415

    with _one_line():
        join_running(data_dir)
        lines = asyncio.run(newest(Wanted(topic, reason), limit))
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
    from interlink.dead_letters import Wanted, replay  # noqa: PLC0415

    counts = {"replayed": 0, "skipped": 0}

    async def put_back() -> None:
        async for said in replay(Wanted(topic, reason, frozenset(offset or ()))):
            counts[said.outcome] += 1
            typer.echo(f"{said.letter.offset}  {said.outcome}: {said.detail}")

    with _one_line():
        if everything == bool(topic or reason or offset):
            typer.echo("interlink: say which: --topic, --reason, --offset, or --all alone", err=True)
            raise typer.Exit(_WRONG)
        join_running(data_dir)
        asyncio.run(put_back())
    missing = len(set(offset or ())) - sum(counts.values())
    if missing > 0:
        typer.echo(f"interlink: {missing} of these are not there, or are none of those asked for", err=True)
    typer.echo(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    if counts["skipped"] or missing > 0:
        raise typer.Exit(_FAILED)


if __name__ == "__main__":
    sys.exit(app())

"""The command `interlink`. Each subcommand imports what it needs when it runs, so that `--help` is quick."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from interlink.commands import dead_letters, imports, keys, provider, sync
from interlink.commands.common import DEFAULT_DATA_DIR, DataDir, ServiceName
from interlink.exits import FAILURE, report_errors

app = typer.Typer(
    name="interlink",
    help="The integration hub of a chat platform.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(provider.app, name="provider")
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(keys.app, name="keys")
app.add_typer(sync.app, name="sync")
app.add_typer(imports.app, name="import")

Workspace = Annotated[str, typer.Option(help="The workspace's id.")]


def _print_version(requested: bool) -> None:
    if requested:
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
    """Run the integration hub of a chat platform: webhooks in, signed webhooks out, on Kafka and MongoDB."""


@app.command()
def up(
    port: Annotated[
        int,
        typer.Option(
            min=1,
            max=65525,
            help="The hub's port. Ten above is the chat page's; other services take free ports.",
        ),
    ] = 8080,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    minichat: Annotated[bool, typer.Option(help="Start the example chat page too.")] = True,
) -> None:
    """Run the whole hub on this machine until Ctrl-C.

    An embedded broker and database are started unless KAFKA_BOOTSTRAP_SERVERS or MONGODB_URI are set.
    """
    import os  # noqa: PLC0415

    # The same process goes on as another program: what a command line imports is a third of its memory.
    page = "--minichat" if minichat else "--no-minichat"
    program = (sys.executable, "-P", "-m", "interlink.up")
    os.execv(sys.executable, [*program, str(port), str(data_dir), page, *ServiceName])  # noqa: S606 -- ours


@app.command()
def serve(
    service: ServiceName,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="The number of processes that serve together on its port.")
    ] = 1,
) -> None:
    """Run one service. Environment variables configure it."""
    import gc  # noqa: PLC0415
    import importlib  # noqa: PLC0415

    with report_errors():
        # Imported modules are never freed: collecting during the imports costs an eighth of the start.
        gc.disable()
        build = importlib.import_module(f"services.{service.value}.app").build
        from shared.runtime.service import run  # noqa: PLC0415

        gc.freeze()
        gc.enable()
        worker = None
        if workers > 1:
            from shared.runtime.workers.fork import fork_workers  # noqa: PLC0415

            worker = fork_workers(service.value, workers)
        run(service.value, build, worker=worker)


@app.command()
def settings() -> None:
    """Print every environment variable that services read, as in docs/settings.md."""
    from interlink.settings import render_page  # noqa: PLC0415

    typer.echo(render_page([name.value for name in ServiceName]), nl=False)


@app.command()
def init(
    workspace: Workspace = "default",
    key_file: Annotated[
        Path | None,
        typer.Option(help="Write the admin key to this file (mode 0600) instead of printing it."),
    ] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    keep_retired: Annotated[
        bool,
        typer.Option(
            "--keep-retired-indexes",
            help="Leave indexes that only earlier releases use: for an upgrade that may be rolled back.",
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only what is unexpected.")] = False,
) -> None:
    """Create topics and indexes, and the workspace's first admin key. It can be repeated at any time.

    The key is the one in INTERLINK_BOOTSTRAP_ADMIN_KEY, or in the file INTERLINK_BOOTSTRAP_ADMIN_KEY_FILE,
    else a new one, which is printed only this time.
    """
    import asyncio  # noqa: PLC0415

    from interlink.datadir import join_running  # noqa: PLC0415
    from interlink.prepare import prepare  # noqa: PLC0415

    with report_errors():
        join_running(data_dir)
        result = asyncio.run(prepare(list(ServiceName), workspace, key_file, keep_retired=keep_retired))
    if not quiet:
        created = ", ".join(result.topics)
        typer.echo(f"topics: {f'created {created}' if created else 'all exist'}; indexes: all exist")
    for note in result.notes:
        typer.echo(note)
    if result.new_key:
        typer.echo(f"admin key of workspace {workspace!r}, shown only this time: {result.new_key}")


@app.command()
def doctor(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Check settings, Kafka, MongoDB and clock, and say what to do; status 1 if a check fails."""
    import asyncio  # noqa: PLC0415

    from interlink.doctor import print_findings, run_checks  # noqa: PLC0415

    findings = asyncio.run(run_checks(data_dir, list(ServiceName)))
    print_findings(findings)
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(FAILURE)


@app.command()
def send(
    type_: Annotated[
        str, typer.Argument(metavar="TYPE", help="The event type, in the past tense: message.created.")
    ],
    data: Annotated[
        str, typer.Option(help="The event's data as JSON; @file reads a file, - reads standard input.")
    ] = "{}",
    subject: Annotated[
        str, typer.Option(help="The channel or thing that the event is about; its events stay in order.")
    ] = "",
    source: Annotated[str, typer.Option(help="The event's source, a URI.")] = "/interlink/cli",
    workspace: Workspace = "default",
    topic: Annotated[str, typer.Option(help="The topic.")] = "chat.events",
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Publish a test event and print its id."""
    import asyncio  # noqa: PLC0415

    from interlink.datadir import join_running  # noqa: PLC0415
    from interlink.send import new_event, publish, read_data  # noqa: PLC0415

    with report_errors():
        join_running(data_dir)
        event = new_event(type_, read_data(data), subject=subject, source=source, workspace=workspace)
        asyncio.run(publish(topic, event))
    typer.echo(event.id)


if __name__ == "__main__":
    sys.exit(app())

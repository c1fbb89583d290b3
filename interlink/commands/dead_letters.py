"""`interlink dead-letters`: the commands for records that could not be processed."""

from typing import Annotated

import typer

from interlink.commands.common import DEFAULT_DATA_DIR, DataDir
from interlink.exits import FAILURE, USAGE_ERROR, report_errors

app = typer.Typer(help="Records that could not be processed.", no_args_is_help=True)

FromTopic = Annotated[str | None, typer.Option("--topic", help="Only records of this topic.")]
ForReason = Annotated[
    str | None,
    typer.Option("--reason", help="Only records with this reason: malformed, over_limit or failed."),
]


@app.command("list")
def list_dead_letters(
    topic: FromTopic = None,
    reason: ForReason = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many to show: the newest ones.")] = 50,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show what is on `dead.letters`: number, time, reason, origin, consumer group, event, error."""
    import asyncio  # noqa: PLC0415

    from interlink.datadir import join_running  # noqa: PLC0415
    from interlink.dead_letters import DeadLetterFilter, list_newest  # noqa: PLC0415

    with report_errors():
        join_running(data_dir)
        lines = asyncio.run(list_newest(DeadLetterFilter(topic, reason), limit))
    for line in lines:
        typer.echo(line)
    if not lines:
        typer.echo("no dead letters", err=True)


@app.command("replay")
def replay_dead_letters(
    topic: FromTopic = None,
    reason: ForReason = None,
    offset: Annotated[
        list[int] | None,
        typer.Option(min=0, help="Only the record with this number in the list; repeatable."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every dead letter.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Publish dead letters again on the topics they came from; status 1 if one could not be published.

    They stay on `dead.letters` until they expire. The command can be repeated: event ids stay the same.
    """
    import asyncio  # noqa: PLC0415

    from interlink.datadir import join_running  # noqa: PLC0415
    from interlink.dead_letters import DeadLetterFilter, replay  # noqa: PLC0415

    counts = {"replayed": 0, "skipped": 0}

    async def replay_matching() -> None:
        async for result in replay(DeadLetterFilter(topic, reason, frozenset(offset or ()))):
            counts[result.outcome] += 1
            typer.echo(f"{result.letter.offset}  {result.outcome}: {result.detail}")

    with report_errors():
        # Everything is replayed only on request; a filter with --all would contradict it.
        if everything == bool(topic or reason or offset):
            typer.echo(
                "interlink: choose dead letters with --topic, --reason or --offset, or give --all alone",
                err=True,
            )
            raise typer.Exit(USAGE_ERROR)
        join_running(data_dir)
        asyncio.run(replay_matching())
    missing = len(set(offset or ())) - sum(counts.values())
    if missing > 0:
        typer.echo(f"interlink: {missing} of these numbers do not exist or do not match the filter", err=True)
    typer.echo(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    if counts["skipped"] or missing > 0:
        raise typer.Exit(FAILURE)

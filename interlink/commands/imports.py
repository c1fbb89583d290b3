"""`interlink import`: the commands for imports of history."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperGroup

from interlink.commands.common import DEFAULT_DATA_DIR, DataDir, print_line
from interlink.commands.hub_calls import Url, with_hub
from interlink.exits import FAILURE, INTERRUPTED, report_errors

if TYPE_CHECKING:
    from interlink.hub_api import HubApi
    from interlink.imports.run import View

_DEFAULT: Final = "run"


class _DefaultCommand(TyperGroup):
    """`interlink import FILE` is `interlink import run FILE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, "--help"}:
            args.insert(0, _DEFAULT)
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_DefaultCommand,
    subcommand_metavar="FILE | COMMAND [ARGS]...",
    help="Bring the history of another chat in: 'interlink import FILE' uploads an export, shows what it "
    "has, and imports it. The API key is that of INTERLINK_API_KEY, else the admin key of the data folder.",
    no_args_is_help=True,
)

ImportId = Annotated[str, typer.Argument(metavar="IMPORT", help="The import's id.")]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Publish nothing: count, and show messages as the chat would get them."),
]
Channel = Annotated[
    list[str] | None,
    typer.Option(help="Import only this conversation of the export, by name or id; repeatable."),
]
Since = Annotated[
    str | None, typer.Option(metavar="DATE", help="Import messages from this day (2024-11-05) or time on.")
]
Until = Annotated[str | None, typer.Option(metavar="DATE", help="Import messages before this day or time.")]
Answer = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ID=VALUE", help="The answer to a question that the export leaves open; repeatable."
    ),
]
PlanFile = Annotated[
    Path | None,
    typer.Option(
        "--plan", help="A plan as JSON, as 'interlink import plan' prints it; other options change it."
    ),
]
Report = Annotated[
    Path | None,
    typer.Option(help="Write the report to this file at the end: .csv, .html, or else JSON."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON, and all else on standard error.")
]


@app.command(_DEFAULT)
def run(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="The export: a ZIP archive, a file, or a folder.")
    ] = None,
    account: Annotated[
        str | None, typer.Option(help="Import from this connected account instead: its id, int_...")
    ] = None,
    daily: Annotated[
        bool,
        typer.Option("--daily", help="Import what is new of the account each day, until it is cancelled."),
    ] = False,
    dry_run: DryRun = False,
    channel: Channel = None,
    since: Since = None,
    until: Until = None,
    answer: Answer = None,
    plan: PlanFile = None,
    report: Report = None,
    yes: Yes = False,
    json: AsJson = False,
    url: Url = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Upload an export, show what it has, ask, import it and wait; 'run' may be left out.

    An upload that was interrupted goes on when the same command is started again. Ctrl-C does not stop an
    import that was started. Status 1 if it was not completed.
    """
    from interlink.imports.run import ImportRequest, run_import  # noqa: PLC0415
    from shared.contracts.errors import Misconfigured  # noqa: PLC0415

    with report_errors():
        source = file or account
        if source is None or (file and account):
            raise Misconfigured("name the file of an export, or an account with --account")
        if daily and account is None:
            raise Misconfigured("--daily: only an account has something new each day: add --account")
        request = ImportRequest(source, daily, _options(plan, channel, since, until, answer), dry_run)
    _carry_out(
        lambda api, view: run_import(api, request, view),
        *(data_dir, url),
        expected="ready" if dry_run else "completed",
        yes=yes,
        json=json,
        report=report,
    )


@app.command("start")
def start(
    import_id: ImportId,
    dry_run: DryRun = False,
    channel: Channel = None,
    since: Since = None,
    until: Until = None,
    answer: Answer = None,
    plan: PlanFile = None,
    report: Report = None,
    yes: Yes = False,
    json: AsJson = False,
    url: Url = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Start an import that is ready, for example after a dry run, and wait."""
    from interlink.imports.run import path_of, plan_and_start  # noqa: PLC0415

    with report_errors():
        options = _options(plan, channel, since, until, answer)

    async def act(api: "HubApi", view: "View") -> Any:
        found = await api.call("GET", path_of(import_id))
        return await plan_and_start(api, found, options, view, dry_run=dry_run)

    _carry_out(
        act,
        *(data_dir, url),
        expected="ready" if dry_run else "completed",
        yes=yes,
        json=json,
        report=report,
    )


@app.command("undo")
def undo(
    import_id: ImportId,
    keep_answered: Annotated[
        bool, typer.Option("--keep-answered", help="Keep messages that somebody has answered since.")
    ] = False,
    keep_shared: Annotated[
        bool,
        typer.Option(
            "--keep-shared",
            help="Keep messages that other imports have found, too: they belong to these then.",
        ),
    ] = False,
    yes: Yes = False,
    json: AsJson = False,
    url: Url = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Remove the messages that an import added, and nothing else; it asks first."""
    from interlink.imports.run import undo as undo_import  # noqa: PLC0415

    _carry_out(
        lambda api, view: undo_import(
            api, import_id, view, keep_answered=keep_answered, keep_shared=keep_shared
        ),
        *(data_dir, url),
        expected="undone",
        yes=yes,
        json=json,
    )


@app.command("list")
def list_imports(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many to show: the newest ones.")] = 20,
    json: AsJson = False,
    url: Url = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show imports with their states."""
    from interlink.imports.texts import import_line  # noqa: PLC0415

    with report_errors():
        found = with_hub(data_dir, url, lambda api: api.items("/api/imports", limit, {}))
    if json:
        _print_json(found)
        return
    for item in found:
        print_line(import_line(item))
    if not found:
        print_line("no imports: interlink import FILE", wrong=True)


@app.command("show")
def show(
    import_id: ImportId,
    follow: Annotated[bool, typer.Option("--follow", help="Wait while the hub works on it.")] = False,
    json: AsJson = False,
    url: Url = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show how far an import is, and what it has counted."""
    from interlink.imports.run import follow as follow_import  # noqa: PLC0415
    from interlink.imports.run import path_of  # noqa: PLC0415
    from interlink.imports.texts import state_lines  # noqa: PLC0415

    async def act(api: "HubApi", view: "View") -> Any:
        view.on_interrupt = "It goes on."
        found = await (follow_import(api, import_id, view) if follow else api.call("GET", path_of(import_id)))
        for line in state_lines(found):
            view.line(line)
        return found

    _carry_out(act, data_dir, url, yes=True, json=json)


@app.command("plan")
def print_plan(import_id: ImportId, url: Url = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Print the plan of an import, for --plan of this or another one."""
    _print_json(_call("GET", import_id, "/plan", data_dir, url))


@app.command("pause")
def pause(import_id: ImportId, url: Url = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Pause an import."""
    _show(_call("POST", import_id, "/pause", data_dir, url))


@app.command("resume")
def resume(import_id: ImportId, url: Url = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Go on with a paused import."""
    _show(_call("POST", import_id, "/resume", data_dir, url))


@app.command("cancel")
def cancel(import_id: ImportId, url: Url = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """End an import. What it has imported stays in the chat until it is undone."""
    _show(_call("POST", import_id, "/cancel", data_dir, url))


@app.command("issues")
def issues(
    import_id: ImportId,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many to show.")] = 50,
    json: AsJson = False,
    url: Url = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show the records that could not be imported, with place and reason."""
    from interlink.imports.run import path_of  # noqa: PLC0415
    from interlink.imports.texts import issue_lines  # noqa: PLC0415

    with report_errors():
        found = with_hub(data_dir, url, lambda api: api.items(path_of(import_id, "/issues"), limit, {}))
    if json:
        _print_json(found)
        return
    for line in issue_lines(found):
        print_line(line)
    if not found:
        print_line("no issues", wrong=True)


@app.command("report")
def print_report(
    import_id: ImportId,
    format_: Annotated[str, typer.Option("--format", help="csv, html or json.")] = "csv",
    output: Annotated[Path | None, typer.Option(help="Write it to this file instead.")] = None,
    url: Url = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Print the report: for each channel and day, what was found and what became of it."""
    from interlink.imports.run import read_report, write_report  # noqa: PLC0415

    with report_errors():
        report = with_hub(data_dir, url, lambda api: read_report(api, import_id, format_))
        if output is not None:
            write_report(output, report)
        else:
            typer.echo(report)


def _options(
    plan: Path | None,
    channel: list[str] | None,
    since: str | None,
    until: str | None,
    answer: list[str] | None,
) -> Any:
    from interlink.imports.plans import PlanOptions, parse_answers  # noqa: PLC0415

    return PlanOptions(plan, channel or (), since, until, parse_answers(answer or ()))


def _carry_out(
    action: "Callable[[HubApi, View], Awaitable[Any]]",
    data_dir: Path,
    url: str | None,
    *,
    yes: bool,
    json: bool,
    expected: str | None = None,
    report: Path | None = None,
) -> None:
    """Run an action that may take long, and exit with status 1 if the import is not in the expected state."""
    from interlink.commands.import_view import TerminalView  # noqa: PLC0415
    from interlink.imports.run import read_report, write_report  # noqa: PLC0415

    async def act(api: "HubApi") -> Any:
        found = await action(api, view)
        if report is not None and found["status"] == "completed":
            write_report(report, await read_report(api, found["id"], report.suffix.removeprefix(".")))
            view.line(f"  the report is in {report}")
        return found

    with report_errors(), TerminalView(yes=yes, json=json) as view:
        try:
            found = with_hub(data_dir, url, act)
        except KeyboardInterrupt:
            view.line(view.on_interrupt)
            raise typer.Exit(INTERRUPTED) from None
    if json:
        _print_json(found)
    if expected is not None and found["status"] != expected:
        raise typer.Exit(FAILURE)


def _call(method: str, import_id: str, action: str, data_dir: Path, url: str | None) -> Any:
    from interlink.imports.run import path_of  # noqa: PLC0415

    with report_errors():
        return with_hub(data_dir, url, lambda api: api.call(method, path_of(import_id, action)))


def _show(found: Mapping[str, Any]) -> None:
    from interlink.imports.texts import state_lines  # noqa: PLC0415

    for line in state_lines(found):
        print_line(line)


def _print_json(document: Any) -> None:
    import orjson  # noqa: PLC0415

    typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())

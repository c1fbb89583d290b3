"""`interlink sync`: the commands for mappings of conversations."""

from pathlib import Path
from typing import Annotated, Any

import typer

from interlink.commands.common import DEFAULT_DATA_DIR, DataDir, print_line
from interlink.commands.hub_calls import Url, with_hub
from interlink.exits import FAILURE, report_errors

app = typer.Typer(
    help="Conversations of providers and channels of the chat that are mapped to each other. The API key is "
    "that of INTERLINK_API_KEY, else the admin key of the data folder.",
    no_args_is_help=True,
)

MappingId = Annotated[str, typer.Argument(metavar="MAPPING", help="The mapping's id.")]


@app.command("map")
def map_conversations(
    legs: Annotated[
        list[str],
        typer.Argument(
            metavar="LEG...",
            help="PROVIDER:CONVERSATION or PROVIDER:ACCOUNT:CONVERSATION, with `in=` before it if it only "
            "sends, `out=` if it only receives: slack:C0123 out=telegram:-100456 chat:general.",
        ),
    ],
    name: Annotated[str, typer.Option(help="A name for people.")] = "",
    option: Annotated[
        list[str] | None, typer.Option(help="An option as NAME=VALUE: files=false; repeatable.")
    ] = None,
    filter_: Annotated[
        list[str] | None,
        typer.Option("--filter", help="A filter as NAME=VALUE: exclude_words=draft; repeatable."),
    ] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Save nothing: show what each leg can do and what is missing.")
    ] = False,
    url: Url = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Map conversations to each other, so that messages of one appear in the others."""
    from interlink import sync  # noqa: PLC0415

    with report_errors():
        body = {
            "name": name,
            "legs": [sync.parse_leg(leg) for leg in legs],
            "options": sync.parse_settings(option or ()),
            "filters": sync.parse_settings(filter_ or ()),
        }
        path = "/api/mappings/preview" if preview else "/api/mappings"
        answer = with_hub(data_dir, url, lambda api: api.call("POST", path, body))
    for line in sync.preview_lines(answer) if preview else sync.mapping_lines(answer):
        print_line(line)
    if preview and not answer["ok"]:
        raise typer.Exit(FAILURE)


@app.command("list")
def list_mappings(
    status: Annotated[
        str | None, typer.Option(help="Only those that are active, paused or in error.")
    ] = None,
    provider: Annotated[str | None, typer.Option(help="Only those with a leg of this provider.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many to show: the newest ones.")] = 50,
    url: Url = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show mappings with their legs, accounts that have to be connected again, and what an error asks for."""
    from interlink.sync import mapping_lines  # noqa: PLC0415

    params = {"status": status, "provider": provider}
    with report_errors():
        found = with_hub(data_dir, url, lambda api: api.items("/api/mappings", limit, params))
    for mapping in found:
        for line in mapping_lines(mapping):
            print_line(line)
    if not found:
        print_line("no mappings", wrong=True)


@app.command("test")
def send_test(mapping: MappingId, url: Url = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Send a short message to each leg that receives; status 1 if one of them does not get it."""
    from interlink.sync import result_lines  # noqa: PLC0415

    result = _post(mapping, "/test", url, data_dir)
    for line in result_lines(result):
        print_line(line)
    if not result["ok"]:
        raise typer.Exit(FAILURE)


@app.command("pause")
def pause_mapping(mapping: MappingId, url: Url = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Forward nothing until the mapping is resumed."""
    _show(_post(mapping, "/pause", url, data_dir))


@app.command("resume")
def resume_mapping(mapping: MappingId, url: Url = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Forward messages again, after a pause or once the cause of an error is fixed."""
    _show(_post(mapping, "/resume", url, data_dir))


@app.command("delete")
def delete_mapping(mapping: MappingId, url: Url = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Delete a mapping. Messages that were forwarded stay where they are."""
    with report_errors():
        with_hub(data_dir, url, lambda api: api.call("DELETE", _path(mapping)))
    print_line(f"deleted {mapping}")


@app.command("trace")
def trace_messages(
    message: Annotated[
        str | None, typer.Argument(metavar="[MESSAGE]", help="A message's id: show everything about it.")
    ] = None,
    mapping: Annotated[str | None, typer.Option(help="List the messages of this mapping.")] = None,
    state: Annotated[
        str | None, typer.Option(help="List those with this state at a target: failed, waiting, unknown.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many to show: the newest ones.")] = 20,
    url: Url = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show what became of a message at each target, step by step; without one, list messages."""
    from interlink.sync import message_lines  # noqa: PLC0415

    with report_errors():
        if message is not None:
            found = [with_hub(data_dir, url, lambda api: api.call("GET", _message_path(message)))]
        else:
            params = {"mapping_id": mapping, "state": state}
            found = with_hub(data_dir, url, lambda api: api.items("/api/synced-messages", limit, params))
    for item in found:
        for line in message_lines(item):
            print_line(line)
    if not found:
        print_line("no messages", wrong=True)


@app.command("retry")
def retry_message(
    message: Annotated[str, typer.Argument(metavar="MESSAGE", help="The message's id.")],
    leg: Annotated[str | None, typer.Option(help="Only at the target with this leg.")] = None,
    url: Url = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Try again what has failed of a message."""
    from interlink.sync import message_lines  # noqa: PLC0415

    path, body = f"{_message_path(message)}/retry", {"leg": leg}
    with report_errors():
        retried = with_hub(data_dir, url, lambda api: api.call("POST", path, body))
    for line in message_lines(retried):
        print_line(line)


def _message_path(message: str) -> str:
    from urllib.parse import quote  # noqa: PLC0415

    return f"/api/synced-messages/{quote(message, safe='')}"


def _post(mapping: str, action: str, url: str | None, data_dir: Path) -> Any:
    with report_errors():
        return with_hub(data_dir, url, lambda api: api.call("POST", _path(mapping) + action))


def _path(mapping: str) -> str:
    from urllib.parse import quote  # noqa: PLC0415

    return f"/api/mappings/{quote(mapping, safe='')}"


def _show(mapping: Any) -> None:
    from interlink.sync import mapping_lines  # noqa: PLC0415

    for line in mapping_lines(mapping):
        print_line(line)

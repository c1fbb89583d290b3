"""Service names, options and output of the commands."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer


class ServiceName(StrEnum):
    """The services, by the name of their folder."""

    GATEWAY = "gateway"
    DELIVERY = "delivery"
    SYNC = "sync"
    OAUTH = "oauth"
    IMPORTER = "importer"
    CONSOLE = "console"


DataDir = Annotated[
    Path,
    typer.Option(
        "--data-dir",
        envvar="INTERLINK_DATA_DIR",
        help="Folder with data, keys and logs of the embedded broker and database.",
    ),
]
DEFAULT_DATA_DIR: Final = Path(".interlink")


def print_line(line: str, *, wrong: bool = False) -> None:
    """Print a line at once, on standard error if it is `wrong`.

    Characters that are not printable become `?`, so that stored data cannot move a terminal's cursor.
    """
    typer.echo("".join(char if char.isprintable() else "?" for char in line), err=wrong)

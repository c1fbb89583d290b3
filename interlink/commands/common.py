"""What all commands share: exit statuses, error reporting, and options that several of them have."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from shared.contracts.errors import InterlinkError

FAILURE: Final = 1
"""Exit status of a command that ran and found something wrong."""
USAGE_ERROR: Final = 2
"""Exit status of a command that could not run."""
_INTERRUPTED: Final = 130


class ServiceName(StrEnum):
    """The services, by the name of their folder."""

    GATEWAY = "gateway"
    DELIVERY = "delivery"
    SYNC = "sync"
    OAUTH = "oauth"


DataDir = Annotated[
    Path,
    typer.Option(
        "--data-dir",
        envvar="INTERLINK_DATA_DIR",
        help="Folder with data, keys and logs of the embedded broker and database.",
    ),
]
DEFAULT_DATA_DIR: Final = Path(".interlink")


@contextmanager
def report_errors() -> Iterator[None]:
    """Print an `InterlinkError` as one line on standard error and exit with status 2, without a traceback."""
    try:
        yield
    except InterlinkError as error:
        typer.echo(f"interlink: {error}", err=True)
        raise typer.Exit(USAGE_ERROR) from None
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED) from None


def print_line(line: str, *, wrong: bool = False) -> None:
    """Print a line at once, on standard error if it is `wrong`.

    Characters that are not printable become `?`, so that stored data cannot move a terminal's cursor.
    """
    typer.echo("".join(char if char.isprintable() else "?" for char in line), err=wrong)

"""`interlink keys`: the commands for encryption keys."""

import typer

from interlink.commands.common import DEFAULT_DATA_DIR, DataDir, ServiceName, print_line
from interlink.exits import FAILURE, report_errors

app = typer.Typer(help="Encryption keys of stored secrets.", no_args_is_help=True)


@app.command("status")
def keys_status(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Count the stored secrets of each encryption key; status 1 if a key is missing."""
    import asyncio  # noqa: PLC0415

    from interlink.datadir import join_running  # noqa: PLC0415
    from interlink.keys import status  # noqa: PLC0415

    with report_errors():
        join_running(data_dir, needs_it=True)
        complete = asyncio.run(status(list(ServiceName), print_line))
    if not complete:
        raise typer.Exit(FAILURE)


@app.command("rotate")
def keys_rotate(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Encrypt all stored secrets with the first key, while services run; status 1 if some are left.

    The keys are those of INTERLINK_ENCRYPTION_KEY or INTERLINK_ENCRYPTION_KEY_FILE, as the services have
    them. The command can be stopped and repeated at any time.
    """
    import asyncio  # noqa: PLC0415

    from interlink.datadir import join_running  # noqa: PLC0415
    from interlink.keys import rotate  # noqa: PLC0415

    with report_errors():
        join_running(data_dir, needs_it=True)
        complete = asyncio.run(rotate(list(ServiceName), print_line))
    if not complete:
        raise typer.Exit(FAILURE)

"""The program of the processes that `interlink up` forks: it imports no command line, to save memory.

`interlink.forked serve SERVICE` runs a service, `interlink.forked init KEY_FILE SERVICE...` prepares broker
and database for these services.
"""

import asyncio
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Final

from interlink.exits import report_errors
from interlink.prepare import prepare
from shared.runtime.service import run

_WORKSPACE: Final = "default"


def main(arguments: Sequence[str]) -> None:
    """Do what the arguments say. Print notes of `init` for a person. Raises `InterlinkError`."""
    command, *rest = arguments
    if command == "serve":
        (service,) = rest
        run(service, import_module(f"services.{service}.app").build)
        return
    key_file, *services = rest
    for note in asyncio.run(prepare(services, _WORKSPACE, Path(key_file))).notes:
        sys.stdout.write(f"{note}\n")


if __name__ == "__main__":
    with report_errors():
        main(sys.argv[1:])

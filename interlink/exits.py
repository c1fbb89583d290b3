"""Exit statuses and error reporting of the command `interlink`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from shared.contracts.errors import InterlinkError

FAILURE: Final = 1
"""Exit status of a command that ran and found something wrong."""
USAGE_ERROR: Final = 2
"""Exit status of a command that could not run."""
INTERRUPTED: Final = 130
"""Exit status of a command that was ended by Ctrl-C."""


@contextmanager
def report_errors() -> Iterator[None]:
    """Print an `InterlinkError` as one line on standard error and exit with status 2, without a traceback."""
    try:
        yield
    except InterlinkError as error:
        sys.stderr.write(f"interlink: {error}\n")
        raise SystemExit(USAGE_ERROR) from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None

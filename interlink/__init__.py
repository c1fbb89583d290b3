"""The command line of Interlink and what it starts; the hub itself is in `services` and `shared`."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 -- whoever gets here has ignored requires-python
    sys.stderr.write(
        "interlink: Python 3.11 or newer is needed, this is Python %d.%d\n" % sys.version_info[:2]  # noqa: UP031
    )
    sys.exit(2)

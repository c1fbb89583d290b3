"""Run the few tests that failed beside others once more, alone, and say which of them passed then.

A test that passes only alone found a race, or waits too short for a machine that is busy with other tests: it
is named, with its failure above, and has to be mended. More than a few failures are none of that.
"""

import json
import subprocess
import sys
from pathlib import Path

_LAST_FAILED = Path(".pytest_cache/v/cache/lastfailed")
_MAX_TESTS = 8


def main() -> int:
    """Return 0 if every test that failed passes alone, else 1."""
    failed = sorted(json.loads(_LAST_FAILED.read_text(encoding="utf-8"))) if _LAST_FAILED.is_file() else []
    if not 0 < len(failed) <= _MAX_TESTS or not all("::" in test for test in failed):
        return 1
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", *failed]
    if subprocess.run(command, check=False).returncode:  # noqa: S603 -- our own tests
        return 1
    for test in failed:
        print(f"UNSTEADY {test}: passed only alone; mend it")  # noqa: T201 -- the result of the step
    return 0


if __name__ == "__main__":
    sys.exit(main())

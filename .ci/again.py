"""Run the few tests that failed beside others once more, alone, and say which of them passed then.

A test that passes alone waits too short for a machine that is busy with other tests, or it found a race: it is
named, with the failure above, and has to be mended. More than a few failures are none of that.
"""

import json
import subprocess
import sys
from pathlib import Path

_LAST_FAILED = Path(".pytest_cache/v/cache/lastfailed")
_MAX_TESTS = 3


def main() -> int:
    """Return 0 if every test that failed passes alone, else 1."""
    failed = sorted(json.loads(_LAST_FAILED.read_text(encoding="utf-8"))) if _LAST_FAILED.is_file() else []
    if not 0 < len(failed) <= _MAX_TESTS or not all("::" in test for test in failed):
        return 1
    print(f"{len(failed)} failed beside other tests, and run once more alone:", flush=True)
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", *failed]
    if subprocess.run(command, check=False).returncode:
        return 1
    for test in failed:
        print(f"UNSTEADY {test}: passed only alone; mend it")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Check the lock files for known vulnerabilities: `make audit`, and a step of CI.

pip-audit asks PyPI about each locked version; nothing is installed. A vulnerability that a newer version
fixes fails the step, one without a fix is shown. Where the advisories cannot be reached, the step says so
and is skipped: what cannot be known must not stop anybody's work.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

LOCKS = ("requirements.lock", "requirements-dev.lock")
TIMEOUT_S = 90


def judge(report: dict[str, Any]) -> tuple[list[str], bool]:
    """Return what a report of pip-audit comes to, line by line, and whether the step fails."""
    known = report["dependencies"]
    asked = [one for one in known if "skip_reason" not in one]
    if not asked:
        return [f"skipped: no advisories could be had for any of {len(known)} packages"], False
    lines, failed = [f"{len(asked)} of {len(known)} packages checked"], False
    for package in asked:
        for found in package["vulns"]:
            fixes = ", ".join(found["fix_versions"])
            failed = failed or bool(fixes)
            what = f"fixed in {fixes}" if fixes else "no fix yet"
            lines.append(f"{package['name']} {package['version']}: {found['id']}, {what}")
    lines += [f"not checked: {one['name']}: {one['skip_reason']}" for one in known if "skip_reason" in one]
    return lines, failed


def audit(lock: Path, command: str = "pip-audit") -> tuple[list[str], bool]:
    """Return the same for a lock file, by running pip-audit."""
    options = ("--disable-pip", "--require-hashes", "--progress-spinner", "off", "--format", "json")
    try:
        done = subprocess.run(  # noqa: S603 -- our own files
            [command, "--vulnerability-service", "pypi", *options, "--requirement", str(lock)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        return judge(json.loads(done.stdout))
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"skipped: pip-audit did not end well: {type(error).__name__}"], False
    except (ValueError, KeyError):  # it prints no report when it reached nobody
        reason = (done.stderr.strip().splitlines() or ["no error output"])[-1]
        return [f"skipped: pip-audit gave no report: {reason[:300]}"], False


def main() -> int:
    failed = False
    for name in LOCKS:
        lines, bad = audit(Path(name), str(Path(sys.executable).with_name("pip-audit")))
        failed = failed or bad
        for line in lines:
            print(f"{name}: {line}")  # noqa: T201 -- the result of the step
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

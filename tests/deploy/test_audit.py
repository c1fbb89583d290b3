"""The step of CI that checks the lock files: its verdict on the report of pip-audit, or without one."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
_SPEC = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
assert _SPEC
assert _SPEC.loader
audit = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(audit)

GOOD = {"name": "good", "version": "1.0", "vulns": []}
BAD = {"name": "bad", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1", "2.0"]}]}
UNFIXED = {"name": "open", "version": "1.0", "vulns": [{"id": "PYSEC-2", "fix_versions": []}]}
UNKNOWN = {"name": "unknown", "skip_reason": "Dependency not found on PyPI"}


@pytest.mark.parametrize(
    ("packages", "lines", "failed"),
    [
        ([GOOD], ["1 of 1 packages checked"], False),
        ([GOOD, BAD], ["2 of 2 packages checked", "bad 1.0: PYSEC-1, fixed in 1.1, 2.0"], True),
        ([UNFIXED], ["1 of 1 packages checked", "open 1.0: PYSEC-2, no fix yet"], False),
        ([UNKNOWN, UNKNOWN], ["skipped: no advisories could be had for any of 2 packages"], False),
        (
            [GOOD, UNKNOWN],
            ["1 of 2 packages checked", "not checked: unknown: Dependency not found on PyPI"],
            False,
        ),
    ],
)
def test_what_a_report_comes_to(packages: list[dict[str, Any]], lines: list[str], failed: bool) -> None:
    assert audit.judge({"dependencies": packages}) == (lines, failed)


@pytest.mark.parametrize(
    ("script", "lines", "failed"),
    [
        (f"echo '{json.dumps({'dependencies': [BAD]})}'; exit 1", 2, True),
        (
            "echo 'ERROR: could not connect' >&2; exit 1",
            ["skipped: pip-audit gave no report: ERROR: could not connect"],
            False,
        ),
        ("exit 0", ["skipped: pip-audit gave no report: no error output"], False),
        (None, ["skipped: pip-audit did not end well: FileNotFoundError"], False),
    ],
)
def test_what_is_not_known_is_skipped_and_says_why(
    tmp_path: Path, script: str | None, lines: list[str] | int, failed: bool
) -> None:
    command = tmp_path / "pip-audit"
    if script is not None:
        command.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        command.chmod(0o755)
    output, bad = audit.audit(ROOT / "requirements.lock", str(command))
    assert bad is failed
    assert output == lines if isinstance(lines, list) else len(output) == lines


def test_ci_runs_it_for_both_locks() -> None:
    assert "make audit" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert all((ROOT / name).is_file() for name in audit.LOCKS)

"""Faults of `make chaos` that an upgrade and a lost machine cause, and a build that loses."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest import mock

import pytest

from tests.chaos.__main__ import chaos
from tests.chaos.faults import FAULTS, rolling_others
from tests.support.apache_kafka import available

KILL, OTHERS = "kill -9 of delivery", "rolling restart of the others"
pytestmark = pytest.mark.skipif(available() is not None, reason=str(available()))


def _chaos(folder: Path, *faults: str, broken: bool = False) -> int:
    recovery_s = 3 if broken else 120  # the end of a run says whether what is missing is late or lost
    return chaos(
        folder,
        faults=faults,
        minutes=0,
        rate=20,
        seed=1,
        disk_mb=512,
        broken=broken,
        recovery_s=recovery_s,
    )


def test_nothing_is_lost_and_no_request_fails_during_a_rolling_restart(
    tmp_path: Path, note: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    # `make chaos` replaces oauth, sync, importer and console; here, one of them has to be enough.
    with mock.patch.dict(cast("dict[str, Any]", FAULTS), {OTHERS: partial(rolling_others, ("oauth",))}):
        status = _chaos(tmp_path / "chaos", "rolling restart", KILL, OTHERS)
    output = capsys.readouterr().out
    note(output[output.index("| fault") :])
    assert status == 0, output
    assert "oauth writes, 0 failed" in output


def test_a_build_that_commits_before_it_handles_is_found_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _chaos(tmp_path / "chaos", KILL, broken=True) == 1
    assert "are lost" in capsys.readouterr().out

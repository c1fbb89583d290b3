"""Jars that tests run, fetched with Maven from what a committed POM names. Nothing is built."""

import shutil
import subprocess
from pathlib import Path

_FETCH_SECONDS = 600.0


def available() -> bool:
    """Whether Maven is there."""
    return shutil.which("mvn") is not None


def copy_dependencies(pom: Path, folder: Path, *options: str) -> None:
    """Copy the dependencies of a POM into a new folder. Raises `RuntimeError` if Maven fails."""
    shutil.rmtree(folder, ignore_errors=True)
    goal = ("dependency:copy-dependencies", f"-DoutputDirectory={folder}", *options)
    done = subprocess.run(
        ["mvn", "-q", "-B", "-f", str(pom), *goal],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_FETCH_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"Maven did not fetch what {pom} names:\n{done.stdout[-3000:]}")

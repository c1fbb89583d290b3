"""npm packages that tests run or read, installed once into `.cache` from a committed lock file."""

import contextlib
import fcntl
import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

_CACHE = Path(__file__).parents[2] / ".cache"
_INSTALL_SECONDS = 300.0


class Unavailable(Exception):
    """The packages cannot be had on this machine; the message says why in one line."""


def installed(folder: Path) -> Path:
    """A copy of the folder with `node_modules`; there is one per content of the folder.

    It is made on first use, by one process at a time. Raises Unavailable when npm is not there, RuntimeError
    when npm fails.
    """
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file():
            digest.update(f"{file.name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\0".encode())
    cache = _CACHE / folder.name
    made = cache / digest.hexdigest()[:16]
    if not made.exists():
        with _locked(cache):
            if not made.exists():  # another process may have been faster
                _install(folder, made)
    return made


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(folder: Path, made: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise Unavailable(f"{folder.name} comes from npm packages, and npm is not on the PATH")
    staging = made.with_name(f"{made.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    shutil.copytree(folder, staging, ignore=shutil.ignore_patterns("node_modules"))
    done = subprocess.run(
        [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=staging,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_INSTALL_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"npm did not install what {folder.name} needs:\n{done.stdout[-3000:]}")
    staging.rename(made)

"""The folder of one test run, which all its processes share: what has to be looked at when the run is over.

ExternalProcess a run, as in `bench`, nothing is kept.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import BinaryIO

_NAME = "kept"
_files: dict[str, BinaryIO] = {}
_lock = Lock()
_folder: Path | None = None


def begin(base: Path) -> None:
    """This process is part of the run with this base folder."""
    global _folder  # noqa: PLW0603 -- there is one run in a process
    _folder = base / _NAME
    _folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def other_run(base: Path) -> Iterator[None]:
    """For a while, what this process keeps is of another run, with this base folder."""
    global _folder, _files  # noqa: PLW0603
    before = _folder, _files
    _files = {}
    begin(base)
    try:
        yield
    finally:
        for file in _files.values():
            file.close()
        _folder, _files = before


def folder() -> Path | None:
    """Where the run keeps things; None outside a run."""
    return _folder


def append(name: str, data: bytes) -> None:
    """Add to this process's file of that name."""
    if _folder is None:
        return
    with _lock:
        if name not in _files:
            _files[name] = (_folder / f"{name}.{os.getpid()}").open("ab", buffering=0)
        _files[name].write(data)


def files(base: Path, name: str) -> list[Path]:
    """The files of that name that all processes of the run with this base folder have written."""
    return sorted((base / _NAME).glob(f"{name}.*"))

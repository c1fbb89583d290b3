"""The data folder of `interlink up`: who uses it, which version wrote it, what is where in it."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Final

from interlink.embedded import BROKER_SETTINGS, saved_addresses
from shared.contracts.errors import Misconfigured
from shared.runtime.encryption_keys import EMBEDDED_KEY_FILE

FORMAT: Final = 1
"""Counts up when a version writes what an older one cannot read."""

_LOCK: Final = "lock"
_VERSION: Final = "version.json"
_IGNORED_ENTRIES: Final = frozenset({_LOCK, "lost+found"})


class DataFolder:
    """Where things are. Made by `opened`, which has checked that they may be used."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.admin_key = self.path / "admin.key"
        self.encryption_key = self.path / EMBEDDED_KEY_FILE
        """There, unless a key is given."""
        self.address = self.path / "address"
        """Where people find the hub that runs, or ran last."""
        self.logs = self.path / "logs"


@contextmanager
def open_data_folder(path: Path) -> Iterator[DataFolder]:
    """The folder, made if need be and locked while the context lasts.

    Raises `Misconfigured`: not writable, readable by other users, in use by another `interlink up`, of an
    incompatible version, or full of files that are not Interlink's.
    """
    folder = DataFolder(path)
    try:
        folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_exposed(folder.path)
        _refuse_foreign(folder.path)
        lock = (folder.path / _LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise Misconfigured(
            f"the data folder {path} cannot be used: {error.strerror}; choose another one with --data-dir"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            raise Misconfigured(
                f"the data folder {path} is in use by another 'interlink up' (process {owner}): "
                "stop it, or choose another folder with --data-dir"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        _check_version(folder.path)
        folder.logs.mkdir(exist_ok=True)
        yield folder


def in_use(path: Path) -> bool:
    """Whether an `interlink up` runs on this folder now."""
    try:
        with (path / _LOCK).open(encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def join_running(path: Path, *, needs_it: bool = False) -> None:
    """Let a command that is run beside `interlink up` find the embedded pair and the local key.

    Sets what is unset in this process's environment; variables that the user has set win. Raises
    `Misconfigured` when it `needs_it`, and the environment does not say what to use instead.
    """
    if not in_use(path):
        if needs_it and not os.environ.get("MONGODB_URI"):
            raise Misconfigured(
                f"no 'interlink up' runs on {display_path(path)}: start it, or set MONGODB_URI and "
                "INTERLINK_ENCRYPTION_KEY to what your services have"
            )
        return
    settings = saved_addresses(path)
    if "KAFKA_BOOTSTRAP_SERVERS" in settings and not os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        settings |= BROKER_SETTINGS
    folder = DataFolder(path)
    if folder.address.is_file():
        settings["INTERLINK_PUBLIC_URL"] = folder.address.read_text("utf-8").strip()
    key = folder.encryption_key
    if key.is_file() and not os.environ.get("INTERLINK_ENCRYPTION_KEY_FILE"):
        settings["INTERLINK_ENCRYPTION_KEY"] = key.read_text("utf-8").strip()
    for name, value in settings.items():
        if not os.environ.get(name):
            os.environ[name] = value


def display_path(path: Path) -> str:
    """A path as a person would type it here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _refuse_exposed(path: Path) -> None:
    """Raise `Misconfigured` if other users may enter the folder: keys, passwords and all data are in it."""
    status = path.stat()
    if status.st_uid != os.geteuid():
        raise Misconfigured(
            f"the data folder {display_path(path)} belongs to another user of this machine: "
            "choose another one with --data-dir"
        )
    if status.st_mode & 0o077:
        raise Misconfigured(
            f"the data folder {display_path(path)} is open to other users of this machine, and keys and "
            f"passwords are in it: run 'chmod 700 {display_path(path)}', and replace "
            "the keys if others may have read them"
        )


def _refuse_foreign(path: Path) -> None:
    if (path / _VERSION).exists():
        return
    strangers = sorted(entry.name for entry in path.iterdir() if entry.name not in _IGNORED_ENTRIES)
    if strangers and strangers != ["version.new"]:
        raise Misconfigured(
            f"the folder {path} is not empty and was not made by Interlink (it has {strangers[0]!r}): "
            "choose another one with --data-dir"
        )


def _check_version(path: Path) -> None:
    file = path / _VERSION
    if not file.exists():
        scratch = path / "version.new"
        scratch.write_text(json.dumps({"format": FORMAT, "interlink": version("interlink")}) + "\n", "utf-8")
        scratch.replace(file)
        return
    try:
        written = json.loads(file.read_text("utf-8"))
        found, by = int(written["format"]), str(written.get("interlink", "unknown"))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Misconfigured(f"{file} is damaged: it should hold {{'format': {FORMAT}}}") from None
    if found != FORMAT:
        age = "a newer" if found > FORMAT else "an older"
        raise Misconfigured(
            f"the data folder {path} was written by {age} version of Interlink ({by}, format {found}; "
            f"this one reads format {FORMAT}): use that version, or another folder with --data-dir"
        )

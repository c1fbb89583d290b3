"""The data folder of `interlink up`: its lock, its format version, and the paths in it."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from interlink.embedded import broker_settings, saved_addresses
from interlink.private_files import ENCRYPTION_KEY_FILE
from shared.contracts.errors import Misconfigured

FORMAT: Final = 1
"""Version of the folder's format. It rises when an older version could not read the data."""

_LOCK: Final = "lock"
_VERSION: Final = "version.json"
_IGNORED_ENTRIES: Final = frozenset({_LOCK, "lost+found"})


class DataFolder:
    """The paths in a data folder. `open_data_folder` checks that it may be used."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.admin_key = self.path / "admin.key"
        self.encryption_key = self.path / ENCRYPTION_KEY_FILE
        """Exists unless the user sets a key of his own."""
        self.address = self.path / "address"
        """Holds the public URL of the hub that runs, or ran last."""
        self.logs = self.path / "logs"


@contextmanager
def open_data_folder(path: Path) -> Iterator[DataFolder]:
    """Create the folder if there is none, and lock it while the context lasts.

    Raises `Misconfigured` if it is not writable, is open to other users, is used by another `interlink up`,
    has an incompatible format, or holds files that are not Interlink's.
    """
    folder = DataFolder(path)
    try:
        folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _reject_exposed(folder.path)
        _reject_foreign(folder.path)
        lock = (folder.path / _LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise Misconfigured(
            f"the data folder {path} cannot be used: {error.strerror}; choose another one with --data-dir"
        ) from None
    with lock:
        # The system releases the lock however this process ends, so that a killed `up` leaves no stale one.
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
    """Return whether an `interlink up` runs on this folder now."""
    try:
        with (path / _LOCK).open(encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def join_running(path: Path, *, needs_it: bool = False) -> None:
    """Set this process's environment so that a command uses the embedded pair of a running `interlink up`.

    Only variables that are not set are changed. With `needs_it`, raise `Misconfigured` if no `interlink up`
    runs and `MONGODB_URI` is not set either.
    """
    if not in_use(path):
        if needs_it and not os.environ.get("MONGODB_URI"):
            raise Misconfigured(
                f"no 'interlink up' runs on {display_path(path)}: start it, or set MONGODB_URI and "
                "INTERLINK_ENCRYPTION_KEY to what your services have"
            )
        return
    # What a service of that `up` has in its environment, as far as commands need it.
    settings = saved_addresses(path)
    if "KAFKA_BOOTSTRAP_SERVERS" in settings and not os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        settings |= broker_settings(path)
    folder = DataFolder(path)
    if folder.address.is_file():
        settings["INTERLINK_PUBLIC_URL"] = folder.address.read_text("utf-8").strip()
    settings["INTERLINK_UPLOAD_FOLDER"] = str(folder.path / "uploads")
    key = folder.encryption_key
    if key.is_file() and not os.environ.get("INTERLINK_ENCRYPTION_KEY_FILE"):
        settings["INTERLINK_ENCRYPTION_KEY"] = key.read_text("utf-8").strip()
    for name, value in settings.items():
        if not os.environ.get(name):
            os.environ[name] = value


def display_path(path: Path) -> str:
    """Return a path as a person would type it in the current folder."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _reject_exposed(path: Path) -> None:
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


def _reject_foreign(path: Path) -> None:
    """Raise `Misconfigured` if the folder holds files and was not created by Interlink."""
    if (path / _VERSION).exists():
        return
    foreign = sorted(entry.name for entry in path.iterdir() if entry.name not in _IGNORED_ENTRIES)
    if foreign and foreign != ["version.new"]:
        raise Misconfigured(
            f"the folder {path} is not empty and was not created by Interlink (it has {foreign[0]!r}): "
            "choose another one with --data-dir"
        )


def _check_version(path: Path) -> None:
    """Write the format version of a new folder. Raises `Misconfigured` if it is another one."""
    file = path / _VERSION
    if not file.exists():
        # Renamed when it is complete: a crash must not leave a file that a later start calls damaged.
        scratch = path / "version.new"
        from importlib.metadata import version  # noqa: PLC0415 -- only for the first start

        scratch.write_text(json.dumps({"format": FORMAT, "interlink": version("interlink")}) + "\n", "utf-8")
        scratch.replace(file)
        return
    try:
        written = json.loads(file.read_text("utf-8"))
        stored, writer = int(written["format"]), str(written.get("interlink", "unknown"))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Misconfigured(f"{file} is damaged: it should hold {{'format': {FORMAT}}}") from None
    if stored != FORMAT:
        age = "a newer" if stored > FORMAT else "an older"
        raise Misconfigured(
            f"the data folder {path} was written by {age} version of Interlink ({writer}, format {stored}; "
            f"this one reads format {FORMAT}): use that version, or another folder with --data-dir"
        )

"""The file of a download that has not ended: its bytes, and what a resumed request needs.

Beside the target `name` are `name.part` with the bytes, and `name.part.json` with the validator. The second
file says how many bytes are on the disk for certain; what the first has beyond is not used, because a machine
that lost its power may have left anything there. All methods block: call them in a thread.
"""

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from shared.contracts.errors import InterlinkError

PART_SUFFIXES: Final = (".part", ".part.json")
"""What a target's name gets for the bytes, and for what a resumed request needs."""
_CHECKPOINT_BYTES: Final = 8 * 1024 * 1024
"""After so many further bytes, what is there survives the end of the process, and a loss of power."""
_READ_BYTES: Final = 1024 * 1024
_MAX_STATE_BYTES: Final = 16 * 1024
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
_STRONG_ETAG: Final = re.compile(r'"[\x21\x23-\x7e]{1,1000}"')


class DiskFailed(InterlinkError):
    """The files of a download cannot be written or read; the text is the system's reason."""


class PartInUse(InterlinkError):
    """Another download to the same target is under way, in this process or another one."""


@dataclass(frozen=True, slots=True)
class PartState:
    """Content of `name.part.json`. Only a response with a `validator` and a `total` can be resumed.

    `source` identifies the URL. `validator` is the value of `If-Range`. `total` is the size of the complete
    file, `size` the number of bytes that are on the disk; both in bytes.
    """

    source: str
    validator: str
    content_type: str
    total: int
    size: int = 0


_STATE: Final = TypeAdapter(PartState)


class PartFile:
    """The part file of one target, locked against other downloads between `open` and `close`.

    `open` reads what an earlier download of the same `source` left: `state` is None if there is nothing to
    resume, and after the end. `size` is the number of bytes so far. Every method raises `DiskFailed` if the
    system refuses.
    """

    def __init__(self, target: Path, source: str) -> None:
        self._target = target
        self._path, self._state_path = (target.with_name(target.name + suffix) for suffix in PART_SUFFIXES)
        self._source = source
        self._fd = -1
        self._sha256 = hashlib.sha256()
        self.state: PartState | None = None
        self.size = 0

    def open(self) -> None:
        """Open and lock the file, and read what it has. Raises `PartInUse`."""
        with _disk():
            self._fd = self._open_locked()
            state = self._read_state()
            if state is None or state.source != self._source or os.fstat(self._fd).st_size < state.size:
                self._clear()
                return
            os.ftruncate(self._fd, state.size)
            while chunk := os.read(self._fd, _READ_BYTES):
                self._sha256.update(chunk)
                self.size += len(chunk)
            self.state = state

    def start(self, *, validator: str, content_type: str, total: int | None) -> None:
        """Empty the file for a complete body. `validator` is empty if the body cannot be resumed."""
        with _disk():
            self._clear()
            if validator and total is not None:
                self.state = PartState(self._source, validator, content_type, total)

    def append(self, data: bytes | bytearray) -> None:
        """Write bytes behind those that are there."""
        with _disk():
            rest = memoryview(data)
            while rest:
                written = os.write(self._fd, rest)
                self._sha256.update(rest[:written])
                self.size += written
                rest = rest[written:]
            if self.state is not None and self.size - self.state.size >= _CHECKPOINT_BYTES:
                self._save_state()

    @property
    def range_headers(self) -> Mapping[str, str]:
        """The headers of a request for the bytes that are missing; none if there is nothing to resume."""
        if self.state is None or not self.size:
            return {}
        return {"Range": f"bytes={self.size}-", "If-Range": self.state.validator}

    def continues(self, headers: Mapping[str, str]) -> bool:
        """Return whether a 206 response has the bytes after those of the file, of the same version."""
        state = self.state
        match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
        if state is None or match is None:
            return False
        first, last, total = (int(number) for number in match.groups())
        if first != self.size or not first <= last < total or total != state.total:
            return False
        length = headers.get("Content-Length")
        if length is not None and length.strip() != str(last - first + 1):
            return False
        shown = headers.get("ETag" if state.validator.startswith('"') else "Last-Modified")
        return shown is None or shown == state.validator

    @property
    def sha256(self) -> str:
        """The SHA-256 of the bytes so far, in hexadecimal."""
        return self._sha256.hexdigest()

    def finish(self) -> None:
        """Give the complete file its name. After this call, it survives a loss of power."""
        with _disk():
            os.fsync(self._fd)
            self._path.replace(self._target)
            self._sync_folder()
            self._state_path.unlink(missing_ok=True)
            self._release()
        self.state = None

    def discard(self) -> None:
        """Remove what there is."""
        with _disk():
            self._path.unlink(missing_ok=True)
            self._state_path.unlink(missing_ok=True)
        self.state, self.size = None, 0
        self._release()

    def close(self) -> None:
        """Save what can be resumed, remove what cannot, and unlock. It does nothing after `finish`."""
        if self._fd < 0:
            return
        try:
            if self.state is None or not self.size:
                self.discard()
            else:
                with _disk():
                    self._save_state()
        finally:
            self._release()

    def _open_locked(self) -> int:
        while True:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(fd)
                if isinstance(error, BlockingIOError):
                    raise PartInUse(f"another download to {self._target} is under way") from None
                raise
            with suppress(FileNotFoundError):
                if os.fstat(fd).st_ino == self._path.stat().st_ino:
                    return fd
            os.close(fd)  # another process has renamed or removed it before the lock

    def _read_state(self) -> PartState | None:
        try:
            with self._state_path.open("rb") as file:
                return _STATE.validate_json(file.read(_MAX_STATE_BYTES), strict=True)
        except (FileNotFoundError, ValidationError):  # a missing or damaged state: nothing to resume
            return None

    def _save_state(self) -> None:
        assert self.state is not None  # noqa: S101 -- the callers have checked
        os.fsync(self._fd)
        state = replace(self.state, size=self.size)
        temporary = self._state_path.with_name(f"{self._state_path.name}.new")
        with temporary.open("wb") as file:
            file.write(_STATE.dump_json(state))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._state_path)
        self._sync_folder()
        self.state = state

    def _clear(self) -> None:
        self._state_path.unlink(missing_ok=True)
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._sha256, self.size, self.state = hashlib.sha256(), 0, None

    def _sync_folder(self) -> None:
        folder = os.open(self._target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def validator_of(headers: Mapping[str, str]) -> str:
    """Return the value of `If-Range` for a later request; the empty text if the server gave none.

    A weak `ETag` is none: two versions of a file may share it. A `Last-Modified` is one if the file was at
    least a second old when the server answered (RFC 9110, 8.8.2.2).
    """
    etag = headers.get("ETag", "")
    if etag:
        return etag if _STRONG_ETAG.fullmatch(etag) else ""
    modified = headers.get("Last-Modified", "")
    with suppress(ValueError, TypeError):
        age = parsedate_to_datetime(headers.get("Date", "")) - parsedate_to_datetime(modified)
        return modified if age >= timedelta(seconds=1) else ""
    return ""


@contextmanager
def _disk() -> Iterator[None]:
    """Translate the system's errors: `OSError` would pass for an error of the network."""
    try:
        yield
    except OSError as error:
        raise DiskFailed(error.strerror or type(error).__name__) from error

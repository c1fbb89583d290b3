"""Memory that the workers of a service share: tables of times, and documents.

A worker can be killed at any instruction, and nothing here needs a repair then. Locks are record locks of a
file without a name, which the kernel releases with the process. Each value is one aligned word, and what
belongs together is written in an order in which a part of it does no harm. The memory has no name and no file
either: it ends with its processes.
"""

import fcntl
import mmap
import os
import tempfile
from collections.abc import Callable
from typing import Final

GROUP_SLOTS: Final = 16
"""Slots of a table in which one key may be: its group."""
_WORD_BYTES: Final = 8
_KEY_MASK: Final = 2**64 - 1


class SharedMemory:
    """A piece of anonymous memory and its locks.

    A parent creates it and forks its workers. Each worker takes its parts with `take`, all workers in the
    same order: the same code runs in them.
    """

    def __init__(self, size: int) -> None:
        """Reserve `size` bytes of zeros. Pages that nobody writes to take no memory."""
        self._memory = memoryview(mmap.mmap(-1, size))
        self.taken = 0
        """Bytes that this process has taken."""
        if hasattr(os, "memfd_create"):
            self.lock_file = os.memfd_create("locks")
        else:
            with tempfile.TemporaryFile() as file:
                self.lock_file = os.dup(file.fileno())
        """A file without content. The lock of a part is one on the byte with the part's number."""

    def take(self, words: int) -> memoryview:
        """Return the next part, of this number of 8-byte words. Raises `ValueError` if too little is left."""
        start, end = self.taken, self.taken + words * _WORD_BYTES
        if end > len(self._memory):
            raise ValueError(f"the shared memory has only {len(self._memory)} bytes")
        self.taken = end
        return self._memory[start:end]


class SharedTable:
    """Times by key, in seconds; 0 for a key that is not there.

    It never grows: a new key takes the place of the earliest time in its group of slots. So use times after
    which an entry means nothing. A negative time counts by its amount.
    """

    def __init__(self, memory: SharedMemory, slots: int) -> None:
        """Take the memory of a table with this number of slots, a multiple of `GROUP_SLOTS`."""
        self._lock_file = memory.lock_file
        self._groups = slots // GROUP_SLOTS
        self._first_lock = memory.taken
        self._keys = memory.take(slots).cast("Q")
        self._times = memory.take(slots).cast("d")

    @staticmethod
    def key(*parts: str) -> int:
        """Return the key of these texts: a hash with a secret that all workers have from their parent."""
        return hash(parts) & _KEY_MASK or 1

    def get(self, key: int) -> float:
        """Return the time of a key, without a lock: another worker may change it right after."""
        start = key % self._groups * GROUP_SLOTS
        try:
            return self._times[start + self._keys[start : start + GROUP_SLOTS].tolist().index(key)]
        except ValueError:
            return 0.0

    def change(self, key: int, change: Callable[[float], float]) -> None:
        """Replace the time of a key with what `change` returns for it, while no other worker changes it."""
        group = key % self._groups
        start, lock = group * GROUP_SLOTS, self._first_lock + group
        fcntl.lockf(self._lock_file, fcntl.LOCK_EX, 1, lock)  # the event loop stands still: be quick
        try:
            keys = self._keys[start : start + GROUP_SLOTS].tolist()
            slot = start + keys.index(key) if key in keys else self._displace(key, start)
            self._times[slot] = change(self._times[slot])
        finally:
            fcntl.lockf(self._lock_file, fcntl.LOCK_UN, 1, lock)

    def _displace(self, key: int, start: int) -> int:
        """Give a key the slot of the earliest time of its group, and return it. Needs the lock."""
        ages = list(map(abs, self._times[start : start + GROUP_SLOTS].tolist()))
        slot = start + ages.index(min(ages))
        self._times[slot] = 0.0  # first: between the two writes, the old key has no time
        self._keys[slot] = key
        return slot


class SharedDocument:
    """The latest version of a document that one worker writes and all read."""

    def __init__(self, memory: SharedMemory, max_words: int) -> None:
        """Take the memory of a document of up to `max_words` 8-byte words, twice."""
        self._version = memory.take(1).cast("Q")
        self._sizes = memory.take(2).cast("Q")
        self._copies = [memory.take(max_words), memory.take(max_words)]

    def write(self, document: bytes) -> bool:
        """Replace the document; return False if it is too large. Only one process may call it."""
        version = self._version[0] + 1
        if len(document) > len(self._copies[0]):
            return False
        # The other copy is written, and becomes the document with the last write.
        self._copies[version % 2][: len(document)] = document
        self._sizes[version % 2] = len(document)
        self._version[0] = version
        return True

    def read(self) -> bytes:
        """Return the document; empty if none was written."""
        while True:
            version = self._version[0]
            document = bytes(self._copies[version % 2][: self._sizes[version % 2]])
            if self._version[0] == version:  # the writer did not begin to write this copy again
                return document

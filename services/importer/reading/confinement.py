"""Confine a process that reads an untrusted file: no network, no other programs, bounded memory and CPU time.

If a file exploits or crashes a library that parses it, the damage is limited to this process.
"""

import ctypes
import errno
import os
import platform
import resource
import signal
import sys
from typing import Final

NICENESS: Final = 5
"""Live messages come first: on a busy machine, a reader gets the CPU time that is left."""
_NO_NEW_PRIVILEGES: Final = 38
_SET_SECCOMP: Final = 22
_MODE_FILTER: Final = 2
_LOAD: Final = 0x20
_EQUAL: Final = 0x15
_AT_LEAST: Final = 0x35
_RETURN: Final = 0x06
_ALLOW: Final = 0x7FFF0000
_REFUSE: Final = 0x00050000 | errno.EACCES
_KILL: Final = 0x80000000
_NUMBER, _ARCHITECTURE = 0, 4
"""Offsets of the system call number and the architecture in `struct seccomp_data`."""
_X32: Final = 0x40000000
"""First system call number of the x32 ABI, whose calls have other numbers and would pass the filter."""

_CALLS: Final = {
    # socket, execve, execveat, io_uring_setup, ptrace
    "x86_64": (0xC000003E, (41, 59, 322, 425, 101)),
    "aarch64": (0xC00000B7, (198, 221, 281, 425, 117)),
}
"""For each machine: its `AUDIT_ARCH_...` value, and the numbers of the system calls that are refused."""


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("jump_true", ctypes.c_ubyte),
        ("jump_false", ctypes.c_ubyte),
        ("value", ctypes.c_uint),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.POINTER(_Instruction)))


def confine(*, memory_bytes: int) -> None:
    """Forbid this process new sockets and programs, and limit its memory to `memory_bytes`, for good.

    Without seccomp, it may open no file descriptor at all instead; a library that loads a module late then
    ends the process.
    """
    if not _filter_calls():
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_cpu(seconds: float) -> None:
    """Let the kernel kill this process after so many further seconds of CPU time; 0 removes the limit."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _filter_calls() -> bool:
    """Install the seccomp filter that refuses `_CALLS`. Return False if the system does not support it."""
    architecture, calls = _CALLS.get(platform.machine(), (0, ()))
    if sys.platform != "linux" or not calls:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, len(calls) + 1, 0, _X32),
        *((_EQUAL, len(calls) - position, 0, call) for position, call in enumerate(calls)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]
    program = _Program(len(lines), (_Instruction * len(lines))(*(_Instruction(*line) for line in lines)))
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        return False
    refused: int = libc.prctl(_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0)
    return refused == 0

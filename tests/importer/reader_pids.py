"""Find the reader processes of an importer, to kill them."""

from contextlib import suppress
from pathlib import Path


def readers_of(pid: int) -> list[int]:
    """Return the process ids of the readers that a process has started."""
    with suppress(OSError):  # one of them has just ended
        tasks = Path(f"/proc/{pid}/task").iterdir()
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
        return [pid for pid in children if b"reading.child" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return []

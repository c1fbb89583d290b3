"""Files that only their owner can read: keys that the hub creates."""

import base64
import os
from pathlib import Path
from typing import Final

ENCRYPTION_KEY_FILE: Final = "encryption.key"
"""The name of the embedded default's key file, in its data folder."""
_KEY_BYTES: Final = 32


def embedded_key(folder: Path) -> str:
    """Return the embedded default's key from its file in the data folder, which is created if missing."""
    path = folder / ENCRYPTION_KEY_FILE
    if not path.exists():
        write_private(path, base64.b64encode(os.urandom(_KEY_BYTES)).decode())
    return path.read_text().strip()


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read (mode 0600), in one step: a reader never sees half of it."""
    scratch = path.with_suffix(".new")
    scratch.unlink(missing_ok=True)
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text + "\n")
    scratch.replace(path)

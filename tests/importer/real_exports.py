"""Exports of public projects, which are beside the project on some machines, and not part of it."""

from pathlib import Path
from typing import Final

import pytest

_FOLDER: Final = Path(__file__).parents[3] / "shared" / "data" / "imports"


def real_export(name: str) -> bytes:
    """Return an export; skip the test where it is not there."""
    path = _FOLDER / name
    if not path.is_file():
        pytest.skip(f"{name} is not here: it is not part of the project")
    return path.read_bytes()

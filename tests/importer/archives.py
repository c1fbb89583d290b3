"""Archives and exports that tests build: small ones, and what an attacker would upload."""

import json
import struct
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, Final

USERS: Final[list[dict[str, Any]]] = [
    {"id": "U00000001", "team_id": "T00000001", "name": "ada", "profile": {"display_name": "Ada"}},
    {"id": "U00000002", "team_id": "T00000001", "name": "grace", "real_name": "Grace", "deleted": True},
]
CHANNELS: Final = [
    {"id": "C00000001", "name": "general", "members": ["U00000001"], "topic": {"value": "all"}},
    {"id": "C00000002", "name": "old", "is_archived": True},
]


def zipped(files: Mapping[str, bytes | str | Any], *, stored: bool = False) -> BytesIO:
    """Return a ZIP archive. A value that is no text and no bytes becomes JSON."""
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content if isinstance(content, bytes | str) else json.dumps(content))
    out.seek(0)
    return out


def slack_message(ts: str, text: str = "hello", **fields: Any) -> dict[str, Any]:
    """Return a message of Slack's export."""
    return {"type": "message", "user": "U00000001", "ts": ts, "text": text, **fields}


def slack_export(days: Mapping[str, Any], **lists: Any) -> dict[str, Any]:
    """Return the files of a standard export with these days, such as `general/2024-01-01`."""
    files = {"users": USERS, "channels": CHANNELS, **lists}
    return {f"{name}.json": content for name, content in (files | dict(days)).items() if content is not None}


def written(folder: Path, files: Mapping[str, Any], *, stored: bool = False) -> Path:
    """Write an archive to a folder, and return its path."""
    path = folder / "export.zip"
    path.write_bytes(zipped(files, stored=stored).getvalue())
    return path


def claims_entries(count: int) -> BytesIO:
    """Return an archive whose end record names so many entries."""
    return BytesIO(b"PK\x03\x04" + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, 0, 4, 0))


def claims_entries_64(count: int) -> BytesIO:
    """Return an archive whose ZIP64 end record names so many entries."""
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, 0, 4)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 4, 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return BytesIO(b"PK\x03\x04" + end64 + locator + end)

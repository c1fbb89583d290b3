"""The styles, scripts and icons of the console, read once and compressed once."""

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FOREVER: Final = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    compressed: bytes
    media_type: str
    version: str


class StaticFiles:
    """Files by their path. Their addresses have a version, so that browsers store them for good."""

    def __init__(self, folder: Path) -> None:
        """Read the files of the folder that browsers use."""
        self._files = {
            path.relative_to(folder).as_posix(): _read(path)
            for path in sorted(folder.rglob("*"))
            if path.suffix in _TYPES
        }

    def address(self, name: str) -> str:
        """Return the address of a file. Raises `KeyError` if there is none."""
        return f"/console/static/{name}?v={self._files[name].version}"

    async def serve(self, request: Request) -> Response:
        """Return a file."""
        file = self._files.get(request.path_params["name"])
        if file is None:
            return Response(status_code=404)
        headers = {"Cache-Control": _FOREVER, "Vary": "Accept-Encoding"}
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(file.content, headers=headers, media_type=file.media_type)
        headers["Content-Encoding"] = "gzip"
        return Response(file.compressed, headers=headers, media_type=file.media_type)


def _read(path: Path) -> _File:
    content = path.read_bytes()
    version = hashlib.sha256(content).hexdigest()[:12]
    return _File(content, gzip.compress(content, 9, mtime=0), _TYPES[path.suffix], version)

"""The management API as commands call it: where the hub is, with which key, and what it answers."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import orjson

from interlink.datadir import DataFolder
from shared.contracts.errors import InterlinkError, Misconfigured
from shared.runtime.http_client import ApiClient
from shared.wire.bodies import JSON_CONTENT_TYPE

URL_VARIABLE: Final = "INTERLINK_URL"
KEY_VARIABLE: Final = "INTERLINK_API_KEY"
_DEFAULT_URL: Final = "http://127.0.0.1:8080"
_TIMEOUT_S: Final = 60.0
_MAX_PAGE: Final = 500


class Refused(InterlinkError):
    """The hub answered that a call cannot be done, with the reason and the fix."""


class HubApi:
    """Calls a hub. `Misconfigured` if there is no key for it, or it is no address."""

    def __init__(self, data_dir: Path, url: str | None = None) -> None:
        """Take address and key from the environment, else those of the `interlink up` of a data folder."""
        folder = DataFolder(data_dir)
        self._url = (url or _read(folder.address) or _DEFAULT_URL).rstrip("/")
        if not self._url.startswith(("http://", "https://")):
            raise Misconfigured(f"{URL_VARIABLE}: {self._url} must start with http:// or https://")
        self._key = os.environ.get(KEY_VARIABLE, "") or _read(folder.admin_key)
        if not self._key:
            raise Misconfigured(
                f"{KEY_VARIABLE}: not set, and {folder.admin_key} is not there: set an API key"
            )
        self._client = ApiClient(timeout_s=_TIMEOUT_S)

    async def call(
        self, method: str, path: str, body: Any = None, params: Mapping[str, str | None] | None = None
    ) -> Any:
        """Return the JSON of a successful answer, None if it is empty. A parameter that is None is left out.

        Raises `Refused` with the hub's reason, and `Unreachable`.
        """
        given = {name: value for name, value in (params or {}).items() if value is not None}
        url = self._url + path + (f"?{urlencode(given)}" if given else "")
        headers = [(b"authorization", b"Bearer " + self._key.encode())]
        content = b""
        if body is not None:
            content = orjson.dumps(body)
            headers.append((b"content-type", JSON_CONTENT_TYPE.encode()))
        status, _, answer = await self._client.call(method, url, headers, content)
        try:
            document = orjson.loads(answer) if answer else None
        except orjson.JSONDecodeError:
            raise Refused(f"{self._url} answered {status}, but is no hub: set {URL_VARIABLE}") from None
        if status >= 400:
            raise Refused(_reason(status, document))
        return document

    async def items(self, path: str, limit: int, params: Mapping[str, str | None]) -> list[dict[str, Any]]:
        """Return the first items of a list, at most `limit`. Raises as `call` does."""
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while len(found) < limit:
            size = str(min(limit - len(found), _MAX_PAGE))
            page = await self.call("GET", path, params={**params, "limit": size, "cursor": cursor})
            found += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        return found

    async def stop(self) -> None:
        """Close the connections."""
        await self._client.close()


def _reason(status: int, document: Any) -> str:
    if not isinstance(document, dict):
        return f"the hub answered {status}"
    errors = document.get("errors") or ()
    named = "; ".join(f"{error['field']}: {error['message']}" for error in errors)
    return named or str(document.get("detail") or f"the hub answered {status}")


def _read(file: Path) -> str:
    """Return the text of a file without blanks around it; empty if it is not there."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""

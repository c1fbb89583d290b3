"""The management API as commands call it: where the hub is, with which key, and what it answers."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import orjson

from interlink.datadir import DataFolder
from shared.contracts.errors import InterlinkError, Misconfigured
from shared.runtime.http_client import ApiClient, Unreachable
from shared.wire.bodies import JSON_CONTENT_TYPE

URL_VARIABLE: Final = "INTERLINK_URL"
KEY_VARIABLE: Final = "INTERLINK_API_KEY"
_DEFAULT_URL: Final = "http://127.0.0.1:8080"
_TIMEOUT_S: Final = 60.0
_MAX_PAGE: Final = 500
NO_HEADERS: Final[Mapping[str, str]] = {}


class Refused(InterlinkError):
    """The hub answered that a call cannot be done, with the reason and the fix. `status` is that of HTTP."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class HubApi:
    """Calls a hub. `Misconfigured` if there is no key for it, or it is no address."""

    def __init__(self, data_dir: Path, url: str | None = None) -> None:
        """Take address and key from the environment, else those of the `interlink up` of a data folder."""
        folder = DataFolder(data_dir)
        self.url = (url or _read(folder.address) or _DEFAULT_URL).rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise Misconfigured(f"{URL_VARIABLE}: {self.url} must start with http:// or https://")
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
        url = path + (f"?{urlencode(given)}" if given else "")
        headers, content = {}, b""
        if body is not None:
            content = orjson.dumps(body)
            headers = {"content-type": JSON_CONTENT_TYPE}
        _, answer = await self.send(method, url, headers, content)
        return self._document(answer, 200)

    async def send(
        self, method: str, path: str, headers: Mapping[str, str] = NO_HEADERS, content: bytes = b""
    ) -> tuple[Mapping[str, str], bytes]:
        """Return headers, by their names in lower case, and body of a successful answer.

        Raises `Refused` with the hub's reason, and `Unreachable`.
        """
        sent = {"authorization": f"Bearer {self._key}", **headers}
        pairs = [(name.encode(), value.encode()) for name, value in sent.items()]
        try:
            status, received, answer = await self._client.call(method, self.url + path, pairs, content)
        except Unreachable:
            raise Unreachable(
                f"no hub answers at {self.url}: start it, or set {URL_VARIABLE} to its address"
            ) from None
        if status >= 400:
            raise Refused(_reason(status, self._document(answer, status)), status)
        return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in received}, answer

    def _document(self, answer: bytes, status: int) -> Any:
        try:
            return orjson.loads(answer) if answer else None
        except orjson.JSONDecodeError:
            raise Refused(
                f"{self.url} answered {status}, but is no hub: set {URL_VARIABLE}", status
            ) from None

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

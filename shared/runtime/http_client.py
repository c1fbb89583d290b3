"""HTTP to servers that we chose: provider APIs and our own services (httpx).

For URLs that strangers chose see `guarded`.
"""

from collections.abc import Sequence
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final

import httpx

from shared.contracts.errors import Malformed, RetryLater

HeaderPairs = Sequence[tuple[bytes, bytes]]

_MAX_RESPONSE_BYTES: Final = 32 * 1024 * 1024


class Unreachable(RetryLater):
    """The server did not answer."""


class ApiClient:
    """A pooled client without redirects, without the environment's proxies, and without a memory for cookies.

    It carries many people's requests: what one is given must not go out with another's.
    """

    def __init__(self, *, timeout_s: float) -> None:
        nobody = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
        self._client = httpx.AsyncClient(
            timeout=timeout_s, trust_env=False, follow_redirects=False, cookies=nobody
        )

    async def call(
        self, method: str, url: str, headers: HeaderPairs, body: bytes
    ) -> tuple[int, HeaderPairs, bytes]:
        """Status, headers and body. Raises `Unreachable`, and `Malformed` for what HTTP/1.1 cannot carry."""
        try:
            response = await self._client.request(method, url, headers=list(headers), content=body)
        except (httpx.LocalProtocolError, httpx.InvalidURL):
            raise Malformed("the path or a header has characters that cannot be passed on") from None
        except httpx.HTTPError as error:
            raise Unreachable(
                f"the service behind this path did not answer ({type(error).__name__})"
            ) from None
        if len(response.content) > _MAX_RESPONSE_BYTES:
            raise Unreachable("the service behind this path answered too much")
        kept = [(name, value) for name, value in response.headers.raw if name.lower() != b"content-encoding"]
        return response.status_code, kept, response.content

    async def get_json(self, url: str) -> Any:
        """The JSON that a GET answers. Raises `Unreachable`."""
        status, _, body = await self.call("GET", url, [], b"")
        if status != 200:
            raise Unreachable(f"{status} instead of JSON")
        return httpx.Response(200, content=body).json()

    async def close(self) -> None:
        await self._client.aclose()

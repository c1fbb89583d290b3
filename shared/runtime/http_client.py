"""HTTP calls to the hub's own services (httpx). For URLs that others chose see `egress.client`."""

from collections.abc import Sequence
from functools import cached_property
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final

import httpx

from shared.contracts.errors import Malformed, RetryLater

HeaderPairs = Sequence[tuple[bytes, bytes]]
"""Headers as pairs of name and value, in order and with repeats."""

_MAX_RESPONSE_BYTES: Final = 32 * 1024 * 1024


class Unreachable(RetryLater):
    """The server did not answer, or with more or something else than expected."""


class ApiClient:
    """A pooled client without redirects, cookies and the proxies of the environment.

    It carries the requests of many users, so a cookie for one must not be sent with the request of another.
    """

    def __init__(self, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s

    @cached_property
    def _client(self) -> httpx.AsyncClient:
        """The client, created for the first request: it loads all certificates of the authorities."""
        no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
        return httpx.AsyncClient(
            timeout=self._timeout_s, trust_env=False, follow_redirects=False, cookies=no_cookies
        )

    async def call(
        self, method: str, url: str, headers: HeaderPairs, body: bytes
    ) -> tuple[int, HeaderPairs, bytes]:
        """Send a request and return status, headers and the decompressed body of the response.

        Raises `Unreachable`, or `Malformed` if the path or a header cannot be sent over HTTP/1.1.
        """
        try:
            response = await self._client.request(method, url, headers=list(headers), content=body)
        except (httpx.LocalProtocolError, httpx.InvalidURL):
            raise Malformed("the path or a header has characters that cannot be forwarded") from None
        except httpx.HTTPError as error:
            raise Unreachable(
                f"the service behind this path did not answer ({type(error).__name__})"
            ) from None
        if len(response.content) > _MAX_RESPONSE_BYTES:
            raise Unreachable("the response of the service behind this path is too large")
        headers_out = [
            (name, value) for name, value in response.headers.raw if name.lower() != b"content-encoding"
        ]
        return response.status_code, headers_out, response.content

    async def get_json(self, url: str) -> Any:
        """Return the JSON of the response to a GET request. Raises `Unreachable` if the status is not 200."""
        status, _, body = await self.call("GET", url, [], b"")
        if status != 200:
            raise Unreachable(f"{status} instead of JSON")
        return httpx.Response(200, content=body).json()

    async def close(self) -> None:
        if "_client" in vars(self):
            await self._client.aclose()

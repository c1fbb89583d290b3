"""HTTP calls to the hub's own services (httpx). For URLs that others chose see `egress.client`.

Streams go through aiohttp, which reads an answer that comes before the whole body was sent.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from functools import cached_property
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final

import aiohttp
import httpx
from multidict import CIMultiDict
from yarl import URL

from shared.contracts.errors import Malformed, RetryLater
from shared.runtime.egress.exchange import Body, StreamedBody, StreamedResponse, exchange, framed
from shared.runtime.egress.progress import TransferDeadlines
from shared.runtime.egress.sessions import create_session

HeaderPairs = Sequence[tuple[bytes, bytes]]
"""Headers as pairs of name and value, in order and with repeats."""

_MAX_RESPONSE_BYTES: Final = 32 * 1024 * 1024
_MAX_STREAMS: Final = 2_000
"""Half of them are for streams of events, which hold a connection for minutes."""
NOT_FORWARDABLE: Final = "the path or a header has characters that cannot be forwarded"


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
            raise Malformed(NOT_FORWARDABLE) from None
        except httpx.HTTPError as error:
            raise Unreachable(
                f"the service behind this path did not answer ({type(error).__name__})"
            ) from None
        # Request and response refer to each other through the stream, which has been read. Without this line
        # the bodies of thousands of calls wait in memory for a collection of garbage.
        response.stream = httpx.ByteStream(b"")
        if len(response.content) > _MAX_RESPONSE_BYTES:
            raise Unreachable("the response of the service behind this path is too large")
        headers_out = [
            (name, value) for name, value in response.headers.raw if name.lower() != b"content-encoding"
        ]
        return response.status_code, headers_out, response.content

    def stream(
        self,
        method: str,
        url: str,
        headers: HeaderPairs,
        body: StreamedBody | None,
        *,
        deadlines: TransferDeadlines,
    ) -> AbstractAsyncContextManager[StreamedResponse]:
        """Send a request, and return the context of its response, whose body can be relayed.

        Raises `Malformed` for a header that is not UTF-8. The context raises `ExchangeFailed`, or what the
        source of the body raises.
        """
        try:
            sent = CIMultiDict((name.decode("latin-1"), value.decode("utf-8")) for name, value in headers)
        except UnicodeDecodeError:
            raise Malformed(NOT_FORWARDABLE) from None

        async def send(body: Body) -> aiohttp.ClientResponse:
            return await self._streams.request(
                method,
                URL(url, encoded=True),
                headers=framed(sent, body),
                data=body,
                allow_redirects=False,
            )

        return exchange(send, body, deadlines)

    @cached_property
    def _streams(self) -> aiohttp.ClientSession:
        return create_session(aiohttp.TCPConnector(limit=_MAX_STREAMS, keepalive_timeout=30))

    async def get_json(self, url: str) -> Any:
        """Return the JSON of the response to a GET request. Raises `Unreachable` if the status is not 200."""
        status, _, body = await self.call("GET", url, [], b"")
        if status != 200:
            raise Unreachable(f"{status} instead of JSON")
        return httpx.Response(200, content=body).json()

    async def close(self) -> None:
        if "_client" in vars(self):
            await self._client.aclose()
        if "_streams" in vars(self):
            await self._streams.close()

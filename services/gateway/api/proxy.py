"""Proxy to the other services: one address for all management APIs without a reverse proxy."""

import asyncio
from collections.abc import Coroutine, KeysView, Mapping
from typing import Any, Final

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from shared.contracts.errors import Malformed, Rejected
from shared.contracts.routes import (
    MAX_FILE_BYTES,
    MAX_STREAMED_BYTES,
    MAX_UPLOAD_BYTES,
    is_large,
    is_upload,
    service_for_path,
)
from shared.runtime.draining import Draining
from shared.runtime.egress.exchange import ExchangeFailed, StreamedBody
from shared.runtime.egress.progress import TransferDeadlines
from shared.runtime.http_client import NOT_FORWARDABLE, ApiClient, HeaderPairs, Unreachable
from shared.runtime.web.problems import problem_response
from shared.runtime.web.request_body import RequestBody, send_early, until_disconnect

_MAX_URL_LENGTH: Final = 16 * 1024
_NOT_FORWARDED: Final = frozenset(
    {
        b"date",
        b"connection",
        b"expect",
        b"keep-alive",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"host",
        b"content-length",
    }
)
"""Headers of one connection (RFC 9110, 7.6.1), and those that each connection sets itself."""
_FORWARDED_HEADERS: Final = frozenset(
    {
        b"forwarded",
        b"true-client-ip",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-proto",
        b"x-real-ip",
    }
)
"""Headers that name the caller. The services trust the proxy, so it never passes on a caller's own claim."""


_URL_TOO_LONG: Final = "the URL is longer than 16 KiB: send fewer or shorter query parameters"
STREAM_DEADLINES: Final = TransferDeadlines(total_s=960, interval_s=60, interval_bytes=1, answer_s=170)
"""Longer than those of the services behind, which know what to answer."""


class ServiceProxy:
    """An ASGI app that forwards calls to the services at `peers`."""

    def __init__(self, peers: Mapping[str, str], draining: Draining) -> None:
        """`peers` are base URLs by service name."""
        self._peers = {name: url.rstrip("/") for name, url in peers.items()}
        self._client = ApiClient(timeout_s=60)
        self._draining = draining

    @property
    def peers(self) -> KeysView[str]:
        """The names of the services behind the proxy."""
        return self._peers.keys()

    async def stop(self) -> None:
        await self._client.close()

    def handles(self, path: str) -> bool:
        """Return whether a path belongs to one of the services."""
        return service_for_path(path) in self._peers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a call and return the response. `BodyLimit` in front has read the whole body already."""
        bodiless = scope["method"] in ("GET", "HEAD", "OPTIONS")
        body = b"" if bodiless else (await receive()).get("body", b"")
        url = self._url(scope)
        if len(url) > _MAX_URL_LENGTH:
            await problem_response(414, _URL_TOO_LONG)(scope, receive, send)
            return
        try:
            status, received, content = await self._client.call(scope["method"], url, _forwarded(scope), body)
        except Malformed as error:
            await problem_response(error.status, error.detail)(scope, receive, send)
            return
        except Unreachable as error:
            response = problem_response(503, str(error), headers={"Retry-After": "2"})
            await response(scope, receive, send)
            return
        base = self._base(scope).encode()
        response_headers = [
            # A redirect to another path of the service is one of the hub: nobody outside reaches its address.
            (name, value.removeprefix(base) if name.lower() == b"location" else value)
            for name, value in received
            if name.lower() not in _NOT_FORWARDED
        ]
        # The response to HEAD has no body, but the length that the response to GET would have.
        if scope["method"] == "HEAD":
            response_headers += [
                (name, value) for name, value in received if name.lower() == b"content-length"
            ]
        elif status not in (204, 304):
            response_headers.append((b"content-length", str(len(content)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": response_headers})
        await send({"type": "http.response.body", "body": content})

    async def stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a call, and stream its body and response.

        If the service's response ends early, the caller's ends early too.
        """
        url = self._url(scope)
        if len(url) > _MAX_URL_LENGTH:
            await problem_response(414, _URL_TOO_LONG)(scope, receive, send)
            return
        # As reverse proxies do: the service compares it with where a redirect leads.
        host = [(name, value) for name, value in scope["headers"] if name == b"host"]
        is_started = False
        max_body = MAX_UPLOAD_BYTES if is_upload(scope["path"]) else MAX_STREAMED_BYTES
        body = RequestBody(scope, receive, max_bytes=max_body)

        async def forward() -> None:
            nonlocal is_started
            call = self._client.stream(
                scope["method"],
                url,
                [*_forwarded(scope), *host],
                None if body.size == 0 else StreamedBody(body.stream(), body.size),
                deadlines=STREAM_DEADLINES,
            )
            async with call as response:
                headers = [
                    (name.lower(), value)
                    for name, value in response.headers
                    if name.lower() not in _NOT_FORWARDED or name.lower() == b"content-length"
                ]
                headers += body.closing_headers()
                is_started = True
                await send({"type": "http.response.start", "status": response.status, "headers": headers})

                async def write(chunk: bytes) -> None:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})

                if scope["method"] != "HEAD":
                    max_bytes = MAX_FILE_BYTES if is_large(scope["path"]) else MAX_STREAMED_BYTES
                    relay = response.relay(write, max_bytes)
                    is_stream = response.header("content-type").startswith("text/event-stream")
                    await (self._until_drain(relay) if is_stream else relay)
                await body.discard()
                await send({"type": "http.response.body", "body": b""})

        try:
            body.check_size()
            await until_disconnect(body, forward())
        except ClientDisconnect:
            return
        except Rejected as error:
            response = problem_response(error.status, error.detail)
        except ExchangeFailed as error:
            detail = f"the service behind this path did not answer ({error.failure})"
            response = problem_response(503, detail, headers={"Retry-After": "2"})
            if error.failure == "bad_url":
                response = problem_response(400, NOT_FORWARDABLE)
        else:
            return
        if not is_started:
            await send_early(send, response, body)

    async def _until_drain(self, relay: Coroutine[Any, Any, None]) -> None:
        """Run the relay of a stream of events; stop it when this process stops. Raises what it raises."""
        task, draining = asyncio.create_task(relay), asyncio.create_task(self._draining.wait())
        try:
            await asyncio.wait({task, draining}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
        finally:
            task.cancel()
            draining.cancel()
            await asyncio.gather(task, draining, return_exceptions=True)

    def _url(self, scope: Scope) -> str:
        query = scope["query_string"].decode("ascii", "replace")
        path: str = scope["raw_path"].decode("ascii", "replace").partition("?")[0]
        return self._base(scope) + path + (f"?{query}" if query else "")

    def _base(self, scope: Scope) -> str:
        return self._peers[service_for_path(scope["path"])]

    async def openapi(self) -> dict[str, dict[str, Any]]:
        """Return the OpenAPI documents of the services that answer, by service name."""
        results = await asyncio.gather(
            *(self._client.get_json(f"{base}/openapi/{name}.json") for name, base in self._peers.items()),
            return_exceptions=True,
        )
        return {
            name: document
            for name, document in zip(self._peers, results, strict=True)
            if isinstance(document, dict)
        }


def _forwarded(scope: Scope) -> HeaderPairs:
    """Return the headers of a call that are forwarded, and the address of the caller.

    What `Connection` names is for one connection too.
    """
    named = b",".join(value for name, value in scope["headers"] if name == b"connection")
    left_out = _NOT_FORWARDED | _FORWARDED_HEADERS | {name.strip().lower() for name in named.split(b",")}
    headers = [(name, value.strip(b" \t")) for name, value in scope["headers"] if name not in left_out]
    if scope["client"]:
        headers.append((b"x-forwarded-for", scope["client"][0].encode()))
    return headers

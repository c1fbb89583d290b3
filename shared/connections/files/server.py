"""Serve files by signed addresses of the hub: of a provider, or of an import.

A bare ASGI app beside the management API, because files are passed on as streams. It needs no API key: the
token in the path is the proof (docs/adr/0110-files-by-signed-addresses.md).
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from time import perf_counter
from typing import Final, Protocol

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.connections.files.addresses import FileAddresses, FileRef
from shared.connections.files.failure import FileFailed
from shared.connections.files.names import attachment_disposition, served_type
from shared.contracts.errors import NotFound, OverLimit
from shared.contracts.routes import is_file
from shared.runtime.egress.exchange import ExchangeFailed
from shared.runtime.limits import WorkspaceLimits
from shared.runtime.logs import Log
from shared.runtime.web.problems import (
    KNOWN_ERRORS,
    SANDBOX_HEADERS,
    error_response,
    problem_response,
)
from shared.runtime.web.request_body import RequestBody, send_early, until_disconnect

_MAX_BODY: Final = 64 * 1024
_MAX_RUNNING: Final = 10
"""Files of one workspace at a time, in each process."""
_MAX_OPEN: Final = 50
"""These, and those that wait for their turn."""
_MAX_ALL: Final = 100
"""Files of all workspaces at a time, in each process."""
_MAX_WAIT_S: Final = 10.0
_RANGE: Final = re.compile(r"bytes=(\d{1,18}-\d{0,18}|-\d{1,18})")
"""One range. Several would need several parts in one response, and are answered with the whole file."""
_VALIDATOR: Final = re.compile(r'(W/)?"[\x21\x23-\x7e]{1,200}"|[A-Za-z0-9, :+-]{1,40}')
_UNKNOWN: Final = "no such file: its address was cut off or changed, or the hub's key was replaced"
_EXPIRED: Final = "the address of the file has expired: open the file where its message was written"


class OpenFile(Protocol):
    """A file, or the range of it that was asked for, as a response has it."""

    @property
    def status(self) -> int:
        """200 for the whole file, 206 for a range."""
        ...

    @property
    def content_length(self) -> int | None:
        """The number of bytes, None if it is not known."""
        ...

    def header(self, name: str) -> str:
        """Return `Content-Range`, `Accept-Ranges`, `ETag` or `Last-Modified`; '' if there is none."""
        ...

    async def relay(self, write: Callable[[bytes], Awaitable[None]], max_bytes: int) -> None:
        """Call `write` with the bytes. Raises `ExchangeFailed`, also for more than `max_bytes`."""
        ...


class FileSource(Protocol):
    """Opens files: at their providers, or on the disk."""

    def max_bytes(self, provider: str) -> int:
        """Return how many bytes a file of a provider may have."""
        ...

    def opened(
        self, ref: FileRef, headers: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[OpenFile]:
        """Return the context of a file, or of the range in `headers`. Raises `FileFailed` and `NotFound`."""
        ...


class FileServer:
    """The ASGI app that answers `GET` and `HEAD` for files."""

    def __init__(self, addresses: FileAddresses, files: FileSource, log: Log) -> None:
        self._addresses = addresses
        self._files = files
        self._log = log
        self._slots = _FileSlots()
        self._route = f"{addresses.path}/{{token}}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call. A response that was started and broke off stays without its end."""
        is_started = False
        body = RequestBody(scope, receive, max_bytes=_MAX_BODY)

        def start() -> Send:
            nonlocal is_started
            is_started = True
            return send

        try:
            body.check_size()
            await until_disconnect(body, self._serve(scope, body, start))
        except (ClientDisconnect, ExchangeFailed):
            pass  # nobody waits for a response, or it was started
        except Exception as error:  # noqa: BLE001 -- as the framework does for its own routes
            if not is_started:
                await send_early(send, self._problem(error), body)

    def _problem(self, error: Exception) -> Response:
        if isinstance(error, FileFailed):
            headers = dict(error.headers)
            if error.retry_after_s is not None:
                headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
            return problem_response(error.status, error.text, headers=headers)
        if isinstance(error, OverLimit):
            return problem_response(error.status, error.detail, headers={"Retry-After": "1"})
        if isinstance(error, KNOWN_ERRORS):
            return error_response(error, self._route, self._log)
        self._log.error("request.failed", route=self._route, exc_info=error)
        return problem_response(500, "an unexpected error: see the log of the service")

    async def _serve(self, scope: Scope, body: RequestBody, start: Callable[[], Send]) -> None:
        ref = self._addresses.open(scope["path"].rpartition("/")[2])
        if ref is None:
            raise NotFound(_UNKNOWN)
        if ref.is_expired:
            raise FileFailed(410, _EXPIRED, "expired")
        started, status, sent = perf_counter(), 0, 0

        async def write(chunk: bytes) -> None:
            nonlocal sent
            sent += len(chunk)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})

        try:
            async with (
                self._slots.hold(ref.workspace),
                self._files.opened(ref, _range_headers(scope)) as response,
            ):
                status = response.status
                headers = [*_headers(response, ref), *body.closing_headers()]
                send = start()
                await send({"type": "http.response.start", "status": status, "headers": headers})
                if scope["method"] != "HEAD":
                    await response.relay(write, self._files.max_bytes(ref.provider))
                await body.discard()
                await send({"type": "http.response.body", "body": b""})
        except FileFailed as error:
            status = error.status
            raise
        finally:
            self._log.info(
                "file.served",
                workspace=ref.workspace,
                provider=ref.provider,
                status=status or None,
                response_bytes=sent,
                ms=round((perf_counter() - started) * 1000),
            )


def dispatch(files: ASGIApp, management: ASGIApp) -> ASGIApp:
    """Return the app that gives reads of files to `files`, and everything else to the management API."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        reads = scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and is_file(scope["path"])
        await (files if reads else management)(scope, receive, send)

    return app


class _FileSlots:
    """Bounds the files that are served at a time, so that one workspace costs only itself."""

    def __init__(self) -> None:
        self._limits = WorkspaceLimits(_MAX_RUNNING)
        self._all = asyncio.Semaphore(_MAX_ALL)

    @asynccontextmanager
    async def hold(self, workspace: str) -> AsyncIterator[None]:
        """Hold a slot while the context lasts, and wait for it up to 10 s. Raises `OverLimit`."""
        if self._limits.users(workspace) >= _MAX_OPEN:
            raise OverLimit(f"the workspace has {_MAX_OPEN} files under way: fetch fewer at a time")
        held = False
        try:
            async with asyncio.timeout(_MAX_WAIT_S):
                await self._limits.acquire(workspace)
                held = True
                await self._all.acquire()
        except BaseException as error:
            if held:
                self._limits.release(workspace)
            if not isinstance(error, TimeoutError):
                raise
            raise OverLimit("too many files are under way: fetch fewer at a time") from None
        try:
            yield
        finally:
            self._all.release()
            self._limits.release(workspace)


def _range_headers(scope: Scope) -> dict[str, str]:
    """Return the range that the caller asks for, with its condition, as the provider gets them."""
    received = {name: value.decode("latin-1").strip() for name, value in scope["headers"]}
    wanted = received.get(b"range", "")
    if not _RANGE.fullmatch(wanted):
        return {}
    condition = received.get(b"if-range", "")
    if not condition:
        return {"Range": wanted}
    return {"Range": wanted, "If-Range": condition} if _VALIDATOR.fullmatch(condition) else {}


def _headers(response: OpenFile, ref: FileRef) -> list[tuple[bytes, bytes]]:
    """Return the headers of a file. Of the provider's, only those of ranges and versions are passed on."""
    found = {
        "Content-Type": served_type(ref.file.content_type),
        "Content-Disposition": attachment_disposition(ref.file.filename),
        "Cache-Control": "private",
        **SANDBOX_HEADERS,
    }
    if response.content_length is not None:
        found["Content-Length"] = str(response.content_length)
    if response.status == 206:
        found["Content-Range"] = response.header("Content-Range")
    if response.status == 206 or response.header("Accept-Ranges").lower() == "bytes":
        found["Accept-Ranges"] = "bytes"
    for name in ("ETag", "Last-Modified"):
        if _VALIDATOR.fullmatch(response.header(name)):
            found[name] = response.header(name)
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in found.items()]

"""Download a file of any size from a URL that others chose, with constant memory.

The body goes to `name.part` beside the target, which gets its name when the file is complete and on the disk.
A failed download leaves the part file if the server named the version of the file (a strong `ETag`, or
`Last-Modified`); the next call with the same URL and target resumes it (`Range` and `If-Range`, RFC 9110). If
the file has changed, or the server does not resume, the download starts again from the first byte.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import aiohttp
from multidict import CIMultiDict

from shared.contracts.errors import InterlinkError
from shared.runtime.egress.certificates import ClientCertificate
from shared.runtime.egress.client import EgressClient
from shared.runtime.egress.errors import EgressFailure, classify_error
from shared.runtime.egress.part_file import DiskFailed, PartFile, PartInUse, validator_of
from shared.runtime.egress.progress import ProgressDeadline, TooSlow, TransferDeadlines, run_to_end
from shared.runtime.egress.sessions import body_of_connection
from shared.runtime.egress.urls import redirect_target, same_origin

MAX_REDIRECTS: Final = 5

DownloadFailure = (
    EgressFailure | Literal["status", "too_many_redirects", "too_large", "checksum", "disk", "in_use"]
)
"""Classes of failed downloads: those of failed calls, and those of downloads."""

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_RETRYABLE_STATUSES: Final = frozenset({408, 425, 429})
_RETRYABLE: Final = frozenset({"timeout", "connection", "closed_mid_response", "dns", "proxy", "in_use"})
_PUBLIC_HEADERS: Final = frozenset({"accept", "accept-language", "user-agent"})
"""The caller's headers that another origin gets too: none of the others is known to be no secret."""
_CHUNK_BYTES: Final = 256 * 1024
_WRITE_BYTES: Final = 1024 * 1024
"""Written at a time: each write is a visit to a thread."""
_MAX_CONTENT_TYPE: Final = 255


@dataclass(frozen=True, slots=True)
class Download:
    """A complete file: it has `size` bytes, and its name is on the disk.

    `content_type` is the server's, empty if it named none. `sha256` is in hexadecimal. `resumed_from` is the
    number of bytes that an earlier call had left.
    """

    path: Path
    size: int
    content_type: str
    sha256: str
    resumed_from: int


class DownloadFailed(InterlinkError):
    """A download has failed: the target is as it was.

    `retryable` says whether the same call may succeed later; it resumes where this one ended, if it can.
    `status` and `headers` are those of the last response, if its head has arrived.
    """

    def __init__(
        self,
        failure: DownloadFailure,
        detail: str,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"the download failed: {detail}")
        self.failure = failure
        self.detail = detail
        self.status = status
        self.headers: Mapping[str, str] = headers or {}

    @property
    def retryable(self) -> bool:
        if self.failure == "status" and self.status is not None:
            return self.status in _RETRYABLE_STATUSES or self.status >= 500
        return self.failure in _RETRYABLE


async def download(
    client: EgressClient,
    url: str,
    target: Path,
    *,
    max_bytes: int,
    deadlines: TransferDeadlines,
    headers: Mapping[str, str] | None = None,
    workspace: str = "",
    certificate: ClientCertificate | None = None,
    sha256: str | None = None,
    max_redirects: int = MAX_REDIRECTS,
) -> Download:
    """Download a file to `target`, which is replaced if it exists. Raises `DownloadFailed`.

    The file may have `max_bytes` bytes. Its encoding has to be `identity`, so that it takes on the disk what
    it took on the wire. If `sha256` (hexadecimal) is given, another content fails, and nothing of it remains.
    Without it, the server has to say where the body ends, so that a broken connection does not pass for the
    end.

    Every redirect is checked as the first URL is. A redirect to another origin gets no `certificate`, and of
    `headers` only `Accept`, `Accept-Language` and `User-Agent`. The call holds one slot of its workspace
    until it ends.
    """
    request = _Request(
        client,
        url,
        target,
        max_bytes,
        deadlines,
        headers or {},
        workspace,
        certificate,
        None if sha256 is None else sha256.lower(),
        max_redirects,
    )
    return await _Transfer(request).run()


@dataclass(frozen=True, slots=True)
class _Request:
    """The arguments of `download`."""

    client: EgressClient
    url: str
    target: Path
    max_bytes: int
    deadlines: TransferDeadlines
    headers: Mapping[str, str]
    workspace: str
    certificate: ClientCertificate | None
    sha256: str | None
    max_redirects: int


class _Transfer:
    """One call of `download`, with what is known of the last response."""

    def __init__(self, request: _Request) -> None:
        self._request = request
        self._part = PartFile(request.target, _identify(request.url))
        self._status: int | None = None
        self._headers: Mapping[str, str] = {}
        self._content_type = ""

    async def run(self) -> Download:
        request = self._request
        total = asyncio.timeout(request.deadlines.total_s)
        try:
            async with total, request.client.workspace_slot(request.workspace):
                return await self._run_with_file()
        except TooSlow as error:
            raise self._failed("timeout", str(error)) from None
        except PartInUse as error:
            raise self._failed("in_use", str(error)) from None
        except DiskFailed as error:
            raise self._failed("disk", f"the file cannot be written: {error}") from None
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            if total.expired():
                text = f"not complete within {request.deadlines.total_s:g} seconds"
                raise self._failed("timeout", text) from None
            failure, detail = classify_error(
                error, answered=self._status is not None, proxied=request.client.proxied
            )
            raise self._failed(failure, detail) from None

    async def _run_with_file(self) -> Download:
        part = self._part
        try:
            await run_to_end(part.open)
            # Two attempts at most: one that resumes, and one from the first byte.
            resumed_from = await self._resume() if part.size else None
            if resumed_from is None:
                resumed_from = 0
                await self._fetch_all()
            if self._request.sha256 not in (None, part.sha256):
                await run_to_end(part.discard)
                raise self._failed("checksum", "the file does not have the expected SHA-256")
            size, digest = part.size, part.sha256
            await run_to_end(part.finish)
            return Download(self._request.target, size, self._content_type, digest, resumed_from)
        except DiskFailed:
            with suppress(DiskFailed):  # a full disk: make room
                await run_to_end(part.discard)
            raise
        finally:
            await run_to_end(part.close)

    async def _resume(self) -> int | None:
        """Fetch the rest of the file, and return how many bytes were there.

        That is 0 if the server sent the whole file. Return None if it has to be fetched from the first byte.
        """
        part, state = self._part, self._part.state
        assert state is not None  # noqa: S101 -- a part file with bytes has a state
        if state.total > self._request.max_bytes:
            raise self._too_large()
        self._content_type, offset = state.content_type, part.size
        if offset == state.total:  # it was complete, and the process ended before the rename
            return offset
        async with self._response_to(part.range_headers) as response:
            if response.status == 200:  # the file has changed, or the server does not resume
                await self._receive_all(response)
                return 0
            if response.status == 416:
                return None
            if response.status != 206:
                raise self._failed("status", f"the server answered {response.status}")
            self._check_encoding(response)
            if not part.continues(response.headers):
                return None
            await self._receive(response, state.total)
        return offset

    async def _fetch_all(self) -> None:
        async with self._response_to({}) as response:
            if response.status != 200:
                raise self._failed("status", f"the server answered {response.status}")
            await self._receive_all(response)

    @asynccontextmanager
    async def _response_to(self, range_headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        async with await self._send(range_headers) as response:
            with body_of_connection(response):
                yield response

    async def _send(self, range_headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """Send the request, follow redirects, and return the response that is none."""
        request = self._request
        url, certificate = request.url, request.certificate
        headers = CIMultiDict(request.headers)
        for _ in range(request.max_redirects + 1):
            self._status, self._headers = None, {}
            sent = CIMultiDict(headers)
            sent.update({**range_headers, "Accept-Encoding": "identity"})
            async with asyncio.timeout(request.deadlines.answer_s):
                response = await request.client.send(
                    "GET", url, sent, None, workspace=request.workspace, certificate=certificate
                )
            self._status, self._headers = response.status, dict(response.headers)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or location is None:
                return response
            response.close()
            next_url = redirect_target(url, location)
            if not same_origin(url, next_url):
                certificate = None
                headers = CIMultiDict(
                    (name, value) for name, value in headers.items() if name.lower() in _PUBLIC_HEADERS
                )
            url = next_url
        raise self._failed("too_many_redirects", f"more than {request.max_redirects} redirects")

    async def _receive_all(self, response: aiohttp.ClientResponse) -> None:
        """Write the body of a 200 response, from the first byte."""
        self._check_encoding(response)
        total = response.content_length
        if total is not None and total > self._request.max_bytes:
            raise self._too_large()
        ends = total is not None or response.headers.get("Transfer-Encoding", "").lower() == "chunked"
        if not ends and self._request.sha256 is None:
            raise self._failed("protocol", "the response does not say where its body ends")
        self._content_type = response.headers.get("Content-Type", "")[:_MAX_CONTENT_TYPE]
        await run_to_end(
            self._part.start,
            validator=validator_of(response.headers),
            content_type=self._content_type,
            total=total,
        )
        await self._receive(response, total)

    async def _receive(self, response: aiohttp.ClientResponse, total: int | None) -> None:
        """Append a body to the part file, until it has `total` bytes if that is known."""
        limit = self._request.max_bytes if total is None else total
        buffer = bytearray()
        try:
            async with ProgressDeadline(self._request.deadlines) as progress:
                with body_of_connection(response):
                    while chunk := await response.content.read(_CHUNK_BYTES):
                        if self._part.size + len(buffer) + len(chunk) > limit:
                            buffer.clear()
                            await run_to_end(self._part.discard)
                            raise (
                                self._too_large()
                                if total is None
                                else self._failed("protocol", "the body is longer than the server said")
                            )
                        buffer += chunk
                        progress.add(len(chunk))
                        if len(buffer) >= _WRITE_BYTES:
                            full, buffer = buffer, bytearray()
                            await run_to_end(self._part.append, full)
        finally:
            if buffer:  # also after a failure, for the next call
                await run_to_end(self._part.append, buffer)
        if total is not None and self._part.size < total:
            raise self._failed("closed_mid_response", "the body is shorter than the server said")

    def _check_encoding(self, response: aiohttp.ClientResponse) -> None:
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise self._failed("protocol", "the body is compressed, which the request did not accept")
        transfer = response.headers.get("Transfer-Encoding", "chunked").strip().lower()
        if transfer != "chunked":
            raise self._failed("protocol", "the body has a transfer encoding other than chunked")

    def _too_large(self) -> DownloadFailed:
        return self._failed("too_large", f"the file has more than {self._request.max_bytes} bytes")

    def _failed(self, failure: DownloadFailure, detail: str) -> DownloadFailed:
        return DownloadFailed(failure, detail, self._status, self._headers)


def _identify(url: str) -> str:
    """Return a digest of the URL without its query, which may be a signature that differs each time."""
    return hashlib.sha256(url.partition("#")[0].partition("?")[0].encode()).hexdigest()

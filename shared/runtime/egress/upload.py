"""Upload files of any size to URLs that others chose, with constant memory.

The body is read from the files while it is sent, with a `Content-Length` that is known before.
"""

import asyncio
import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final, ParamSpec, TypeVar

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict

from shared.runtime.egress.certificates import ClientCertificate
from shared.runtime.egress.client import MAX_RESPONSE_BYTES, EgressClient, EgressResponse
from shared.runtime.egress.errors import classify_error
from shared.runtime.egress.progress import ProgressDeadline, TooSlow, TransferDeadlines, run_to_end
from shared.runtime.egress.sessions import read_body

P = ParamSpec("P")
T = TypeVar("T")

_CHUNK_BYTES: Final = 64 * 1024
_NEWLINE: Final = re.compile(r"\r\n|\r|\n")
_CONTENT_TYPE: Final = re.compile(r"[\x20-\x7e]{1,255}")
_FRAMING_HEADERS: Final = ("Content-Length", "Content-Type", "Transfer-Encoding", "Expect")


@dataclass(frozen=True, slots=True)
class FormFile:
    """A file of a form: the form field's `name`, the file's `path`, and what the server learns of it."""

    name: str
    path: Path
    file_name: str
    content_type: str = "application/octet-stream"


async def upload(
    client: EgressClient,
    method: str,
    url: str,
    path: Path,
    *,
    deadlines: TransferDeadlines,
    content_type: str = "application/octet-stream",
    headers: Mapping[str, str] | None = None,
    workspace: str = "",
    certificate: ClientCertificate | None = None,
    max_response_bytes: int = MAX_RESPONSE_BYTES,
) -> EgressResponse:
    """Send a file as the body of a request, and read at most `max_response_bytes` of the response body.

    Never raises for what the server does: errors are in the result, and a redirect is an ordinary response.
    A response that comes before the body was sent (401, 413) is the result; the rest is not sent. Raises
    `OSError` if the file cannot be read, or changes its size meanwhile. The call holds one slot of its
    workspace until it ends.
    """
    parts = [await run_to_end(_file_part, path)]
    body = _FileBody(parts, _checked_type(content_type))
    return await _send(
        client, method, url, headers or {}, body, deadlines, workspace, certificate, max_response_bytes
    )


async def upload_form(
    client: EgressClient,
    url: str,
    fields: Sequence[tuple[str, str]],
    files: Sequence[FormFile],
    *,
    deadlines: TransferDeadlines,
    headers: Mapping[str, str] | None = None,
    workspace: str = "",
    certificate: ClientCertificate | None = None,
    max_response_bytes: int = MAX_RESPONSE_BYTES,
) -> EgressResponse:
    """Post fields, then files, as `multipart/form-data`; otherwise as `upload`.

    Names and file names are escaped as in the HTML standard, so that no text can end its header. Values go
    out as they are: to make the ends of their lines CRLF, as browsers do, would move the offsets in a text.
    """
    boundary = f"interlink-{secrets.token_hex(16)}"
    parts: list[bytes | _FilePart] = []
    for name, value in fields:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{_escape_name(name)}"\r\n\r\n'
        parts.append(f"{head}{value}\r\n".encode())
    for file in files:
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="{_escape_name(file.name)}"; '
            f'filename="{_escape(file.file_name)}"\r\n'
            f"Content-Type: {_checked_type(file.content_type)}\r\n\r\n"
        )
        parts += [head.encode(), await run_to_end(_file_part, file.path), b"\r\n"]
    parts.append(f"--{boundary}--\r\n".encode())
    body = _FileBody(parts, f"multipart/form-data; boundary={boundary}")
    return await _send(
        client, "POST", url, headers or {}, body, deadlines, workspace, certificate, max_response_bytes
    )


def _escape_name(name: str) -> str:
    """Return a field's name as a quoted parameter, with every kind of line end as CRLF, as forms send it."""
    return _escape(_NEWLINE.sub("\r\n", name))


def _escape(text: str) -> str:
    """Escape a name for a quoted parameter (HTML standard, "multipart/form-data encoding algorithm")."""
    return text.replace("\n", "%0A").replace("\r", "%0D").replace('"', "%22")


def _checked_type(content_type: str) -> str:
    if not _CONTENT_TYPE.fullmatch(content_type):
        raise ValueError("the content type has characters that a header cannot have")
    return content_type


async def _send(
    client: EgressClient,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: "_FileBody",
    deadlines: TransferDeadlines,
    workspace: str,
    certificate: ClientCertificate | None,
    max_response_bytes: int,
) -> EgressResponse:
    started = perf_counter()
    status: int | None = None
    response_headers: dict[str, str] = {}
    address: str | None = None
    chunks: list[bytes] = []
    framed = CIMultiDict(headers)
    for name in _FRAMING_HEADERS:  # the body decides them
        framed.popall(name, None)
    total = asyncio.timeout(deadlines.total_s)
    try:
        async with total, client.workspace_slot(workspace):
            async with ProgressDeadline(deadlines, first_s=deadlines.answer_s) as progress:
                body.on_sent = progress.add
                body.on_end = lambda: progress.restart(deadlines.answer_s)
                response = await client.send(
                    method, url, framed, body, workspace=workspace, certificate=certificate
                )
            body.stopped = True
            async with response:
                status, response_headers = response.status, dict(response.headers)
                address = client.peer_address(response)
                async with asyncio.timeout(deadlines.answer_s):
                    await read_body(response, max_response_bytes, chunks)
        detail = ""
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
        if body.file_error is not None:
            raise body.file_error from None
        failure, detail = classify_error(error, answered=status is not None, proxied=client.proxied)
        if total.expired():
            detail = f"not complete within {deadlines.total_s:g} seconds"
        elif isinstance(error, TooSlow):
            detail = str(error)
        # A server that answers before it has read the body may close the connection within its answer.
        if status is None or body.sent:
            return EgressResponse(None, failure, detail, {}, b"", perf_counter() - started, address)
        detail = "the response body broke off"
    finally:
        body.abort()
    content = b"".join(chunks)[:max_response_bytes]
    return EgressResponse(status, None, detail, response_headers, content, perf_counter() - started, address)


@dataclass(frozen=True, slots=True)
class _FilePart:
    """A file of the body, with the size that the `Content-Length` counts."""

    path: Path
    size: int


def _file_part(path: Path) -> _FilePart:
    return _FilePart(path, path.stat().st_size)


class _Reader:
    """Reads one file of a body. `open` and `read` block: call them in a thread."""

    def __init__(self, part: _FilePart) -> None:
        self._part = part
        self._fd = -1

    def open(self) -> None:
        self._fd = os.open(self._part.path, os.O_RDONLY | os.O_CLOEXEC)
        if os.fstat(self._fd).st_size != self._part.size:
            raise _changed(self._part)

    def read(self, count: int) -> bytes:
        chunk = os.read(self._fd, count)
        if not chunk:
            raise _changed(self._part)
        return chunk

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _changed(part: _FilePart) -> OSError:
    return OSError(f"{part.path} changed its size while it was uploaded")


class _FileBody(aiohttp.Payload):
    """The body of an upload. Its files are opened when it is written, and closed by the same task.

    `sent` says whether all bytes were handed to the system. When the response is there, `stopped` is set, and
    the rest is not sent. `file_error` is the error of a file. `on_sent` is called with each count of bytes,
    `on_end` after the last one.
    """

    def __init__(self, parts: Sequence[bytes | _FilePart], content_type: str) -> None:
        super().__init__(parts, content_type=content_type)
        self._parts = parts
        self._size = sum(len(part) if isinstance(part, bytes) else part.size for part in parts)
        self.sent = False
        self.stopped = False
        self.file_error: OSError | None = None
        self._transport: asyncio.Transport | None = None
        self.on_sent: Callable[[int], None] = lambda _count: None
        self.on_end: Callable[[], None] = lambda: None

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:  # noqa: ARG002
        raise TypeError("the body of an upload is only sent")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write the body. aiohttp calls it again if a reused connection turns out to be closed."""
        self._transport = getattr(writer, "transport", None)
        for part in self._parts:
            if isinstance(part, bytes):
                await self._write_chunk(writer, part)
            else:
                await self._write_file(writer, part)
        self.sent = True
        self.on_end()

    def abort(self) -> None:
        """Drop the connection unless all was sent: a close would wait until the server has read the rest."""
        if self._transport is not None and not self.sent:
            self._transport.abort()

    async def _write_file(self, writer: AbstractStreamWriter, part: _FilePart) -> None:
        reader, rest = _Reader(part), part.size
        try:
            await self._of_file(reader.open)
            while rest:
                chunk = await self._of_file(reader.read, min(_CHUNK_BYTES, rest))
                rest -= len(chunk)
                await self._write_chunk(writer, chunk)
        finally:
            reader.close()

    async def _of_file(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await run_to_end(function, *args, **kwargs)
        except OSError as error:  # aiohttp would take it for an error of the connection
            self.file_error = error
            raise

    async def _write_chunk(self, writer: AbstractStreamWriter, chunk: bytes) -> None:
        if self.stopped:
            # The connection has to stay as it is until the response is read. Then this task is cancelled.
            await asyncio.get_running_loop().create_future()
        for start in range(0, len(chunk), _CHUNK_BYTES):
            piece = chunk[start : start + _CHUNK_BYTES]
            await writer.write(piece)
            await writer.drain()
            self.on_sent(len(piece))

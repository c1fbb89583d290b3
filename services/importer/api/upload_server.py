"""`PATCH /api/uploads/{id}`: the bytes of an upload, written to disk as they arrive.

A bare ASGI app beside the management API, because the body is a stream. It checks the API key itself.
"""

import asyncio
import hashlib
import os
from collections.abc import Mapping
from typing import BinaryIO, Final

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from services.importer.uploads import tus
from services.importer.uploads.folder import UploadFolder, other_folder
from services.importer.uploads.records import Upload, Uploads
from shared.contracts.errors import Conflict, OverLimit, TooLarge, UnsupportedMedia
from shared.contracts.routes import UPLOADS_PATH, is_upload
from shared.runtime.limits import WorkspaceLimits
from shared.runtime.logs import Log
from shared.runtime.web.access import Keyring, authorize
from shared.runtime.web.problems import KNOWN_ERRORS, error_response, problem_response
from shared.runtime.web.query_parameters import reject_parameters
from shared.runtime.web.request_body import INTERVAL_BYTES, INTERVAL_S, RequestBody, blocks, send_early

_MAX_RUNNING: Final = 4
"""Requests of one workspace that write at a time, in each process."""
_MAX_ALL: Final = 32
"""Requests of all workspaces, in each process."""
_OTHER_VERSION: Final = problem_response(
    412, f"Tus-Resumable: the hub has version {tus.VERSION}", headers={"Tus-Version": tus.VERSION}
)


class UploadServer:
    """The ASGI app that receives the bytes of uploads."""

    def __init__(self, uploads: Uploads, folder: UploadFolder, keyring: Keyring, log: Log) -> None:
        self._uploads = uploads
        self._folder = folder
        self._keyring = keyring
        self._log = log
        self._limits = WorkspaceLimits(_MAX_RUNNING)
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        body = RequestBody(scope, receive, max_bytes=self._uploads.max_bytes)
        try:
            response = await self._append(scope, body)
        except ClientDisconnect:
            return  # what has arrived is stored
        except TimeoutError:
            response = problem_response(
                408,
                f"fewer than {INTERVAL_BYTES // 1024} KB came within {INTERVAL_S:.0f} s: resume the upload",
            )
        except OverLimit as error:
            response = problem_response(error.status, error.detail, headers={"Retry-After": "1"})
        except KNOWN_ERRORS as error:
            response = error_response(error, UPLOADS_PATH, self._log)
        except OSError as error:
            self._log.error("upload.not_written", exc_info=error)
            response = problem_response(
                503, "the hub's disk does not take the upload: try again later", headers={"Retry-After": "30"}
            )
        response.headers["Tus-Resumable"] = tus.VERSION
        await send_early(send, response, body)

    async def _append(self, scope: Scope, body: RequestBody) -> Response:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        key = await authorize(scope, self._keyring, "imports:write")
        reject_parameters(scope["query_string"])
        upload = await self._uploads.find(scope["path"].rpartition("/")[2], key.workspace)
        if headers.get("content-type", "").partition(";")[0].strip() != tus.CHUNK_TYPE:
            raise UnsupportedMedia(f"send the bytes with Content-Type: {tus.CHUNK_TYPE}")
        if upload.folder != self._folder.id:
            raise other_folder()
        if self._running >= _MAX_ALL or self._limits.users(key.workspace) >= 2 * _MAX_RUNNING:
            raise OverLimit("too many uploads are under way: send fewer at a time")
        self._running += 1
        try:
            async with self._limits.hold(key.workspace):
                offset = await self._write(upload, headers, body)
        finally:
            self._running -= 1
        if offset == upload.size:
            self._log.info("upload.complete", upload_id=upload.id, workspace=upload.workspace, bytes=offset)
        headers = {"Upload-Offset": str(offset), "Upload-Expires": tus.written_time(upload.expires_at)}
        return Response(status_code=204, headers=headers)

    async def _write(self, upload: Upload, headers: Mapping[str, str], body: RequestBody) -> int:
        """Append the body, and return the new offset."""
        start = tus.parse_length(headers.get("upload-offset"), "Upload-Offset")
        checksum = tus.parse_checksum(headers.get("upload-checksum"))
        hashed = hashlib.new(checksum.algorithm, usedforsecurity=False) if checksum else None
        with self._folder.appending(upload.id) as file:
            offset = file.tell()
            if start != offset:
                raise Conflict(f"Upload-Offset is {start}, but {offset} bytes have arrived: ask by HEAD")
            if body.size is not None and start + body.size > upload.size:
                raise TooLarge(f"the upload was announced with {upload.size} bytes")
            is_whole = False
            try:
                async for block in blocks(body):
                    if offset + len(block) > upload.size:
                        raise TooLarge(f"the upload was announced with {upload.size} bytes")
                    if hashed:
                        hashed.update(block)
                    await asyncio.to_thread(self._folder.append, file, block)
                    offset += len(block)
                is_whole = True
            finally:
                if checksum and hashed and not (is_whole and checksum.matches(hashed)):
                    file.truncate(start)
            if checksum and hashed and not checksum.matches(hashed):
                raise _ChecksumMismatch
            await asyncio.to_thread(_sync, file)
        return offset


class _ChecksumMismatch(Conflict):
    """The bytes of a request are not those that its checksum announces."""

    status = tus.CHECKSUM_MISMATCH

    def __init__(self) -> None:
        super().__init__("the bytes do not have the announced checksum: send them again")


def dispatch(uploads: ASGIApp, management: ASGIApp) -> ASGIApp:
    """Return the app that gives the bytes of uploads to `uploads`, and all else to the management API.

    A call about uploads by another version of tus is refused.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(UPLOADS_PATH):
            if scope["method"] != "OPTIONS" and _version(scope) not in (None, tus.VERSION):
                return await _OTHER_VERSION(scope, receive, send)
            if scope["method"] == "PATCH" and is_upload(scope["path"]):
                return await uploads(scope, receive, send)
        return await management(scope, receive, send)

    return app


def _version(scope: Scope) -> str | None:
    """Return the version of tus that a call names; None if it names none, as one without uploads."""
    return next(
        (value.decode("latin-1") for name, value in scope["headers"] if name == b"tus-resumable"), None
    )


def _sync(file: BinaryIO) -> None:
    os.fsync(file.fileno())

"""Pass the file of a form on to the importer, part by part, as an upload by tus 1.0."""

import asyncio
import base64
from contextlib import suppress
from dataclasses import replace
from typing import Final
from urllib.parse import quote

from starlette.requests import ClientDisconnect

from services.console.hub_api import HubApi, Member, Refusal
from services.console.web.file_form import FileForm
from services.console.web.forms import BadForm
from shared.contracts.errors import OverLimit
from shared.contracts.routes import UPLOADS_PATH
from shared.runtime.limits import WorkspaceLimits
from shared.runtime.web.request_body import INTERVAL_BYTES, INTERVAL_S

_MAX_RUNNING: Final = 2
"""Uploads of one workspace at a time, in each process."""
_MAX_ALL: Final = 8
"""Uploads of all workspaces at a time, in each process: each has some MiB in memory."""
_ATTEMPTS: Final = 10
_PAUSE_S: Final = 1.0
_MAY_PASS: Final = (409, 429)
"""Statuses after which the offset tells whether a part is there."""
_TOO_SLOW: Final = f"fewer than {INTERVAL_BYTES // 1024} KB came in {INTERVAL_S:.0f} s: send the file again"
_TYPE: Final = "application/offset+octet-stream"
_TUS: Final = {"tus-resumable": "1.0.0"}


class FormUploads:
    """Stores the files of forms."""

    def __init__(self, hub: HubApi) -> None:
        self._hub = hub
        self._limits = WorkspaceLimits(_MAX_RUNNING)
        self._running = 0

    async def store(self, member: Member, form: FileForm) -> str:
        """Store the file, and return the id of the upload.

        If that fails, nothing of the file stays. Raises `Refusal`, `OverLimit`, and `ClientDisconnect`.
        """
        workspace = member.key.workspace
        if self._running >= _MAX_ALL or self._limits.users(workspace) >= _MAX_RUNNING:
            raise OverLimit("too many files are uploaded without script: try again when one of them is done")
        self._running += 1
        try:
            async with self._limits.hold(workspace):
                return await self._store(member, form)
        finally:
            self._running -= 1

    async def _store(self, member: Member, form: FileForm) -> str:
        name = base64.b64encode(form.file_name.encode()).decode()
        headers = {**_TUS, "upload-length": str(form.file_size), "upload-metadata": f"filename {name}"}
        received, _ = await self._hub.send(_renewed(member), "POST", UPLOADS_PATH, b"", headers)
        location = next(value.decode("latin-1") for key, value in received if key.lower() == b"location")
        upload = location.rpartition("/")[2]
        path = f"{UPLOADS_PATH}/{quote(upload, safe='')}"
        offset = 0
        try:
            async for block in form.file():
                await self._append(member, path, offset, block)
                offset += len(block)
        except (Refusal, ClientDisconnect, TimeoutError) as error:
            with suppress(Refusal):
                await self._hub.send(_renewed(member), "DELETE", path, b"", _TUS)
            if isinstance(error, TimeoutError):
                raise BadForm(_TOO_SLOW) from None
            raise
        return upload

    async def _append(self, member: Member, path: str, offset: int, block: bytes) -> None:
        """Append a block; while the importer is away, try again. Raises `Refusal`."""
        end = offset + len(block)
        for attempt in range(1, _ATTEMPTS + 1):
            headers = {**_TUS, "upload-offset": str(offset), "content-type": _TYPE}
            missing = block[len(block) - (end - offset) :]
            try:
                await self._hub.send(_renewed(member), "PATCH", path, missing, headers)
            except Refusal as refusal:
                if attempt == _ATTEMPTS or not (refusal.is_outage or refusal.status in _MAY_PASS):
                    raise
            else:
                return
            await asyncio.sleep(_PAUSE_S)
            with suppress(Refusal):
                offset = await self._offset(member, path)
            if offset >= end:
                return

    async def _offset(self, member: Member, path: str) -> int:
        received, _ = await self._hub.send(_renewed(member), "HEAD", path, b"", _TUS)
        return int(next(value for key, value in received if key.lower() == b"upload-offset"))


def _renewed(member: Member) -> Member:
    """Return the member with the time of a request: an upload takes longer than one."""
    return replace(member, _deadline=0.0)

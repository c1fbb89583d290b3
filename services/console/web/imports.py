"""Import a file: uploads by tus 1.0, which the page's script sends in small parts, and the import of one."""

from dataclasses import replace
from typing import Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from services.console.hub_api import HubApi, Refusal
from services.console.web.file_form import FileForm
from services.console.web.forms import Form, first
from services.console.web.frame import Frame, see_other
from services.console.web.uploads import FormUploads
from services.console.web.visits import Visit
from shared.contracts.errors import OverLimit

PART_BYTES: Final = 1024 * 1024
"""Of an upload in one request: every proxy in front of the console lets it pass."""
_PASSED_ON: Final = ("upload-length", "upload-metadata", "upload-offset", "tus-resumable", "content-type")
_RETURNED: Final = (b"upload-offset", b"upload-length", b"tus-resumable")


class ImportPages:
    """The page that starts an import, and the uploads of its script and of its form."""

    def __init__(self, hub: HubApi, frame: Frame) -> None:
        self._hub = hub
        self._frame = frame
        self._uploads = FormUploads(hub)

    async def show(self, _request: Request, visit: Visit) -> Response:
        """Return the page: a field for a file, and the uploads that are there."""
        return await self._page(visit)

    async def start(self, _request: Request, visit: Visit, form: Form) -> Response:
        """Create the import of an upload, and go to it."""
        return await self._start(visit, first(form, "upload_id"), first(form, "once"))

    async def _start(self, visit: Visit, upload: str, once: str) -> Response:
        try:
            body = {"upload_id": upload}
            made = await self._hub.call(visit.member, "POST", "/api/imports", body=body, once=once)
        except Refusal as refusal:
            return await self._page(visit, refusal)
        return see_other(f"/console/imports/{quote(made['id'], safe='')}")

    async def send_file(self, visit: Visit, form: FileForm) -> Response:
        """Store the file of a form as it comes, and create its import."""
        try:
            upload = await self._uploads.store(visit.member, form)
        except Refusal as refusal:
            return await self._page(visit, refusal)
        except OverLimit as error:
            return await self._page(visit, Refusal(error.status, "Not now", error.detail))
        visit = replace(visit, member=replace(visit.member, _deadline=0.0))
        return await self._start(visit, upload, "")

    async def _page(self, visit: Visit, refusal: Refusal | None = None) -> Response:
        if not visit.member.key.allows("imports:write"):
            return self._frame.not_allowed(visit, "imports:write", "/console/imports")
        uploads = []
        try:
            uploads = (await self._hub.call(visit.member, "GET", "/api/uploads"))["items"]
        except Refusal as error:
            refusal = refusal or error
        return self._frame.page(
            "upload.html",
            visit,
            refusal.page_status if refusal else 200,
            title="Import a file",
            here="imports",
            uploads=uploads,
            refusal=refusal,
            part_bytes=PART_BYTES,
        )

    async def upload(self, request: Request, visit: Visit) -> Response:
        """Forward a tus request: create an upload, read its offset, or append a part."""
        upload_id = request.path_params.get("id")
        path = "/api/uploads" + (f"/{quote(upload_id, safe='')}" if upload_id else "")
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > PART_BYTES:
                return Response(status_code=413)
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        try:
            received, _ = await self._hub.send(visit.member, request.method, path, bytes(body), headers)
        except Refusal as refusal:
            return Response(refusal.detail, refusal.status, media_type="text/plain")
        response = Response(status_code=201 if request.method == "POST" else 204)
        for name, value in received:
            if name.lower() in _RETURNED:
                response.headers[name.decode("latin-1")] = value.decode("latin-1")
            elif name.lower() == b"location":
                response.headers["location"] = (
                    "/console/uploads/" + value.decode("latin-1").rpartition("/")[2]
                )
        return response

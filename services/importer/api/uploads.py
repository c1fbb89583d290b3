"""`/api/uploads`: exports, uploaded by tus 1.0, which resumes what breaks off (https://tus.io)."""

from typing import Annotated, Final

from fastapi import FastAPI, Header
from pydantic import BaseModel
from starlette.responses import Response

from services.importer.api.fields import Reader, Writer
from services.importer.uploads import tus
from services.importer.uploads.folder import UploadFolder, other_folder
from services.importer.uploads.records import Upload, Uploads
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import Malformed, TooLarge
from shared.contracts.routes import UPLOADS_PATH
from shared.runtime.web.paging import Page, PagingQuery
from shared.runtime.web.routes import Routes

_TUS: Final = {"Tus-Resumable": tus.VERSION}


class UploadOut(BaseModel):
    """An upload: `received` of its `size` bytes have arrived.

    `received` and `complete` are null if the process that answers does not have the folder of the upload.
    """

    id: str
    name: str
    size: int
    received: int | None
    complete: bool | None
    created_at: str
    expires_at: str


class UploadsApi:
    """The routes of uploads, but for their bytes, which `UploadServer` receives."""

    def __init__(self, uploads: Uploads, folder: UploadFolder, public_base: str) -> None:
        self._uploads = uploads
        self._folder = folder
        self._public_base = public_base

    def mount(self, app: FastAPI) -> None:
        """Add the routes to the app."""
        routes = Routes(app, UPLOADS_PATH)
        routes.add("", self.show_options, methods=["OPTIONS"], status_code=204)
        routes.add("", self.create, methods=["POST"], status_code=201)
        routes.add("", self.list_all, methods=["GET"])
        routes.add("/{upload_id}", self.read, methods=["GET"])
        routes.add("/{upload_id}", self.check, methods=["HEAD"], response_class=Response)
        routes.add("/{upload_id}", self.delete, methods=["DELETE"], status_code=204)
        routes.declare("/{upload_id}", self._append, methods=["PATCH"], status_code=204, name="append")

    async def show_options(self) -> Response:
        """Name the version, the extensions and the limits of tus that the hub has. It needs no key."""
        headers = {
            **_TUS,
            "Tus-Version": tus.VERSION,
            "Tus-Extension": tus.EXTENSIONS,
            "Tus-Max-Size": str(self._uploads.max_bytes),
            "Tus-Checksum-Algorithm": ",".join(tus.ALGORITHMS),
        }
        return Response(status_code=204, headers=headers)

    async def create(
        self,
        key: Writer,
        upload_length: Annotated[str | None, Header(description="The size of the file in bytes.")] = None,
        upload_metadata: Annotated[
            str | None, Header(description="Pairs of a key and a value in Base64: `filename`.")
        ] = None,
    ) -> Response:
        """Announce an upload. `Location` has its address for `HEAD` and `PATCH`, below the public URL."""
        size = tus.parse_length(upload_length, "Upload-Length")
        if size == 0:
            raise Malformed("Upload-Length: an export has at least one byte")
        if size > self._uploads.max_bytes:
            raise TooLarge(
                f"an upload has at most {self._uploads.max_bytes} bytes: export a shorter time, or have the "
                "operator raise INTERLINK_MAX_UPLOAD_BYTES"
            )
        name = tus.file_name(tus.parse_metadata(upload_metadata))
        upload = await self._uploads.create(key.workspace, name, size)
        headers = {**_headers(upload, 0), "Location": f"{self._public_base}{UPLOADS_PATH}/{upload.id}"}
        return Response(status_code=201, headers=headers)

    async def list_all(self, key: Reader, paging: PagingQuery) -> Page[UploadOut]:
        """List the workspace's uploads, newest first."""
        found = await self._uploads.page(key.workspace, paging)
        return Page(items=[self._out(upload) for upload in found.items], next_cursor=found.next_cursor)

    async def read(self, upload_id: str, key: Reader) -> UploadOut:
        """Return an upload."""
        return self._out(await self._uploads.find(upload_id, key.workspace))

    async def check(self, upload_id: str, key: Reader) -> Response:
        """Return in `Upload-Offset` how many bytes have arrived: the upload goes on there.

        503 if this process does not have the folder of the upload.
        """
        upload = await self._uploads.find(upload_id, key.workspace)
        if upload.folder != self._folder.id:
            raise other_folder()
        headers = {
            **_headers(upload, self._folder.size_of(upload.id)),
            "Upload-Metadata": tus.written_metadata(upload.name),
            "Cache-Control": "no-store",
        }
        return Response(status_code=200, headers=headers)

    async def delete(self, upload_id: str, key: Writer) -> Response:
        """Delete an upload. An import that reads it fails."""
        await self._uploads.delete(upload_id, key.workspace)
        return Response(status_code=204, headers=_TUS)

    async def _append(
        self,
        upload_id: str,
        key: Writer,
        upload_offset: Annotated[str, Header(description="How many bytes have arrived before.")],
        upload_checksum: Annotated[
            str | None, Header(description="Algorithm and digest of these bytes: `sha1 <Base64>`.")
        ] = None,
    ) -> None:
        """Append bytes to an upload, as `application/offset+octet-stream`.

        What arrived before a broken connection counts, unless the request has a checksum. 409: another
        offset; 460: the checksum does not match.
        """

    def _out(self, upload: Upload) -> UploadOut:
        is_here = upload.folder == self._folder.id
        received = self._folder.size_of(upload.id) if is_here else None
        return UploadOut(
            id=upload.id,
            name=upload.name,
            size=upload.size,
            received=received,
            complete=received == upload.size if is_here else None,
            created_at=rfc3339(upload.created_at),
            expires_at=rfc3339(upload.expires_at),
        )


def _headers(upload: Upload, offset: int) -> dict[str, str]:
    return {
        **_TUS,
        "Upload-Offset": str(offset),
        "Upload-Length": str(upload.size),
        "Upload-Expires": tus.written_time(upload.expires_at),
    }

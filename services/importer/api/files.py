"""The files of imports: their list, and their bytes by signed addresses, which `FileServer` sends."""

from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Final, Literal, Self

from fastapi import FastAPI, Header, Query
from pydantic import BaseModel
from starlette.responses import Response, StreamingResponse

from services.importer.api.csv_rows import csv_lines
from services.importer.api.fields import Reader
from services.importer.files.records import FileRecord, FileState, ImportFiles
from services.importer.jobs.imports import Imports
from shared.connections.files.route import declare_file_route
from shared.contracts.routes import IMPORTED_FILES_PATH
from shared.runtime.web.paging import Cursor, Limit, Page
from shared.runtime.web.problems import openapi_response
from shared.runtime.web.routes import Routes

_RESPONSES: Final[Mapping[int, Mapping[str, Any]]] = {
    404: openapi_response("There is no such file, or not yet, or it was not fetched: the detail says why."),
    503: openapi_response("Another process has the folder of the file.", retry_after=True),
}
_CSV_ROWS: Final = 500


class ImportFileOut(BaseModel):
    """A file of a message. `size` is the announced one; `stored_bytes` and `sha256` are of what was stored.

    `state` is `waiting` until the phase of files comes to it, `address` if the hub streams it from the
    provider. `reason` says why it was skipped or failed, `detail` the same for people.
    """

    id: str
    message_id: str
    name: str
    content_type: str | None
    size: int | None
    state: FileState
    reason: str | None
    detail: str | None
    stored_bytes: int | None
    sha256: str | None

    @classmethod
    def of(cls, record: FileRecord) -> Self:
        """Return the model of a record."""
        is_stored = record.state == "stored"
        return cls(
            id=record.attachment_id,
            message_id=record.message_id,
            name=record.name,
            content_type=record.content_type,
            size=record.size,
            state=record.state,
            reason=record.reason,
            detail=record.detail or None,
            stored_bytes=record.stored_bytes if is_stored else None,
            sha256=record.sha256 if is_stored else None,
        )


_COLUMNS: Final = tuple(ImportFileOut.model_fields)


class ImportFilesApi:
    """The routes of files of imports."""

    def __init__(self, imports: Imports, files: ImportFiles) -> None:
        self._imports = imports
        self._files = files

    def mount(self, app: FastAPI) -> None:
        """Add the routes to the app."""
        Routes(app, "/api/imports").add(
            "/{import_id}/files",
            self.list_files,
            methods=["GET"],
            response_model=Page[ImportFileOut],
            responses={200: {"content": {"text/csv": {}}}},
        )
        declare_file_route(app, IMPORTED_FILES_PATH, self._read, _RESPONSES)

    async def list_files(
        self,
        import_id: str,
        key: Reader,
        state: Annotated[FileState | None, Query(description="Only files in this state.")] = None,
        form: Annotated[
            Literal["json", "csv"], Query(alias="format", description="`csv` has all files at once.")
        ] = "json",
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Page[ImportFileOut] | Response:
        """List the files of an import's messages, in the order of the export's units, with their hashes."""
        await self._imports.find(key.workspace, import_id)
        if form == "csv":
            headers = {"Content-Disposition": f'attachment; filename="{import_id}-files.csv"'}
            rows = self._csv(import_id, state)
            return StreamingResponse(rows, media_type="text/csv; charset=utf-8", headers=headers)
        found = await self._files.page(import_id, state=state, limit=limit, cursor=cursor)
        return Page(items=[ImportFileOut.of(item) for item in found.items], next_cursor=found.next_cursor)

    async def _csv(self, import_id: str, state: FileState | None) -> AsyncIterator[str]:
        yield csv_lines([_COLUMNS])
        cursor = None
        while True:
            found = await self._files.page(import_id, state=state, limit=_CSV_ROWS, cursor=cursor)
            rows = [ImportFileOut.of(item).model_dump() for item in found.items]
            yield csv_lines([row[name] for name in _COLUMNS] for row in rows)
            cursor = found.next_cursor
            if cursor is None:
                return

    async def _read(
        self,
        token: str,
        range_header: Annotated[str | None, Header(alias="Range", description="One range in bytes.")] = None,
    ) -> None:
        """Return a file of an import, without an API key.

        The address stands in a message of `chat.history`. It works from the moment when the import has stored
        the file, until `INTERLINK_IMPORT_FILE_DAYS` days after the import was created. The file is always an
        attachment: a browser saves it and does not show it as a page.
        """

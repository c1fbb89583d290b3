"""`GET /api/files/{token}`: a provider's file, streamed with the account's token."""

from inspect import getdoc
from typing import Annotated, Any, Final

from fastapi import FastAPI, Header
from starlette.responses import Response

from shared.connections.files.names import UNKNOWN_TYPE
from shared.contracts.routes import FILES_PATH
from shared.runtime.web.problems import openapi_response
from shared.runtime.web.routes import Routes

PATH: Final = f"{FILES_PATH}/{{token}}"
_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The file.", "content": {UNKNOWN_TYPE: {}}},
    206: {"description": "The requested range of the file.", "content": {UNKNOWN_TYPE: {}}},
    404: openapi_response("There is no such file, or the account is not connected any more."),
    409: openapi_response("The account has to be connected again."),
    410: openapi_response("The address has expired."),
    416: openapi_response("The file does not have the requested range."),
    429: openapi_response("The workspace has too many files under way.", retry_after=True),
    502: openapi_response("The provider does not give the file now, or it is too large."),
    503: openapi_response("The account's token cannot be read or refreshed now.", retry_after=True),
}


class FilesApi:
    """Declares the route. `FileServer` answers it."""

    def mount(self, app: FastAPI) -> None:
        """Add the route to the app's document."""
        Routes(app, "").declare(
            PATH,
            self._read,
            methods=["GET"],
            name="read",
            description=getdoc(self._read),
            response_class=Response,
            responses=_RESPONSES,
        )

    async def _read(
        self,
        token: str,
        range_header: Annotated[
            str | None, Header(alias="Range", description="One range in bytes; passed on to the provider.")
        ] = None,
    ) -> None:
        """Return a file of a message at a provider, without an API key.

        The address stands in a message of `chat.inbound`. It expires. The file is always an attachment: a
        browser saves it and does not show it as a page.
        """

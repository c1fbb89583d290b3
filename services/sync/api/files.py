"""`GET /api/files/{token}`: a provider's file, streamed with the account's token."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import FastAPI, Header

from shared.connections.files.route import declare_file_route
from shared.contracts.routes import FILES_PATH
from shared.runtime.web.problems import openapi_response

_RESPONSES: Final[Mapping[int, Mapping[str, Any]]] = {
    404: openapi_response("There is no such file, or the account is not connected any more."),
    409: openapi_response("The account has to be connected again."),
    502: openapi_response("The provider does not give the file now, or it is too large."),
    503: openapi_response("The account's token cannot be read or refreshed now.", retry_after=True),
}


class FilesApi:
    """Declares the route. `FileServer` answers it."""

    def mount(self, app: FastAPI) -> None:
        """Add the route to the app's document."""
        declare_file_route(app, FILES_PATH, self._read, _RESPONSES)

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

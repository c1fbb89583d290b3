"""Declare a route of files in the document of an API. `FileServer` answers it."""

from collections.abc import Callable, Mapping
from inspect import getdoc
from typing import Any, Final

from fastapi import FastAPI
from starlette.responses import Response

from shared.connections.files.names import UNKNOWN_TYPE
from shared.runtime.web.problems import openapi_response
from shared.runtime.web.routes import Routes

_RESPONSES: Final[Mapping[int, Mapping[str, Any]]] = {
    200: {"description": "The file.", "content": {UNKNOWN_TYPE: {}}},
    206: {"description": "The requested range of the file.", "content": {UNKNOWN_TYPE: {}}},
    410: openapi_response("The address has expired."),
    416: openapi_response("The file does not have the requested range."),
    429: openapi_response("The workspace has too many files under way.", retry_after=True),
}


def declare_file_route(
    app: FastAPI, path: str, read: Callable[..., Any], responses: Mapping[int, Mapping[str, Any]]
) -> None:
    """Add a route to an app's document: `read` has its parameters and description.

    `responses` are those that only this route has, by status.
    """
    found: dict[int | str, dict[str, Any]] = {
        status: dict(response) for status, response in sorted({**_RESPONSES, **responses}.items())
    }
    Routes(app, "").declare(
        f"{path}/{{token}}",
        read,
        methods=["GET"],
        name="read",
        description=getdoc(read),
        response_class=Response,
        responses=found,
    )

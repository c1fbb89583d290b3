"""Add the routes of one resource to a management API."""

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from fastapi import FastAPI
from starlette.responses import Response

from shared.runtime.web.problems import problem_response


class Routes:
    """Adds routes with a common prefix to an app.

    FastAPI builds each route of an `APIRouter` twice: for the router and for the app that includes it. Routes
    are most of what a service does between its imports and its first request.
    """

    def __init__(self, app: FastAPI, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    def add(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        """Add a route; `options` are those of `FastAPI.add_api_route`."""
        self._app.add_api_route(self._prefix + path, endpoint, **options)

    def declare(self, path: str, signature: Callable[..., Awaitable[None]], **options: Any) -> None:
        """Add a route that is answered before the framework gets the call: see `bare_route`.

        `signature` has no body: its name, parameters and docstring are for the OpenAPI document. The route is
        also for the audit log and the answers to other methods. `options` are those of `add`, with the
        response model. A call that gets to the framework all the same is answered 500, not as a success.
        """

        @wraps(signature)
        async def unanswered(*_arguments: Any, **_parameters: Any) -> Response:
            return problem_response(500, "the hub declares this call, but has no handler for it")

        self.add(path, unanswered, **options)

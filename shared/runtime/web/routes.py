"""Add the routes of one resource to a management API."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI


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

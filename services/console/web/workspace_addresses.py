"""Addresses with a workspace: `/console/in/<workspace>/webhooks` is `/console/webhooks` of this workspace.

So the tabs of a browser work in several workspaces at the same time. Pages are written with addresses that
name none; the addresses in a page, and those of redirects, get the workspace of their request.
"""

import re
from typing import Final
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.contracts.routes import CONSOLE_PATH

_PREFIX: Final = f"{CONSOLE_PATH}/in/"
_STATE: Final = "workspace"
_OTHERS: Final = rf"{CONSOLE_PATH}(?=[/?#]|$)(?!/static/|/in/|/portal/|/connect/)"
"""Addresses that name no workspace, but could."""
_LOCATION: Final = re.compile(_OTHERS)
_ATTRIBUTES: Final = re.compile(
    rf'(?<=\s)((?:href|action|data-from|data-stream)="){_OTHERS.replace("|$", "|" + chr(34))}'
)
"""In HTML: what strangers wrote is escaped, so it never has the quotation mark."""


def base_of(workspace: str) -> str:
    """Return the address that the pages of a workspace begin with."""
    return _PREFIX + quote(workspace, safe="")


def asked_workspace(request: Request) -> str:
    """Return the workspace in the address of a request; empty if it names none."""
    return str(getattr(request.state, _STATE, ""))


def address_in(base: str, address: str) -> str:
    """Return an address of the console in the workspace with this base; without a base as it is."""
    return _LOCATION.sub(base, address, 1) if base and address.startswith(CONSOLE_PATH) else address


def html_in(base: str, html: str) -> str:
    """Return HTML whose addresses are those in the workspace with this base; without a base as it is."""
    return _ATTRIBUTES.sub(lambda found: found[1] + base, html) if base else html


class WorkspaceAddresses:
    """ASGI middleware: take the workspace out of a request's address, and put it into that of a redirect."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        prefix, _, below = scope.get("path", "").partition(_PREFIX)
        workspace, _, rest = below.partition("/")
        if prefix or not workspace:
            await self._app(scope, receive, send)
            return
        path = f"{CONSOLE_PATH}/{rest}".removesuffix("/")
        state = {**scope.get("state", {}), _STATE: workspace}
        base = base_of(workspace)

        async def send_in_workspace(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=list(message["headers"]))
                if location := headers.get("location"):
                    headers["location"] = address_in(base, location)
                message = {**message, "headers": headers.raw}
            await send(message)

        await self._app(
            {**scope, "path": path, "raw_path": quote(path).encode(), "state": state},
            receive,
            send_in_workspace,
        )

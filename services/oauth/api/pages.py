"""The HTML pages of the callback, for people who are not redirected. They have no script and no secret."""

import base64
import hashlib
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse

_ENVIRONMENT: Final = Environment(
    loader=PackageLoader("services.oauth.api"),
    autoescape=True,
    trim_blocks=True,
    undefined=StrictUndefined,
)
_PAGE: Final = _ENVIRONMENT.get_template("page.html.jinja")
_STYLE: Final = _ENVIRONMENT.get_template("page.css").render()
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
SECURITY_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'none'; frame-ancestors 'none'; "
        "base-uri 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Headers of every response to a browser: the request's address may contain code and state."""


class Pages:
    """Builds pages with the chat's name and a link back to it, if the settings have them."""

    def __init__(self, chat_name: str, chat_url: str) -> None:
        self._name = chat_name
        self._url = chat_url

    def page(self, status: int, title: str, text: str, code: str = "") -> HTMLResponse:
        """Return a page with a title, a sentence and a stable code to quote to support."""
        body = _PAGE.render(
            chat_name=self._name,
            chat_url=self._url,
            title=title,
            text=text,
            code=code,
            style=Markup(_STYLE),  # noqa: S704 -- our own file
        )
        return HTMLResponse(body, status_code=status, headers=SECURITY_HEADERS)

"""The HTML pages for people who connect an account. They have no script and no secret."""

import base64
import hashlib
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from starlette.responses import HTMLResponse

_ENVIRONMENT: Final = Environment(
    loader=PackageLoader("services.oauth.api"),
    autoescape=True,
    trim_blocks=True,
    undefined=StrictUndefined,
)
_PAGE: Final = _ENVIRONMENT.get_template("page.html.jinja")
_TICKET_PAGE: Final = _ENVIRONMENT.get_template("ticket.html.jinja")
_STYLE: Final = _ENVIRONMENT.get_template("page.css").render()
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; frame-ancestors 'none'; base-uri 'none'"
)
SECURITY_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": f"{_POLICY}; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Headers of every response to a browser: the request's address may contain code and state."""
# Without `form-action`: browsers apply it to every redirect after the form, which leads to the provider, from
# there to addresses that only the provider knows, and to `return_to`.
_TICKET_HEADERS: Final = {**SECURITY_HEADERS, "Content-Security-Policy": _POLICY}


class Pages:
    """Builds pages with the chat's name and a link back to it, if the settings have them."""

    def __init__(self, chat_name: str, chat_url: str) -> None:
        self._name = chat_name
        self._url = chat_url

    def page(self, status: int, title: str, text: str, code: str = "") -> HTMLResponse:
        """Return a page with a title, a sentence and a stable code to quote to support."""
        body = self._render(_PAGE, title=title, text=text, code=code)
        return HTMLResponse(body, status_code=status, headers=SECURITY_HEADERS)

    def ticket_page(
        self, *, provider: str, provider_host: str, user: str, workspace: str, return_host: str
    ) -> HTMLResponse:
        """Return the page that asks whether to go on to the provider, with a button that posts the page.

        `provider_host` is where the button leads: a workspace can register a server of its own.
        """
        body = self._render(
            _TICKET_PAGE,
            title=f"Connect {provider}",
            text="",
            code="",
            provider=provider,
            provider_host=provider_host,
            user=user,
            workspace=workspace,
            return_host=return_host,
        )
        return HTMLResponse(body, headers=_TICKET_HEADERS)

    def _render(self, template: Template, **values: str) -> str:
        return template.render(
            chat_name=self._name,
            chat_url=self._url,
            style=Markup(_STYLE),  # noqa: S704 -- our own file
            **values,
        )

"""The HTML pages of the callback, for people who are not redirected. They have no script and no secret."""

import base64
import hashlib
from html import escape
from typing import Final

from starlette.responses import HTMLResponse

_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:34rem;margin:15vh auto;padding:0 1rem;color:#1f2328}"
    "h1{font-size:1.5rem}p{margin:.5rem 0}.code,.chat{color:#59636e}a{color:#0550ae}"
    "@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}.code,.chat{color:#9198a1}"
    "a{color:#58a6ff}}"
)
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
        name = f'<p class="chat" id="chat">{escape(self._name)}</p>' if self._name else ""
        extra = f'<p class="code">{escape(code)}</p>' if code else ""
        back = ""
        if self._url:
            chat = escape(self._name or "the chat")
            back = f'<p><a id="back" href="{escape(self._url)}">Back to {chat}</a></p>'
        full_title = f"{title} · {self._name}" if self._name else title
        body = (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(full_title)}</title>'
            f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
            f'<body><main>{name}<h1 id="title">{escape(title)}</h1><p id="text">{escape(text)}</p>{extra}'
            f"{back}</main></body></html>"
        )
        return HTMLResponse(body, status_code=status, headers=SECURITY_HEADERS)

"""The pages that somebody sees who comes back from a platform and is not sent on. No script, no secret."""

import base64
import hashlib
from html import escape
from typing import Final

from starlette.responses import HTMLResponse

_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:34rem;margin:15vh auto;padding:0 1rem;color:#1f2328}"
    "h1{font-size:1.5rem}p{margin:.5rem 0}.code{color:#59636e}"
    "@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}.code{color:#9198a1}}"
)
_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
SECURE: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_HASH}'; form-action 'none'; frame-ancestors 'none'; "
        "base-uri 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Headers of every answer to a browser: the address of the request has a code and a state in it."""


def page(status: int, title: str, text: str, code: str = "") -> HTMLResponse:
    """A title, a sentence and, for who asks for help, a stable word."""
    extra = f'<p class="code">{escape(code)}</p>' if code else ""
    body = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f'<body><main><h1 id="title">{escape(title)}</h1><p id="text">{escape(text)}</p>{extra}</main>'
        "</body></html>"
    )
    return HTMLResponse(body, status_code=status, headers=SECURE)

"""The cookies that bind authorizations to browsers: one for each state."""

from typing import Final
from urllib.parse import urlsplit

from fastapi import Request, Response

from services.oauth.authorization.state import STATE_TTL

COOKIE_PATH: Final = "/api/auth/oauth"


class StateCookies:
    """Reads and writes the cookies, by their names without prefix."""

    def __init__(self, public_base: str) -> None:
        """Set the hub's public address, which decides prefix, path and `Secure`."""
        base = urlsplit(public_base)
        self._https = base.scheme == "https"
        # Another host of the same domain cannot set a cookie with this prefix (RFC 6265bis, 4.1.3.2). The
        # prefix requires TLS and the path "/", so the cookie is sent to every path of the host.
        self._prefix = "__Host-" if self._https else ""
        self._path = "/" if self._https else base.path + COOKIE_PATH

    def get(self, request: Request, name: str) -> str | None:
        """Return the value of a cookie; None if the browser sent none."""
        return request.cookies.get(self._prefix + name)

    def set(self, response: Response, name: str, value: str) -> None:
        """Set a cookie for as long as a state lasts."""
        response.set_cookie(
            self._prefix + name,
            value,
            max_age=int(STATE_TTL.total_seconds()),
            path=self._path,
            secure=self._https,
            httponly=True,
            samesite="lax",
        )

    def delete(self, response: Response, name: str) -> None:
        """Delete a cookie."""
        response.delete_cookie(
            self._prefix + name, path=self._path, secure=self._https, httponly=True, samesite="lax"
        )

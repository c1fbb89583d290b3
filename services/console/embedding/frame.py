"""Renders embedded pages with the chat's name and logo, the session's theme, and translated texts."""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from services.console.embedding.records import EmbeddedSession
from services.console.embedding.texts import Catalogues
from services.console.embedding.theme import is_dark
from services.console.pages.rendering import Renderer
from services.console.web.frame import Frame
from services.console.web.static_files import StaticFiles
from services.console.web.visits import Visit
from shared.contracts.errors import Misconfigured
from shared.contracts.routes import CONNECT_PATH, PORTAL_PATH

_MAX_LOGO_BYTES: Final = 64 * 1024
_LOGO_TYPES: Final = {".png": "image/png", ".svg": "image/svg+xml", ".webp": "image/webp"}


class Logo:
    """The chat's logo, from a file that the operator configured."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises `Misconfigured` if it is unreadable, too large or of another type."""
        try:
            self.content = path.read_bytes()
        except OSError as error:
            raise Misconfigured(f"INTERLINK_CHAT_LOGO: {error.strerror or error}") from None
        self.media_type = _LOGO_TYPES.get(path.suffix.lower(), "")
        if not self.media_type or len(self.content) > _MAX_LOGO_BYTES:
            raise Misconfigured("INTERLINK_CHAT_LOGO: name a .png, .svg or .webp file of at most 64 KiB")


@dataclass(frozen=True, slots=True)
class _RenderContext:
    """The session of the current request, and the language and texts of its pages."""

    session: EmbeddedSession | None
    language: str
    texts: Mapping[str, str]


_CONTEXT: Final[ContextVar[_RenderContext]] = ContextVar("_CONTEXT")


class EmbeddedFrame(Frame):
    """Renders embedded pages, with the console's templates where they fit."""

    def __init__(self, files: StaticFiles, catalogues: Catalogues, chat_name: str, logo: Logo | None) -> None:
        self._renderer = Renderer(
            {"asset": files.address},
            folders=("templates/embedded", "templates"),
            filters={"t": _translated, "href": lambda _name, _value: ""},
        )
        self._catalogues = catalogues
        self._chat_name = chat_name
        self._has_logo = logo is not None

    def set_context(self, request: Request, session: EmbeddedSession | None) -> None:
        """Set session and language for the pages of this request. Call it before any other method."""
        accepted = request.headers.get("accept-language", "")
        language = self._catalogues.choose(session.language if session else None, accepted)
        _CONTEXT.set(_RenderContext(session, language, self._catalogues.texts(language)))

    def page(
        self, template: str, visit: Visit | None, status: int = 200, *, title: str, **values: Any
    ) -> Response:
        """Return a page of the current session, or of none."""
        context = _CONTEXT.get()
        session = context.session
        theme = session.theme if session else {}
        dark = is_dark(theme)
        body = self._renderer.render(
            template,
            **{"here": "", "live": False, **values},
            title=_translated(title),
            token=visit.token if visit else "",
            home=home_of(session) if session and visit else "",
            is_window=bool(session and session.connect),
            language=context.language,
            chat_name=self._chat_name,
            has_logo=self._has_logo,
            theme=f"{base_of(session)}/theme.css" if session and theme else "",
            scheme="" if dark is None else "dark" if dark else "light",
        )
        return HTMLResponse(body, status)

    def problem(self, visit: Visit | None, status: int, title: str, text: str, back: str = "") -> Response:
        """Return a page about a problem and its fix, with a link to `back` or to the session's first page."""
        session = _CONTEXT.get().session
        back = back or (home_of(session) if visit and session else "")
        return self.page("problem.html", visit, status, title=title, text=_translated(text), back=back)


def base_of(session: EmbeddedSession) -> str:
    """Return the address that all pages of a session begin with."""
    return f"{PORTAL_PATH if session.portal else CONNECT_PATH}/{session.id}"


def home_of(session: EmbeddedSession) -> str:
    """Return the address of a session's first page."""
    return f"{base_of(session)}/webhooks" if session.portal else base_of(session)


def _translated(text: str) -> str:
    return _CONTEXT.get().texts.get(text, text)

"""The frame of every page: menu, member, token of forms, and what a page says when it cannot be shown."""

from typing import Any

from markupsafe import Markup
from starlette.responses import HTMLResponse, RedirectResponse, Response

from services.console.hub_api import Refusal
from services.console.pages.registry import GROUPS, KINDS
from services.console.pages.rendering import Renderer
from services.console.web.forms import Form
from services.console.web.static_files import StaticFiles
from services.console.web.visits import Visit
from services.console.web.workspace_addresses import base_of, html_in
from shared.runtime.web.api_keys import Scope


def see_other(address: str) -> Response:
    """Return a redirect to a page. After a form it is a GET, which a reload repeats without harm."""
    return RedirectResponse(address, 303)


class Frame:
    """Renders pages for visitors and members."""

    def __init__(self, files: StaticFiles) -> None:
        self._renderer = Renderer({"asset": files.address})

    def page(
        self, template: str, visit: Visit | None, status: int = 200, *, title: str, **values: Any
    ) -> Response:
        """Return a page; the menu has the pages that the member's key allows."""
        key = visit.member.key if visit else None
        menu = [
            (group, [kind for kind in KINDS if kind.group == group and key.allows(kind.scope)])
            for group in GROUPS
            if key
        ]
        body = self._renderer.render(
            template,
            **{"here": "", "live": False, **values},
            title=title,
            key=key,
            menu=[(group, kinds) for group, kinds in menu if kinds],
            token=visit.token if visit else "",
            page_id=visit.page_id if visit else "",
            workspaces=[(base_of(workspace), workspace) for workspace in visit.workspaces] if visit else (),
        )
        return HTMLResponse(html_in(visit.base if visit else "", body), status)

    def fragment(self, template: str, **values: Any) -> Markup:
        """Return a part of a page."""
        return Markup(self._renderer.render(template, **values))  # noqa: S704 -- it is escaped

    def problem(self, visit: Visit | None, status: int, title: str, text: str, back: str = "") -> Response:
        """Return a page that says what went wrong and what to do; `back` is where to go on."""
        return self.page(
            "problem.html",
            visit,
            status,
            title=title,
            text=text,
            back=back or "/console",
            again=(),
            here=None,
        )

    def refused(self, visit: Visit, refusal: Refusal, back: str = "") -> Response:
        """Return the page of a refused call."""
        return self.problem(visit, refusal.status, refusal.title, refusal.detail, back)

    def unsent(self, visit: Visit, refusal: Refusal, back: str, form: Form) -> Response:
        """Return the page of a form that could not be shown again; if a service is away, to send it again.

        The form must not have a secret.
        """
        if not refusal.is_outage:
            return self.refused(visit, refusal, back)
        return self.page(
            "problem.html",
            visit,
            refusal.status,
            title=refusal.title,
            text=f"{refusal.detail} What you entered is in this page.",
            back=back,
            again=[(name, value) for name, values in form.items() for value in values],
            here=None,
        )

    def missing(self, visit: Visit | None) -> Response:
        """Return the page for an address that leads nowhere."""
        text = "There is no such page. Choose one in the menu."
        return self.problem(visit, 404, "Not found", text)

    def not_allowed(self, visit: Visit, scope: Scope, back: str = "") -> Response:
        """Return the page in place of a form that needs a scope which the member lacks."""
        who = f"Your role ({visit.member.key.role})" if visit.member.key.role else "Your key"
        text = f"{who} does not include this: it needs the scope {scope}. Ask an admin of the workspace."
        return self.problem(visit, 403, "Not allowed", text, back)

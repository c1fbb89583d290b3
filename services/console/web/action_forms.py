"""The page of an action's form: its fields, filled with what was sent before, or stands in the address."""

from collections.abc import Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from services.console.hub_api import Refusal
from services.console.pages.kinds import SECRETS, Action, Field
from services.console.web.edits import Edit
from services.console.web.forms import Form, errors_of, once_of
from services.console.web.frame import Frame
from services.console.web.visits import Visit

_MAX_GIVEN: Final = 500


class ActionForms:
    """Renders forms. After a refusal they have what was sent, but for secrets."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    def page(
        self,
        visit: Visit,
        request: Request,
        action: Action,
        *,
        here: str,
        back: str,
        about: str = "",
        form: Form | None = None,
        refusal: Refusal | None = None,
        steps: Sequence[str] = (),
        copied: tuple[str, str] | None = None,
        edit: Edit | None = None,
        wizard: str = "",
        sentences: Sequence[str] = (),
        buttons: Sequence[tuple[str, str]] = (),
        links: Sequence[tuple[str, str, str]] = (),
    ) -> Response:
        """Return the page; without the scope of the action, one that says so.

        `about` names the object, `steps` are what to do elsewhere first. `copied` is the name of a value to
        enter there, and the value. `edit` is the version that is changed, and `wizard` the import of which
        the form is a step. `sentences` are about what is filled in, and `buttons` are more values of `do`
        with their titles. `links` lead to the same form with other values: title, address, and what it is
        for.
        """
        if not visit.member.key.allows(action.scope):
            return self._frame.not_allowed(visit, action.scope, back)
        return self._frame.page(
            "form.html",
            visit,
            200 if refusal is None else refusal.status,
            title=action.title,
            here=here,
            action=action,
            about=about,
            back=back,
            filled={field.name: _values_shown(field, form or {}, request) for field in action.fields},
            refusal=refusal,
            errors=errors_of(refusal, action.fields),
            links=links,
            once=once_of(form or {}),
            steps=steps,
            copied=copied,
            edit=edit,
            sentences=sentences,
            buttons=buttons,
            import_path=wizard,
            step="/options",
        )


def _values_shown(field: Field, form: Form, request: Request) -> list[str]:
    """Return the values of a field: those of the form, else of the address, else the default."""
    if field.kind in SECRETS:
        return []
    if field.name in form:
        return form[field.name]
    if form and field.kind in ("flag", "checks"):  # a box that is not ticked is not sent
        return []
    return [request.query_params.get(field.name, "")[:_MAX_GIVEN] or field.default]

"""The pages of the window in which a user connects accounts, and their reports to the chat's page."""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, urlsplit

from starlette.requests import Request
from starlette.responses import Response

from services.console.embedding.frame import EmbeddedFrame, base_of
from services.console.embedding.records import ConnectPart, EmbeddedSession, EmbeddedSessions
from services.console.hub_api import HubApi, Refusal
from services.console.pages.authorization_failures import next_step
from services.console.pages.kinds import SECRETS, Field
from services.console.web.catalogue import OAUTH
from services.console.web.connect import account_fields, option_of
from services.console.web.forms import Form, errors_of, first, split_own, values_of
from services.console.web.frame import see_other
from services.console.web.visits import Visit

_CONFIRMATION_REQUIRED: Final = "confirmation_required"
_EXPIRED: Final = "expired"
_MAX_PARAMETER: Final = 200

Json = Mapping[str, Any]


class ConnectWindow:
    """The pages of a connect session. Their forms appear only if the chat's page opened the window."""

    def __init__(self, hub: HubApi, sessions: EmbeddedSessions, frame: EmbeddedFrame) -> None:
        self._hub = hub
        self._sessions = sessions
        self._frame = frame

    async def show(self, request: Request, visit: Visit) -> Response:
        """Return the page with the providers to choose from."""
        session = _session(request)
        try:
            entries = await self._entries(session, visit)
        except Refusal as refusal:
            return self._frame.refused(visit, refusal, base_of(session))
        choices = [
            (entry, option)
            for entry in entries
            for option in entry["connect"]
            if not option["app"] or option["app_registered"]
        ]
        return self._frame.page(
            "connect.html",
            visit,
            title="Connect an account",
            choices=choices,
            at_once={option["kind"] for _, option in choices if option["app"] and not account_fields(option)},
            base=base_of(session),
            user=_part(session).user,
            opener=session.origins[0],
            report=_report(session),
        )

    async def ask(self, request: Request, visit: Visit) -> Response:
        """Return the form of a connect option."""
        try:
            entry, option = await self._option(request, visit)
        except Refusal as refusal:
            return self._frame.refused(visit, refusal)
        return self._form_page(request, visit, entry, option)

    async def connect(self, request: Request, visit: Visit, form: Form) -> Response:
        """Start an authorization, or connect an account with the entered credentials.

        Raises `OverLimit` after 20 attempts in the session.
        """
        session = _session(request)
        part = _part(session)
        try:
            entry, option = await self._option(request, visit)
        except Refusal as refusal:
            return self._frame.refused(visit, refusal)
        provider, kind = entry["id"], option["kind"]
        await self._sessions.count_attempt(session)
        try:
            own, values = split_own(values_of(form, account_fields(option)))
            if kind in OAUTH:
                body = {
                    "provider": provider,
                    "params": values,
                    "return_to": f"{base_of(session)}/done",
                    "user": part.user,
                    **({"scopes": part.scopes[provider]} if provider in part.scopes else {}),
                }
                answer = await self._hub.call(visit.member, "POST", "/api/auth/oauth/connect", body=body)
                await self._sessions.add_started(session, answer["integration_id"])
                address = urlsplit(answer["connect_url"])
                return see_other(f"{address.path}?{address.query}")
            body = {"provider": provider, "kind": kind, "fields": values, "user": part.user, **own}
            answer = await self._hub.call(
                visit.member, "POST", option["path"], body=body, once=first(form, "once")
            )
        except Refusal as refusal:
            return self._form_page(request, visit, entry, option, form, refusal)
        return self._finished(session, visit, status="connected", provider=provider, integration=answer["id"])

    async def done(self, request: Request, visit: Visit) -> Response:
        """Report the result of an authorization that this session started."""
        session, query = _session(request), request.query_params
        integration = query.get("integration_id", "")[:_MAX_PARAMETER]
        if integration not in _part(session).started:
            text = "This window did not start this authorization. Start again."
            return self._frame.problem(visit, 403, "Refused", text)
        if error := query.get("error", "")[:_MAX_PARAMETER]:
            report = _report(session, status="failed", integration=integration, error=error)
            return self._frame.page(
                "connect_done.html",
                visit,
                title="Not connected",
                text=next_step(error),
                report=report,
                base=base_of(session),
            )
        return self._finished(
            session,
            visit,
            status=query.get("status", "")[:_MAX_PARAMETER],
            integration=integration,
            code=query.get("confirmation_code", "")[:_MAX_PARAMETER],
        )

    @staticmethod
    def expired(session: EmbeddedSession) -> Json:
        """Return the report for a session that has expired."""
        return _report(session, status="failed", error=_EXPIRED)

    def _finished(self, session: EmbeddedSession, visit: Visit, **result: str) -> Response:
        title, text = "Connected", "You can close this window."
        if result["status"] == _CONFIRMATION_REQUIRED:
            title = "Almost done"
            text = (
                "The chat has to confirm the account. If this window stays open, go back to the chat and "
                "connect again."
            )
        return self._frame.page(
            "connect_done.html",
            visit,
            title=title,
            text=text,
            report=_report(session, **result),
            base="",
        )

    async def _entries(self, session: EmbeddedSession, visit: Visit) -> Sequence[Json]:
        """Return the catalogue's entries of the session's providers. Raises `Refusal`."""
        found = await self._hub.call(visit.member, "GET", "/api/catalog")
        wanted = _part(session).providers
        entries = {entry["id"]: entry for entry in found["items"]}
        return [entries[name] for name in wanted if name in entries]

    async def _option(self, request: Request, visit: Visit) -> tuple[Json, Json]:
        """Return the catalogue's entry and the connect option that the address names.

        Raises `Refusal` if the session does not have the provider.
        """
        wanted = request.path_params["provider"]
        entries = await self._entries(_session(request), visit)
        entry = next((entry for entry in entries if entry["id"] == wanted), None)
        if entry is None:
            raise Refusal(404, "Not found", "This provider cannot be chosen here.")
        return entry, option_of(entry, request.path_params["kind"])

    def _form_page(
        self,
        request: Request,
        visit: Visit,
        entry: Json,
        option: Json,
        form: Form | None = None,
        refusal: Refusal | None = None,
    ) -> Response:
        session, fields = _session(request), account_fields(option)
        return self._frame.page(
            "connect_form.html",
            visit,
            refusal.status if refusal else 200,
            title=entry["name"],
            entry=entry,
            option=option,
            fields=fields,
            filled={field.name: _filled(field, form) for field in fields},
            refusal=refusal,
            errors=errors_of(refusal, fields),
            base=base_of(session),
            action=f"{base_of(session)}/{quote(entry['id'], safe='')}/{quote(option['kind'], safe='')}",
            user=_part(session).user,
            opener=session.origins[0],
            report=_report(session),
        )


def _session(request: Request) -> EmbeddedSession:
    session: EmbeddedSession = request.state.session
    return session


def _part(session: EmbeddedSession) -> ConnectPart:
    if session.connect is None:
        raise TypeError("this is no connect session")
    return session.connect


def _report(
    session: EmbeddedSession,
    *,
    status: str = "",
    provider: str = "",
    integration: str = "",
    code: str = "",
    error: str = "",
) -> Json:
    """Return the message that the page's script sends, and the origin of the chat's page that may get it.

    Without a `status` there is no result yet: the script only asks the chat's page to respond.
    """
    message = {
        "status": status,
        "provider": provider or None,
        "integrationId": integration or None,
        "confirmationCode": code or None,
        "error": error or None,
    }
    return {"origin": session.origins[0], "session": session.id, "result": message if status else None}


def _filled(field: Field, form: Form | None) -> list[str]:
    if field.kind in SECRETS:
        return []
    return [first(form, field.name) if form and field.name in form else field.default]

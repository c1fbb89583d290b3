"""The page that lists sessions and ends them, and replaces the visitor's own key."""

import secrets
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from services.console.hub_api import HubApi, Refusal
from services.console.pages.kinds import Action
from services.console.sessions.records import Sessions
from services.console.sessions.sign_in import SignIn
from services.console.web.forms import Form, first
from services.console.web.frame import Frame, see_other
from services.console.web.paths import filled
from services.console.web.visits import Visit

_MAX_SESSIONS: Final = 200
_ROTATE: Final = Action(
    "rotate-key",
    "Your new key",
    "/api/members/{id}/rotate-key",
    "admin",
    "Store it where the old one was, which has ended: it is shown only now. Go on to sign in with it.",
)


class SessionPages:
    """A member sees their own sessions; an admin all of the workspace."""

    def __init__(self, hub: HubApi, sessions: Sessions, sign_in: SignIn, frame: Frame) -> None:
        self._hub = hub
        self._sessions = sessions
        self._sign_in = sign_in
        self._frame = frame

    async def show(self, request: Request, visit: Visit) -> Response:
        """Return the list."""
        key = visit.member.key
        found = await self._sessions.list_all(key.workspace, _MAX_SESSIONS, key_id=_limit_of(visit))
        keys = [(record, await self._sign_in.key_of(record, is_use=False)) for record in found]
        return self._frame.page(
            "sessions.html",
            visit,
            title="Sessions",
            here="sessions",
            sessions=[(record, owner) for record, owner in keys if owner],
            max_sessions=_MAX_SESSIONS if len(found) == _MAX_SESSIONS else None,
            own=visit.record_id,
            idle_hours=int(self._sessions.idle.total_seconds() // 3600),
            done="The session has ended." if request.query_params.get("done") else "",
            has_member_key=bool(key.role) and any(it.id == visit.record_id and it.key_digest for it in found),
            once=secrets.token_urlsafe(16),
        )

    async def rotate_key(self, _request: Request, visit: Visit, form: Form) -> Response:
        """Replace the visitor's own key, and show the new one. It ends this session too."""
        path = filled(_ROTATE.call, {"id": visit.member.key.id})
        try:
            answer = await self._hub.call(visit.member, "POST", path, once=first(form, "once"))
        except Refusal as refusal:
            return self._frame.refused(visit, refusal, "/console/sessions")
        return self._frame.page(
            "done.html",
            None,
            title=_ROTATE.title,
            action=_ROTATE,
            shown=[("Key", answer["key"])],
            opens="/console/sign-in",
        )

    async def end(self, request: Request, visit: Visit, _form: Form) -> Response:
        """End a session."""
        workspace, session = visit.member.key.workspace, request.path_params["id"]
        if not await self._sessions.end(workspace, session, key_id=_limit_of(visit)):
            return self._frame.problem(
                visit,
                404,
                "Not found",
                "There is no such session: it has ended already.",
                "/console/sessions",
            )
        return see_other("/console/sessions?done=end")


def _limit_of(visit: Visit) -> str | None:
    """Return the id of the only key with visible sessions; None if all keys are visible."""
    key = visit.member.key
    return None if key.allows("admin") else key.id

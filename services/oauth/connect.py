"""Sending a person to a platform, to connect an account: OAuth 2's code grant, or OAuth 1.0a's three legs.

What is made of the answer is in `arrive.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

from services.oauth.flows import app_for, flow_of, kind_of, server_of
from services.oauth.identity import has_another_user, in_use
from services.oauth.return_to import allowed
from services.oauth.states import LIFETIME, Begun, States
from shared.catalog.connector import Connector, Refused
from shared.catalog.entering import entered
from shared.catalog.three_legged import RequestToken, ThreeLegged
from shared.contracts.errors import Conflict
from shared.contracts.ids import new_integration_id
from shared.runtime.apps import Apps
from shared.runtime.credentials import values_of
from shared.runtime.integrations import Integrations
from shared.runtime.mongo import Document, translated, utcnow
from shared.runtime.tokens import TokenSource
from shared.wire.fills import Unfillable
from shared.wire.oauth import new_state, unsaid

_PENDING: Final = LIFETIME + timedelta(minutes=2)
"""How long an integration waits for its person: longer than the state, whose last answer takes its time."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants to connect."""

    provider: str
    workspace: str
    user: str | None = None
    """Whose account it is; None leaves that as it is."""
    scopes: Sequence[str] | None = None
    params: Mapping[str, str] | None = None
    return_to: str | None = None
    name: str | None = None
    takeover: bool = False
    """Whether an integration that another user has may become this user's."""


@dataclass(frozen=True, slots=True)
class Sent:
    """Where to send the person, and what the browser has to keep."""

    url: str
    integration: str
    begun: Begun


class Connecting:
    """Begins dances."""

    def __init__(
        self,
        states: States,
        integrations: Integrations,
        apps: Apps,
        tokens: TokenSource,
        *,
        redirect_uri: str,
        public_base: str,
        origins: frozenset[str],
    ) -> None:
        self._states = states
        self._integrations = integrations
        self._apps = apps
        self._tokens = tokens
        self._redirect_uri = redirect_uri
        self._base = public_base
        self._origins = origins

    async def begin(self, wish: Wish) -> Sent:
        """Make a new integration, pending, and the address.

        Raises `Invalid`, `Conflict`, `StoreUnavailable`; where the platform is asked first, `PlatformBusy`.
        """
        connector = flow_of(wish.provider)
        params = entered(connector.params, wish.params or {}, place="params")
        now = utcnow()
        document: Document = {
            "_id": new_integration_id(),
            "workspace": wish.workspace,
            "provider": wish.provider,
            "kind": kind_of(connector),
            "name": wish.name or "",
            "status": "pending",
            "reason": "",
            "account": None,
            "params": params,
            "scopes": [],
            "user": wish.user,
            "created_at": now,
            "changed_at": now,
            "deleted_at": None,
            "version": 0,
            "fence": 0,
            "settled_fence": 0,
            "credential": None,
            "expires_at": None,
            "refreshable": False,
            "open": True,
            "due_at": now + _PENDING,
            "events": [],
            "untold": False,
        }
        sent = await self._address(connector, wish, document, again=False, any_account=False)
        with translated():
            await self._integrations.collection.insert_one(document)
        await self._states.save(sent.begun)
        return sent

    async def again(self, document: Document, wish: Wish, *, any_account: bool) -> Sent:
        """The address that connects an integration anew; it keeps its id. Raises as `begin`."""
        if has_another_user(document, wish.user) and not wish.takeover:
            raise in_use()
        connector = flow_of(wish.provider)
        given = {**document.get("params", {}), **(wish.params or {})}
        params = entered(connector.params, given, place="params")
        sent = await self._address(
            connector,
            replace(wish, scopes=document.get("asked") if wish.scopes is None else wish.scopes),
            {**document, "params": params},
            again=True,
            any_account=any_account,
        )
        if document["status"] == "pending" and document["credential"] is None:
            await self._integrations.change(document, {"due_at": utcnow() + _PENDING})
        await self._states.save(sent.begun)
        return sent

    async def _address(
        self, connector: Connector, wish: Wish, document: Mapping[str, Any], *, again: bool, any_account: bool
    ) -> Sent:
        app = app_for(self._apps, connector, wish.workspace)
        values = values_of(document, app, self._redirect_uri)
        scopes = list(connector.scopes if wish.scopes is None else dict.fromkeys(wish.scopes))
        state = new_state()
        about = {
            "provider": wish.provider,
            "server": server_of(connector, app, values),
            "user": wish.user,
            "integration_id": document["_id"],
            "again": again,
            "any_account": any_account,
            "takeover": wish.takeover,
            "params": document["params"],
            "asked": scopes,
            "redirect_uri": self._redirect_uri,
            "return_to": allowed(wish.return_to, base=self._base, origins=self._origins),
        }
        try:
            if connector.oauth1 is not None:
                flow = ThreeLegged(connector.oauth1)
                request = await self._request_token(wish.workspace, connector, flow, values, state)
                about["request"] = {"token": request.token, "secret": request.secret}
                begun = self._states.new(wish.workspace, about, state)
                url = flow.authorize(values, request.token, scopes)
            else:
                begun = self._states.new(wish.workspace, about, state)
                url = connector.authorize(values, state=state, verifier=begun.verifier, scopes=scopes)
        except Unfillable as error:
            raise Conflict(f"the app of {connector.app} lacks something: {error}") from None
        return Sent(url, document["_id"], begun)

    async def _request_token(
        self, workspace: str, connector: Connector, flow: ThreeLegged, values: Mapping[str, str], state: str
    ) -> RequestToken:
        """The first leg. Raises `Conflict`: the platform refuses; `PlatformBusy`."""
        try:
            return flow.request_token(await self._tokens.ask(flow.first(values, state=state), workspace))
        except Refused as error:
            hidden = (state, values.get("client_secret", ""))
            raise Conflict(f"{connector.app} refuses: {unsaid(str(error), hidden)}") from None

"""Sending a person to a platform, to connect an account: OAuth 2's code grant, or OAuth 1.0a's three legs.

What is made of the answer is in `arrive.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

from services.oauth.authorization.account_identity import account_in_use, has_another_user
from services.oauth.authorization.flows import app_for, integration_kind, oauth_connector, server_binding
from services.oauth.authorization.redirect import validate_return_to
from services.oauth.authorization.state import LIFETIME, PendingState, States
from shared.connections.apps import Apps
from shared.connections.credentials import template_values
from shared.connections.integrations import IntegrationRepository
from shared.connections.tokens import TokenSource
from shared.contracts.errors import Conflict
from shared.contracts.ids import new_integration_id
from shared.manifests.connector import Connector
from shared.manifests.field_validation import validate_fields
from shared.manifests.oauth1 import OAuth1Flow, RequestToken
from shared.manifests.provider_response import ProviderRejected
from shared.runtime.mongo import Document, translate_errors, utcnow
from shared.wire.oauth import new_state
from shared.wire.redaction import redact
from shared.wire.request_template import MissingValue

_PENDING_TTL: Final = LIFETIME + timedelta(minutes=2)
"""How long an integration waits for its person: longer than the state, whose last answer takes its time."""


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
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
class AuthorizationRedirect:
    """Where to send the person, and what the browser has to keep."""

    url: str
    integration_id: str
    pending_state: PendingState


class AuthorizationStarter:
    """Begins dances."""

    def __init__(
        self,
        states: States,
        integrations: IntegrationRepository,
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

    async def start(self, wish: AuthorizationRequest) -> AuthorizationRedirect:
        """Make a new integration, pending, and the address.

        Raises `Invalid`, `Conflict`, `DatabaseUnavailable`; where the platform is asked first,
        `ProviderUnavailable`.
        """
        connector = oauth_connector(wish.provider)
        params = validate_fields(connector.params, wish.params or {}, place="params")
        now = utcnow()
        document: Document = {
            "_id": new_integration_id(),
            "workspace": wish.workspace,
            "provider": wish.provider,
            "kind": integration_kind(connector),
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
            "due_at": now + _PENDING_TTL,
            "events": [],
            "untold": False,
        }
        sent = await self._authorization_redirect(
            connector, wish, document, reconnect=False, any_account=False
        )
        with translate_errors():
            await self._integrations.collection.insert_one(document)
        await self._states.save(sent.pending_state)
        return sent

    async def reconnect(
        self, document: Document, wish: AuthorizationRequest, *, any_account: bool
    ) -> AuthorizationRedirect:
        """The address that connects an integration anew; it keeps its id. Raises as `begin`."""
        if has_another_user(document, wish.user) and not wish.takeover:
            raise account_in_use()
        connector = oauth_connector(wish.provider)
        given = {**document.get("params", {}), **(wish.params or {})}
        params = validate_fields(connector.params, given, place="params")
        sent = await self._authorization_redirect(
            connector,
            replace(wish, scopes=document.get("asked") if wish.scopes is None else wish.scopes),
            {**document, "params": params},
            reconnect=True,
            any_account=any_account,
        )
        if document["status"] == "pending" and document["credential"] is None:
            await self._integrations.change(document, {"due_at": utcnow() + _PENDING_TTL})
        await self._states.save(sent.pending_state)
        return sent

    async def _authorization_redirect(
        self,
        connector: Connector,
        wish: AuthorizationRequest,
        document: Mapping[str, Any],
        *,
        reconnect: bool,
        any_account: bool,
    ) -> AuthorizationRedirect:
        app = app_for(self._apps, connector, wish.workspace)
        values = template_values(document, app, self._redirect_uri)
        scopes = list(connector.scopes if wish.scopes is None else dict.fromkeys(wish.scopes))
        state = new_state()
        about = {
            "provider": wish.provider,
            "server": server_binding(connector, app, values),
            "user": wish.user,
            "integration_id": document["_id"],
            "again": reconnect,
            "any_account": any_account,
            "takeover": wish.takeover,
            "params": document["params"],
            "asked": scopes,
            "redirect_uri": self._redirect_uri,
            "return_to": validate_return_to(wish.return_to, base=self._base, origins=self._origins),
        }
        try:
            if connector.oauth1 is not None:
                flow = OAuth1Flow(connector.oauth1)
                request = await self._request_token(wish.workspace, connector, flow, values, state)
                about["request"] = {"token": request.token, "secret": request.secret}
                begun = self._states.new(wish.workspace, about, state)
                url = flow.authorize(values, request.token, scopes)
            else:
                begun = self._states.new(wish.workspace, about, state)
                url = connector.authorize(values, state=state, verifier=begun.verifier, scopes=scopes)
        except MissingValue as error:
            raise Conflict(f"the app of {connector.app} lacks something: {error}") from None
        return AuthorizationRedirect(url, document["_id"], begun)

    async def _request_token(
        self, workspace: str, connector: Connector, flow: OAuth1Flow, values: Mapping[str, str], state: str
    ) -> RequestToken:
        """The first leg. Raises `Conflict`: the platform refuses; `ProviderUnavailable`."""
        try:
            return flow.parse_request_token(
                await self._tokens.ask(flow.request_token_request(values, state=state), workspace)
            )
        except ProviderRejected as error:
            hidden = (state, values.get("client_secret", ""))
            raise Conflict(f"{connector.app} refuses: {redact(str(error), hidden)}") from None

"""The API of sessions for embedded pages: portals of customers, and windows that connect accounts."""

from datetime import timedelta
from typing import Annotated, Final

from fastapi import Depends, FastAPI
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.responses import Response

from services.console.embedding.records import ConnectPart, EmbeddedSessions, PortalPart
from services.console.embedding.texts import Catalogues
from services.console.embedding.theme import Theme
from services.console.embedding.visits import acting_member
from services.console.hub_api import HubApi, Refusal
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import DatabaseUnavailable, FieldError, Invalid, NotFound
from shared.contracts.routes import CONNECT_SESSIONS_PATH, PORTAL_PATH, PORTAL_SESSIONS_PATH
from shared.runtime.web.access import ApiKey, requires
from shared.runtime.web.routes import Routes
from shared.webhooks.patterns import parse_pattern
from shared.wire.origins import MAX_ORIGIN, parse_origin

_MAX_PROVIDERS: Final = 50
_MAX_TEXTS: Final = 8_000

PortalKey = Annotated[ApiKey, Depends(requires("portal:write"))]
ConnectKey = Annotated[ApiKey, Depends(requires("connect:write"))]


def _check_size(texts: list[str]) -> list[str]:
    """Raise `ValueError` for texts that are too long in all: they are stored, and sent in headers."""
    if sum(map(len, texts)) > _MAX_TEXTS:
        raise ValueError(f"must have at most {_MAX_TEXTS} characters in all")
    return texts


def _check_scopes(scopes: dict[str, list[str]]) -> dict[str, list[str]]:
    """Raise `ValueError` for scopes that are too long in all."""
    _check_size([name for names in scopes.values() for name in names])
    return scopes


Origin = Annotated[
    str,
    Field(max_length=MAX_ORIGIN, description="Scheme, host and port, such as https://chat.example.com."),
    AfterValidator(parse_origin),
]
Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Language = Annotated[
    str,
    Field(
        pattern=r"^[a-zA-Z]{2,3}(-[a-zA-Z0-9]{1,8})*$",
        max_length=35,
        description="The language of the pages, such as en. If left out, the browser's.",
    ),
]
Provider = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,40}$")]
ScopeName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\x21\x23-\x5b\x5d-\x7e]+$")]


class _SessionCreate(BaseModel):
    """The fields of both kinds of sessions."""

    model_config = ConfigDict(extra="forbid")

    theme: Theme = Theme()
    language: Language | None = None


class PortalSessionCreate(_SessionCreate):
    """`POST /api/portal-sessions`."""

    customer: Annotated[
        Text,
        Field(description="Your own id of the customer. The portal has this customer's webhooks only."),
    ]
    events: Annotated[
        list[Annotated[str, AfterValidator(parse_pattern)]],
        Field(
            min_length=1,
            max_length=100,
            description="Event types that the customer may subscribe to: at most 8,000 characters in all.",
        ),
        AfterValidator(_check_size),
    ]
    origins: Annotated[
        list[Origin],
        Field(min_length=1, max_length=10, description="The origins of the pages that may embed the portal."),
    ]
    expires_in_s: Annotated[
        int, Field(ge=60, le=43_200, description="Seconds after which the session ends.")
    ] = 3600


class PortalSessionOut(BaseModel):
    """A new portal session. One browser can open its `url`, within ten minutes."""

    id: str
    url: str
    expires_at: str


class ConnectSessionCreate(_SessionCreate):
    """`POST /api/connect-sessions`."""

    user: Annotated[Text, Field(description="The chat's id of the user to connect the accounts for.")]
    providers: Annotated[
        list[Provider],
        Field(min_length=1, max_length=_MAX_PROVIDERS, description="The providers to choose from."),
    ]
    scopes: Annotated[
        dict[Provider, Annotated[list[ScopeName], Field(max_length=100)]],
        Field(
            max_length=_MAX_PROVIDERS,
            description=(
                "The scopes to request, by provider, with at most 8,000 characters in all. "
                "If left out, those of the manifest."
            ),
        ),
        AfterValidator(_check_scopes),
    ] = {}
    origin: Annotated[
        Origin,
        Field(description="The origin of the page with the element: one of INTERLINK_RETURN_ORIGINS."),
    ]
    expires_in_s: Annotated[
        int, Field(ge=60, le=3_600, description="Seconds after which the session ends.")
    ] = 1800


class ConnectSessionOut(BaseModel):
    """A new connect session. `session` is the attribute of `<interlink-connect>`.

    One browser can open its window, within ten minutes.
    """

    id: str
    session: str
    expires_at: str


class EmbeddedSessionsApi:
    """The routes that create and end sessions."""

    def __init__(
        self,
        sessions: EmbeddedSessions,
        hub: HubApi,
        catalogues: Catalogues,
        *,
        public_base: str,
        return_origins: frozenset[str],
    ) -> None:
        self._sessions = sessions
        self._hub = hub
        self._catalogues = catalogues
        self._base = public_base
        self._return_origins = return_origins

    def mount(self, app: FastAPI) -> None:
        """Add every route to the app."""
        add = Routes(app, "").add
        add(PORTAL_SESSIONS_PATH, self.create_portal, methods=["POST"], status_code=201)
        add(f"{PORTAL_SESSIONS_PATH}/{{session_id}}", self.end_portal, methods=["DELETE"], status_code=204)
        add(CONNECT_SESSIONS_PATH, self.create_connect, methods=["POST"], status_code=201)
        add(f"{CONNECT_SESSIONS_PATH}/{{session_id}}", self.end_connect, methods=["DELETE"], status_code=204)

    async def create_portal(
        self, body: PortalSessionCreate, key: PortalKey, response: Response
    ) -> PortalSessionOut:
        """Create a portal: a page with the outgoing webhooks of one customer, for an `<iframe>`.

        Give `url` to the customer's browser only. The first browser that opens it can use the portal until it
        expires, is deleted, or the API key is revoked.
        """
        session, code = await self._sessions.create(
            workspace=key.workspace,
            key_id=_key_id(key),
            origins=tuple(dict.fromkeys(body.origins)),
            theme=body.theme.variables(),
            language=self._language(body.language),
            lifetime=timedelta(seconds=body.expires_in_s),
            part=PortalPart(customer=body.customer, events=tuple(dict.fromkeys(body.events))),
        )
        response.headers["Cache-Control"] = "no-store"
        return PortalSessionOut(
            id=session.id,
            url=f"{self._base}{PORTAL_PATH}/{session.id}/open?code={code}",
            expires_at=rfc3339(session.expires_at),
        )

    async def end_portal(self, session_id: str, key: PortalKey) -> Response:
        """End a portal at once, for example when the customer signs out."""
        return await self._end(session_id, key, "ptl_")

    async def create_connect(
        self, body: ConnectSessionCreate, key: ConnectKey, response: Response
    ) -> ConnectSessionOut:
        """Create a session in which a user connects accounts, in a window of `<interlink-connect>`.

        Confirm an account that was connected by OAuth at `POST /api/auth/oauth/confirm`, with the code that
        the element reports.
        """
        if body.origin not in self._return_origins:
            raise _invalid("origin", "the operator has not allowed it: see INTERLINK_RETURN_ORIGINS")
        for name in body.scopes:
            if name not in body.providers:
                raise _invalid(f"scopes.{name}", "this provider is not among `providers`")
        await self._check_providers(body.providers, key)
        session, code = await self._sessions.create(
            workspace=key.workspace,
            key_id=_key_id(key),
            origins=(body.origin,),
            theme=body.theme.variables(),
            language=self._language(body.language),
            lifetime=timedelta(seconds=body.expires_in_s),
            part=ConnectPart(
                user=body.user,
                providers=tuple(dict.fromkeys(body.providers)),
                scopes={name: tuple(scopes) for name, scopes in body.scopes.items()},
            ),
        )
        response.headers["Cache-Control"] = "no-store"
        return ConnectSessionOut(
            id=session.id, session=f"{session.id}.{code}", expires_at=rfc3339(session.expires_at)
        )

    async def end_connect(self, session_id: str, key: ConnectKey) -> Response:
        """End a connect session at once. Connected accounts stay connected."""
        return await self._end(session_id, key, "con_")

    async def _end(self, session_id: str, key: ApiKey, prefix: str) -> Response:
        if not session_id.startswith(prefix) or not await self._sessions.end(key.workspace, session_id):
            raise NotFound("no such session: it has expired, or was deleted")
        return Response(status_code=204)

    def _language(self, wanted: str | None) -> str | None:
        """Return the catalogue's language for a wanted one; None if the browser decides."""
        return None if wanted is None else self._catalogues.choose(None, wanted)

    async def _check_providers(self, providers: list[str], key: ApiKey) -> None:
        """Check that accounts of all providers can be connected.

        Raises `Invalid` for another provider, `DatabaseUnavailable` if the catalogue cannot be read.
        """
        try:
            reader = acting_member(key.workspace, _key_id(key), scopes=("integrations:read",))
            found = await self._hub.call(reader, "GET", "/api/catalog")
        except Refusal as refusal:
            raise DatabaseUnavailable(refusal.detail) from None
        known = {entry["id"] for entry in found["items"] if entry["connect"]}
        for position, name in enumerate(providers):
            if name not in known:
                raise _invalid(f"providers.{position}", "accounts of this provider cannot be connected")


def _key_id(key: ApiKey) -> str:
    """Return the id of the caller's API key, or of the member for whom the console calls."""
    return key.acting.key_id if key.acting else key.id


def _invalid(field: str, message: str) -> Invalid:
    return Invalid("some fields are not acceptable", errors=(FieldError(field, message),))

"""`/api/platform-credentials`: the apps registered with platforms. Secrets go in and never come out."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, FastAPI, Query
from pydantic import BaseModel
from starlette.responses import Response

from services.oauth.schemas import NewApp, ShownApp
from shared.catalog.connector import Connector
from shared.catalog.entering import entered
from shared.catalog.registry import connectors
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import Conflict, FieldError, Forbidden, Invalid, NotFound
from shared.runtime.access import ApiKey, requires
from shared.runtime.app_trial import AppTrial
from shared.runtime.apps import INSTALLATION, SECRETS, App, Apps, registered_as, secret_settings, takes_app
from shared.runtime.integrations import Integrations

_TRIES: Final = 5
_NOT_ASKED: Final = "not_asked"

Reader = Annotated[ApiKey, Depends(requires("integrations:read"))]
Admin = Annotated[ApiKey, Depends(requires("admin"))]
Scope = Annotated[Literal["workspace", "installation"], Query(description="Whose.")]


class ShownApps(BaseModel):
    """The apps that a workspace's accounts are connected with, by provider."""

    items: list[ShownApp]


class PlatformApi:
    """The routes and what they need."""

    def __init__(
        self,
        apps: Apps,
        integrations: Integrations,
        trial: AppTrial,
        *,
        redirect_uri: str,
        operator_workspace: str,
    ) -> None:
        self._apps = apps
        self._integrations = integrations
        self._trial = trial
        self._redirect_uri = redirect_uri
        self._operator = operator_workspace

    def mount(self, app: FastAPI) -> None:
        """Put every route on the app."""
        router = APIRouter(prefix="/api/platform-credentials")
        add = router.add_api_route
        add("", self.list_all, methods=["GET"])
        add("/{provider}", self.read, methods=["GET"])
        add("/{provider}", self.put, methods=["PUT"])
        add("/{provider}", self.delete, methods=["DELETE"], status_code=204)
        add("/{provider}/verify", self.verify, methods=["POST"])
        app.include_router(router)

    async def list_all(self, key: Reader) -> ShownApps:
        """The app of every provider that has one here."""
        names = sorted({connector.app for connector in connectors().values()})
        found = (self._apps.known(name, key.workspace) for name in names)
        return ShownApps(items=[self._show(app) for app in found if app is not None])

    async def read(self, provider: str, key: Reader) -> ShownApp:
        """The app that the workspace's accounts of a provider are connected with."""
        app = self._apps.known(_connector(provider).app, key.workspace)
        if app is None:
            raise NotFound(f"no app is registered here for {provider}")
        return self._show(app)

    async def put(self, provider: str, body: NewApp, key: Admin) -> ShownApp:
        """Set an app's credentials. Unless told whether they are right, the platform is asked.

        Who changes the client id or a setting sends the client secret again: settings say where it goes.
        """
        connector = _own(provider)
        workspace = self._whose(body.scope, key)
        if workspace == INSTALLATION and provider in self._apps.given:
            source = self._apps.given[provider].source
            raise Conflict(f"the installation's app of {provider} comes from the {source}: change it there")
        for _ in range(_TRIES):
            before = await self._apps.read(provider, workspace)
            app = await self._apps.write(_changed(connector, workspace, body, before), before)
            if app is not None:
                break
        else:
            raise Conflict("the app is being changed all the time: try again")
        if body.verified is None:
            app = await self._verified(connector, app)
        await self._end_pauses(app)
        return self._show(app)

    async def verify(self, provider: str, key: Admin, scope: Scope = "workspace") -> ShownApp:
        """Ask the platform whether it takes the app's id and secret.

        What the platform does not tell changes nothing; when it cannot be asked it is 503.
        """
        connector = _own(provider)
        app = await self._there(provider, scope, key)
        if not app.readable:
            raise Conflict(
                "the app's secrets cannot be opened: bring back their encryption key, or enter them again"
            )
        app = await self._verified(connector, app, insist=True)
        await self._end_pauses(app)
        return self._show(app)

    async def _end_pauses(self, app: App) -> None:
        """Accounts that wait because the platform did not take the app go on."""
        if not app.verified:
            return
        providers = [name for name, each in connectors().items() if each.app == app.provider]
        await self._integrations.end_pauses(providers, registered_as(app), app.revision)

    async def delete(self, provider: str, key: Admin, scope: Scope = "workspace") -> Response:
        """Remove an app: accounts that are connected with it stop when their tokens end."""
        _own(provider)
        for _ in range(_TRIES):
            if await self._apps.remove(await self._there(provider, scope, key)) is not None:
                return Response(status_code=204)
        raise Conflict("the app is being changed all the time: try again")

    async def _there(self, provider: str, scope: str, key: ApiKey) -> App:
        app = await self._apps.read(provider, self._whose(scope, key))
        if app is None:
            raise NotFound(f"no app is registered here for {provider} by this API")
        return app

    def _whose(self, scope: str, key: ApiKey) -> str:
        if scope == "workspace":
            return key.workspace
        if key.workspace != self._operator:
            raise Forbidden("an installation's apps are set with an admin key of the operator's workspace")
        return INSTALLATION

    async def _verified(self, connector: Connector, app: App, *, insist: bool = False) -> App:
        """The app with what the platform says to it. Raises `PlatformBusy` when asked to insist."""
        verdict = await self._trial.verdict(app, connector)
        if insist and verdict.busy is not None:
            raise verdict.busy
        verified, reason = verdict.takes_it, verdict.reason
        if verified is None:
            verified = app.verified
            reason = f"{_NOT_ASKED}: {reason}: send verified: true when it is right"
        judged = await self._apps.judge(app, verified=verified, reason=reason, anew=bool(verdict.takes_it))
        if judged is None:
            raise Conflict(f"the app of {app.provider} was changed meanwhile: verify it again")
        return judged

    def _show(self, app: App) -> ShownApp:
        known, hidden = _connector(app.provider).settings, secret_settings(app.provider)
        return ShownApp(
            provider=app.provider,
            scope="workspace" if app.workspace else "installation",
            source=app.source,
            client_id=app.client_id,
            secrets=sorted(app.secrets),
            settings={
                name: None if name in hidden else value
                for name, value in app.settings.items()
                if name in known
            },
            verified=app.verified,
            reason=app.reason or None,
            redirect_uri=self._redirect_uri,
            updated_at=rfc3339(app.changed_at) if app.changed_at else None,
        )


def _changed(connector: Connector, workspace: str, body: NewApp, before: App | None) -> App:
    """The app as it is asked for. Raises `Invalid`."""
    old = before or App(connector.provider, workspace, "", {})
    client_id = body.client_id or old.client_id
    if not client_id:
        raise _wrong("client_id", "required")
    kept = {name: value for name, value in old.settings.items() if name in connector.settings}
    settings = entered(connector.settings, kept | (body.settings or {}), place="settings")
    given = {field: value for field in SECRETS if (value := getattr(body, field))}
    moved = (client_id, settings) != (old.client_id, kept)
    if moved and "client_secret" in old.secrets and "client_secret" not in given:
        raise _wrong("client_secret", "send it again with another client id or other settings")
    secrets: Mapping[str, str] = {**old.secrets, **given}
    if connector.needs_secret and "client_secret" not in secrets:
        raise _wrong("client_secret", "required")
    return replace(
        old,
        client_id=client_id,
        secrets=secrets,
        settings=settings,
        verified=bool(body.verified),
        reason="",
        readable=True,
    )


def _wrong(field: str, message: str) -> Invalid:
    return Invalid("some fields are not acceptable", errors=(FieldError(field, message),))


def _connector(provider: str) -> Connector:
    found = connectors().get(provider)
    if found is None:
        raise NotFound("no such provider, or its accounts cannot be connected")
    return found


def _own(provider: str) -> Connector:
    """Of a provider that has an app of its own. Raises `NotFound`, `Conflict`."""
    connector = _connector(provider)
    if connector.app != provider:
        raise Conflict(f"accounts of {provider} are connected with the app of {connector.app}: set that one")
    if not takes_app(connector):
        raise Conflict(f"accounts of {provider} are connected without an app")
    return connector

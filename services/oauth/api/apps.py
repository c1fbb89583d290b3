"""`/api/platform-credentials`: the apps registered with platforms. Secrets go in and never come out."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, FastAPI, Query
from pydantic import BaseModel
from starlette.responses import Response

from services.oauth.api.schemas import AppOut, AppUpdate
from shared.connections.app_check import AppChecker
from shared.connections.apps import (
    INSTALLATION,
    SECRET_FIELDS,
    App,
    Apps,
    app_ref,
    secret_settings,
    uses_own_app,
)
from shared.connections.integrations import IntegrationRepository
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import Conflict, FieldError, Forbidden, Invalid, NotFound
from shared.manifests.connector import Connector
from shared.manifests.field_validation import validate_fields
from shared.manifests.registry import connectors
from shared.runtime.web.access import ApiKey, requires

_TRIES: Final = 5
_NOT_ASKED: Final = "not_asked"

Reader = Annotated[ApiKey, Depends(requires("integrations:read"))]
Admin = Annotated[ApiKey, Depends(requires("admin"))]
Scope = Annotated[Literal["workspace", "installation"], Query(description="Whose.")]


class AppListOut(BaseModel):
    """The apps that a workspace's accounts are connected with, by provider."""

    items: list[AppOut]


class AppsApi:
    """The routes and what they need."""

    def __init__(
        self,
        apps: Apps,
        integrations: IntegrationRepository,
        app_checker: AppChecker,
        *,
        redirect_uri: str,
        operator_workspace: str,
    ) -> None:
        self._apps = apps
        self._integrations = integrations
        self._app_checker = app_checker
        self._redirect_uri = redirect_uri
        self._operator_workspace = operator_workspace

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

    async def list_all(self, key: Reader) -> AppListOut:
        """The app of every provider that has one here."""
        names = sorted({connector.app for connector in connectors().values()})
        found = (self._apps.select(name, key.workspace) for name in names)
        return AppListOut(items=[self._app_out(app) for app in found if app is not None])

    async def read(self, provider: str, key: Reader) -> AppOut:
        """The app that the workspace's accounts of a provider are connected with."""
        app = self._apps.select(_connector(provider).app, key.workspace)
        if app is None:
            raise NotFound(f"no app is registered here for {provider}")
        return self._app_out(app)

    async def put(self, provider: str, body: AppUpdate, key: Admin) -> AppOut:
        """Set an app's credentials. Unless told whether they are right, the platform is asked.

        Who changes the client id or a setting sends the client secret again: settings say where it goes.
        """
        connector = _connector_with_own_app(provider)
        workspace = self._scope_workspace(body.scope, key)
        if workspace == INSTALLATION and provider in self._apps.configured:
            source = self._apps.configured[provider].source
            raise Conflict(f"the installation's app of {provider} comes from the {source}: change it there")
        for _ in range(_TRIES):
            before = await self._apps.read(provider, workspace)
            app = await self._apps.write(_updated_app(connector, workspace, body, before), before)
            if app is not None:
                break
        else:
            raise Conflict("the app is being changed all the time: try again")
        if body.verified is None:
            app = await self._check_app(connector, app)
        await self._resume_integrations(app)
        return self._app_out(app)

    async def verify(self, provider: str, key: Admin, scope: Scope = "workspace") -> AppOut:
        """Ask the platform whether it takes the app's id and secret.

        What the platform does not tell changes nothing; when it cannot be asked it is 503.
        """
        connector = _connector_with_own_app(provider)
        app = await self._find_app(provider, scope, key)
        if not app.readable:
            raise Conflict(
                "the app's secrets cannot be opened: bring back their encryption key, or enter them again"
            )
        app = await self._check_app(connector, app, require_answer=True)
        await self._resume_integrations(app)
        return self._app_out(app)

    async def _resume_integrations(self, app: App) -> None:
        """Accounts that wait because the platform did not take the app go on."""
        if not app.verified:
            return
        providers = [name for name, each in connectors().items() if each.app == app.provider]
        await self._integrations.clear_app_pauses(providers, app_ref(app), app.revision)

    async def delete(self, provider: str, key: Admin, scope: Scope = "workspace") -> Response:
        """Remove an app: accounts that are connected with it stop when their tokens end."""
        _connector_with_own_app(provider)
        for _ in range(_TRIES):
            if await self._apps.remove(await self._find_app(provider, scope, key)) is not None:
                return Response(status_code=204)
        raise Conflict("the app is being changed all the time: try again")

    async def _find_app(self, provider: str, scope: str, key: ApiKey) -> App:
        app = await self._apps.read(provider, self._scope_workspace(scope, key))
        if app is None:
            raise NotFound(f"no app is registered here for {provider} by this API")
        return app

    def _scope_workspace(self, scope: str, key: ApiKey) -> str:
        if scope == "workspace":
            return key.workspace
        if key.workspace != self._operator_workspace:
            raise Forbidden("an installation's apps are set with an admin key of the operator's workspace")
        return INSTALLATION

    async def _check_app(self, connector: Connector, app: App, *, require_answer: bool = False) -> App:
        """The app with what the platform says to it. Raises `ProviderUnavailable` when asked to insist."""
        verdict = await self._app_checker.check(app, connector)
        if require_answer and verdict.unavailable is not None:
            raise verdict.unavailable
        verified, reason = verdict.accepted, verdict.reason
        if verified is None:
            verified = app.verified
            reason = f"{_NOT_ASKED}: {reason}: send verified: true when it is right"
        judged = await self._apps.record_check(
            app, verified=verified, reason=reason, new_revision=bool(verdict.accepted)
        )
        if judged is None:
            raise Conflict(f"the app of {app.provider} was changed meanwhile: verify it again")
        return judged

    def _app_out(self, app: App) -> AppOut:
        known, hidden = _connector(app.provider).settings, secret_settings(app.provider)
        return AppOut(
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


def _updated_app(connector: Connector, workspace: str, body: AppUpdate, before: App | None) -> App:
    """The app as it is asked for. Raises `Invalid`."""
    old = before or App(connector.provider, workspace, "", {})
    client_id = body.client_id or old.client_id
    if not client_id:
        raise _invalid_field("client_id", "required")
    kept = {name: value for name, value in old.settings.items() if name in connector.settings}
    settings = validate_fields(connector.settings, kept | (body.settings or {}), place="settings")
    given = {field: value for field in SECRET_FIELDS if (value := getattr(body, field))}
    moved = (client_id, settings) != (old.client_id, kept)
    if moved and "client_secret" in old.secrets and "client_secret" not in given:
        raise _invalid_field("client_secret", "send it again with another client id or other settings")
    secrets: Mapping[str, str] = {**old.secrets, **given}
    if connector.needs_secret and "client_secret" not in secrets:
        raise _invalid_field("client_secret", "required")
    return replace(
        old,
        client_id=client_id,
        secrets=secrets,
        settings=settings,
        verified=bool(body.verified),
        reason="",
        readable=True,
    )


def _invalid_field(field: str, message: str) -> Invalid:
    return Invalid("some fields are not acceptable", errors=(FieldError(field, message),))


def _connector(provider: str) -> Connector:
    found = connectors().get(provider)
    if found is None:
        raise NotFound("no such provider, or its accounts cannot be connected")
    return found


def _connector_with_own_app(provider: str) -> Connector:
    """Of a provider that has an app of its own. Raises `NotFound`, `Conflict`."""
    connector = _connector(provider)
    if connector.app != provider:
        raise Conflict(f"accounts of {provider} are connected with the app of {connector.app}: set that one")
    if not uses_own_app(connector):
        raise Conflict(f"accounts of {provider} are connected without an app")
    return connector

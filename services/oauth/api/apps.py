"""`/api/platform-credentials`: OAuth apps that are registered with providers. Secrets are never returned."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Final, Literal

from fastapi import Depends, FastAPI, Query
from starlette.responses import Response

from services.oauth.api.app_schemas import AppListOut, AppOut, AppUpdate
from services.oauth.authorization.state import States
from shared.connections.app_check import AppChecker
from shared.connections.apps import Apps
from shared.connections.integrations import IntegrationRepository
from shared.connections.provider_app import (
    DEFAULT_APP,
    INSTALLATION,
    SECRET_FIELDS,
    App,
    app_ref,
    secret_settings,
    uses_own_app,
)
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import Conflict, FieldError, Forbidden, Invalid, NotFound
from shared.manifests.connector import Connector
from shared.manifests.field_validation import validate_fields
from shared.runtime.web.access import ApiKey, requires
from shared.runtime.web.routes import Routes

_MAX_ATTEMPTS: Final = 5
_NOT_ASKED: Final = "not_asked"
"""Starts the reason of an app that the provider could not check. Clients match it."""
_MAX_APPS: Final = 10
"""Of a provider in a workspace. The app webhook tries the secrets of all."""
_CONFLICT_DETAIL: Final = "the app changed while it was updated: try again"

Reader = Annotated[ApiKey, Depends(requires("integrations:read"))]
Admin = Annotated[ApiKey, Depends(requires("admin"))]
Scope = Annotated[
    Literal["workspace", "installation"],
    Query(description="Whose app: the workspace's, or the installation's."),
]
AppQuery = Annotated[
    str | None,
    Query(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$",
        description="The name of one of several apps of the provider. If left out, the default app.",
    ),
]


class AppsApi:
    """The routes of OAuth apps.

    Only admin keys of `operator_workspace` may set the installation's apps.
    """

    def __init__(
        self,
        apps: Apps,
        connectors: Mapping[str, Connector],
        integrations: IntegrationRepository,
        app_checker: AppChecker,
        states: States,
        *,
        redirect_uri: str,
        operator_workspace: str,
    ) -> None:
        self._apps = apps
        self._connectors = connectors
        self._integrations = integrations
        self._app_checker = app_checker
        self._states = states
        self._redirect_uri = redirect_uri
        self._operator_workspace = operator_workspace

    def mount(self, app: FastAPI) -> None:
        """Add the routes to the app."""
        add = Routes(app, "/api/platform-credentials").add
        add("", self.list_all, methods=["GET"])
        add("/{provider}", self.read, methods=["GET"])
        add("/{provider}", self.put, methods=["PUT"])
        add("/{provider}", self.delete, methods=["DELETE"], status_code=204)
        add("/{provider}/verify", self.verify, methods=["POST"])

    async def list_all(self, key: Reader) -> AppListOut:
        """List the apps that accounts of the workspace can be connected with."""
        app_ids = sorted({connector.app for connector in self._connectors.values()})
        apps = (app for app_id in app_ids for app in self._apps.usable(app_id, key.workspace))
        return AppListOut(items=[self._app_out(app) for app in apps])

    async def read(self, provider: str, key: Reader, app: AppQuery = None) -> AppOut:
        """Return the app that accounts of the provider are connected with in the workspace."""
        found = self._apps.select(self._connector(provider).app, key.workspace, app or DEFAULT_APP)
        if found is None:
            raise NotFound(f"no such app is registered for {provider}")
        return self._app_out(found)

    async def put(self, provider: str, body: AppUpdate, key: Admin) -> AppOut:
        """Create or update an app. Without `verified`, the provider is asked whether it accepts the app.

        With `app` it is one of several apps of the provider, which `connect` selects by this name. A new
        client id or setting needs the client secret again: the settings decide which server it is sent to.
        """
        connector = self._connector_with_own_app(provider)
        workspace = self._scope_workspace(body.scope, key)
        name = body.app or DEFAULT_APP
        if workspace == INSTALLATION and name == DEFAULT_APP and provider in self._apps.configured:
            source = self._apps.configured[provider].source
            raise Conflict(f"the installation's app of {provider} comes from the {source}: change it there")
        for _ in range(_MAX_ATTEMPTS):
            # One at a time in all processes: each sees the apps that were registered before it.
            async with self._states.lock("apps", workspace, provider):
                await self._apps.current()
                before = await self._apps.read(provider, workspace, name)
                updated = _updated_app(connector, workspace, body, before)
                self._check_others(updated)
                app = await self._apps.write(updated, before)
            if app is not None:
                break
        else:
            raise Conflict(_CONFLICT_DETAIL)
        if body.verified is None:
            app = await self._check_app(connector, app)
        await self._resume_integrations(app)
        return self._app_out(app)

    def _check_others(self, app: App) -> None:
        """Raise `Conflict` if another app of the workspace has the client id, or if there are too many.

        The client id is what an account stores of its app.
        """
        others = [
            other for other in self._apps.of_workspace(app.provider, app.workspace) if other.name != app.name
        ]
        same = next((other for other in others if other.client_id == app.client_id), None)
        if same is not None:
            name = same.name or "the default app"
            raise Conflict(f"{name} has this client id already: update that one, or register another app")
        if app.created_at is None and len(others) >= _MAX_APPS:
            raise Conflict(f"a provider can have {_MAX_APPS} apps in a workspace at most: delete one first")

    async def verify(
        self, provider: str, key: Admin, scope: Scope = "workspace", app: AppQuery = None
    ) -> AppOut:
        """Ask the provider whether it accepts the app's client id and secret.

        If the provider's answer does not say, the app stays as it was. If the provider is not available, the
        status is 503.
        """
        connector = self._connector_with_own_app(provider)
        found = await self._find_app(provider, scope, key, app)
        if not found.readable:
            raise Conflict(
                "the app's secrets cannot be decrypted: restore their encryption key, or enter them again"
            )
        checked = await self._check_app(connector, found, require_answer=True)
        await self._resume_integrations(checked)
        return self._app_out(checked)

    async def _resume_integrations(self, app: App) -> None:
        """Resume the refreshes of integrations that stopped because the provider rejected the app."""
        if not app.verified:
            return
        providers = [name for name, connector in self._connectors.items() if connector.app == app.provider]
        await self._integrations.clear_app_pauses(providers, app_ref(app), app.revision)

    async def delete(
        self, provider: str, key: Admin, scope: Scope = "workspace", app: AppQuery = None
    ) -> Response:
        """Remove an app. Accounts that are connected with it stop working when their tokens expire."""
        self._connector_with_own_app(provider)
        for _ in range(_MAX_ATTEMPTS):
            if await self._apps.remove(await self._find_app(provider, scope, key, app)) is not None:
                return Response(status_code=204)
        raise Conflict(_CONFLICT_DETAIL)

    async def _find_app(self, provider: str, scope: str, key: ApiKey, name: str | None) -> App:
        app = await self._apps.read(provider, self._scope_workspace(scope, key), name or DEFAULT_APP)
        if app is None:
            raise NotFound(f"no such app of {provider} was registered by this API")
        return app

    def _scope_workspace(self, scope: str, key: ApiKey) -> str:
        if scope == "workspace":
            return key.workspace
        if key.workspace != self._operator_workspace:
            raise Forbidden("an installation's apps are set with an admin key of the operator's workspace")
        return INSTALLATION

    async def _check_app(self, connector: Connector, app: App, *, require_answer: bool = False) -> App:
        """Check an app at its provider. Return it with the result stored.

        Raises `ProviderUnavailable` if the provider does not answer and `require_answer` is set; `Conflict`
        if the app changed; `DatabaseUnavailable`.
        """
        check = await self._app_checker.check(app, connector)
        if require_answer and check.unavailable is not None:
            raise check.unavailable
        verified, reason = check.accepted, check.reason
        if verified is None:
            verified = app.verified
            reason = f"{_NOT_ASKED}: {reason}: send verified: true if the credentials are right"
        checked = await self._apps.record_check(
            app, verified=verified, reason=reason, new_revision=bool(check.accepted)
        )
        if checked is None:
            raise Conflict(f"the app of {app.provider} was changed at the same time: verify it again")
        return checked

    def _connector(self, provider: str) -> Connector:
        """Return a provider's connector. Raises `NotFound`."""
        connector = self._connectors.get(provider)
        if connector is None:
            raise NotFound("no such provider, or its accounts cannot be connected")
        return connector

    def _connector_with_own_app(self, provider: str) -> Connector:
        """Return the connector of a provider that has an app of its own. Raises `NotFound`, `Conflict`."""
        connector = self._connector(provider)
        if connector.app != provider:
            raise Conflict(
                f"accounts of {provider} are connected with the app of {connector.app}: set that one"
            )
        if not uses_own_app(connector):
            raise Conflict(f"accounts of {provider} are connected without an app")
        return connector

    def _app_out(self, app: App) -> AppOut:
        """Return an app as the API shows it, without secrets, secret settings and unknown settings."""
        connector = self._connector(app.provider)
        known_settings, hidden = connector.settings, secret_settings(connector)
        return AppOut(
            provider=app.provider,
            app=app.name or None,
            scope="workspace" if app.workspace else "installation",
            source=app.source,
            client_id=app.client_id,
            secrets=sorted(app.secrets),
            settings={
                name: None if name in hidden else value
                for name, value in app.settings.items()
                if name in known_settings
            },
            verified=app.verified,
            reason=app.reason or None,
            redirect_uri=self._redirect_uri,
            updated_at=rfc3339(app.changed_at) if app.changed_at else None,
        )


def _updated_app(connector: Connector, workspace: str, body: AppUpdate, before: App | None) -> App:
    """Return the app with the request's changes; a new one if there was none. Raises `Invalid`."""
    old = before or App(connector.provider, workspace, "", {}, name=body.app or DEFAULT_APP)
    client_id = body.client_id or old.client_id
    if not client_id:
        raise _invalid_field("client_id", "required")
    current_settings = {name: value for name, value in old.settings.items() if name in connector.settings}
    settings = validate_fields(connector.settings, current_settings | (body.settings or {}), place="settings")
    new_secrets = {field: value for field in SECRET_FIELDS if (value := getattr(body, field))}
    # A setting can name the server that the client secret is sent to: without this check, whoever may change
    # settings could have the stored secret sent to a server of his own.
    is_moved = (client_id, settings) != (old.client_id, current_settings)
    if is_moved and "client_secret" in old.secrets and "client_secret" not in new_secrets:
        raise _invalid_field("client_secret", "send it again: client id or settings were changed")
    secrets: Mapping[str, str] = {**old.secrets, **new_secrets}
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

"""Connected accounts: the integrations that the events of an app webhook are for.

An account that was connected with a workspace's own app receives only events that this app's secret verified.
An account that was connected with the installation's app receives only events that the installation's app
verified. So a person who knows the secret of an own app can send events to accounts of the own workspace, and
to no others.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from services.gateway.ingest.app_webhooks import AppSecret, AppWebhookTarget
from services.gateway.ingest.endpoint import EventSelection, InboundEndpoint
from services.gateway.ingest.endpoints import RECORDED_REJECTIONS_PER_MINUTE
from services.gateway.ingest.rate_limit import RateLimits, TokenBuckets
from shared.connections.account_routes import AccountRoute, AccountRoutes, AppKey
from shared.connections.provider_app import INSTALLATION
from shared.contracts.ids import EndpointId, WorkspaceId
from shared.manifests.webhook import AccountRef

_EVENTS_PER_MINUTE: Final = 60_000
"""The rate limit of one connected account: the default of an endpoint."""
_NO_EVENTS: Final = EventSelection(())


class ConnectedAccounts:
    """Finds the integrations of accounts, and stands for each of them as an endpoint."""

    def __init__(self, routes: AccountRoutes, limits: RateLimits) -> None:
        self._routes = routes
        self._accepted = TokenBuckets(_EVENTS_PER_MINUTE, limits=limits, kind="accepted")
        self._recorded_rejections = TokenBuckets(
            RECORDED_REJECTIONS_PER_MINUTE, limits=limits, kind="recorded"
        )

    async def of(
        self, provider: str, app: AppSecret, accounts: Collection[AccountRef]
    ) -> Mapping[AccountRef, Sequence[AccountRoute]]:
        """Return for each account its integrations, at most one of a workspace.

        `app` is the app whose secret verified the request. Raises `DatabaseUnavailable`.
        """
        account_ids = {item.account for item in accounts if item.account}
        resource_ids = {item.resource for item in accounts if item.resource}
        by_account = await self._routes.find(provider, "account.id", account_ids)
        by_resource = await self._routes.find(provider, "account.choice.id", resource_ids)
        return {
            ref: _select(
                by_account.get(ref.account, ()), by_resource.get(ref.resource, ()), ref, app.app_keys
            )
            for ref in accounts
        }

    def endpoint(self, target: AppWebhookTarget, app: AppSecret, account: AccountRoute) -> InboundEndpoint:
        """Return the endpoint that stands for a connected account. `app` is the app that verified."""
        return InboundEndpoint(
            id=EndpointId(account.id),
            workspace=WorkspaceId(account.workspace),
            provider=target.provider,
            definition=target.definition,
            address="",
            channel_id="",
            enabled=True,
            keys=((app.key, None),),
            settings=app.settings,
            require_signature=True,
            networks=(),
            body_limit=None,
            dedupe_window_s=None,
            message_events=_NO_EVENTS,
            accepted=self._accepted.of(account.id),
            recorded_rejections=self._recorded_rejections.of(account.workspace),
        )


def _select(
    of_account: Sequence[AccountRoute],
    of_resource: Sequence[AccountRoute],
    ref: AccountRef,
    app_keys: Collection[AppKey],
) -> Sequence[AccountRoute]:
    """Return the oldest matching integration of each workspace.

    Only one per workspace: two integrations of the same account must not duplicate its events. An integration
    with a selected resource matches by the resource if the event names one, otherwise by the account.
    """
    if ref.resource:
        of_account = [route for route in of_account if not route.has_resource]
    by_workspace: dict[str, AccountRoute] = {}
    for route in sorted((*of_resource, *of_account)):
        if _uses_app(route, app_keys):
            by_workspace.setdefault(route.workspace, route)
    return tuple(by_workspace.values())


def _uses_app(route: AccountRoute, app_keys: Collection[AppKey]) -> bool:
    """Return whether the integration was connected with one of these apps.

    Manual credentials (a bot's token) belong to no app: they count as of every own app of their workspace.
    """
    if route.app:
        return route.app[0] in (INSTALLATION, route.workspace) and route.app in app_keys
    return any(app_workspace == route.workspace for app_workspace, _ in app_keys)

"""`/api/integrations/{id}/watches`: the provider subscriptions of an integration."""

from typing import Annotated

from fastapi import Depends, FastAPI
from starlette.responses import Response

from services.oauth.api.subscription_schemas import (
    ProviderSubscriptionCreate,
    ProviderSubscriptionListOut,
    ProviderSubscriptionOut,
    subscription_out,
    subscription_type_out,
)
from services.oauth.subscriptions.lifecycle import SubscriptionLifecycle
from services.oauth.subscriptions.records import ProviderSubscription, SubscriptionRepository
from services.oauth.subscriptions.subscription_types import SubscriptionTypes
from shared.connections.integrations import IntegrationRepository
from shared.runtime.web.access import ApiKey, requires
from shared.runtime.web.routes import Routes

Reader = Annotated[ApiKey, Depends(requires("integrations:read"))]
Writer = Annotated[ApiKey, Depends(requires("integrations:write"))]


class SubscriptionsApi:
    """The routes of provider subscriptions."""

    def __init__(
        self,
        integrations: IntegrationRepository,
        subscriptions: SubscriptionRepository,
        types: SubscriptionTypes,
        lifecycle: SubscriptionLifecycle,
    ) -> None:
        self._integrations = integrations
        self._subscriptions = subscriptions
        self._types = types
        self._lifecycle = lifecycle

    def mount(self, app: FastAPI) -> None:
        """Add the routes to the app."""
        add = Routes(app, "/api/integrations/{integration_id}/watches").add
        add("", self.list_all, methods=["GET"])
        add("", self.create, methods=["POST"], status_code=201)
        add("/{watch_id}", self.delete, methods=["DELETE"], status_code=204)

    async def list_all(self, integration_id: str, key: Reader) -> ProviderSubscriptionListOut:
        """List the integration's subscriptions, and the types that the provider has."""
        integration = await self._integrations.find(integration_id, key.workspace)
        return ProviderSubscriptionListOut(
            items=[self._out(item) for item in await self._subscriptions.of_integration(integration.id)],
            available=[
                subscription_type_out(definition) for definition in self._types.of(integration.provider)
            ],
        )

    async def create(
        self, integration_id: str, body: ProviderSubscriptionCreate, key: Writer
    ) -> ProviderSubscriptionOut:
        """Add a subscription. Its inbound endpoint is created, and the provider is called, in a moment."""
        integration = await self._integrations.find(integration_id, key.workspace)
        subscription = await self._lifecycle.add(
            integration, body.watch, body.resource, channel=body.channel_id
        )
        return self._out(subscription)

    async def delete(self, integration_id: str, watch_id: str, key: Writer) -> Response:
        """Cancel the subscription at the provider and remove its endpoint, unless other accounts share it."""
        integration = await self._integrations.find(integration_id, key.workspace)
        await self._lifecycle.unsubscribe(
            await self._subscriptions.find(integration.id, watch_id), integration.id
        )
        return Response(status_code=204)

    def _out(self, subscription: ProviderSubscription) -> ProviderSubscriptionOut:
        return subscription_out(subscription, self._types.find(subscription.provider, subscription.type_id))

"""`/api/integrations/{id}/watches`: what makes a platform send webhooks about an account."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from services.oauth.api.schemas import FieldValues, LastError
from services.oauth.subscriptions.lifecycle import SubscriptionLifecycle
from services.oauth.subscriptions.provider_calls import subscription_types
from shared.connections.integrations import IntegrationRepository
from shared.contracts.envelope import rfc3339
from shared.runtime.mongo import Document
from shared.runtime.web.access import ApiKey, requires

Reader = Annotated[ApiKey, Depends(requires("integrations:read"))]
Writer = Annotated[ApiKey, Depends(requires("integrations:write"))]


class ProviderSubscriptionCreate(BaseModel):
    """`POST`: one of the kinds that the provider has, and what it is to watch."""

    model_config = ConfigDict(extra="forbid")

    watch: Annotated[str, Field(max_length=40)]
    resource: FieldValues = {}
    channel_id: Annotated[
        str | None, Field(max_length=200, description="Where its webhooks become messages.")
    ] = None


class ProviderSubscriptionOut(BaseModel):
    """A watch. `status`: pending, active, failing (it is tried again), or stopped with its integration.

    One that lacks a setting of the app is pending with the error `missing_setting`, which says what is to be
    entered; it is made when that was done.
    """

    id: str
    watch: str
    about: str
    resource: dict[str, str]
    status: str
    shared: Annotated[
        bool, Field(description="It belongs to the app: accounts of the workspace have it together.")
    ]
    endpoint_id: str | None
    endpoint_url: str | None
    channel_id: str | None
    expires_at: str | None
    renewed_at: str | None
    next_at: str | None
    last_error: LastError | None
    created_at: str


class ProviderSubscriptionTypeOut(BaseModel):
    """A kind of watch that the provider has."""

    watch: str
    about: str
    automatic: bool
    resource: dict[str, str]
    scopes: list[str]


class ProviderSubscriptionListOut(BaseModel):
    """An integration's watches, newest first, and what else can be watched."""

    items: list[ProviderSubscriptionOut]
    available: list[ProviderSubscriptionTypeOut]


class SubscriptionsApi:
    """The routes and what they need."""

    def __init__(self, integrations: IntegrationRepository, watching: SubscriptionLifecycle) -> None:
        self._integrations = integrations
        self._subscriptions = watching

    def mount(self, app: FastAPI) -> None:
        """Put every route on the app."""
        router = APIRouter(prefix="/api/integrations/{integration_id}/watches")
        add = router.add_api_route
        add("", self.list_all, methods=["GET"])
        add("", self.create, methods=["POST"], status_code=201)
        add("/{watch_id}", self.delete, methods=["DELETE"], status_code=204)
        app.include_router(router)

    async def list_all(self, integration_id: str, key: Reader) -> ProviderSubscriptionListOut:
        """What is watched, and what can be."""
        document = await self._integrations.find(integration_id, key.workspace)
        return ProviderSubscriptionListOut(
            items=[_subscription_out(each) for each in await self._subscriptions.list_for(document["_id"])],
            available=[
                ProviderSubscriptionTypeOut(
                    watch=each.id,
                    about=each.about,
                    automatic=each.automatic,
                    resource={name: setting.about for name, setting in each.resource.items()},
                    scopes=list(each.scopes),
                )
                for each in subscription_types(document["provider"])
            ],
        )

    async def create(
        self, integration_id: str, body: ProviderSubscriptionCreate, key: Writer
    ) -> ProviderSubscriptionOut:
        """Watch something more: an inbound endpoint is made for it, and the platform is told in a moment."""
        document = await self._integrations.find(integration_id, key.workspace)
        made = await self._subscriptions.add(document, body.watch, body.resource, channel=body.channel_id)
        return _subscription_out(made)

    async def delete(self, integration_id: str, watch_id: str, key: Writer) -> Response:
        """Cancel it at the platform, and remove its endpoint, unless other accounts share it."""
        document = await self._integrations.find(integration_id, key.workspace)
        await self._subscriptions.unsubscribe(
            await self._subscriptions.find(document["_id"], watch_id), document["_id"]
        )
        return Response(status_code=204)


def _subscription_out(document: Document) -> ProviderSubscriptionOut:
    error = document["last_error"]
    about = next(
        (each.about for each in subscription_types(document["provider"]) if each.id == document["watch"]), ""
    )
    return ProviderSubscriptionOut(
        id=document["_id"],
        watch=document["watch"],
        about=about,
        resource=document["resource"],
        status=document["status"],
        shared=document["app"] is not None,
        endpoint_id=document["endpoint_id"],
        endpoint_url=document["endpoint_url"],
        channel_id=document["channel_id"],
        expires_at=_time(document["expires_at"]),
        renewed_at=_time(document["renewed_at"]),
        next_at=_time(document["due_at"]),
        last_error=LastError(at=rfc3339(error["at"]), code=error["code"], detail=error["detail"])
        if error
        else None,
        created_at=rfc3339(document["created_at"]),
    )


def _time(value: Any) -> str | None:
    return rfc3339(value) if value else None

"""`/api/integrations/{id}/watches`: what makes a platform send webhooks about an account."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from services.oauth.schemas import Entries, LastError
from services.oauth.watch import Watching
from services.oauth.watch_making import kinds
from shared.contracts.envelope import rfc3339
from shared.runtime.access import ApiKey, requires
from shared.runtime.integrations import Integrations
from shared.runtime.mongo import Document

Reader = Annotated[ApiKey, Depends(requires("integrations:read"))]
Writer = Annotated[ApiKey, Depends(requires("integrations:write"))]


class NewWatch(BaseModel):
    """`POST`: one of the kinds that the provider has, and what it is to watch."""

    model_config = ConfigDict(extra="forbid")

    watch: Annotated[str, Field(max_length=40)]
    resource: Entries = {}
    channel_id: Annotated[
        str | None, Field(max_length=200, description="Where its webhooks become messages.")
    ] = None


class ShownWatch(BaseModel):
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


class Watchable(BaseModel):
    """A kind of watch that the provider has."""

    watch: str
    about: str
    automatic: bool
    resource: dict[str, str]
    scopes: list[str]


class ShownWatches(BaseModel):
    """An integration's watches, newest first, and what else can be watched."""

    items: list[ShownWatch]
    available: list[Watchable]


class WatchesApi:
    """The routes and what they need."""

    def __init__(self, integrations: Integrations, watching: Watching) -> None:
        self._integrations = integrations
        self._watching = watching

    def mount(self, app: FastAPI) -> None:
        """Put every route on the app."""
        router = APIRouter(prefix="/api/integrations/{integration_id}/watches")
        add = router.add_api_route
        add("", self.list_all, methods=["GET"])
        add("", self.create, methods=["POST"], status_code=201)
        add("/{watch_id}", self.delete, methods=["DELETE"], status_code=204)
        app.include_router(router)

    async def list_all(self, integration_id: str, key: Reader) -> ShownWatches:
        """What is watched, and what can be."""
        document = await self._integrations.find(integration_id, key.workspace)
        return ShownWatches(
            items=[_shown(each) for each in await self._watching.of(document["_id"])],
            available=[
                Watchable(
                    watch=each.id,
                    about=each.about,
                    automatic=each.automatic,
                    resource={name: setting.about for name, setting in each.resource.items()},
                    scopes=list(each.scopes),
                )
                for each in kinds(document["provider"])
            ],
        )

    async def create(self, integration_id: str, body: NewWatch, key: Writer) -> ShownWatch:
        """Watch something more: an inbound endpoint is made for it, and the platform is told in a moment."""
        document = await self._integrations.find(integration_id, key.workspace)
        made = await self._watching.add(document, body.watch, body.resource, channel=body.channel_id)
        return _shown(made)

    async def delete(self, integration_id: str, watch_id: str, key: Writer) -> Response:
        """Cancel it at the platform, and remove its endpoint, unless other accounts share it."""
        document = await self._integrations.find(integration_id, key.workspace)
        await self._watching.end(await self._watching.find(document["_id"], watch_id), document["_id"])
        return Response(status_code=204)


def _shown(document: Document) -> ShownWatch:
    error = document["last_error"]
    about = next((each.about for each in kinds(document["provider"]) if each.id == document["watch"]), "")
    return ShownWatch(
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

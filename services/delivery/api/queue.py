"""The API of a workspace's queue: pausing and resuming every delivery of the workspace."""

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel

from services.delivery.api.fields import Writer
from services.delivery.webhooks.queues import DeliveryQueues
from shared.runtime.web.access import ApiKey


class QueueStateOut(BaseModel):
    """Whether the workspace's deliveries are paused."""

    paused: bool


class QueueApi:
    """The routes and what they need."""

    def __init__(self, queues: DeliveryQueues) -> None:
        self._queues = queues

    def mount(self, app: FastAPI) -> None:
        """Add every route to the app."""
        router = APIRouter(prefix="/api")
        router.add_api_route("/queue/pause", self.pause_queue, methods=["POST"])
        router.add_api_route("/queue/resume", self.resume_queue, methods=["POST"])
        app.include_router(router)

    async def pause_queue(self, key: Writer) -> QueueStateOut:
        """Pause every delivery of the workspace."""
        return await self._set_queue(key, paused=True)

    async def resume_queue(self, key: Writer) -> QueueStateOut:
        """Resume the workspace's deliveries, and send those that waited."""
        return await self._set_queue(key, paused=False)

    async def _set_queue(self, key: ApiKey, *, paused: bool) -> QueueStateOut:
        await self._queues.set_paused(key.workspace, paused=paused)
        return QueueStateOut(paused=paused)

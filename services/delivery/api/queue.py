"""The API of a workspace's queue: pausing and resuming every delivery of the workspace."""

from fastapi import FastAPI
from pydantic import BaseModel

from services.delivery.api.fields import Operator
from services.delivery.webhooks.queues import DeliveryQueues
from shared.runtime.web.access import ApiKey
from shared.runtime.web.routes import Routes


class QueueStateOut(BaseModel):
    """State of the workspace's delivery queue."""

    paused: bool


class QueueApi:
    """The routes and what they need."""

    def __init__(self, queues: DeliveryQueues) -> None:
        self._queues = queues

    def mount(self, app: FastAPI) -> None:
        """Add every route to the app."""
        routes = Routes(app, "/api")
        routes.add("/queue/pause", self.pause_queue, methods=["POST"])
        routes.add("/queue/resume", self.resume_queue, methods=["POST"])

    async def pause_queue(self, key: Operator) -> QueueStateOut:
        """Pause every delivery of the workspace.

        What has waited for `INTERLINK_DEAD_LETTER_DAYS` (30) is a dead letter with the error `stopped`.
        """
        return await self._set_queue(key, paused=True)

    async def resume_queue(self, key: Operator) -> QueueStateOut:
        """Resume the workspace's deliveries, and send those that waited."""
        return await self._set_queue(key, paused=False)

    async def _set_queue(self, key: ApiKey, *, paused: bool) -> QueueStateOut:
        await self._queues.set_paused(key.workspace, paused=paused)
        return QueueStateOut(paused=paused)

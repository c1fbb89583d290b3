"""The API of a workspace's queue: pausing and resuming every delivery of the workspace."""

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel

from services.delivery.api.fields import Writer
from services.delivery.engine.subscriptions import OutgoingWebhooks
from services.delivery.log.webhooks import QUEUES
from shared.runtime.mongo import Mongo, translate_errors, utcnow
from shared.runtime.web.access import ApiKey


class QueueStateOut(BaseModel):
    """Whether the workspace's deliveries are paused."""

    paused: bool


class QueueApi:
    """The routes and what they need."""

    def __init__(self, subscriptions: OutgoingWebhooks, mongo: Mongo) -> None:
        self._subscriptions = subscriptions
        self._queues = mongo.collection(QUEUES)

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
        document = {"_id": key.workspace, "paused": paused, "changed_at": utcnow()}
        with translate_errors():
            await self._queues.replace_one({"_id": key.workspace}, document, upsert=True)
        # Announced before the response: every process reads the new state before its next attempt.
        await self._subscriptions.queues.record(key.workspace)
        return QueueStateOut(paused=paused)

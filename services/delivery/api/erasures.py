"""The API of erasures: one event's payload is removed from every delivery."""

from fastapi import FastAPI

from services.delivery.api.delivery_schemas import ErasureCreate, ErasureOut
from services.delivery.api.fields import Writer
from services.delivery.log.erasures import Erasures
from shared.runtime.web.routes import Routes


class ErasuresApi:
    """The route and what it needs."""

    def __init__(self, erasures: Erasures) -> None:
        self._erasures = erasures

    def mount(self, app: FastAPI) -> None:
        """Add the route to the app."""
        routes = Routes(app, "/api")
        routes.add("/deliveries/erase", self.erase, methods=["POST"])

    async def erase(self, body: ErasureCreate, key: Writer) -> ErasureOut:
        """Erase an event's payload from every delivery of it, and cancel the open ones.

        The delivery itself stays in the log, without request and response bodies. The event is not delivered
        any more, neither from Kafka nor if it is published again under the same id. Safe to repeat.
        """
        done = await self._erasures.erase(key.workspace, body.event_id)
        return ErasureOut(erased=done.erased, cancelled=done.cancelled)

"""`POST /api/polled-events`: the events that the oauth service has polled. For services only.

It is not in the OpenAPI document: nobody else can call it.
"""

from typing import Annotated, Any, Final

import orjson
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.types import Receive, Scope

from services.gateway.ingest.polled_events import PolledEvents
from shared.contracts.envelope import JSON_CONTENT_TYPE
from shared.contracts.errors import Forbidden, Invalid
from shared.manifests.webhook import WebhookEvent, printable_id
from shared.runtime.web.access import Keyring, authorize
from shared.runtime.web.problems import field_errors
from shared.runtime.web.routes import Routes
from shared.wire.bodies import dump_json, parse_json

PATH: Final = "/api/polled-events"
_MAX_EVENTS: Final = 100


class PolledEvent(BaseModel):
    """One event. `triggers` are the triggers of the catalogue that it fires."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    event: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,100}$")]
    delivery_id: Annotated[str, Field(min_length=1, max_length=2000)]
    account: Annotated[str, Field(max_length=500)] = ""
    occurred_at: Annotated[str, Field(max_length=40)] = ""
    triggers: Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=10)] = []
    data: Any


class PolledEventsCreate(BaseModel):
    """The events of one polling trigger, in their order."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    endpoint_id: str
    events: Annotated[list[PolledEvent], Field(min_length=1, max_length=_MAX_EVENTS)]


class PolledEventsApi:
    """The handler of the route."""

    def __init__(self, events: PolledEvents, keyring: Keyring) -> None:
        self._events = events
        self._keyring = keyring

    def mount(self, app: FastAPI) -> None:
        """Declare the route, for the audit log, which leaves it out. `handle` answers it."""
        Routes(app, "/api").declare(
            "/polled-events", publish_polled_events, methods=["POST"], include_in_schema=False
        )

    async def handle(self, scope: Scope, receive: Receive) -> tuple[int, bytes]:
        """Publish the events, and answer 200 with the number of new ones once Kafka has acknowledged all.

        Raises `Forbidden` for the key of a person, `NotFound` without such an endpoint, `Gone` if it is
        disabled, and as `PolledEvents.publish`.
        """
        key = await authorize(scope, self._keyring, "integrations:write")
        if not key.service:
            raise Forbidden("only services of the hub publish polled events")
        raw = (await receive()).get("body", b"")  # complete, because `BodyLimit` is outside
        try:
            body = PolledEventsCreate.model_validate(parse_json(raw))
        except ValidationError as error:
            errors = field_errors(error.errors(include_input=False, include_url=False))
            raise Invalid("the events are not valid", errors=errors) from None
        endpoint = self._events.endpoint(body.endpoint_id, key.workspace)
        new = await self._events.publish(endpoint, [_webhook_event(event) for event in body.events])
        return 200, orjson.dumps({"published": new})


async def publish_polled_events() -> None:
    """Publish the events of a polling trigger."""


def _webhook_event(event: PolledEvent) -> WebhookEvent:
    return WebhookEvent(
        event.event,
        printable_id(event.delivery_id),
        printable_id(event.account),
        event.occurred_at,
        tuple(event.triggers),
        dump_json(event.data),
        JSON_CONTENT_TYPE,
    )

"""The API that previews what an outgoing webhook would send for an event."""

from typing import Annotated, Any

import orjson
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from services.delivery.api.fields import CustomerWriter
from services.delivery.api.webhook_fields import Events, IntegrationId
from services.delivery.engine.fanout import event_fields_of
from shared.contracts.envelope import Event, now
from shared.contracts.errors import FieldError, Invalid
from shared.contracts.event_types import canonical
from shared.runtime.web.routes import Routes
from shared.webhooks.filters import EventFilter, FilterSettings
from shared.webhooks.formats import BodyFormat, render_body
from shared.webhooks.patterns import matches
from shared.wire.expressions import MAX_TRANSFORM_STEPS, Expression, ExpressionError, project


class PreviewCreate(BaseModel):
    """`POST .../preview`: an event, and the filter, format and transform to apply to it."""

    model_config = ConfigDict(extra="forbid")

    type: Annotated[str, Field(min_length=1, max_length=200)] = "webhook.test"
    subject: Annotated[str, Field(max_length=500)] = ""
    data: Any = None
    events: Events = ["*"]
    format: BodyFormat = "envelope"
    transform: Annotated[str, Field(max_length=4000)] | None = None
    filter: FilterSettings | None = None
    integration_id: IntegrationId | None = None


class PreviewOut(BaseModel):
    """The body that would be sent, and whether patterns and filter match the event.

    `because` says why they do not. `error` says why the transform failed.
    """

    wanted: bool
    because: str
    body: str | None
    error: str | None


class PreviewApi:
    """The route of the preview."""

    def mount(self, app: FastAPI) -> None:
        """Add the route to the app."""
        routes = Routes(app, "/api")
        routes.add("/outgoing-webhooks/preview", self.preview, methods=["POST"])

    async def preview(self, body: PreviewCreate, key: CustomerWriter) -> PreviewOut:
        """Return what a webhook with these settings would send for an event; nothing is sent or stored."""
        event = Event(
            id="evt_preview",
            type=body.type,
            source="/delivery/preview",
            workspace=key.workspace,
            time=now(),
            data=_json_bytes(body.data),
            subject=body.subject,
        )
        event_fields = event_fields_of(event, canonical(event.type), "0")
        names = (event_fields.type, *_triggers_in(body.data))
        matched, because = matches(body.events, *names), "events: no pattern covers this type"
        event_filter = EventFilter.from_stored(body.filter.model_dump() if body.filter else {})
        if matched:
            matched, because = (
                event_filter.explain(event_fields, body.integration_id or "") if event_filter else (True, "")
            )
        text = render_body(body.format, event_fields)
        try:
            transform = body.transform and Expression(
                body.transform, "transform", max_steps=MAX_TRANSFORM_STEPS
            )
            result = project(transform, text) if transform else text
        except ExpressionError as error:
            return PreviewOut(wanted=matched, because=because, body=None, error=str(error))
        return PreviewOut(wanted=matched, because=because, body=result.decode(), error=None)


def _triggers_in(data: Any) -> list[str]:
    """Return the triggers that the data of a provider's event names."""
    triggers = data.get("triggers") if isinstance(data, dict) else None
    return [item for item in triggers if isinstance(item, str)] if isinstance(triggers, list) else []


def _json_bytes(data: Any) -> bytes:
    try:
        return orjson.dumps(data)
    except orjson.JSONEncodeError:  # orjson reads deeper JSON than it writes
        raise Invalid(
            "some fields are not acceptable", errors=(FieldError("data", "nested too deeply"),)
        ) from None

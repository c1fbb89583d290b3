"""`POST /api/events`: publish CloudEvents (structured mode) without a Kafka client."""

from datetime import datetime
from typing import Annotated, Any, Final

import orjson
from fastapi import Depends, FastAPI
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from starlette.types import Receive, Scope

from services.gateway.api.event_type_registry import (
    HUB_ONLY,
    NAME_PATTERN,
    EventTypes,
    FixedEventTypes,
    SchemaChecks,
)
from services.gateway.ingest.quotas import WorkspaceQuotas
from shared.contracts.envelope import Event, now, rfc3339
from shared.contracts.errors import (
    FieldError,
    Forbidden,
    Invalid,
    Malformed,
    OverLimit,
    TooLarge,
    UnsupportedMedia,
)
from shared.contracts.event_types import canonical, is_published_by_hub
from shared.contracts.topics import CHAT_EVENTS
from shared.runtime.kafka.producer import Producer, event_record
from shared.runtime.limits import WorkspaceLimits
from shared.runtime.tracing import admit_trace, continue_trace
from shared.runtime.web.access import ApiKey, Keyring, authorize, requires
from shared.runtime.web.openapi import clean_schema
from shared.runtime.web.problems import field_errors, openapi_response
from shared.runtime.web.query_parameters import reject_parameters
from shared.runtime.web.routes import Routes
from shared.runtime.web.times import to_utc
from shared.wire.bodies import inflate, media_type, parse_json

MAX_BODY_BYTES: Final = 5 * 1024 * 1024
"""The largest body of any management call: a batch of 500 events has to fit."""
MAX_EVENTS: Final = 500
_MAX_HEADER_BYTES: Final = 1000
_MAX_ERRORS: Final = 50
"""Field errors that a response lists."""
_MAX_OPEN: Final = 100
"""Maximum number of requests of a workspace in one process that wait for their turn, or have it."""
_ACK_TIMEOUT_S: Final = 1.8
_JSON: Final = b"application/json"
_MEDIA_TYPES: Final = frozenset(
    {"application/json", "application/cloudevents+json", "application/cloudevents-batch+json"}
)

Publisher = Annotated[ApiKey, Depends(requires("events:write"))]


def _check_header_bytes(text: str) -> str:
    """Return a text that fits into a header of the envelope, whose limit is in bytes."""
    if len(text.encode()) > _MAX_HEADER_BYTES:
        raise ValueError(f"at most {_MAX_HEADER_BYTES} bytes")
    return text


class CloudEvent(BaseModel):
    """One event. `data` is JSON. `subject` is the conversation; events with the same one stay in order."""

    model_config = ConfigDict(extra="ignore")

    specversion: str = Field(pattern=r"^1\.0$")
    id: str = Field(min_length=1, max_length=200)
    type: str = Field(pattern=NAME_PATTERN, max_length=200)
    source: Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_check_header_bytes)]
    subject: Annotated[str, Field(max_length=500), AfterValidator(_check_header_bytes)] = ""
    time: Annotated[datetime, AfterValidator(to_utc)] | None = None
    workspace: str | None = None
    data: Any = None
    traceparent: str = ""


class AcceptedEventsOut(BaseModel):
    """The ids of the events that are now on Kafka."""

    accepted: list[str]


_EVENT_SCHEMA: Final = clean_schema(CloudEvent.model_json_schema())
_REQUEST_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "One CloudEvent in structured mode, or a list of up to 500.",
        "content": {
            "application/cloudevents+json": {"schema": _EVENT_SCHEMA},
            "application/cloudevents-batch+json": {
                "schema": {"type": "array", "items": _EVENT_SCHEMA, "minItems": 1, "maxItems": MAX_EVENTS}
            },
        },
    }
}


class PublishEventsApi:
    """The route that publishes events."""

    def __init__(
        self,
        types: EventTypes,
        fixed: FixedEventTypes,
        keyring: Keyring,
        quotas: WorkspaceQuotas,
        producer: Producer,
    ) -> None:
        self._types = types
        self._fixed = fixed
        self._keyring = keyring
        self._quotas = quotas
        self._producer = producer
        # Only expensive checks, with pauses between them, make a request of the same workspace wait.
        self._parsing = WorkspaceLimits(1)

    def mount(self, app: FastAPI) -> None:
        """Declare the route, for the OpenAPI document. `handle` answers it."""
        Routes(app, "/api").declare(
            "/events",
            publish_events,
            methods=["POST"],
            response_model=AcceptedEventsOut,
            status_code=202,
            responses={
                415: openapi_response("The body is of another type."),
                429: openapi_response(
                    "A quota of the workspace is used up, or too many of its requests wait for their checks.",
                    retry_after=True,
                ),
            },
            openapi_extra=_REQUEST_BODY,
        )

    async def handle(self, scope: Scope, receive: Receive) -> tuple[int, bytes]:
        """Handle `POST /api/events`: see `publish_events`."""
        key = await authorize(scope, self._keyring, "events:write")
        if scope["query_string"]:
            reject_parameters(scope["query_string"])
        headers = dict(reversed(scope["headers"]))  # of a repeated header, the first value counts
        if media_type(headers.get(b"content-type", _JSON).decode("latin-1")) not in _MEDIA_TYPES:
            raise UnsupportedMedia(f"send {', '.join(sorted(_MEDIA_TYPES))}")
        raw = (await receive()).get("body", b"")  # complete, because `BodyLimit` is outside
        encoding = headers.get(b"content-encoding", b"").decode("latin-1").lower()
        traceparent = headers.get(b"traceparent", b"").decode("latin-1")
        if self._parsing.users(key.workspace) >= _MAX_OPEN:
            raise OverLimit("checking the events of this workspace takes long: send fewer requests at a time")
        async with self._parsing.hold(key.workspace):
            self._quotas.check(key.workspace)
            body = inflate(raw, encoding, MAX_BODY_BYTES)
            checks = self._types.checks(key.workspace)
            events = await parse_events(body, key, checks, self._fixed, traceparent=traceparent)
        records = [event_record(CHAT_EVENTS, event.subject or event.source, event) for event in events]
        with self._quotas.counted(key.workspace, [event.data for event in events]):
            await self._producer.publish_all(records, timeout_s=_ACK_TIMEOUT_S)
        return 202, orjson.dumps({"accepted": [event.id for event in events]})


async def publish_events(key: Publisher) -> None:
    """Publish CloudEvents (structured mode) on `chat.events`. 202 once all are on Kafka, in their order.

    If the event type has a schema, the data must match it: see `/api/event-types`.
    """


async def parse_events(
    body: bytes, key: ApiKey, checks: SchemaChecks, fixed: FixedEventTypes, *, traceparent: str = ""
) -> list[Event]:
    """Parse the events of a request for the caller's workspace.

    An alias of a type becomes its canonical name. `traceparent` is the context of events that name none.

    Raises `Malformed`, `Invalid` (with the index and field of
    each error), `TooLarge` for more than 500 events, and `Forbidden` for an event of another workspace.
    """
    parsed = parse_json(body)
    items = parsed if isinstance(parsed, list) else [parsed]
    if not items:
        raise Malformed("send one CloudEvent, or a list of them")
    if len(items) > MAX_EVENTS:
        raise TooLarge(f"at most {MAX_EVENTS} events at a time")
    events: list[Event] = []
    errors: list[FieldError] = []
    for index, item in enumerate(items):
        if len(errors) >= _MAX_ERRORS:
            break
        try:
            events.append(_parse_event(CloudEvent.model_validate(item), key, checks, fixed, traceparent))
        except ValidationError as error:
            invalid = field_errors(error.errors(include_input=False, include_url=False))
            errors += [FieldError(f"{index}.{item.field}", item.message) for item in invalid]
        except Invalid as error:
            errors += [FieldError(f"{index}.{item.field}", item.message) for item in error.errors]
        await checks.pause()
    if errors:
        raise Invalid("no event was accepted: some are not valid", errors=tuple(errors[:_MAX_ERRORS]))
    return events


def _parse_event(
    event: CloudEvent, key: ApiKey, checks: SchemaChecks, fixed: FixedEventTypes, traceparent: str
) -> Event:
    if event.workspace not in (None, key.workspace):
        raise Forbidden("this API key belongs to another workspace")
    name = canonical(event.type)
    if fixed.is_provider_type(name):
        raise _invalid("type", "types of a provider come from its verified webhooks only")
    # A chat that posts what a webhook on `inbound.*` brought it would receive it again, without end.
    if is_published_by_hub(name):
        raise _invalid("type", HUB_ONLY)
    data = _json(event.data)
    if len(data) > MAX_BODY_BYTES:  # a number such as 1e15 is longer than it was in the body
        raise _invalid("data", f"at most {MAX_BODY_BYTES} bytes as JSON, with every number written out")
    if field_error := checks.first_error(name, event.data, data):
        raise _invalid(f"data.{field_error.field}".rstrip("."), f"{name}: {field_error.message}")
    return Event(
        id=event.id,
        type=name,
        source=event.source,
        workspace=key.workspace,
        time=rfc3339(event.time) if event.time else now(),
        data=data,
        subject=event.subject,
        traceparent=admit_trace(event.traceparent) if event.traceparent else continue_trace(traceparent),
    )


def _json(data: object) -> bytes:
    try:
        return orjson.dumps(data)
    except orjson.JSONEncodeError:  # orjson reads deeper nesting than it writes
        raise _invalid("data", "nested too deep") from None


def _invalid(field: str, message: str) -> Invalid:
    """Return the error for one event; `parse_events` adds the index of the event to the field."""
    return Invalid(message, errors=(FieldError(field, message),))

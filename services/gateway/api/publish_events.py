"""`POST /api/events`: CloudEvents in structured mode from services that have no Kafka client."""

from datetime import datetime
from typing import Annotated, Any, Final

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from services.gateway.api.event_type_registry import NAME_PATTERN, SchemaChecks, is_provider_type
from shared.contracts.envelope import Event, now, rfc3339
from shared.contracts.errors import FieldError, Forbidden, Invalid, Malformed, TooLarge
from shared.contracts.event_types import canonical
from shared.runtime.web.access import ApiKey
from shared.runtime.web.problems import field_errors, to_utc
from shared.wire.bodies import parse_json
from shared.wire.tracing import child_traceparent

MAX_EVENTS: Final = 500
_MAX_HEADER_BYTES: Final = 1000
_MAX_FAULTS: Final = 50


def _fits_a_header(text: str) -> str:
    """What is accepted here must not be too long for the envelope, which counts bytes."""
    if len(text.encode()) > _MAX_HEADER_BYTES:
        raise ValueError(f"at most {_MAX_HEADER_BYTES} bytes")
    return text


class CloudEvent(BaseModel):
    """One event as it is posted. `data` is JSON; `subject` is the conversation, whose order is kept."""

    model_config = ConfigDict(extra="ignore")

    specversion: str = Field(pattern=r"^1\.0$")
    id: str = Field(min_length=1, max_length=200)
    type: str = Field(pattern=NAME_PATTERN, max_length=200)
    source: Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_fits_a_header)]
    subject: Annotated[str, Field(max_length=500), AfterValidator(_fits_a_header)] = ""
    time: Annotated[datetime, AfterValidator(to_utc)] | None = None
    workspace: str | None = None
    data: Any = None
    traceparent: str = ""


def read_events(body: bytes, key: ApiKey, checks: SchemaChecks) -> list[Event]:
    """The events of a request, for the caller's workspace; an alias of a type becomes its one name.

    Raises `Malformed`, `Invalid` (with the index and field of every fault), `TooLarge` for more than 500,
    `Forbidden` for another workspace.
    """
    parsed = parse_json(body)
    items = parsed if isinstance(parsed, list) else [parsed]
    if not items:
        raise Malformed("send one CloudEvent, or a list of them")
    if len(items) > MAX_EVENTS:
        raise TooLarge(f"at most {MAX_EVENTS} events at a time")
    events: list[Event] = []
    errors: list[FieldError] = []
    for position, item in enumerate(items):
        if len(errors) >= _MAX_FAULTS:
            break
        try:
            events.append(_event(CloudEvent.model_validate(item), key, checks))
        except ValidationError as error:
            faults = field_errors(error.errors(include_input=False, include_url=False))
            errors += [FieldError(f"{position}.{fault.field}", fault.message) for fault in faults]
        except Invalid as error:
            errors += [FieldError(f"{position}.{fault.field}", fault.message) for fault in error.errors]
    if errors:
        raise Invalid("no event was accepted: some are not valid", errors=tuple(errors[:_MAX_FAULTS]))
    return events


def _event(given: CloudEvent, key: ApiKey, checks: SchemaChecks) -> Event:
    if given.workspace not in (None, key.workspace):
        raise Forbidden("this API key belongs to another workspace")
    name = canonical(given.type)
    if is_provider_type(name):
        fault = FieldError("type", "types of a provider come from its verified webhooks only")
        raise Invalid("type", errors=(fault,))
    data = _json(given.data)
    if found := checks.fault(name, given.data, len(data)):
        fault = FieldError(f"data.{found.field}".rstrip("."), f"{name}: {found.message}")
        raise Invalid("data", errors=(fault,))
    return Event(
        id=given.id,
        type=name,
        source=given.source,
        workspace=key.workspace,
        time=rfc3339(given.time) if given.time else now(),
        data=data,
        subject=given.subject,
        traceparent=child_traceparent(given.traceparent),
    )


def _json(data: object) -> bytes:
    try:
        return orjson.dumps(data)
    except orjson.JSONEncodeError:  # it can read deeper than it can write
        fault = FieldError("data", "nested too deep")
        raise Invalid("data", errors=(fault,)) from None

"""Request and response bodies of polling triggers."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from services.oauth.api.schemas import FieldValues, LastError, Name
from services.oauth.polling.records import PollingStatus, PollingTrigger
from shared.contracts.envelope import rfc3339
from shared.manifests.polling import MAX_INTERVAL_S, MIN_INTERVAL_S

Interval = Annotated[
    int,
    Field(
        ge=MIN_INTERVAL_S,
        le=MAX_INTERVAL_S,
        description="Seconds between two polls. By default the trigger's own; some have a longer minimum.",
    ),
]


class PollingTriggerCreate(BaseModel):
    """`POST /api/polling-triggers`."""

    model_config = ConfigDict(extra="forbid")

    trigger: Annotated[
        str,
        Field(max_length=100, description="Id of a trigger of the catalogue that has `polling`."),
    ]
    integration_id: Annotated[
        str | None, Field(max_length=100, description="The account; for a feed, none.")
    ] = None
    params: Annotated[
        FieldValues, Field(description="The values that the catalogue lists in `polling.params`.")
    ] = {}
    interval_s: Interval | None = None
    name: Name | None = None
    channel_id: Annotated[
        str | None,
        Field(max_length=200, description="The chat channel in which its events become messages."),
    ] = None


class PollingTriggerUpdate(BaseModel):
    """`PATCH`: an absent field stays as it is."""

    model_config = ConfigDict(extra="forbid")

    name: Name | None = None
    interval_s: Interval | None = None


class PollingTriggerOut(BaseModel):
    """A polling trigger.

    `status` is pending (before the first poll, which publishes nothing), active, failing (it is tried again),
    paused (by a person, or because a person has to do what `last_error` says and then resume it), or stopped
    while its account is not connected. `endpoint_id` is the inbound endpoint that its events belong to, with
    their counts and executions; it is created before the first event.
    """

    id: str
    trigger: str
    provider: str
    name: str
    integration_id: str | None
    params: dict[str, str]
    channel_id: str | None
    interval_s: int
    status: PollingStatus
    failures: Annotated[int, Field(description="Failed polls in a row.")]
    last_error: LastError | None
    endpoint_id: str | None
    last_polled_at: str | None
    last_event_at: str | None
    next_at: str | None
    created_at: str


def polling_trigger_out(trigger: PollingTrigger) -> PollingTriggerOut:
    """Return a polling trigger as the API shows it."""
    error = trigger.last_error
    return PollingTriggerOut(
        id=trigger.id,
        trigger=trigger.trigger,
        provider=trigger.provider,
        name=trigger.name,
        integration_id=trigger.integration_id,
        params=dict(trigger.params),
        channel_id=trigger.channel_id,
        interval_s=trigger.interval_s,
        status=trigger.status,
        failures=trigger.failures,
        last_error=LastError(at=rfc3339(error.at), code=error.code, detail=error.detail) if error else None,
        endpoint_id=trigger.endpoint_id,
        last_polled_at=_time(trigger.last_polled_at),
        last_event_at=_time(trigger.last_event_at),
        next_at=_time(trigger.due_at),
        created_at=rfc3339(trigger.created_at),
    )


def _time(value: datetime | None) -> str | None:
    return rfc3339(value) if value else None

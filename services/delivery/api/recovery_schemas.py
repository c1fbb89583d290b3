"""The bodies of the recovery API: what a caller sends and sees."""

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from services.delivery.api.delivery_schemas import AttemptOut
from services.delivery.api.fields import Name, UtcTime
from services.delivery.model.delivery_status import DeliveryStatus, WaitingReason
from shared.webhooks.patterns import is_pattern

MAX_IDS: Final = 500

JobStatus = Literal["running", "done", "cancelled", "failed"]


def _pattern(text: str) -> str:
    if not is_pattern(text):
        raise ValueError("an event type (message.created), a prefix (message.*) or *")
    return text


class _TimeWindow(BaseModel):
    """Deliveries that were made from `since` on and before `until`; the end is now when it is not given."""

    model_config = ConfigDict(extra="forbid")

    since: UtcTime
    until: UtcTime | None = None

    @model_validator(mode="after")
    def _forwards(self) -> "_TimeWindow":
        if self.until is not None and self.until <= self.since:
            raise ValueError("until must be later than since")
        return self


class RecoverCreate(_TimeWindow):
    """`POST .../recover`: send again, under the same ids, what failed.

    By default that is what is dead and what waits for its next attempt after one that failed. What a
    person cancelled or discarded stays so unless `statuses` names it.
    """

    statuses: Annotated[
        list[Literal["dead_letter", "retrying", "cancelled", "discarded"]], Field(min_length=1, max_length=4)
    ] = ["dead_letter", "retrying"]


class ReplayCreate(_TimeWindow):
    """`POST .../replay`: send again, under new ids, what has ended; delivered ones too.

    What is still under way by itself is left out, and what a person discarded unless `statuses` names it.
    """

    events: (
        Annotated[list[Annotated[str, AfterValidator(_pattern)]], Field(min_length=1, max_length=100)] | None
    ) = None
    statuses: Annotated[
        list[Literal["delivered", "dead_letter", "cancelled", "discarded"]], Field(min_length=1, max_length=4)
    ] = ["delivered", "dead_letter", "cancelled"]


class DeadLetterSelection(BaseModel):
    """Which dead letters: these by `ids`, or all that match every filter that is given."""

    model_config = ConfigDict(extra="forbid")

    ids: Annotated[list[Name], Field(min_length=1, max_length=MAX_IDS)] | None = None
    webhook_id: Name | None = None
    event_type: Name | None = None
    since: UtcTime | None = None
    until: UtcTime | None = None
    error: Name | None = None

    @model_validator(mode="after")
    def _one_or_the_other(self) -> "DeadLetterSelection":
        filters = self.model_fields_set - {"ids"}
        if bool(self.ids) == bool(filters):
            raise ValueError("give ids, or at least one of webhook_id, event_type, since, until, error")
        return self


class JobOut(BaseModel):
    """A job. `done` counts what was put on its way (or away), `skipped` what was in no state for it.

    `total` is an estimate from the job's beginning: without `events`, and null until it is counted or when
    counting takes too long. `waiting_for` says why a running job makes no progress, `error` why one failed.
    """

    id: str
    kind: Literal["recover", "replay", "discard", "cancel"]
    webhook_id: str | None
    status: JobStatus
    replay_no: int | None
    total: int | None
    done: int
    skipped: int
    waiting_for: str | None
    error: str | None
    created_at: str
    finished_at: str | None


class JobStartedOut(BaseModel):
    """A job has begun: `GET /api/delivery-jobs/{id}` says how far it is."""

    job: JobOut


class DeliveryChangedOut(BaseModel):
    """A delivery after a step by hand."""

    id: str
    status: DeliveryStatus
    next_attempt_at: str | None
    waiting_reason: WaitingReason | None


class ResendOut(BaseModel):
    """The new delivery that a resend asks for: look it up in the log. `replay_of` is the original's id."""

    id: str
    webhook_id: str
    replay_of: str
    replay_no: int


class DeadLetterResultOut(BaseModel):
    """What happened with one dead letter; `reason` says why nothing did."""

    id: str
    done: bool
    reason: str | None


class DeadLetterResultsOut(BaseModel):
    """`results` when ids were given, `job` when filters were."""

    results: list[DeadLetterResultOut] | None = None
    job: JobOut | None = None


class DeadLetterOut(BaseModel):
    """A delivery that nothing more is tried for, with its last attempt; `attempts` and `body` singly only."""

    id: str
    webhook_id: str
    event_id: str
    event_type: str
    attempt_count: int
    error: str | None
    status_code: int | None
    detail: str
    occurred_at: str
    created_at: str
    finished_at: str | None
    expires_at: str | None
    attempts: list[AttemptOut] | None = None
    body: str | None = None

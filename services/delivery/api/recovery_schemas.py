"""The request and response models of the recovery API."""

from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.delivery.api.delivery_schemas import PayloadOut
from services.delivery.api.fields import TRACE_ID, Name, optional_rfc3339
from services.delivery.api.webhook_fields import Events
from services.delivery.log.deliveries import Delivery
from services.delivery.log.recovery_jobs import RecoveryJob
from services.delivery.model.delivery_status import DeliveryStatus, WaitingReason
from shared.contracts.envelope import rfc3339
from shared.runtime.jobs import JobStatus
from shared.runtime.web.times import UtcTime

MAX_IDS: Final = 500


class _TimeWindow(BaseModel):
    """Deliveries that were created from `since` on and before `until`; without `until`, before now."""

    model_config = ConfigDict(extra="forbid")

    since: UtcTime
    until: UtcTime | None = None

    @model_validator(mode="after")
    def _check_order(self) -> "_TimeWindow":
        if self.until is not None and self.until <= self.since:
            raise ValueError("until must be later than since")
        return self


class RecoverCreate(_TimeWindow):
    """`POST .../recover`: send failed deliveries again, under the same ids.

    By default these are dead letters, and deliveries that wait for a retry. Cancelled and discarded ones are
    sent only if `statuses` names these states.
    """

    statuses: Annotated[
        list[Literal["dead_letter", "retrying", "cancelled", "discarded"]], Field(min_length=1, max_length=4)
    ] = ["dead_letter", "retrying"]


class ReplayCreate(_TimeWindow):
    """`POST .../replay`: send finished deliveries again under new ids, delivered ones too.

    Deliveries that are not finished are left out. Discarded ones are sent only if `statuses` names this
    state.
    """

    events: Events | None = None
    statuses: Annotated[
        list[Literal["delivered", "dead_letter", "cancelled", "discarded"]], Field(min_length=1, max_length=4)
    ] = ["delivered", "dead_letter", "cancelled"]


class _Selection(BaseModel):
    """The deliveries in `ids`, or all that match every given filter."""

    model_config = ConfigDict(extra="forbid")

    ids: Annotated[list[Name], Field(min_length=1, max_length=MAX_IDS)] | None = None
    webhook_id: Name | None = None
    event_type: Name | None = None
    event_id: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    trace_id: Annotated[str, Field(pattern=TRACE_ID)] | None = None
    since: UtcTime | None = None
    until: UtcTime | None = None
    error: Name | None = None

    @model_validator(mode="after")
    def _check_ids_or_filters(self) -> Self:
        if bool(self.ids) == bool(self.model_fields_set - {"ids"}):
            filters = ", ".join(name for name in type(self).model_fields if name != "ids")
            raise ValueError(f"give ids, or at least one of {filters}")
        return self


class DeadLetterSelection(_Selection):
    """Dead letters: those in `ids`, or all that match every given filter."""


class DeliverySelection(_Selection):
    """`POST /api/deliveries/retry`: the deliveries in `ids`, or all that match every given filter.

    With filters, these are by default dead letters, and deliveries that wait for a retry.
    """

    statuses: Annotated[
        list[Literal["pending", "retrying", "dead_letter", "cancelled", "discarded"]],
        Field(min_length=1, max_length=5),
    ] = ["dead_letter", "retrying"]


class JobOut(BaseModel):
    """A job. `done` counts the deliveries that it changed or sent, `skipped` those in no suitable state.

    `total` is an estimate from the job's start that ignores `events`. It is null until it is counted, and if
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

    @classmethod
    def of(cls, job: RecoveryJob) -> Self:
        """Return a job as the API shows it."""
        return cls(
            id=job.id,
            kind=job.kind,
            webhook_id=job.webhook_id,
            status=job.status,
            replay_no=job.replay_no,
            total=job.total,
            done=job.done,
            skipped=job.skipped,
            waiting_for=job.waiting_for,
            error=job.error,
            created_at=rfc3339(job.created_at),
            finished_at=optional_rfc3339(job.finished_at),
        )


class JobStartedOut(BaseModel):
    """The started job: `GET /api/delivery-jobs/{id}` shows its progress."""

    job: JobOut


class DeliveryChangedOut(BaseModel):
    """A delivery after a retry or a cancellation."""

    id: str
    status: DeliveryStatus
    next_attempt_at: str | None
    waiting_reason: WaitingReason | None


class ResendOut(BaseModel):
    """The new delivery of a resend: read it in the delivery log. `replay_of` is the original's id."""

    id: str
    webhook_id: str
    replay_of: str
    replay_no: int


class DeliveryResultOut(BaseModel):
    """The result for one delivery; `reason` says why nothing was done."""

    id: str
    done: bool
    reason: str | None


class DeliveryResultsOut(BaseModel):
    """`results` if ids were given, `job` if filters were."""

    results: list[DeliveryResultOut] | None = None
    job: JobOut | None = None


class DeadLetterOut(PayloadOut):
    """A dead letter with its last attempt. `attempts` and `body` only when it is read on its own.

    `masked` as in `DeliveryOut`.
    """

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

    @classmethod
    def of(cls, delivery: Delivery) -> Self:
        """Return a dead letter as a list shows it: with what its last attempt says."""
        last = delivery.attempts[-1] if delivery.attempts else None
        return cls(
            id=delivery.id,
            webhook_id=delivery.webhook_id,
            event_id=delivery.event_id,
            event_type=delivery.event_type,
            attempt_count=delivery.attempt_count,
            error=delivery.last_error or (last.error if last else None),
            status_code=last.status_code if last else None,
            detail=last.detail if last else "",
            occurred_at=delivery.occurred_at,
            created_at=rfc3339(delivery.created_at),
            finished_at=optional_rfc3339(delivery.finished_at),
            expires_at=optional_rfc3339(delivery.expires_at),
        )

"""The bodies of the recovery API: what a caller sends and sees."""

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from services.delivery.log_schemas import DeliveryStatus, ShownAttempt, WaitingReason
from shared.runtime.problems import in_utc
from shared.wire.patterns import is_pattern

MOST_IDS: Final = 500

Moment = Annotated[AwareDatetime, AfterValidator(in_utc)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
JobStatus = Literal["running", "done", "cancelled", "failed"]


def _pattern(text: str) -> str:
    if not is_pattern(text):
        raise ValueError("an event type (message.created), a prefix (message.*) or *")
    return text


class _Window(BaseModel):
    """Deliveries that were made from `since` on and before `until`; the end is now when it is not given."""

    model_config = ConfigDict(extra="forbid")

    since: Moment
    until: Moment | None = None

    @model_validator(mode="after")
    def _forwards(self) -> "_Window":
        if self.until is not None and self.until <= self.since:
            raise ValueError("until must be later than since")
        return self


class Recover(_Window):
    """`POST .../recover`: send again, under the same ids, what failed.

    By default that is what is dead and what waits for its next attempt after one that failed. What a
    person cancelled or discarded stays so unless `statuses` names it.
    """

    statuses: Annotated[
        list[Literal["dead_letter", "retrying", "cancelled", "discarded"]], Field(min_length=1, max_length=4)
    ] = ["dead_letter", "retrying"]


class Replay(_Window):
    """`POST .../replay`: send again, under new ids, what has ended; delivered ones too.

    What is still under way by itself is left out, and what a person discarded unless `statuses` names it.
    """

    events: (
        Annotated[list[Annotated[str, AfterValidator(_pattern)]], Field(min_length=1, max_length=100)] | None
    ) = None
    statuses: Annotated[
        list[Literal["delivered", "dead_letter", "cancelled", "discarded"]], Field(min_length=1, max_length=4)
    ] = ["delivered", "dead_letter", "cancelled"]


class DeadLetters(BaseModel):
    """Which dead letters: these by `ids`, or all that match every filter that is given."""

    model_config = ConfigDict(extra="forbid")

    ids: Annotated[list[Name], Field(min_length=1, max_length=MOST_IDS)] | None = None
    webhook_id: Name | None = None
    event_type: Name | None = None
    since: Moment | None = None
    until: Moment | None = None
    error: Name | None = None

    @model_validator(mode="after")
    def _one_or_the_other(self) -> "DeadLetters":
        filters = self.model_fields_set - {"ids"}
        if bool(self.ids) == bool(filters):
            raise ValueError("give ids, or at least one of webhook_id, event_type, since, until, error")
        return self


class ShownJob(BaseModel):
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


class Begun(BaseModel):
    """A job has begun: `GET /api/delivery-jobs/{id}` says how far it is."""

    job: ShownJob


class Changed(BaseModel):
    """A delivery after a step by hand."""

    id: str
    status: DeliveryStatus
    next_attempt_at: str | None
    waiting_reason: WaitingReason | None


class Resent(BaseModel):
    """The new delivery that a resend asks for: look it up in the log. `replay_of` is the original's id."""

    id: str
    webhook_id: str
    replay_of: str
    replay_no: int


class Outcome(BaseModel):
    """What happened with one dead letter; `reason` says why nothing did."""

    id: str
    done: bool
    reason: str | None


class Done(BaseModel):
    """`results` when ids were given, `job` when filters were."""

    results: list[Outcome] | None = None
    job: ShownJob | None = None


class ShownDeadLetter(BaseModel):
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
    attempts: list[ShownAttempt] | None = None
    body: str | None = None

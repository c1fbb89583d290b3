"""Response bodies of executions."""

from typing import Literal

from pydantic import BaseModel


class ExecutionOut(BaseModel):
    """One request to an endpoint and its outcome.

    `accounts` are the provider's accounts that the events are about, `occurred_at` is the time of the first
    event: both as the provider reports them, if it does. `verdict` is null if the signature was not checked,
    as for a handshake or a rate limit. `replays` counts how often the events were published again.
    """

    id: str
    endpoint_id: str
    at: str
    outcome: str
    status: int
    verdict: str | None
    detail: str
    duration_ms: float
    bytes: int
    events: int
    types: list[str]
    triggers: list[str]
    accounts: list[str]
    occurred_at: str | None
    event_ids: list[str]
    delivery_ids: list[str]
    test: bool
    replays: int


class PayloadOut(BaseModel):
    """The data of one event, or the start of a rejected body: as text, or as base64 if it is not UTF-8."""

    event_id: str | None
    type: str
    content_type: str
    encoding: Literal["text", "base64"]
    data: str
    truncated: bool


class PayloadsOut(BaseModel):
    """The payloads of an execution."""

    items: list[PayloadOut]

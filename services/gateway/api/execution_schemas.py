"""Response bodies of executions."""

import base64
from typing import Literal, Self

from pydantic import BaseModel

from services.gateway.ingest.execution_records import ExecutionRecord
from shared.contracts.envelope import rfc3339


class ExecutionOut(BaseModel):
    """One request to an endpoint and its outcome.

    `accounts` are the provider's accounts that the events are about, `occurred_at` is the time of the first
    event: both as the provider reports them, if it does. `verdict` is null if the signature was not checked,
    as for a handshake or a rate limit. `trace_id` is empty for a request without an event and a trace of its
    own. `replays` counts how often the events were published again.
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
    trace_id: str
    delivery_ids: list[str]
    test: bool
    replays: int

    @classmethod
    def of(cls, record: ExecutionRecord) -> Self:
        """Return an execution as the API shows it."""
        return cls(
            id=record.id,
            endpoint_id=record.endpoint_id,
            at=rfc3339(record.created_at),
            outcome=record.outcome,
            status=record.status,
            verdict=record.verdict,
            detail=record.detail or "",
            duration_ms=record.duration_ms,
            bytes=record.size,
            events=record.events or 0,
            types=list(record.types or ()),
            triggers=list(record.triggers or ()),
            accounts=list(record.accounts or ()),
            occurred_at=record.occurred_at,
            event_ids=list(record.event_ids or ()),
            trace_id=record.trace_id or "",
            delivery_ids=list(record.delivery_ids or ()),
            test=record.test or False,
            replays=record.replays or 0,
        )


class PayloadOut(BaseModel):
    """The data of one event, or the start of a rejected body: as text, or as base64 if it is not UTF-8."""

    event_id: str | None
    type: str
    content_type: str
    encoding: Literal["text", "base64"]
    data: str
    truncated: bool

    @classmethod
    def of(
        cls, event_id: str | None, event_type: str, content_type: str, data: bytes, *, truncated: bool = False
    ) -> Self:
        """Return data as text if it is UTF-8, otherwise as base64."""
        encoding: Literal["text", "base64"] = "text"
        try:
            text = data.decode()
        except UnicodeDecodeError:
            text, encoding = base64.b64encode(data).decode(), "base64"
        return cls(
            event_id=event_id,
            type=event_type,
            content_type=content_type,
            encoding=encoding,
            data=text,
            truncated=truncated,
        )


class PayloadsOut(BaseModel):
    """The payloads of an execution."""

    items: list[PayloadOut]

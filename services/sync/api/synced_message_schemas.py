"""Response bodies of synchronized messages: where they were written, and what became of them."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel

from services.sync.model.synced_message import Step, SyncedMessage, Target, TargetState, TraceEntry
from shared.contracts.envelope import rfc3339
from shared.runtime.web.access import ApiKey


class SyncedAuthorOut(BaseModel):
    """The author of a message, with the provider's id."""

    id: str
    name: str


class SyncedSourceOut(BaseModel):
    """The source of a message: account, conversation and external id."""

    leg: str
    provider: str
    account: str
    conversation: str
    thread: str | None
    external_id: str
    author: SyncedAuthorOut
    permalink: str | None


class TraceEntryOut(BaseModel):
    """One step of a message on its way to a target. `attempt` is 0 where nothing is attempted."""

    at: str
    step: Step
    attempt: int
    detail: str


class SyncedTargetOut(BaseModel):
    """A message at one target: its state, why, and what a person can do about it.

    `ids` are those of its parts there. `attempts` counts those of the last change.
    """

    leg: str
    provider: str
    account: str
    conversation: str
    state: TargetState
    code: str | None
    reason: str | None
    fix: str | None
    attempts: int
    ids: list[str]
    permalink: str | None
    sent_at: str | None


class TracedTargetOut(SyncedTargetOut):
    """A message at one target, with its trace: what happened, in the order of time."""

    trace: list[TraceEntryOut]


class _MessageOut(BaseModel):
    id: str
    mapping_id: str
    source: SyncedSourceOut
    excerpt: str
    parsed_as: str
    event_id: str
    trace_id: str
    received_at: str
    edited: bool
    deleted: bool


class SyncedMessageOut(_MessageOut):
    """A message of a mapping, with its state at each target.

    `excerpt` is empty for a caller without the scope `payloads:read`.
    """

    targets: list[SyncedTargetOut]


class TracedMessageOut(_MessageOut):
    """A message of a mapping, with its state and its trace at each target.

    `excerpt` is empty for a caller without the scope `payloads:read`.
    """

    targets: list[TracedTargetOut]


def message_out(message: SyncedMessage, key: ApiKey) -> SyncedMessageOut:
    """Return a message as a list shows it to the caller `key`."""
    return SyncedMessageOut.model_construct(
        **_common(message, key),
        targets=[SyncedTargetOut.model_construct(**_target(target)) for target in message.targets.values()],
    )


def traced_message_out(message: SyncedMessage, key: ApiKey) -> TracedMessageOut:
    """Return a message with its traces, as the caller `key` sees it."""
    return TracedMessageOut.model_construct(
        **_common(message, key),
        targets=[
            TracedTargetOut.model_construct(**_target(target), trace=_trace(message, target))
            for target in message.targets.values()
        ],
    )


def _common(message: SyncedMessage, key: ApiKey) -> dict[str, Any]:
    return {
        "id": message.id,
        "mapping_id": message.mapping_id,
        "source": SyncedSourceOut.model_construct(
            leg=message.leg,
            provider=message.provider,
            account=message.account,
            conversation=message.conversation,
            thread=message.thread,
            external_id=message.external_id,
            author=SyncedAuthorOut.model_construct(id=message.author_id, name=message.author_name),
            permalink=message.permalink,
        ),
        "excerpt": message.excerpt if key.allows("payloads:read") else "",
        "parsed_as": message.parsed_as,
        "event_id": message.event_id,
        "trace_id": message.trace_id,
        "received_at": rfc3339(message.received_at),
        "edited": message.edited_leg is not None,
        "deleted": message.deleted,
    }


def _target(target: Target) -> dict[str, Any]:
    return {
        "leg": target.leg,
        "provider": target.provider,
        "account": target.account,
        "conversation": target.conversation,
        "state": target.state,
        "code": target.code,
        "reason": target.reason,
        "fix": target.fix,
        "attempts": target.attempts,
        "ids": [part for part in target.parts if part],
        "permalink": target.permalink,
        "sent_at": _text(target.sent_at),
    }


def _trace(message: SyncedMessage, target: Target) -> list[TraceEntryOut]:
    """Return the trace of a target. What is the same for all targets is stored once, in the message."""
    entries = [
        TraceEntry(at=message.received_at, step="received", detail=f"from {message.provider}"),
        TraceEntry(at=message.received_at, step="parsed", detail=message.parsed_as),
        *target.trace,
    ]
    if target.state == "sending" and target.sending_at is not None:
        entries.append(TraceEntry(at=target.sending_at, step="sending", attempt=target.attempts + 1))
    sent_as = target.permalink or ", ".join(part for part in target.parts if part)
    return [
        TraceEntryOut.model_construct(
            at=rfc3339(entry.at),
            step=entry.step,
            attempt=entry.attempt,
            detail=entry.detail or (sent_as if entry.step == "sent" else ""),
        )
        for entry in sorted(entries, key=lambda entry: entry.at)
    ]


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)

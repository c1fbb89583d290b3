"""The event of a rotated secret, which delivery and the gateway publish on `integration.events`."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import orjson

from shared.contracts.envelope import Event, now, rfc3339
from shared.contracts.ids import WorkspaceId, new_event_id
from shared.contracts.topics import INTEGRATION_EVENTS
from shared.runtime.clock import utcnow
from shared.runtime.kafka.producer import Record, event_record
from shared.runtime.tracing import continue_trace

PUBLISH_TIMEOUT_S: Final = 1.8


def rotation_record(
    service: str,
    event_type: str,
    workspace: WorkspaceId,
    subject: str,
    fields: Mapping[str, Any],
    overlap: timedelta,
) -> Record:
    """Return the record of the event of `service` that something has a new secret from now on.

    `subject` is its id, `fields` what the event says of it. The old secret is valid for `overlap` more.
    Publish it before the new secret is stored: a rotation that nobody hears of would be worse than one that
    is announced and fails.
    """
    at = utcnow()
    expires_at = rfc3339(at + overlap) if overlap else None
    event = Event(
        id=new_event_id(),
        type=event_type,
        source=f"/{service}",
        workspace=workspace,
        time=now(),
        data=orjson.dumps({**fields, "rotated_at": rfc3339(at), "old_secret_expires_at": expires_at}),
        subject=subject,
        traceparent=continue_trace(""),
    )
    return event_record(INTEGRATION_EVENTS, subject, event)

"""Documents of inbound endpoints and incoming webhooks, as the API writes and shows them."""

from collections.abc import Container
from typing import Any, Final, Literal

from pydantic import BaseModel

from shared.runtime.mongo import Document, utcnow
from shared.runtime.web.access import ApiKey

ERROR_STREAK: Final = 5
"""Rejected requests in a row, with none accepted since, after which an endpoint's status is `error`.

Only requests of the sender itself count: those with its signature, or with an incoming webhook's token.
Anybody can send other requests, and must not be able to change the status.
"""


def new_document(
    endpoint_id: str,
    key: ApiKey,
    provider: str,
    name: str,
    channel: str | None,
    rate_limit: int,
    *,
    enabled: bool,
) -> Document:
    """Return the fields that every new endpoint has, whatever its kind."""
    now = utcnow()
    return {
        "_id": endpoint_id,
        "workspace": key.workspace,
        "provider": provider,
        "name": name,
        "channel_id": channel,
        "rate_limit": rate_limit,
        "enabled": enabled,
        "created_at": now,
        "changed_at": now,
    }


def sent_fields(body: BaseModel, nullable: Container[str] = ()) -> dict[str, Any]:
    """Return the fields that a caller sent. A null is left out unless its field is in `nullable`."""
    sent = body.model_dump(exclude_unset=True)
    return {name: value for name, value in sent.items() if value is not None or name in nullable}


def status_of(document: Document, source_error: str = "") -> Literal["active", "inactive", "error"]:
    """Return an endpoint's status. `source_error` says why its `source` cannot be used, if it cannot."""
    if not document["enabled"]:
        return "inactive"
    if source_error:
        return "error"
    return "error" if document.get("error_streak", 0) >= ERROR_STREAK else "active"

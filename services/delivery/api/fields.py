"""What several parts of the management API share: access, parameters, and the form of times and attempts."""

from datetime import datetime
from typing import Annotated

from fastapi import Depends, Query
from pydantic import AfterValidator, AwareDatetime, Field

from services.delivery.api.delivery_schemas import AttemptOut
from shared.contracts.envelope import rfc3339
from shared.runtime.mongo import Document
from shared.runtime.web.access import ApiKey, requires
from shared.runtime.web.problems import to_utc

Reader = Annotated[ApiKey, Depends(requires("webhooks:read"))]
Writer = Annotated[ApiKey, Depends(requires("webhooks:write"))]
UtcTime = Annotated[AwareDatetime, AfterValidator(to_utc)]
FilterQuery = Annotated[str | None, Query(max_length=200)]
Name = Annotated[str, Field(min_length=1, max_length=200)]


def optional_rfc3339(at: datetime | None) -> str | None:
    """Return a time as RFC 3339 text; None stays None."""
    return rfc3339(at) if at else None


def attempt_out(stored: Document) -> AttemptOut:
    """Return a stored attempt as the API shows it. An erased one has no response body."""
    changed = {
        "started_at": rfc3339(stored["started_at"]),
        "response_headers": dict(stored["response_headers"]),
        "response_body": stored.get("response_body"),
    }
    return AttemptOut(**stored | changed)


def identity(document: Document) -> Document:
    """Return the document itself: for a page whose items are converted together afterwards."""
    return document

"""Types that several API modules share: access, parameters and times."""

from datetime import datetime
from typing import Annotated

from fastapi import Depends, Query
from pydantic import AfterValidator, AwareDatetime, Field

from shared.contracts.envelope import rfc3339
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

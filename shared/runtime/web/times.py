"""Times in requests."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime


def to_utc(moment: datetime) -> datetime:
    """Convert a time to UTC; a validator for pydantic. Raises `ValueError` if UTC has no such year."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be a time between the years 1 and 9999 in UTC") from None


UtcTime = Annotated[AwareDatetime, AfterValidator(to_utc)]
"""A time with an offset, in UTC."""

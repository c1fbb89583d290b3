"""`GET /api/retention/<service>`: how long the service keeps its records."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

from fastapi import Depends, FastAPI
from pydantic import BaseModel, Field

from shared.runtime.web.access import ApiKey, requires
from shared.runtime.web.api_keys import Scope
from shared.runtime.web.routes import Routes

PREFIX = "/api/retention"


@dataclass(frozen=True, slots=True)
class Retention:
    """Records that are removed `period` after they were stored, or after what `since` names.

    `setting` is the name of the setting that changes the period, without its prefix; empty if it is fixed.
    """

    records: str
    period: timedelta
    setting: str = ""
    since: str = "stored"


class RetentionOut(BaseModel):
    """One kind of records. `setting` is an environment variable of the service; null if the time is fixed."""

    records: str
    hours: int = Field(description="Hours after which a record is removed.")
    since: str = Field(description="What the hours count from.")
    setting: str | None


class RetentionsOut(BaseModel):
    """All kinds of records that a service removes after a time."""

    items: list[RetentionOut]


class RetentionApi:
    """The route of one service's retention."""

    def __init__(self, service: str, scope: Scope, periods: Sequence[Retention]) -> None:
        """`scope` is what a caller needs to read the records themselves."""
        self._service = service
        self._scope = scope
        self._periods = periods

    def mount(self, app: FastAPI) -> None:
        """Add the route to the app."""
        reader = Depends(requires(self._scope))
        answer = RetentionsOut(
            items=[
                RetentionOut(
                    records=item.records,
                    hours=int(item.period.total_seconds() // 3600),
                    since=item.since,
                    setting=f"INTERLINK_{item.setting.upper()}" if item.setting else None,
                )
                for item in self._periods
            ]
        )

        async def read_retention(_key: Annotated[ApiKey, reader]) -> RetentionsOut:
            """List how long this service keeps its records, and the settings that change it."""
            return answer

        Routes(app, PREFIX).add(f"/{self._service}", read_retention, methods=["GET"])

"""`GET /api/usage`: what a workspace used, and its quotas."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Final, Self

from fastapi import Depends, FastAPI, Query
from pydantic import BaseModel

from services.gateway.ingest.quotas import QUOTAS, WorkspaceQuotas
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import Forbidden
from shared.runtime.clock import utcnow
from shared.runtime.daily_usage import STORED_DAYS, DailyUsage, QuotaName, UsageRecord, day_of
from shared.runtime.web.access import ApiKey, requires
from shared.runtime.web.routes import Routes
from shared.runtime.workspaces import Workspaces

_DAYS: Final = 30

Reader = Annotated[ApiKey, Depends(requires("webhooks:read"))]


class QuotaOut(BaseModel):
    """A quota: what of it is used, and the limit, null if there is none.

    `stored_bytes` counts seven UTC days with the current one, the others count the current UTC day.
    """

    quota: QuotaName
    used: int
    limit: int | None


class UsedDayOut(BaseModel):
    """What was used on one UTC day. `deliveries` are attempts.

    `refused` are requests that were refused over a quota, and events of app webhooks that were left out.
    """

    day: str
    requests: int
    events: int
    deliveries: int
    stored_bytes: int
    refused: int

    @classmethod
    def of(cls, record: UsageRecord) -> Self:
        """Return a day as the API shows it."""
        fields = record.model_dump(include=cls.model_fields.keys() - {"day"})
        return cls(day=f"{record.day:%Y-%m-%d}", **fields)


class UsageOut(BaseModel):
    """The quotas of a workspace, and the days of the last 30 with use, oldest first."""

    workspace: str
    resets_at: str
    quotas: list[QuotaOut]
    days: list[UsedDayOut]


class UsageApi:
    """The route of usage."""

    def __init__(
        self, usage: DailyUsage, quotas: WorkspaceQuotas, workspaces: Workspaces, *, operator: str
    ) -> None:
        """Admin keys of the workspace `operator` may read the usage of others."""
        self._usage = usage
        self._quotas = quotas
        self._workspaces = workspaces
        self._operator = operator

    def mount(self, app: FastAPI) -> None:
        """Add the route to the app."""
        Routes(app, "/api").add("/usage", self.read_usage, methods=["GET"])

    async def read_usage(
        self,
        key: Reader,
        workspace: Annotated[
            str | None,
            Query(
                max_length=100, description="Another workspace, for admin keys of the operator's workspace."
            ),
        ] = None,
    ) -> UsageOut:
        """Return what a workspace used of its quotas, and what it used on each of the last 30 UTC days.

        Counts appear after about 5 s. A killed process loses those of its last 5 s.
        """
        own = workspace or key.workspace
        if own != key.workspace:
            if key.workspace != self._operator or not key.allows("admin"):
                raise Forbidden("only admin keys of the operator's workspace read the usage of another one")
            await self._workspaces.find(own)
        records = await self._usage.read(own, _DAYS)
        today, limits = day_of(utcnow()), self._quotas.limits(own)
        return UsageOut(
            workspace=own,
            resets_at=rfc3339(today + timedelta(days=1)),
            quotas=[
                QuotaOut(quota=name, used=_used(records, name), limit=limits.get(name)) for name in QUOTAS
            ],
            days=[UsedDayOut.of(record) for record in records],
        )


def _used(records: Sequence[UsageRecord], name: QuotaName) -> int:
    """Return what counts towards a quota now."""
    days = STORED_DAYS if name == "stored_bytes" else 1
    first = day_of(utcnow()) - timedelta(days=days - 1)
    return sum(getattr(record, name) for record in records if record.day >= first)

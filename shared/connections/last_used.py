"""The time when an integration was last used, written at intervals and beside the call."""

import asyncio
from time import monotonic
from typing import Final

from shared.connections.integrations import IntegrationRepository
from shared.contracts.errors import InterlinkError

_WRITE_INTERVAL_S: Final = 600.0
_MAX_REMEMBERED: Final = 10_000


class LastUsedRecorder:
    """Writes `last_used_at` at most every ten minutes for each integration and process."""

    def __init__(self, integrations: IntegrationRepository) -> None:
        self._integrations = integrations
        self._next_write: dict[str, float] = {}
        """By integration id, on the monotonic clock."""
        self.tasks: set[asyncio.Task[None]] = set()
        """Writes that have not ended yet."""

    def record(self, integration_id: str) -> None:
        """Start a write if one is due. The caller does not wait for it and does not learn of a failure."""
        now = monotonic()
        if self._next_write.get(integration_id, 0.0) > now:
            return
        if len(self._next_write) >= _MAX_REMEMBERED:
            self._next_write.clear()
        self._next_write[integration_id] = now + _WRITE_INTERVAL_S
        task = asyncio.create_task(self._write(integration_id))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _write(self, integration_id: str) -> None:
        try:
            await self._integrations.record_use(integration_id)
        except InterlinkError:
            self._next_write.pop(integration_id, None)  # the next use tries again

"""Limit the accounts that an API key may use, and the calls that a workspace may have under way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from shared.connections.integration_record import Integration
from shared.contracts.errors import Forbidden, OverLimit
from shared.runtime.limits import WorkspaceLimits
from shared.runtime.web.access import ApiKey

_MAX_RUNNING: Final = 20
"""Calls of one workspace at a time, in each process."""
_MAX_OPEN: Final = 100
"""These calls, and those that wait for their turn."""
_MAX_WAIT_S: Final = 10.0


def check_limits(key: ApiKey, requested_id: str, integration: Integration, method: str | None = None) -> None:
    """Raise `Forbidden` if the key may not use this account, or not with this method.

    `requested_id` is the id in the path: that of an integration that was merged into this one counts too.
    """
    limits = key.accounts
    if limits is None:
        return
    if limits.integrations is not None and not {requested_id, integration.id} & set(limits.integrations):
        raise Forbidden("this API key is limited to other integrations")
    if limits.providers is not None and integration.provider not in limits.providers:
        raise Forbidden(f"this API key is limited to the providers {', '.join(limits.providers)}")
    if limits.user is not None and integration.user != limits.user:
        raise Forbidden("this API key is limited to the accounts of another user")
    if limits.methods is not None and method not in limits.methods:
        raise Forbidden(f"this API key is limited to the methods {', '.join(limits.methods)}")


class CallSlots:
    """Bounds the calls of each workspace in this process, so that one costs only itself."""

    def __init__(self) -> None:
        self._limits = WorkspaceLimits(_MAX_RUNNING)

    @asynccontextmanager
    async def hold(self, workspace: str) -> AsyncIterator[None]:
        """Hold a slot of the workspace while the context lasts, and wait for one up to 10 s.

        Raises `OverLimit` if there is none by then, or if too many calls wait.
        """
        if self._limits.users(workspace) >= _MAX_OPEN:
            raise OverLimit(f"the workspace has {_MAX_OPEN} calls under way: send fewer at a time")
        try:
            async with asyncio.timeout(_MAX_WAIT_S):
                await self._limits.acquire(workspace)
        except TimeoutError:
            raise OverLimit(
                f"the workspace has {_MAX_RUNNING} calls under way: send fewer at a time"
            ) from None
        try:
            yield
        finally:
            self._limits.release(workspace)

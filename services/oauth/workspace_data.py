"""The part of a deletion that is oauth's: polling triggers, grants, integrations and OAuth apps."""

from typing import Final

from services.oauth.authorization.confirmation import GrantConfirmer
from services.oauth.authorization.disconnect import Disconnector
from services.oauth.polling.records import PollingTriggerRepository
from shared.connections.apps import Apps
from shared.connections.integrations import IntegrationRepository
from shared.contracts.errors import Conflict, NotFound, RetryLater
from shared.runtime.web.paging import Paging

_PAGE: Final = 100


class OAuthData:
    """Deletes what oauth stores of a workspace."""

    def __init__(
        self,
        integrations: IntegrationRepository,
        disconnector: Disconnector,
        confirmer: GrantConfirmer,
        apps: Apps,
        polling_triggers: PollingTriggerRepository,
    ) -> None:
        self._polling_triggers = polling_triggers
        self._integrations = integrations
        self._disconnector = disconnector
        self._confirmer = confirmer
        self._apps = apps

    async def delete(self, workspace: str) -> None:
        """Revoke and delete every grant and integration, then the apps that this may need. Safe to repeat.

        Polling triggers are removed first: they use the integrations. Raises `RetryLater` if an integration
        is changing all the time.
        """
        while triggers := (await self._polling_triggers.list_page(workspace, Paging(_PAGE))).items:
            for trigger in triggers:
                await self._polling_triggers.remove(trigger)
        await self._confirmer.revoke_all(workspace)
        has_remaining = False
        cursor: str | None = None
        while True:
            found = await self._integrations.page_of(
                workspace,
                lambda integration: integration.id,
                Paging(_PAGE, cursor),
                status=None,
                provider=None,
                user=None,
            )
            for integration_id in found.items:
                try:
                    integration = await self._integrations.find(integration_id)
                    has_remaining |= not await self._disconnector.delete(integration)
                except NotFound:
                    continue
                except Conflict:
                    has_remaining = True
            cursor = found.next_cursor
            if cursor is None:
                break
        if has_remaining:
            raise RetryLater("integrations of this workspace changed while they were deleted")
        for app in self._apps.all_of(workspace):
            await self._apps.remove(app)

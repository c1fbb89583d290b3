"""Disconnect an integration: revoke the grant, remove the secrets, publish the event."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from services.oauth.authorization.revoke import GrantRevoker
from services.oauth.subscriptions.lifecycle import SubscriptionLifecycle
from shared.connections.integration_record import Integration
from shared.connections.integrations import IntegrationRepository
from shared.connections.tokens import TokenSource
from shared.contracts.errors import Conflict, Misconfigured, NotFound, RetryLater
from shared.manifests.connector import Connector
from shared.runtime.clock import utcnow
from shared.runtime.logs import Log

_MAX_ATTEMPTS: Final = 5
_REFRESH_TIMEOUT_S: Final = 15.0


class Disconnector:
    """Disconnects integrations."""

    def __init__(
        self,
        integrations: IntegrationRepository,
        connectors: Mapping[str, Connector],
        tokens: TokenSource,
        subscriptions: SubscriptionLifecycle,
        revoker: GrantRevoker,
        log: Log,
    ) -> None:
        self._integrations = integrations
        self._connectors = connectors
        self._tokens = tokens
        self._subscriptions = subscriptions
        self._revoker = revoker
        self._log = log

    async def disconnect(self, integration: Integration) -> Integration:
        """Disconnect an integration and return it. Safe to repeat.

        The provider's answer to the revocation is logged and does not change the result. Raises `Conflict` if
        the integration changed at every attempt, `NotFound`, `DatabaseUnavailable`.
        """
        for _ in range(_MAX_ATTEMPTS):
            if integration.status == "disconnected":
                return integration
            # Requests to the provider come before the write: without the secrets nothing can be revoked.
            await self._subscriptions.unsubscribe_all(integration.id)
            integration = await self._with_fresh_token(integration)
            is_revoked = await self._revoke(integration)
            # An authorization that was only started has published nothing, so its end publishes nothing.
            was_connected = integration.credential is not None
            changed = await self._integrations.change(
                integration,
                publish="integration.disconnected" if was_connected else (),
                status="disconnected",
                reason="",
                credential=None,
                refreshable=False,
                expires_at=None,
                refresh_expires_at=None,
                grant_ends_at=None,
                needs_maintenance=False,
                due_at=None,
                lease=None,
                version=integration.version + 1,
                is_revoked=is_revoked,
                resources=(),
                holds_identity=False,
            )
            self._tokens.forget(integration.id)
            if changed is not None:
                return changed
            integration = await self._integrations.find(integration.id)
        raise Conflict("the integration changed while it was disconnected: try again")

    async def delete(self, integration: Integration) -> bool:
        """Disconnect an integration, if it is connected, and delete it.

        Return False if it changed meanwhile: then read it and try again. Raises as `disconnect`.
        """
        if not integration.is_unfinished:
            integration = await self.disconnect(integration)
        deleted = await self._integrations.delete(
            integration, condition={"status": integration.status}, is_sole=False, holds_identity=False
        )
        self._tokens.forget(integration.id)
        return deleted is not None

    async def _revoke(self, integration: Integration) -> bool:
        """Revoke the grant. Return whether the provider confirmed it."""
        if integration.credential is None:
            return False
        try:
            secrets = self._integrations.open(integration)
        except Misconfigured as error:
            self._log.warning("token.revoke_failed", integration_id=integration.id, error=str(error))
            return False
        account = integration.account.id if integration.account else ""
        values = self._tokens.values(integration)
        return await self._revoker.revoke(integration, values, secrets, account, excluding=integration.id)

    async def _with_fresh_token(self, integration: Integration) -> Integration:
        """Return the integration with a valid access token, if the provider needs one to revoke the grant."""
        connector, expires_at = self._connectors.get(integration.provider), integration.expires_at
        if (
            connector is None
            or not connector.revokes_by_access_token
            or expires_at is None
            or expires_at > utcnow()
        ):
            return integration
        with suppress(Conflict, NotFound, RetryLater, TimeoutError):
            async with asyncio.timeout(_REFRESH_TIMEOUT_S):
                return await self._tokens.refresh(integration.id, than=integration.version)
        return integration

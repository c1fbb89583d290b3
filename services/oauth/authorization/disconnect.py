"""Disconnect an integration: revoke the grant, remove the secrets, publish the event."""

import asyncio
from contextlib import suppress
from typing import Final

from services.oauth.authorization.account_identity import RELEASED_IDENTITY
from services.oauth.authorization.revoke import GrantRevoker
from services.oauth.subscriptions.lifecycle import SubscriptionLifecycle
from shared.connections.integrations import IntegrationRepository
from shared.connections.tokens import TokenSource
from shared.contracts.errors import Conflict, Misconfigured, NotFound, RetryLater
from shared.manifests.registry import connectors
from shared.runtime.logs import Log
from shared.runtime.mongo import Document, utcnow

_MAX_ATTEMPTS: Final = 5
_REFRESH_TIMEOUT_S: Final = 15.0


class Disconnector:
    """Disconnects integrations."""

    def __init__(
        self,
        integrations: IntegrationRepository,
        tokens: TokenSource,
        subscriptions: SubscriptionLifecycle,
        revoker: GrantRevoker,
        log: Log,
    ) -> None:
        self._integrations = integrations
        self._tokens = tokens
        self._subscriptions = subscriptions
        self._revoker = revoker
        self._log = log

    async def disconnect(self, document: Document) -> Document:
        """Disconnect an integration and return it. Safe to repeat.

        The provider's answer to the revocation is logged and does not change the result. Raises `Conflict` if
        the integration changed at every attempt, `NotFound`, `DatabaseUnavailable`.
        """
        for _ in range(_MAX_ATTEMPTS):
            if document["status"] == "disconnected":
                return document
            # Requests to the provider come before the write: without the secrets nothing can be revoked.
            await self._subscriptions.unsubscribe_all(document["_id"])
            document = await self._with_fresh_token(document)
            revoked = await self._revoke(document)
            change = {
                "status": "disconnected",
                "reason": "",
                "credential": None,
                "refreshable": False,
                "expires_at": None,
                "refresh_expires_at": None,
                "open": False,
                "due_at": None,
                "lease": None,
                "version": document["version"] + 1,
                "revoked": revoked,
                "choices": [],
                **RELEASED_IDENTITY,
            }
            # An authorization that was only started has published nothing, so its end publishes nothing.
            was_connected = document.get("credential") is not None
            changed = await self._integrations.change(
                document, change, publish="integration.disconnected" if was_connected else None
            )
            self._tokens.forget(document["_id"])
            if changed is not None:
                return changed
            document = await self._integrations.find(document["_id"])
        raise Conflict("the integration changed while it was disconnected: try again")

    async def _revoke(self, document: Document) -> bool:
        """Revoke the grant. Return whether the provider confirmed it."""
        if not document.get("credential"):
            return False
        try:
            secrets = self._integrations.open(document)
        except Misconfigured as error:
            self._log.warning("token.revoke_failed", integration_id=document["_id"], error=str(error))
            return False
        account = (document.get("account") or {}).get("id", "")
        values = self._tokens.values(document)
        return await self._revoker.revoke(document, values, secrets, account, excluding=document["_id"])

    async def _with_fresh_token(self, document: Document) -> Document:
        """Return the integration with a valid access token, if the provider needs one to revoke the grant."""
        connector, expires_at = connectors().get(document["provider"]), document.get("expires_at")
        if (
            connector is None
            or not connector.revokes_by_access_token
            or expires_at is None
            or expires_at > utcnow()
        ):
            return document
        with suppress(Conflict, NotFound, RetryLater, TimeoutError):
            async with asyncio.timeout(_REFRESH_TIMEOUT_S):
                return await self._tokens.refresh(document["_id"], than=document["version"])
        return document

"""Ending an integration: the grant is revoked at the platform, the secrets go, and it is told."""

import asyncio
from contextlib import suppress

from services.oauth.authorization.account_identity import RELEASED
from services.oauth.authorization.revoke import GrantRevoker
from services.oauth.subscriptions.lifecycle import SubscriptionLifecycle
from shared.connections.integrations import IntegrationRepository
from shared.connections.tokens import TokenSource
from shared.contracts.errors import Conflict, Misconfigured, NotFound, RetryLater
from shared.manifests.registry import connectors
from shared.runtime.logs import Log
from shared.runtime.mongo import Document, utcnow

_TRIES = 5
_REFRESH_TIMEOUT_S = 15.0


class Disconnector:
    """Ends integrations."""

    def __init__(
        self,
        integrations: IntegrationRepository,
        tokens: TokenSource,
        watching: SubscriptionLifecycle,
        revoking: GrantRevoker,
        log: Log,
    ) -> None:
        self._integrations = integrations
        self._tokens = tokens
        self._subscriptions = watching
        self._revoker = revoking
        self._log = log

    async def disconnect(self, document: Document) -> Document:
        """Disconnect; safe to repeat. The platform is asked first: without the secrets it could not be.

        What the platform answers changes nothing here. Raises `Conflict`: it changes all the time.
        """
        for _ in range(_TRIES):
            if document["status"] == "disconnected":
                return document
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
                **RELEASED,
            }
            was = document.get("credential") is not None  # what was only begun has no end to be told
            changed = await self._integrations.change(
                document, change, publish="integration.disconnected" if was else None
            )
            self._tokens.forget(document["_id"])
            if changed is not None:
                return changed
            document = await self._integrations.find(document["_id"])
        raise Conflict("the integration is changing all the time: try again")

    async def _revoke(self, document: Document) -> bool:
        """Whether the platform said that the grant is revoked."""
        if not document.get("credential"):
            return False
        try:
            secrets = self._integrations.open(document)
        except Misconfigured as error:
            self._log.warning("not revoked", integration_id=document["_id"], why=str(error))
            return False
        account = (document.get("account") or {}).get("id", "")
        values = self._tokens.values(document)
        return await self._revoker.revoke(document, values, secrets, account, excluding=document["_id"])

    async def _with_fresh_token(self, document: Document) -> Document:
        """With a living access token, where the platform wants one to revoke the grant."""
        connector, ends = connectors().get(document["provider"]), document.get("expires_at")
        if connector is None or not connector.revokes_by_access_token or ends is None or ends > utcnow():
            return document
        with suppress(Conflict, NotFound, RetryLater, TimeoutError):
            async with asyncio.timeout(_REFRESH_TIMEOUT_S):
                return await self._tokens.refresh(document["_id"], than=document["version"])
        return document

"""Ending an integration: the grant is revoked at the platform, the secrets go, and it is told."""

import asyncio
from contextlib import suppress

from services.oauth.sharing import shared
from services.oauth.watch import Watching
from shared.catalog.registry import connectors
from shared.contracts.errors import Conflict, InterlinkError, NotFound, RetryLater
from shared.runtime.integrations import Integrations
from shared.runtime.logs import Log
from shared.runtime.mongo import Document, utcnow
from shared.runtime.tokens import TokenSource
from shared.wire.fills import Unfillable
from shared.wire.oauth import Call

_TRIES = 5
_FRESH_S = 15.0


class Disconnecting:
    """Ends integrations."""

    def __init__(self, integrations: Integrations, tokens: TokenSource, watching: Watching, log: Log) -> None:
        self._integrations = integrations
        self._tokens = tokens
        self._watching = watching
        self._log = log

    async def end(self, document: Document) -> Document:
        """Disconnect; safe to repeat. The platform is asked first: without the secrets it could not be.

        What the platform answers changes nothing here. Raises `Conflict`: it changes all the time.
        """
        for _ in range(_TRIES):
            if document["status"] == "disconnected":
                return document
            await self._watching.end_all(document["_id"])
            document = await self._fresh(document)
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
                "lease_until": None,
                "version": document["version"] + 1,
                "revoked": revoked,
                "choices": [],
            }
            was = document.get("credential") is not None  # what was only begun has no end to be told
            changed = await self._integrations.change(
                document, change, tell="integration.disconnected" if was else None
            )
            self._tokens.forget(document["_id"])
            if changed is not None:
                return changed
            document = await self._integrations.find(document["_id"])
        raise Conflict("the integration is changing all the time: try again")

    async def _revoke(self, document: Document) -> bool:
        """Whether the platform said that the grant is revoked."""
        connector = connectors().get(document["provider"])
        if connector is None or not document.get("credential"):
            return False
        try:
            account = (document.get("account") or {}).get("id", "")
            if await shared(self._integrations, self._tokens, document, account, but=document["_id"]):
                self._log.info("not revoked: others need it", integration_id=document["_id"])
                return False
            secrets = self._integrations.open(document)
            values = self._tokens.values(document, self._tokens.app_of(document))
            grants = [secrets, *secrets.get("others", {}).values()]
            calls: list[Call] = []
            for grant in grants:
                texts = {name: value for name, value in grant.items() if isinstance(value, str)}
                if not texts.get("access_token"):
                    continue
                call = connector.revoking({**values, **texts})
                if call is not None:
                    calls.append(call)
            answers = [await self._tokens.ask(call) for call in calls]
        except (RetryLater, Unfillable, InterlinkError) as error:
            self._log.warning("not revoked", integration_id=document["_id"], why=type(error).__name__)
            return False
        refusals = [code for answer in answers if (code := connector.not_revoked(answer))]
        for code in refusals:
            self._log.warning(
                "not revoked", integration_id=document["_id"], why=f"the platform answered {code}"
            )
        return bool(answers) and not refusals

    async def _fresh(self, document: Document) -> Document:
        """With a living access token, where the platform wants one to revoke the grant."""
        connector, ends = connectors().get(document["provider"]), document.get("expires_at")
        if connector is None or not connector.revokes_by_access_token or ends is None or ends > utcnow():
            return document
        with suppress(Conflict, NotFound, RetryLater, TimeoutError):
            async with asyncio.timeout(_FRESH_S):
                return await self._tokens.renew(document["_id"], than=document["version"])
        return document

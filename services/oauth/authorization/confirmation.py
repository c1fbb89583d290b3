"""Confirm the grants of authorizations that were opened with a ticket, and revoke those that nobody confirms.

Whoever starts an authorization can send its ticket to somebody else, who then connects an account of his own
to a stranger's workspace. So the browser that finishes brings a code to the chat, and the chat confirms that
this browser's user is the one for whom the authorization was started. Until then the grant is stored apart
from the integration, and nothing can use it.

A confirmation that fails leaves the grant to the revocation, which is due work: a process that dies at any
point leaves a grant that an integration has, or one that is revoked.
"""

from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Final

from services.oauth.authorization.errors import AuthorizationFailed
from services.oauth.authorization.flows import authorized_connector, integration_kind
from services.oauth.authorization.revoke import GrantRevoker
from services.oauth.authorization.state import States
from services.oauth.authorization.store_connection import ConnectionWriter
from services.oauth.authorization.unconfirmed_grants import (
    UnconfirmedGrant,
    UnconfirmedGrants,
    UnconfirmedRecord,
)
from shared.connections.apps import Apps
from shared.connections.credentials import merge_tokens
from shared.connections.integration_record import Account, Integration
from shared.connections.integrations import IntegrationRepository
from shared.connections.tokens import TokenSource
from shared.contracts.errors import (
    Conflict,
    FieldError,
    Forbidden,
    Misconfigured,
    NotFound,
)
from shared.manifests.connector import Connector
from shared.runtime.clock import utcnow
from shared.runtime.due_work import DueWorker, LeaseLost
from shared.runtime.failpoints import failpoint
from shared.runtime.logs import Log
from shared.runtime.metrics import CONNECTIONS
from shared.runtime.retry import Backoff

_MAX_CONCURRENT: Final = 10
_PAUSES: Final = Backoff(first_s=5.0, max_s=300.0, spread=0.2)
_STOP_TIMEOUT_S: Final = 30.0
_KEY_TIMEOUT: Final = timedelta(days=1)
"""Time for which a grant that cannot be decrypted waits for its encryption key."""


class GrantConfirmer:
    """Confirms grants, and revokes unconfirmed ones."""

    def __init__(
        self,
        unconfirmed: UnconfirmedGrants,
        states: States,
        integrations: IntegrationRepository,
        connectors: Mapping[str, Connector],
        apps: Apps,
        tokens: TokenSource,
        writer: ConnectionWriter,
        revoker: GrantRevoker,
        log: Log,
        *,
        interval_s: float,
    ) -> None:
        """Set the work. Expired grants are searched every `interval_s` seconds."""
        self._unconfirmed = unconfirmed
        self._states = states
        self._integrations = integrations
        self._connectors = connectors
        self._apps = apps
        self._tokens = tokens
        self._writer = writer
        self._revoker = revoker
        self._log = log
        self.worker = DueWorker(
            unconfirmed.due_work,
            self._expire,
            log,
            name="confirmation",
            poll_interval_s=interval_s,
            backoff=_PAUSES,
            max_concurrent=_MAX_CONCURRENT,
            workspace_of=lambda claimed: claimed.workspace,
            stop_timeout_s=_STOP_TIMEOUT_S,
        )
        """The part of the service that revokes grants that nobody confirms."""

    async def confirm(self, code: str, user: str, workspace: str) -> Integration:
        """Connect the account that a code stands for. Return its integration.

        `user` is the user whose browser brought the code. The code is used up even if that fails; a grant
        that is not stored is revoked.

        Raises `NotFound` if the code is unknown in the workspace, was used or has expired, or if the
        integration was deleted; `Forbidden` if the authorization was started for another user; `Conflict` if
        the account cannot be connected; `DatabaseUnavailable`.
        """
        claimed = await self._unconfirmed.claim(code, workspace)
        failpoint("confirmation.claimed")
        try:
            integration = await self._store(claimed, self._unconfirmed.open(claimed), user)
        except LeaseLost:
            raise Conflict("the confirmation took too long: connect again") from None
        except AuthorizationFailed as error:
            await self._revoke_soon(claimed)
            raise Conflict(error.detail, errors=(FieldError("confirmation_code", error.code),)) from error
        except (Forbidden, NotFound, Misconfigured):
            await self._revoke_soon(claimed)
            raise
        # After `DatabaseUnavailable` the grant may be stored all the same: the end of the lease shows it.
        failpoint("confirmation.stored")
        await self._unconfirmed.delete(claimed)
        CONNECTIONS.labels(integration.provider, integration.status).inc()
        return integration

    async def revoke_all(self, workspace: str) -> None:
        """Revoke and delete the unconfirmed grants of a workspace now. Safe to repeat.

        A confirmation under way fails. A grant that cannot be decrypted waits for its encryption key. Raises
        `DatabaseUnavailable`.
        """
        for grant_id in await self._unconfirmed.ids_of(workspace):
            claimed = await self._unconfirmed.due_work.claim(grant_id, early=True)
            if claimed is not None:
                with suppress(Misconfigured):
                    await self._expire(claimed)

    async def _revoke_soon(self, claimed: UnconfirmedRecord) -> None:
        await self._unconfirmed.due_work.release(claimed, utcnow())

    async def _store(self, claimed: UnconfirmedRecord, grant: UnconfirmedGrant, user: str) -> Integration:
        """Write the grant into its integration.

        Raises `Forbidden` for another user, `AuthorizationFailed`, `NotFound`, `Misconfigured`,
        `DatabaseUnavailable`, `LeaseLost`.
        """
        pending, account = grant.authorization, grant.provider_account()
        if pending.user != user:
            self._log.warning(
                "authorization.confirmed_by_another_user",
                provider=pending.provider,
                integration_id=pending.integration_id,
            )
            raise Forbidden("this account was to be connected for another user: its grant is revoked")
        integration = await self._integrations.find(pending.integration_id, claimed.workspace)
        connector, _ = authorized_connector(self._connectors, self._apps, pending, integration)
        async with (
            self._unconfirmed.due_work.keep(claimed),
            self._states.lock(claimed.workspace, pending.provider, account.id),
        ):
            return await self._writer.store(
                pending,
                integration,
                connector,
                grant.granted(),
                account,
                grant.account_resources(),
                granted_at=claimed.created_at,
                confirmation=claimed.id,
            )

    async def _expire(self, claimed: UnconfirmedRecord) -> None:
        """Revoke an expired grant, unless an integration has it. Delete its record.

        Raises `DatabaseUnavailable`; `Misconfigured` if it cannot be decrypted, for a day.
        """
        try:
            grant = self._unconfirmed.open(claimed)
        except Misconfigured as error:
            if claimed.created_at > utcnow() - _KEY_TIMEOUT:
                raise  # its encryption key may come back: try again
            self._log.warning("token.revoke_failed", confirmation=claimed.id, error=str(error))
            await self._unconfirmed.delete(claimed)
            return
        pending, account = grant.authorization, grant.account
        same_account = await self._integrations.of_account(pending.provider, account.id)
        # A process died between storing the grant and deleting it here.
        is_stored = any(item.confirmation == claimed.id for item in same_account)
        if not is_stored:
            self._log.info(
                "authorization.unconfirmed",
                provider=pending.provider,
                integration_id=pending.integration_id,
                used=claimed.is_used,
            )
            await self._revoke(claimed, grant, same_account)
        if not pending.is_reconnect:
            await self._delete_unfinished(pending.integration_id, claimed.workspace)
        await self._unconfirmed.delete(claimed)

    async def _revoke(
        self, claimed: UnconfirmedRecord, grant: UnconfirmedGrant, same_account: list[Integration]
    ) -> None:
        """Revoke a grant, except tokens that an integration of the account uses."""
        holder = _integration_of(claimed, grant, self._connectors.get(grant.authorization.provider))
        if holder is None:
            return
        tokens_in_use = [token for item in same_account for token in self._writer.tokens_in_use(item)]
        await self._revoker.revoke(
            holder,
            self._tokens.values(holder),
            merge_tokens({}, grant.granted()),
            grant.account.id,
            tokens_in_use=tokens_in_use,
        )

    async def _delete_unfinished(self, integration_id: str, workspace: str) -> None:
        """Delete the integration that waited for the grant, unless it has another one."""
        try:
            integration = await self._integrations.find(integration_id, workspace)
        except NotFound:
            return
        if integration.is_unfinished:
            await self._integrations.delete(integration)


def _integration_of(
    claimed: UnconfirmedRecord, grant: UnconfirmedGrant, connector: Connector | None
) -> Integration | None:
    """Return a grant as an integration that is not stored; None if its provider is no part of the hub."""
    if connector is None:
        return None
    pending, account = grant.authorization, grant.account
    return Integration(
        id=pending.integration_id,
        workspace=claimed.workspace,
        provider=pending.provider,
        kind=integration_kind(connector),
        name="",
        status="pending",
        account=Account(id=account.id, label=account.label, url=account.url, attributes=account.attributes),
        params=pending.params,
        app=pending.server[:2],
        created_at=claimed.created_at,
        changed_at=claimed.created_at,
        deleted_at=None,
        version=0,
        fence=0,
        settled_fence=0,
        pending_events=(),
        has_pending_events=False,
    )

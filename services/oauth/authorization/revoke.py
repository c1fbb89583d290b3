"""Revoke a grant at the provider, unless other integrations use it.

Some providers revoke all grants of an account for the app at once, so the other integrations of the account
are checked first.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

from shared.connections.credentials import RESOURCE, token_values
from shared.connections.integration_record import Integration
from shared.connections.integrations import IntegrationRepository
from shared.connections.tokens import TokenSource
from shared.contracts.errors import InterlinkError
from shared.manifests.connector import Connector
from shared.runtime.logs import Log

_MAX_INTEGRATIONS: Final = 1000


class GrantRevoker:
    """Revokes grants. What the provider answers is logged and changes nothing in the database."""

    def __init__(
        self,
        integrations: IntegrationRepository,
        connectors: Mapping[str, Connector],
        tokens: TokenSource,
        log: Log,
    ) -> None:
        self._integrations = integrations
        self._connectors = connectors
        self._tokens = tokens
        self._log = log

    async def revoke(
        self,
        integration: Integration,
        values: Mapping[str, str],
        secrets: Mapping[str, Any],
        account: str | None,
        *,
        excluding: str = "",
        tokens_in_use: Collection[str] = (),
    ) -> bool:
        """Revoke every grant of a credential. Return whether the provider confirmed all of them. Never raise.

        `values` fill the provider's request, `secrets` is the credential in clear, `account` the account's id
        at the provider. `excluding` is the id of the integration that ends. A grant with one of
        `tokens_in_use` is not revoked. Where the provider revokes all grants of an account at once, nothing
        is revoked if another integration needs one, or if `account` is None (not known).
        """
        connector = self._connectors.get(integration.provider)
        if connector is None:
            return False
        integration_id = integration.id
        try:
            if connector.revokes_all_grants and (
                account is None or await self._is_shared(connector, integration, account, excluding)
            ):
                self._log.info("token.revoke_skipped", integration_id=integration_id)
                return False
        except InterlinkError as error:
            self._log.warning(
                "token.revoke_failed", integration_id=integration_id, error=type(error).__name__
            )
            return False
        others = {name: tokens for name, tokens in secrets.get("others", {}).items() if name != RESOURCE}
        grants = [token_values(tokens) for tokens in (secrets, *others.values())]
        revoked = [
            await self._revoke_grant(integration, connector, {**values, **grant})
            for grant in grants
            if grant.get("access_token") and not set(grant.values()) & set(tokens_in_use)
        ]
        return bool(revoked) and all(revoked)

    async def _revoke_grant(
        self, integration: Integration, connector: Connector, values: Mapping[str, str]
    ) -> bool:
        """Revoke one grant. Return whether the provider confirmed it; False if it cannot revoke grants."""
        integration_id = integration.id
        try:
            call = connector.revoke_request(values)
            if call is None:
                return False
            code = connector.revocation_error(await self._tokens.send(call, integration.workspace))
        except InterlinkError as error:
            # The error's text could repeat a token, so only its type is logged.
            self._log.warning(
                "token.revoke_failed", integration_id=integration_id, error=type(error).__name__
            )
            return False
        if code:
            self._log.warning(
                "token.revoke_failed",
                integration_id=integration_id,
                error=f"the provider answered {code}",
            )
        return not code

    async def _is_shared(
        self, connector: Connector, integration: Integration, account: str, excluding: str
    ) -> bool:
        """Return whether an integration other than `excluding` has a grant of this account and app.

        Several providers can share one app (the family). Those that identify accounts in the same way are
        compared by account id. Any integration of the others, in the same workspace, counts as the same
        account. Raises `DatabaseUnavailable`.
        """
        family = {name: member for name, member in self._connectors.items() if member.app == connector.app}
        comparable = [name for name, member in family.items() if member.account == connector.account]
        incomparable = [name for name in family if name not in comparable]
        candidates = [
            other for name in comparable for other in await self._integrations.of_account(name, account)
        ]
        if incomparable:
            more = await self._integrations.of_providers(
                incomparable, integration.workspace, limit=_MAX_INTEGRATIONS
            )
            if more is None:
                return True  # There are too many to look at, and one of them may share the grant.
            candidates += more
        own_app = self._tokens.app_of(integration)
        for other in candidates:
            if other.credential is not None and other.id != excluding:
                app = self._tokens.app_of(other)
                # An app that cannot be resolved counts as the same: revoking too little is the safe error.
                if app is None or own_app is None or app.client_id == own_app.client_id:
                    return True
        return False

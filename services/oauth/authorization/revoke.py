"""Ending a grant at the platform, unless others live on it.

Some platforms end all that an account ever allowed the app, so it is looked first whom else that concerns.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

from shared.connections.credentials import token_values
from shared.connections.integrations import IntegrationRepository
from shared.connections.tokens import TokenSource
from shared.contracts.errors import InterlinkError
from shared.manifests.connector import Connector
from shared.manifests.registry import connectors
from shared.runtime.logs import Log
from shared.runtime.mongo import translate_errors

_MAX_INTEGRATIONS: Final = 1000


class GrantRevoker:
    """Ends grants. What the platform answers changes nothing here, and is logged."""

    def __init__(self, integrations: IntegrationRepository, tokens: TokenSource, log: Log) -> None:
        self._integrations = integrations
        self._tokens = tokens
        self._log = log

    async def revoke(
        self,
        document: Mapping[str, Any],
        values: Mapping[str, str],
        secrets: Mapping[str, Any],
        account: str | None,
        *,
        excluding: str = "",
        tokens_in_use: Collection[str] = (),
    ) -> bool:
        """Whether the platform said of each grant of a credential that it has ended.

        `but` is the integration that ends, and `spare` are tokens that go on: a grant with one of them is
        left alone. Where the platform would end everything and the account is not
        known, it may be what others live on.
        """
        connector = connectors().get(document["provider"])
        if connector is None:
            return False
        name = document["_id"]
        try:
            if connector.revokes_all_grants and (
                account is None or await self._is_shared(connector, document, account, excluding)
            ):
                self._log.info("not revoked: others need it", integration_id=name)
                return False
        except InterlinkError as error:
            self._log.warning("not revoked", integration_id=name, why=type(error).__name__)
            return False
        grants = [token_values(each) for each in (secrets, *secrets.get("others", {}).values())]
        ended = [
            await self._revoke_grant(document, connector, {**values, **grant})
            for grant in grants
            if grant.get("access_token") and not set(grant.values()) & set(tokens_in_use)
        ]
        return bool(ended) and all(ended)

    async def _revoke_grant(
        self, document: Mapping[str, Any], connector: Connector, values: Mapping[str, str]
    ) -> bool:
        name = document["_id"]
        try:
            call = connector.revoke_request(values)
            if call is None:  # the platform has no way
                return False
            code = connector.revocation_error(await self._tokens.ask(call, document["workspace"]))
        except InterlinkError as error:
            self._log.warning("not revoked", integration_id=name, why=type(error).__name__)
            return False
        if code:
            self._log.warning("not revoked", integration_id=name, why=f"the platform answered {code}")
        return not code

    async def _is_shared(
        self, connector: Connector, document: Mapping[str, Any], account: str, excluding: str
    ) -> bool:
        """Whether other integrations than `but` would end with a grant of this account.

        Where another provider of the same app names accounts otherwise, that of the same workspace counts as
        the same account. Raises `DatabaseUnavailable`.
        """
        family = {name: each for name, each in connectors().items() if each.app == connector.app}
        alike = [name for name, each in family.items() if each.account == connector.account]
        unlike = {"$in": [name for name in family if name not in alike]}
        found = [other for name in alike for other in await self._integrations.of_account(name, account)]
        if unlike["$in"]:
            query = {"workspace": document["workspace"], "provider": unlike}
            with translate_errors():
                more = (
                    await self._integrations.collection.find(query)
                    .limit(_MAX_INTEGRATIONS)
                    .to_list(_MAX_INTEGRATIONS)
                )
            if len(more) == _MAX_INTEGRATIONS:
                return True  # one that was not looked at may be such a one
            found += more
        own = self._tokens.app_of(document)
        for other in found:
            if other["deleted_at"] is None and other["credential"] is not None and other["_id"] != excluding:
                app = self._tokens.app_of(other)
                if app is None or own is None or app.client_id == own.client_id:
                    return True
        return False

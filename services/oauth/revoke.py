"""Ending a grant at the platform, unless others live on it.

Some platforms end all that an account ever allowed the app, so it is looked first whom else that concerns.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

from shared.catalog.connector import Connector
from shared.catalog.registry import connectors
from shared.contracts.errors import InterlinkError
from shared.runtime.credentials import texts_of
from shared.runtime.integrations import Integrations
from shared.runtime.logs import Log
from shared.runtime.mongo import translated
from shared.runtime.tokens import TokenSource

_MOST: Final = 1000


class Revoking:
    """Ends grants. What the platform answers changes nothing here, and is logged."""

    def __init__(self, integrations: Integrations, tokens: TokenSource, log: Log) -> None:
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
        but: str = "",
        spare: Collection[str] = (),
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
            if connector.ends_everything and (
                account is None or await self._others(connector, document, account, but)
            ):
                self._log.info("not revoked: others need it", integration_id=name)
                return False
        except InterlinkError as error:
            self._log.warning("not revoked", integration_id=name, why=type(error).__name__)
            return False
        grants = [texts_of(each) for each in (secrets, *secrets.get("others", {}).values())]
        ended = [
            await self._one(document, connector, {**values, **grant})
            for grant in grants
            if grant.get("access_token") and not set(grant.values()) & set(spare)
        ]
        return bool(ended) and all(ended)

    async def _one(
        self, document: Mapping[str, Any], connector: Connector, values: Mapping[str, str]
    ) -> bool:
        name = document["_id"]
        try:
            call = connector.revoking(values)
            if call is None:  # the platform has no way
                return False
            code = connector.not_revoked(await self._tokens.ask(call, document["workspace"]))
        except InterlinkError as error:
            self._log.warning("not revoked", integration_id=name, why=type(error).__name__)
            return False
        if code:
            self._log.warning("not revoked", integration_id=name, why=f"the platform answered {code}")
        return not code

    async def _others(
        self, connector: Connector, document: Mapping[str, Any], account: str, but: str
    ) -> bool:
        """Whether other integrations than `but` would end with a grant of this account.

        Where another provider of the same app names accounts otherwise, that of the same workspace counts as
        the same account. Raises `StoreUnavailable`.
        """
        family = {name: each for name, each in connectors().items() if each.app == connector.app}
        alike = [name for name, each in family.items() if each.account == connector.account]
        unlike = {"$in": [name for name in family if name not in alike]}
        found = [other for name in alike for other in await self._integrations.of_account(name, account)]
        if unlike["$in"]:
            query = {"workspace": document["workspace"], "provider": unlike}
            with translated():
                more = await self._integrations.collection.find(query).limit(_MOST).to_list(_MOST)
            if len(more) == _MOST:
                return True  # one that was not looked at may be such a one
            found += more
        own = self._tokens.app_of(document)
        for other in found:
            if other["deleted_at"] is None and other["credential"] is not None and other["_id"] != but:
                app = self._tokens.app_of(other)
                if app is None or own is None or app.client_id == own.client_id:
                    return True
        return False

"""Find which integration an account belongs to.

The identity of an account is its id at the provider, the person whom the token acts for where the account is
a team's, the selected resource (a site, a page), and the server where an app's settings choose it: each
server gives ids of its own. An integration that one user of the chat has is never given to another one,
unless the call asks for a takeover.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from shared.connections.integration_record import Account, Integration, IntegrationEventType
from shared.connections.integrations import IntegrationRepository
from shared.connections.provider_app import AppRef
from shared.connections.tokens import TokenSource
from shared.contracts.errors import Conflict, FieldError
from shared.contracts.ids import derive
from shared.manifests.accounts import AccountIdentity, AccountResource
from shared.manifests.connector import Connector
from shared.wire.request_template import RequestTemplate

_SERVER_OF_SETTINGS: Final = re.compile(r"(https://)?[^/]*\{setting:")
"""Matches a token URL with a host from the settings of an app."""
CONNECTED_EVENTS: Final[Mapping[bool, Sequence[IntegrationEventType]]] = {
    False: ("integration.connected",),
    True: ("integration.connected", "integration.taken_over"),
}
"""The events to publish when an account is connected, by whether another user had it before."""
ACCOUNT_IN_USE: Final = (
    "this account is already connected by another user: ask whoever manages integrations to disconnect it, "
    "or connect it with takeover: true"
)


def account_in_use() -> Conflict:
    """Return the error for an account that another user has."""
    return Conflict(ACCOUNT_IN_USE, errors=(FieldError("takeover", "account_in_use"),))


def identity_fields(integration: Integration, account: Account, server: str) -> dict[str, Any]:
    """Return the fields that make an integration the only one with this account's identity.

    `server` is that of the app that it is connected with: see `AccountMatcher.server_of`.
    """
    resource = account.resource.id if account.resource else ""
    identity = _identity(integration, account.id, account.person or "", resource, server)
    return {"identity": identity, "holds_identity": True}


def _identity(integration: Integration, account_id: str, person: str, resource: str, server: str) -> str:
    parts = (integration.provider, integration.kind, account_id, person, resource)
    return derive(*parts, *([server] if server else []))


def has_another_user(integration: Integration, user: str | None) -> bool:
    """Return whether an integration belongs to a user other than `user`; False if either is None."""
    return user is not None and integration.user not in (None, user)


class AccountMatcher:
    """Compares the accounts of integrations."""

    def __init__(
        self, integrations: IntegrationRepository, connectors: Mapping[str, Connector], tokens: TokenSource
    ) -> None:
        self._integrations = integrations
        self._connectors = connectors
        self._tokens = tokens

    def server_of(self, integration: Integration, app: AppRef | None) -> str:
        """Return the server of an integration that is connected with this app.

        It is '' if the provider has only one, or if the app is gone.
        """
        connector = self._connectors.get(integration.provider)
        flow = connector.oauth2 if connector else None
        if flow is None or app is None or not _SERVER_OF_SETTINGS.match(flow.token_url):
            return ""
        values = self._tokens.values(integration.model_copy(update={"app": tuple(app)}))
        return RequestTemplate(flow.token_url).render_or_empty(values)

    def person_of(self, integration: Integration) -> str | None:
        """Return the id of the person of the account whom an integration acts for.

        It is '' if the account has no persons, and None if there is no account, or if the person is not
        known: earlier releases did not store it.
        """
        account, connector = integration.account, self._connectors.get(integration.provider)
        if account is None:
            return None
        return connector.stored_person(account.person, account.attributes) if connector is not None else ""

    def is_same_account(
        self, integration: Integration, provider_account: AccountIdentity, user: str | None
    ) -> bool:
        """Return whether an integration is of this account and person.

        A token of no person (a bot's), or of an unknown one, is the same for the same `user` only.
        """
        if integration.account is None or integration.account.id != provider_account.id:
            return False
        person = self.person_of(integration)
        if person == provider_account.person:
            return True
        return (not person or not provider_account.person) and integration.user == user

    async def find_same_account(
        self,
        integration: Integration,
        provider_account: AccountIdentity,
        resource: AccountResource | None,
        user: str | None,
        server: str,
    ) -> Integration | None:
        """Return another integration of the workspace with this account, and with this resource if given.

        `server` is that of the account (`server_of`). A disconnected integration counts for its own user
        only. Of several, one that is not disconnected comes first, then one of the same person. Raises
        `DatabaseUnavailable`.
        """
        account_id, resource_id = provider_account.id, resource.id if resource else ""
        identity = _identity(integration, account_id, provider_account.person, resource_id, server)
        # The first is found also if more persons of the account are connected than a list has.
        candidates = [
            *await self._integrations.of_identity(integration.workspace, identity),
            *await self._integrations.of_account(integration.provider, account_id, integration.workspace),
        ]
        matching = [
            other
            for other in self._matching(candidates, integration, provider_account, resource, user)
            if not server or self.server_of(other, other.app) in ("", server)
        ]
        matching.sort(
            key=lambda item: (
                item.status == "disconnected",
                self.person_of(item) != provider_account.person,
            )
        )
        return matching[0] if matching else None

    def _matching(
        self,
        candidates: Iterable[Integration],
        integration: Integration,
        provider_account: AccountIdentity,
        resource: AccountResource | None,
        user: str | None,
    ) -> Iterator[Integration]:
        for other in candidates:
            if other.id == integration.id or other.kind != integration.kind:
                continue
            if resource is not None and selected_resource_id(other) != resource.id:
                continue
            if other.status == "disconnected" and has_another_user(other, user):
                continue
            if self.is_same_account(other, provider_account, user):
                yield other


def selected_resource_id(integration: Integration) -> str | None:
    """Return the id of the resource that an integration is for; None if none is selected."""
    account = integration.account
    return account.resource.id if account is not None and account.resource is not None else None

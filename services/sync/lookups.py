"""What people look up at a provider for a mapping: accounts, conversations and persons.

A refusal of the provider becomes an error of the management API here, with the provider's reason and the fix.
"""

from collections.abc import Mapping
from typing import Final, TypeVar

from shared.connections.channel_accounts import ChannelAccounts, channel_account
from shared.connections.channel_calls import ChannelCalls, NotReached, OutcomeUnknown
from shared.connections.integration_record import USABLE, Integration
from shared.connections.integrations import IntegrationRepository
from shared.contracts.errors import Conflict, Invalid, NotFound, RetryLater
from shared.manifests.capabilities import NAMES
from shared.manifests.channel_models import Capability, ChannelSpec
from shared.manifests.channel_types import (
    Channel,
    ChannelFailure,
    Conversation,
    ListsConversations,
    ListsPeople,
    LooksUpConversations,
    Operation,
    Outgoing,
    Page,
    Person,
    ReadsProfiles,
    Sends,
    Sent,
)
from shared.manifests.provider_response import ProviderUnavailable
from shared.manifests.registry import Provider

_MAX_LISTED: Final = 10
_RETRY_AFTER_S: Final = 2.0
_TIMEOUT_S: Final = 10.0
"""For each step: a person waits for the result."""

T = TypeVar("T")


class Lookups:
    """Finds accounts of a workspace, and asks their providers. Methods raise `DatabaseUnavailable`.

    Those that ask a provider raise `NotFound` for what it does not have or show, `Conflict` if a person has
    to connect the account again, `Invalid` if the provider cannot do it, and `RetryLater`.
    """

    def __init__(
        self,
        accounts: ChannelAccounts,
        integrations: IntegrationRepository,
        calls: ChannelCalls,
        providers: Mapping[str, Provider],
    ) -> None:
        self._accounts = accounts
        self._integrations = integrations
        self._calls = calls
        self._providers = providers

    def provider(self, name: str) -> Provider:
        """Return a provider with conversations. Raises `Invalid`."""
        found = self._providers.get(name)
        if found is None or found.manifest.channel is None:
            raise Invalid(f"{name!r} has no conversations: choose slack, telegram or another with `channel`")
        return found

    async def account(
        self, workspace: str, provider: str | None, account: str | None, integration_id: str | None
    ) -> Integration:
        """Return a usable account by its integration, by its id, or the only one of a provider.

        Raises `NotFound`, and `Invalid` if there are several or it is of another provider.
        """
        if integration_id is not None:
            return await self._by_integration(workspace, provider, account, integration_id)
        if provider is None:
            raise Invalid("name the account: by integration_id, or by provider and account")
        self.provider(provider)
        if account is not None:
            return await self._accounts.find(workspace, provider, account)
        found = await self._integrations.of_providers([provider], workspace, limit=_MAX_LISTED * 10)
        ids = sorted({item.account.id for item in found or () if item.account and item.status in USABLE})
        if len(ids) == 1:
            return await self._accounts.find(workspace, provider, ids[0])
        if not ids and found is not None:
            raise NotFound(f"no connected account of {provider}: connect one, then try again")
        listed = ", ".join(ids[:_MAX_LISTED])
        raise Invalid(f"this workspace has several accounts of {provider}: name one in `account` ({listed})")

    async def _by_integration(
        self, workspace: str, provider: str | None, account: str | None, integration_id: str
    ) -> Integration:
        try:
            integration = await self._integrations.find(integration_id, workspace)
        except NotFound:
            raise NotFound(f"no integration {integration_id!r} in this workspace") from None
        self.provider(integration.provider)
        if provider not in (None, integration.provider):
            raise Invalid(f"{integration_id} is an account of {integration.provider}, not of {provider}")
        if integration.account is None:
            raise Invalid(f"{integration_id} has no account yet: connect it, then try again")
        if account not in (None, integration.account.id):
            raise Invalid(f"{integration_id} is the account {integration.account.id!r}: leave `account` out")
        # Another connection of the same account does as well, should this one not be usable.
        return await self._accounts.find(workspace, integration.provider, integration.account.id)

    # At the provider

    async def conversation(self, integration: Integration, conversation_id: str) -> Conversation:
        """Look a conversation up."""
        channel = self._channel(integration.provider)
        if not isinstance(channel, LooksUpConversations):
            raise self._missing(integration.provider, "look_up_conversations")
        operation = channel.conversation(conversation_id, channel_account(integration))
        return await self._run(operation, integration)

    async def conversations(self, integration: Integration, query: str, cursor: str | None) -> Page:
        """Return a page of the conversations that have `query` in their name; it may have none of them."""
        channel = self._channel(integration.provider)
        if not isinstance(channel, ListsConversations):
            raise self._missing(integration.provider, "list_conversations")
        return await self._run(
            channel.conversations(query, cursor, channel_account(integration)), integration
        )

    async def people(self, integration: Integration, query: str, cursor: str | None) -> Page:
        """Return a page of the persons that have `query` in their name or address; it may have none."""
        channel = self._channel(integration.provider)
        if not isinstance(channel, ListsPeople):
            raise self._missing(integration.provider, "list_people")
        return await self._run(channel.people(query, cursor, channel_account(integration)), integration)

    async def profile(self, integration: Integration, person_id: str) -> Person:
        """Return a person, whose `email` the provider has verified if there is one."""
        channel = self._channel(integration.provider)
        if not isinstance(channel, ReadsProfiles):
            raise self._missing(integration.provider, "read_profiles")
        return await self._run(channel.profile(person_id, channel_account(integration)), integration)

    async def send(self, integration: Integration, message: Outgoing) -> Sent:
        """Send a message that somebody wants to see arrive."""
        channel = self._channel(integration.provider)
        if not isinstance(channel, Sends):
            raise self._missing(integration.provider, "send")
        return await self._run(channel.send(message, channel_account(integration)), integration)

    async def _run(self, operation: Operation[T], integration: Integration) -> T:
        """Carry an operation out for an account, and translate how it fails."""
        try:
            return await self._calls.run(operation, integration.id, timeout_s=_TIMEOUT_S)
        except ChannelFailure as failure:
            if failure.kind == "later":
                raise RetryLater(failure.text, retry_after=failure.retry_after or _RETRY_AFTER_S) from None
            if failure.kind == "account":
                raise Conflict(failure.text) from None
            if failure.kind in {"conversation", "gone"}:
                raise NotFound(failure.text) from None
            raise Invalid(failure.text) from None
        except (NotReached, OutcomeUnknown) as error:
            raise ProviderUnavailable(
                f"{integration.provider} did not answer ({error}): try again", retry_after=_RETRY_AFTER_S
            ) from None

    def _channel(self, provider: str) -> Channel:
        channel = self.provider(provider).channel
        assert channel is not None  # noqa: S101 -- it has the section, so the code was loaded
        return channel

    def _missing(self, provider: str, capability: Capability) -> Invalid:
        spec: ChannelSpec | None = self._providers[provider].manifest.channel
        reason = spec.missing.get(capability) if spec else None
        return Invalid(reason or f"{provider} cannot {NAMES[capability]}")

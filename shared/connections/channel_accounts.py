"""Find connected accounts by provider and account id, as sync and importer use them; cached for a while."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from time import monotonic
from typing import Final, Generic, NamedTuple, TypeVar

from shared.connections.integration_record import COLLECTION as INTEGRATIONS
from shared.connections.integration_record import USABLE, Integration
from shared.connections.integrations import IntegrationRepository
from shared.contracts.envelope import Event
from shared.contracts.errors import NotFound
from shared.manifests.channel_types import Account
from shared.manifests.registry import Provider
from shared.runtime.configuration import Configuration
from shared.runtime.mongo import translate_errors

SUBSCRIPTIONS: Final = "watches"
"""The collection of provider subscriptions, which the oauth service writes."""
_READABLE: Final = USABLE | {"reauth_required"}
_APP_WEBHOOK_PREFIX: Final = "int_"
_MAX_AGE_S: Final = 30.0
_MAX_ENTRIES: Final = 10_000

K = TypeVar("K")
V = TypeVar("V")


class AccountRef(NamedTuple):
    """An account of a provider in a workspace."""

    workspace: str
    provider: str
    account: str


class ChannelAccounts:
    """Finds the integration of an account, and the account of a webhook event.

    Await `Configuration.current` before a batch: what another process has changed is forgotten then.
    """

    def __init__(
        self,
        integrations: IntegrationRepository,
        configuration: Configuration,
        providers: Mapping[str, Provider],
    ) -> None:
        self._integrations = integrations
        self._configuration = configuration
        self._providers = providers
        self._by_account: _Recent[AccountRef, Integration | None] = _Recent()
        self._by_endpoint: _Recent[tuple[str, str], AccountRef | None] = _Recent()
        configuration.follow(INTEGRATIONS, self._forget)

    async def find(self, workspace: str, provider: str, account: str) -> Integration:
        """Return the usable integration of an account; of several, the one that was connected first.

        Raises `NotFound`, which says what to do, if the workspace has none, and `DatabaseUnavailable`.
        """
        integration = await self._find(AccountRef(workspace, provider, account))
        if integration is None:
            raise NotFound(f"no account {account!r} of {provider} in this workspace: connect it")
        if integration.status not in USABLE:
            label = integration.account.label if integration.account else account
            name = f"the account {label or account} of {provider}"
            if integration.status == "disabled":
                raise NotFound(f"{name} is disabled: enable {integration.id}")
            raise NotFound(f"{name} is not connected any more: connect the account again")
        return integration

    async def problems(self, refs: Collection[AccountRef]) -> dict[AccountRef, str]:
        """Return why accounts cannot be used, and the fix, for those of them that cannot.

        Raises `DatabaseUnavailable`.
        """
        found: dict[AccountRef, str] = {}
        for ref in refs:
            try:
                await self.find(*ref)
            except NotFound as error:
                found[ref] = error.detail
        return found

    async def find_reading(self, ref: AccountRef) -> Integration | None:
        """Return the integration of an account whose events are read; None if it is switched off.

        One that has to be connected again is read: the hub has acknowledged its events.
        Raises `DatabaseUnavailable`.
        """
        found = await self._find(ref)
        return found if found is not None and found.status in _READABLE else None

    async def of_event(self, event: Event) -> AccountRef | None:
        """Return the account of an event of `webhooks.received`; None if it belongs to none.

        An app's webhook and a provider subscription belong to an account. Whoever has the secret of another
        endpoint could claim any account, so such an event has none. Raises `DatabaseUnavailable`.
        """
        provider = event.attributes.get("provider", "")
        endpoint = event.attributes.get("endpoint_id", "")
        known = self._providers.get(provider)
        if known is None or known.manifest.channel is None:
            return None
        key = (event.workspace, endpoint)
        found = self._by_endpoint.get(key)
        if found is None:
            found = (await self._read_account(event.workspace, provider, endpoint),)
            self._by_endpoint.put(key, found[0])
        return found[0]

    def channel(self, provider: str) -> object | None:
        """Return the `Channel` of a provider, to be asked for its Protocols; None if it has none."""
        known = self._providers.get(provider)
        return None if known is None else known.channel

    async def _find(self, ref: AccountRef) -> Integration | None:
        found = self._by_account.get(ref)
        if found is None:
            candidates = await self._integrations.of_account(ref.provider, ref.account, ref.workspace)
            found = (min(candidates, key=_preference, default=None),)
            self._by_account.put(ref, found[0])
        return found[0]

    async def _read_account(self, workspace: str, provider: str, endpoint: str) -> AccountRef | None:
        integration_id = endpoint
        if not endpoint.startswith(_APP_WEBHOOK_PREFIX):
            with translate_errors():
                document = await self._configuration.collection(SUBSCRIPTIONS).find_one(
                    {"endpoint_id": endpoint}, {"workspace": 1, "provider": 1, "integrations": 1}
                )
            if document is None or (document["workspace"], document["provider"]) != (workspace, provider):
                return None
            if not document["integrations"]:
                return None
            integration_id = document["integrations"][0]
        try:
            integration = await self._integrations.find(integration_id, workspace)
        except NotFound:
            return None
        account = integration.account
        return AccountRef(workspace, integration.provider, account.id) if account else None

    async def _forget(self, ids: Collection[str] | None) -> None:
        """Forget integrations that were changed, and what was not found: it may be there now."""
        self._by_endpoint.clear()
        if ids is None:
            self._by_account.clear()
            return
        changed = set(ids)
        self._by_account.drop(lambda item: item is None or item.status not in USABLE or item.id in changed)


def _preference(integration: Integration) -> tuple[bool, bool, datetime, str]:
    """Order the integrations of an account: usable ones, then readable ones, each by when they were made."""
    status = integration.status
    return status not in USABLE, status not in _READABLE, integration.created_at, integration.id


def channel_account(integration: Integration) -> Account:
    """Return what a channel needs to know of the account that it acts for."""
    account = integration.account
    if account is None:
        return Account("")
    return Account(account.id, {"label": account.label, "url": account.url, **account.attributes})


class _Recent(Generic[K, V]):
    """The most recent values, for half a minute each. `get` returns a value in a tuple: it may be None."""

    def __init__(self) -> None:
        self._entries: OrderedDict[K, tuple[float, V]] = OrderedDict()

    def get(self, key: K) -> tuple[V] | None:
        entry = self._entries.get(key)
        return None if entry is None or entry[0] < monotonic() else (entry[1],)

    def put(self, key: K, value: V) -> None:
        self._entries[key] = (monotonic() + _MAX_AGE_S, value)
        self._entries.move_to_end(key)
        while len(self._entries) > _MAX_ENTRIES:
            self._entries.popitem(last=False)

    def drop(self, condition: Callable[[V], bool]) -> None:
        for key in [key for key, (_, value) in self._entries.items() if condition(value)]:
            del self._entries[key]

    def clear(self) -> None:
        self._entries.clear()

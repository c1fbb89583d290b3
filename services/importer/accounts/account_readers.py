"""Open the reader of a connected account by the integration that an import names."""

from collections.abc import Mapping
from typing import Final

from services.importer.accounts.account_calls import DISCONNECTED, AccountCalls
from services.importer.accounts.account_reader import AccountReader, StoredLists
from services.importer.accounts.address_refresher import AddressRefresher
from services.importer.accounts.assembly import ProviderAccess
from services.importer.accounts.rate_limiter import RateLimiter, RateLimiterState
from services.importer.accounts.walk import Walk
from services.importer.reading.page_process import PageProcess
from services.importer.reading.reader_process import ReaderLimits
from shared.connections.channel_accounts import channel_account
from shared.connections.integration_record import USABLE, Integration
from shared.contracts.errors import Conflict, Invalid
from shared.manifests.channel_types import ChannelFailure
from shared.manifests.history_models import HistorySpec

_REFRESH_WAIT_S: Final = 60.0
"""A call for new addresses that has to wait for longer is made in another step."""


class AccountReaders:
    """Finds accounts that can be imported, and opens their readers. Methods raise `DatabaseUnavailable`."""

    def __init__(self, access: ProviderAccess, limits: ReaderLimits) -> None:
        self._integrations = access.integrations
        self._tokens = access.tokens
        self._calls = access.calls
        self._providers = access.providers
        self._limits = limits

    async def find(self, workspace: str, integration_id: str) -> Integration:
        """Return the integration of an account that can be imported.

        Raises `NotFound`, `Invalid` if the provider's history cannot be read by its API, and `Conflict` if
        the account has to be connected first.
        """
        integration = await self._integrations.find(integration_id, workspace)
        self._spec(integration.provider)
        if integration.account is None or integration.status not in USABLE:
            raise Conflict(
                f"the account is {integration.status.replace('_', ' ')}: connect it, then import it"
            )
        return integration

    async def open(
        self,
        workspace: str,
        integration_id: str,
        account: tuple[str, str],
        walk: Walk,
        *,
        max_wait_s: float,
        known: StoredLists | None = None,
        span: tuple[float, float] = (0.0, float("inf")),
        since: Mapping[str, float] | None = None,
        samples: bool = False,
    ) -> AccountReader:
        """Return the reader of an account, which is named by provider and id too.

        If the integration was replaced, another one of the same account serves. Raises `ChannelFailure` of
        kind `account` if there is none.
        """
        integration, spec, calls = await self._calls_of(
            workspace, integration_id, account, walk.limiter, max_wait_s=max_wait_s
        )
        process = PageProcess(integration.provider, spec, calls.send, self._limits)
        return AccountReader(
            process,
            calls,
            channel_account(integration),
            walk,
            known=known,
            span=span,
            since=since or {},
            samples=samples,
        )

    async def address_refresher(
        self,
        workspace: str,
        integration_id: str,
        account: tuple[str, str],
        state: RateLimiterState,
    ) -> AddressRefresher | None:
        """Return what gets new addresses of an account's files; None if they do not expire.

        Raises `ChannelFailure` of kind `account` if the account is not connected.
        """
        refreshed = self._providers[account[0]].refreshed_addresses
        if refreshed is None:
            return None
        _, spec, calls = await self._calls_of(
            workspace, integration_id, account, state, max_wait_s=_REFRESH_WAIT_S
        )
        return AddressRefresher(refreshed, spec, calls)

    async def _calls_of(
        self,
        workspace: str,
        integration_id: str,
        account: tuple[str, str],
        state: RateLimiterState,
        *,
        max_wait_s: float,
    ) -> tuple[Integration, HistorySpec, AccountCalls]:
        """Return the integration that serves an account, with its calls. Raises `ChannelFailure`."""
        found = [
            item for item in await self._integrations.of_account(*account, workspace) if _is_usable(item)
        ]
        found.sort(key=lambda item: (item.id != integration_id, item.created_at))
        if not found:
            raise ChannelFailure("account", "not_connected", DISCONNECTED)
        integration = found[0]
        spec = self._spec(integration.provider)
        limiter = RateLimiter(spec.rates, state)
        calls = AccountCalls(self._tokens, self._calls, integration.id, limiter, max_wait_s=max_wait_s)
        return integration, spec, calls

    def _spec(self, provider: str) -> HistorySpec:
        known = self._providers.get(provider)
        spec = known.manifest.history if known else None
        if spec is None:
            able = [name for name, item in self._providers.items() if item.manifest.history]
            raise Invalid(
                f"the history of {provider} cannot be read by its API: upload an export, or choose an "
                f"account of {', '.join(sorted(able))}"
            )
        return spec


def _is_usable(integration: Integration) -> bool:
    return integration.status in USABLE and integration.account is not None

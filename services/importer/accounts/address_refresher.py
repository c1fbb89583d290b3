"""Get new addresses of files from a connected account, where the provider's addresses expire."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from services.importer.accounts.account_calls import AccountCalls
from shared.manifests.channel_types import ChannelFailure, ExternalFile
from shared.manifests.history_models import HistorySpec
from shared.runtime.retry import Backoff

if TYPE_CHECKING:
    from shared.manifests.registry import RefreshedAddresses

_MAX_ATTEMPTS: Final = 4
_BACKOFF: Final = Backoff(first_s=1.0, max_s=10.0)


class AddressRefresher:
    """Asks for the addresses of one account's files, at the account's pace."""

    def __init__(
        self, refreshed_addresses: "RefreshedAddresses", spec: HistorySpec, calls: AccountCalls
    ) -> None:
        self._refreshed_addresses = refreshed_addresses
        self._spec = spec
        self._calls = calls

    async def refreshed(self, files: Sequence[ExternalFile], expired_at: float) -> Mapping[str, str]:
        """Return the new address of each file whose address has expired at a Unix time, by the old address.

        A file for which the provider has none is left out. Raises `CallWaits`, `DatabaseUnavailable`, and
        `ChannelFailure` if the account has to be connected again, or allows no call now.
        """
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            try:
                return await self._calls.run(self._refreshed_addresses(self._spec, files, expired_at))
            except ChannelFailure as failure:
                if failure.kind == "account" or failure.code == "rate_limited":
                    raise
                if failure.kind != "later":
                    break
            await asyncio.sleep(_BACKOFF.pause_s(attempt))
        return {}

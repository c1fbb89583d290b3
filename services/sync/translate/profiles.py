"""Names and pictures of people that a provider's events name by id only."""

import asyncio
from collections import OrderedDict
from collections.abc import Collection
from time import monotonic
from typing import Final

from services.sync.accounts import AccountRef, SyncAccounts, channel_account
from services.sync.calls import ChannelCalls, NotReached, OutcomeUnknown
from shared.contracts.errors import InterlinkError
from shared.manifests.channel_types import ChannelFailure, Person, ReadsProfiles
from shared.runtime.logs import Log

MAX_PER_BATCH: Final = 50
_MAX_AGE_S: Final = 3600.0
_UNKNOWN_AGE_S: Final = 60.0
_FAILED_AGE_S: Final = 10.0
_RETRY_PAUSE_S: Final = 0.2
_MAX_ENTRIES: Final = 20_000
_TIMEOUT_S: Final = 3.0
_CONCURRENT: Final = 8


class Profiles:
    """People in memory, for an hour; one whom the provider does not tell, for a minute.

    A provider that fails is asked again at once, and then left alone for ten seconds.
    """

    def __init__(self, accounts: SyncAccounts, calls: ChannelCalls, log: Log) -> None:
        self._accounts = accounts
        self._calls = calls
        self._log = log
        self._entries: OrderedDict[tuple[AccountRef, str], tuple[float, Person | None]] = OrderedDict()
        self._slots = asyncio.Semaphore(_CONCURRENT)

    def get(self, ref: AccountRef, person_id: str) -> Person | None:
        """Return a person that was loaded; None for an unknown one."""
        entry = self._entries.get((ref, person_id))
        return entry[1] if entry else None

    async def load(self, people: Collection[tuple[AccountRef, str]]) -> None:
        """Ask the providers for people who are not in memory, for at most three seconds."""
        now = monotonic()
        missing = [key for key in people if (entry := self._entries.get(key)) is None or entry[0] < now]
        if not missing:
            return
        tasks = [asyncio.create_task(self._read(*key)) for key in missing[:MAX_PER_BATCH]]
        _, late = await asyncio.wait(tasks, timeout=_TIMEOUT_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for key in missing[:MAX_PER_BATCH]:
            entry = self._entries.get(key)
            if entry is None or entry[0] < now:  # keep the name that was known
                self._keep(key, entry[1] if entry else None, _FAILED_AGE_S)

    async def _read(self, ref: AccountRef, person_id: str) -> None:
        channel = self._accounts.channel(ref.provider)
        if not isinstance(channel, ReadsProfiles):
            return
        person: Person | None = None
        while True:
            try:
                async with self._slots:
                    integration = await self._accounts.find(*ref)
                    operation = channel.profile(person_id, channel_account(integration))
                    person = await self._calls.run(operation, integration.id, timeout_s=_TIMEOUT_S)
                break
            except (ChannelFailure, NotReached, OutcomeUnknown) as error:
                if isinstance(error, ChannelFailure) and error.kind != "later":
                    self._log.info("profile.unknown", provider=ref.provider, error=str(error)[:200])
                    break
                pause_s = error.retry_after if isinstance(error, ChannelFailure) else None
                await asyncio.sleep(pause_s or _RETRY_PAUSE_S)  # until `load` gives up
            except InterlinkError as error:
                self._log.info("profile.unknown", provider=ref.provider, error=str(error)[:200])
                break
        self._keep((ref, person_id), person, _MAX_AGE_S if person else _UNKNOWN_AGE_S)

    def _keep(self, key: tuple[AccountRef, str], person: Person | None, age_s: float) -> None:
        self._entries[key] = (monotonic() + age_s, person)
        self._entries.move_to_end(key)
        while len(self._entries) > _MAX_ENTRIES:
            self._entries.popitem(last=False)

"""Names and pictures of people that a provider's events name by id only."""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Collection
from time import monotonic
from typing import Final

from shared.connections.channel_accounts import AccountRef, ChannelAccounts, channel_account
from shared.connections.channel_calls import ChannelCalls, NotReached, OutcomeUnknown
from shared.contracts.errors import InterlinkError
from shared.manifests.channel_types import ChannelFailure, Person, ReadsProfiles
from shared.runtime.limits import WorkspaceLimits
from shared.runtime.logs import Log

_MAX_PER_BATCH: Final = 50
_MAX_PER_WORKSPACE: Final = 10
"""Maximum number of people of one workspace that a batch loads, so that it does not delay others."""
_LATE_PAUSE_S: Final = 60.0
"""Time in which no people of a workspace are loaded, after its provider was too slow for a batch."""
_MAX_AGE_S: Final = 3600.0
_UNKNOWN_AGE_S: Final = 60.0
_RETRY_PAUSE_S: Final = 0.2
_MAX_ENTRIES: Final = 20_000
_TIMEOUT_S: Final = 2.0
_CONCURRENT: Final = 8


class Profiles:
    """Cache of people: for an hour, or for a minute if the provider did not return the person."""

    def __init__(self, accounts: ChannelAccounts, calls: ChannelCalls, log: Log) -> None:
        self._accounts = accounts
        self._calls = calls
        self._log = log
        self._entries: OrderedDict[tuple[AccountRef, str], tuple[float, Person | None]] = OrderedDict()
        self._slots = WorkspaceLimits(_CONCURRENT)
        self._paused_until: dict[str, float] = {}

    def get(self, ref: AccountRef, person_id: str) -> Person | None:
        """Return a person that was loaded; None for an unknown one."""
        entry = self._entries.get((ref, person_id))
        return entry[1] if entry else None

    async def load(self, people: Collection[tuple[AccountRef, str]]) -> None:
        """Load people who are not cached from their providers, within two seconds in all.

        If a provider takes longer, people of that workspace are not loaded for the next minute: not every
        batch is delayed. The more such workspaces there are, the shorter is the time for the others, because
        each of them would delay the messages of all. Of more people than the limits allow, the first ones are
        loaded.
        """
        now = monotonic()
        self._paused_until = {name: until for name, until in self._paused_until.items() if until > now}
        count_by_workspace: Counter[str] = Counter()
        wanted: list[tuple[int, AccountRef, str]] = []
        for ref, person_id in people:
            entry = self._entries.get((ref, person_id))
            if (entry is None or entry[0] < now) and ref.workspace not in self._paused_until:
                count_by_workspace[ref.workspace] += 1
                wanted.append((count_by_workspace[ref.workspace], ref, person_id))
        # Interleaved, so that one workspace cannot use the batch's whole limit.
        wanted = sorted(item for item in wanted if item[0] <= _MAX_PER_WORKSPACE)[:_MAX_PER_BATCH]
        if not wanted:
            return
        tasks = {asyncio.create_task(self._read(ref, person)): ref.workspace for _, ref, person in wanted}
        _, late = await asyncio.wait(tasks, timeout=_TIMEOUT_S / (1 + len(self._paused_until)))
        for task in late:
            task.cancel()
            self._paused_until[tasks[task]] = monotonic() + _LATE_PAUSE_S
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, ref: AccountRef, person_id: str) -> None:
        channel = self._accounts.channel(ref.provider)
        if not isinstance(channel, ReadsProfiles):
            return
        # If this is cancelled for its time, the cached value stays for a minute and is not loaded again.
        known = self.get(ref, person_id)
        self._entries[ref, person_id] = (monotonic() + _UNKNOWN_AGE_S, known)
        person: Person | None = None
        try:
            async with self._slots.hold(ref.workspace):
                person = await self._ask(channel, ref, person_id)
        except (ChannelFailure, InterlinkError) as error:
            self._log.info("profile.unknown", provider=ref.provider, error=str(error)[:200])
        if person is not None:
            self._entries[ref, person_id] = (monotonic() + _MAX_AGE_S, person)
        self._entries.move_to_end((ref, person_id))
        while len(self._entries) > _MAX_ENTRIES:
            self._entries.popitem(last=False)

    async def _ask(self, channel: ReadsProfiles, ref: AccountRef, person_id: str) -> Person:
        """Ask for a person, again and again while the provider fails: `load` ends it.

        Raises `ChannelFailure` for a person whom the provider does not tell, and as `ChannelAccounts.find`.
        """
        while True:
            integration = await self._accounts.find(*ref)
            operation = channel.profile(person_id, channel_account(integration))
            pause_s = _RETRY_PAUSE_S
            try:
                return await self._calls.run(operation, integration.id, timeout_s=_TIMEOUT_S)
            except ChannelFailure as failure:
                if failure.kind != "later":
                    raise
                pause_s = failure.retry_after or pause_s
            except (NotReached, OutcomeUnknown):
                pass
            await asyncio.sleep(pause_s)

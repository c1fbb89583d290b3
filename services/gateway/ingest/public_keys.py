"""Public keys that platforms publish at an address: fetched once, kept for an hour, asked for sparingly.

The addresses are on hosts of the manifests, or on those that a workspace has named where it describes the
sender itself. What a workspace has named is fetched on its behalf and kept for it alone, so its slow hosts
and names hold up nobody else's keys. A request that names a key which is not there yet (a platform that
rotated its keys) has the document fetched anew, but never more often than every half minute. Fetches are
bounded for each caller, so forged requests that name ever new keys neither make the hub call a platform
without end nor take the connections that others' keys need.
"""

import asyncio
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass
from time import monotonic
from typing import Final

from services.gateway.ingest.rate_limit import TokenBuckets
from shared.contracts.errors import RetryLater
from shared.runtime.egress.client import EgressClient
from shared.runtime.logs import Log
from shared.verification.scheme import FetchedKey

_CACHE_TTL_S: Final = 3600.0
_MAX_STALE_S: Final = 24 * 3600.0
"""A document that is older is not used, also when the platform does not answer."""
_REFETCH_INTERVAL_S: Final = 30.0
_FETCH_TIMEOUT_S: Final = 5.0
_MAX_DOCUMENTS: Final = 1000
_MAX_DOCUMENTS_PER_WORKSPACE: Final = 20
"""Documents that are kept for one workspace, of hosts that it has named."""
_FETCHES_PER_MINUTE: Final = 60
"""For one caller; of a platform that signs with several keys, each is fetched once."""
_MAX_CONCURRENT_FETCHES: Final = 3
"""For one caller."""

CALLER: Final[ContextVar[str]] = ContextVar("caller", default="")
"""On whose behalf keys are fetched: the address of the request's caller, as limits count it."""


class KeysUnavailable(RetryLater):
    """The platform's keys could not be fetched, so nothing can be said of the signature."""


@dataclass(slots=True)
class _CachedDocument:
    body: bytes
    at: float
    tried_at: float


_CacheKey = tuple[str, str]
"""On whose behalf (a workspace, or '' for the installation), and the address."""


class PublishedKeys:
    """The documents, by whom they are for and address."""

    def __init__(self, client: EgressClient, log: Log) -> None:
        self._client = client
        self._log = log
        self._known: dict[_CacheKey, _CachedDocument] = {}
        self._under_way: dict[_CacheKey, asyncio.Task[None]] = {}
        self._fetches = TokenBuckets(_FETCHES_PER_MINUTE)
        self._callers: Counter[str] = Counter()

    async def get(self, url: str, *, workspace: str = "", anew: bool = False) -> FetchedKey:
        """What is at the address. `anew` asks for it again, where that was not done a moment ago.

        `workspace` is who has named the address, '' where a manifest does. Raises `KeysUnavailable`.
        """
        place = workspace, url
        known = self._known.pop(place, None)
        if known:
            self._known[place] = known  # the last, as the one that was used last
        now = monotonic()
        due = known is None or now - known.at > _CACHE_TTL_S or anew
        if due and (known is None or now - known.tried_at > _REFETCH_INTERVAL_S):
            task = self._under_way.get(place) or self._begin(place)
            if task:
                await asyncio.shield(task)
                known = self._known.get(place)
        if known is None or not known.body or monotonic() - known.at > _MAX_STALE_S:
            raise KeysUnavailable("the keys that the platform signs with cannot be had now")
        return FetchedKey(url, known.body)

    def _begin(self, place: _CacheKey) -> "asyncio.Task[None] | None":
        """Start a fetch on behalf of the caller; None if he has caused too many."""
        caller = CALLER.get()
        room = self._fetches.of(caller)
        if room.wait() > 0 or self._callers[caller] >= _MAX_CONCURRENT_FETCHES:
            return None
        room.take()
        self._callers[caller] += 1
        task = self._under_way[place] = asyncio.create_task(self._fetch(place))

        def end(_: "asyncio.Task[None]") -> None:
            self._under_way.pop(place, None)
            self._callers[caller] -= 1
            if not self._callers[caller]:
                del self._callers[caller]

        task.add_done_callback(end)
        return task

    async def _fetch(self, place: _CacheKey) -> None:
        workspace, url = place
        answer = await self._client.get(url, timeout_s=_FETCH_TIMEOUT_S, workspace=workspace)
        now = monotonic()
        self._make_room(workspace)
        if answer.status == 200 and answer.body:
            self._known[place] = _CachedDocument(answer.body, now, now)
            return
        before = self._known.get(place)
        self._known[place] = (
            _CachedDocument(before.body, before.at, now) if before else _CachedDocument(b"", 0.0, now)
        )
        self._log.warning(
            "a platform's keys were not fetched", url=url, status=answer.status, failure=answer.failure
        )

    def _make_room(self, workspace: str) -> None:
        """Forget documents, so that one more of this workspace may be kept."""
        own = [each for each in self._known if each[0] == workspace] if workspace else []
        if len(own) >= _MAX_DOCUMENTS_PER_WORKSPACE:
            del self._known[own[0]]
        while len(self._known) >= _MAX_DOCUMENTS:
            empty = (each for each, known in self._known.items() if not known.body)
            del self._known[next(empty, None) or next(iter(self._known))]

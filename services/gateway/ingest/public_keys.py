"""Public keys that providers publish at a URL: fetched once, cached for an hour, refetched sparingly.

The hosts are those of the manifests, or those that a workspace named where it describes the sender itself. A
document from a host that a workspace named is fetched on behalf of that workspace and cached only for it, so
that slow hosts of one workspace delay no keys of others.

A request that names a key which is not in the cached document (the provider rotated its keys) causes a
refetch, but at most one every 30 seconds. Fetches are limited per caller: forged requests that name ever new
keys can neither make the hub call a provider without end nor use up the connections. A document has at most
64 KiB, and a fetch takes at most 5 seconds.
"""

import asyncio
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass
from time import monotonic
from typing import Final

from services.gateway.ingest.rate_limit import RateLimits, TokenBuckets
from shared.contracts.envelope import JSON_CONTENT_TYPE
from shared.contracts.errors import RetryLater
from shared.runtime.egress.client import EgressClient
from shared.runtime.logs import Log
from shared.verification.scheme import FetchedKey

_CACHE_TTL_S: Final = 3600.0
_MAX_STALE_S: Final = 24 * 3600.0
"""Age after which a document is not used any more, even if the provider does not answer."""
_REFETCH_INTERVAL_S: Final = 30.0
_FETCH_TIMEOUT_S: Final = 5.0
_MAX_DOCUMENT_BYTES: Final = 64 * 1024
_MAX_DOCUMENTS: Final = 1000
_MAX_DOCUMENTS_PER_WORKSPACE: Final = 20
"""Cached documents of hosts that one workspace named."""
_FETCHES_PER_MINUTE: Final = 60
"""Fetches per caller. Each key of a provider that signs with several keys is one fetch."""
_MAX_CONCURRENT_FETCHES: Final = 3
"""Fetches per caller at a time."""

CALLER: Final[ContextVar[str]] = ContextVar("caller", default="")
"""Caller of the current request. Fetches count towards its limits. `Receiver` sets it to
`body.client_address`."""


class KeysUnavailable(RetryLater):
    """The provider's keys could not be fetched, so the signature cannot be checked."""


@dataclass(slots=True)
class _CachedDocument:
    body: bytes
    """Empty if no fetch has succeeded yet."""
    fetched_at: float
    attempted_at: float
    """Both on the monotonic clock."""


_CacheKey = tuple[str, str, bytes]
"""Workspace that the document is fetched for ('' for the installation), URL, and body to post.

The body contains credentials. They stay in memory as long as the document.
"""


class PublishedKeys:
    """Fetches and caches documents with public keys."""

    def __init__(self, client: EgressClient, log: Log, limits: RateLimits | None = None) -> None:
        self._client = client
        self._log = log
        self._cache: dict[_CacheKey, _CachedDocument] = {}
        self._fetching: dict[_CacheKey, asyncio.Task[None]] = {}
        self._fetch_limits = TokenBuckets(_FETCHES_PER_MINUTE, limits=limits, kind="key fetches")
        self._fetches_by_caller: Counter[str] = Counter()

    async def get(
        self, url: str, *, body: bytes = b"", workspace: str = "", refresh: bool = False
    ) -> FetchedKey:
        """Return the document at a URL, from the cache if it is fresh.

        `refresh` fetches it again unless that was tried within the last 30 seconds. `workspace` configured
        the URL or the credentials in `body`; '' if the URL is from a manifest. A `body`, JSON, is sent with
        POST. Raises `KeysUnavailable`.
        """
        key = workspace, url, body
        document = self._cache.pop(key, None)
        if document:
            self._cache[key] = document  # back at the end: the cache evicts from its beginning
        now = monotonic()
        due = document is None or now - document.fetched_at > _CACHE_TTL_S or refresh
        if due and (document is None or now - document.attempted_at > _REFETCH_INTERVAL_S):
            task = self._fetching.get(key) or self._start_fetch(key)
            if task:
                await asyncio.shield(task)  # shared: the end of one request must not cancel it for others
                document = self._cache.get(key)
        if document is None or not document.body or monotonic() - document.fetched_at > _MAX_STALE_S:
            raise KeysUnavailable("the provider's public keys could not be fetched")
        return FetchedKey(url, document.body)

    def _start_fetch(self, key: _CacheKey) -> "asyncio.Task[None] | None":
        """Start a fetch on behalf of the current caller; return None if it is over its limits."""
        caller = CALLER.get()
        if self._fetches_by_caller[caller] >= _MAX_CONCURRENT_FETCHES:
            return None
        if self._fetch_limits.of(caller).try_take() > 0:
            return None
        # With its own credentials, a workspace is limited as a whole: many callers must not use them up.
        workspace, _, body = key
        if body and self._fetch_limits.of(f"workspace {workspace}").try_take() > 0:
            return None
        self._fetches_by_caller[caller] += 1
        task = self._fetching[key] = asyncio.create_task(self._fetch(key))

        def end(_: "asyncio.Task[None]") -> None:
            self._fetching.pop(key, None)
            self._fetches_by_caller[caller] -= 1
            if not self._fetches_by_caller[caller]:
                del self._fetches_by_caller[caller]

        task.add_done_callback(end)
        return task

    async def _fetch(self, key: _CacheKey) -> None:
        """Fetch a document into the cache. After a failure the earlier document stays, if there is one."""
        workspace, url, body = key
        answer = await self._client.call(
            "POST" if body else "GET",
            url,
            {"Content-Type": JSON_CONTENT_TYPE} if body else {},
            body or None,
            timeout_s=_FETCH_TIMEOUT_S,
            max_bytes=_MAX_DOCUMENT_BYTES + 1,
            workspace=workspace,
        )
        now = monotonic()
        self._evict(workspace)
        # The beginning of a document that is too long must not take the place of a good one.
        if answer.status == 200 and 0 < len(answer.body) <= _MAX_DOCUMENT_BYTES:
            self._cache[key] = _CachedDocument(answer.body, now, now)
            return
        before = self._cache.get(key)
        self._cache[key] = (
            _CachedDocument(before.body, before.fetched_at, now) if before else _CachedDocument(b"", 0.0, now)
        )
        self._log.warning(
            "public_keys.fetch_failed",
            url=url,
            status=answer.status,
            failure=answer.failure,
            bytes=len(answer.body),
        )

    def _evict(self, workspace: str) -> None:
        """Make room for one more document of this workspace."""
        own = [key for key in self._cache if key[0] == workspace] if workspace else []
        if len(own) >= _MAX_DOCUMENTS_PER_WORKSPACE:
            # Forged requests that name ever new keys leave empty documents: the good ones stay.
            empty = (key for key in own if not self._cache[key].body)
            del self._cache[next(empty, own[0])]
        while len(self._cache) >= _MAX_DOCUMENTS:
            empty = (key for key, document in self._cache.items() if not document.body)
            del self._cache[next(empty, None) or next(iter(self._cache))]

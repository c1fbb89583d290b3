"""Look up names that others chose, so that no workspace can slow down the lookups of another.

`getaddrinfo` blocks a thread until the name's servers answer, and all workspaces share a few threads. Here a
lookup is two datagrams on the event loop. Bounds:
- concurrent lookups of one name share one query;
- a workspace has at most 16 queries under way, and further ones wait only for its own;
- a query ends after 5 s;
- addresses are cached for the record's lifetime, at most 10 s, and a failure for 5 s;
- a name that was too slow the last time fails at once, until a query in the background has succeeded.

Names are looked up in the system's hosts file, then at its DNS servers. They are absolute: the search domains
of `resolv.conf` are for the operator's names only. `localhost` is this machine (RFC 6761).

This module does not check addresses: the caller has to check each of them before each connection.
"""

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from time import monotonic
from typing import Final

from shared.runtime.egress.dns_exchange import query_server
from shared.runtime.egress.system_config import SystemConfig
from shared.runtime.limits import WorkspaceLimits
from shared.wire.dns import (
    Addresses,
    AddressType,
    MalformedAnswer,
    NoSuchName,
    ServerAddress,
    ServerFailed,
    is_name,
)

_QUERY_TIMEOUT_S: Final = 5.0
_TRY_TIMEOUTS_S: Final = (1.0, 1.5, 2.5)
"""Seconds to wait for each try, at one server after the other; their sum is the query's timeout."""
_SECOND_FAMILY_TIMEOUT_S: Final = 0.5
"""For the IPv6 addresses, once the IPv4 addresses of a name are there."""
_MAX_QUERIES_PER_WORKSPACE: Final = 16
_MAX_TTL_S: Final = 10.0
_FAILURE_TTL_S: Final = 5.0
_MAX_CACHED: Final = 10_000
_MAX_ADDRESSES: Final = 64
_LOCALHOST_ADDRESSES: Final = ("127.0.0.1", "::1")
_RECHECK_TIMEOUT_S: Final = 0.02
"""For the query of a name whose last query took too long; the query itself goes on in the background."""
_TOO_SLOW: Final = "the name was not resolved in time"
_TOO_MANY: Final = "too many lookups of this workspace are under way"
_NO_SUCH_NAME: Final = "the name does not resolve"


class NotResolved(socket.gaierror):
    """The name has no addresses, or no server answered in time; the text says which."""

    @property
    def permanent(self) -> bool:
        """True if the name has no addresses. If False, a later lookup may find some."""
        return self.errno == socket.EAI_NONAME

    def __str__(self) -> str:
        return str(self.args[-1])


def _not_resolved(detail: str, code: int = socket.EAI_AGAIN) -> NotResolved:
    return NotResolved(code, detail)


@lru_cache(maxsize=512)
def literal_address(host: str) -> str | None:
    """Return the address that a host stands for in any form that the system accepts (`127.1`, `0x7f.1`).

    Return None if the host is a name.
    """
    try:
        [info, *_] = socket.getaddrinfo(host.rstrip("."), None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return None
    return str(info[4][0])


@dataclass(frozen=True, slots=True)
class _Cached:
    """The result of a query, valid until `expires_at` on the monotonic clock, in seconds."""

    addresses: tuple[str, ...]
    failure: tuple[int, str] | None
    expires_at: float

    def result(self) -> tuple[str, ...]:
        if self.failure is not None:
            raise NotResolved(*self.failure)
        return self.addresses


class DnsResolver:
    """Looks up names, with a cache and limits per workspace. One object serves a whole process.

    `servers` are the DNS servers to ask instead of the system's. `timeout_s` bounds one query.
    """

    def __init__(self, servers: Sequence[ServerAddress] = (), *, timeout_s: float = _QUERY_TIMEOUT_S) -> None:
        self._system = SystemConfig()
        self._servers = tuple(servers)
        self._timeout_s = timeout_s
        self._limits = WorkspaceLimits(_MAX_QUERIES_PER_WORKSPACE)
        self._cache: OrderedDict[str, _Cached] = OrderedDict()
        self._queries: dict[str, asyncio.Task[tuple[str, ...]]] = {}

    async def lookup(self, host: str, workspace: str) -> tuple[str, ...]:
        """Return the addresses of a name, IPv4 first; at least one. Raises `NotResolved`.

        `workspace` is the workspace that the lookup is made for, empty for the installation itself.
        """
        name = host.lower().removesuffix(".")
        if not is_name(name):
            raise _not_resolved(_NO_SUCH_NAME, socket.EAI_NONAME)
        if local := self._system.hosts().get(name):
            return local
        if name == "localhost" or name.endswith(".localhost"):
            return _LOCALHOST_ADDRESSES
        was_slow = self._was_slow(name)
        while True:
            if cached := self._cached(name):
                return cached.result()
            query = self._queries.get(name)
            if query is None:
                try:
                    async with asyncio.timeout(_RECHECK_TIMEOUT_S if was_slow else self._timeout_s):
                        await self._limits.acquire(workspace)
                except TimeoutError:
                    raise _not_resolved(_TOO_SLOW if was_slow else _TOO_MANY) from None
                if name in self._queries or self._cached(name):  # another lookup was faster
                    self._limits.release(workspace)
                    continue
                query = self._start_query(name, workspace)
            # `wait` does not cancel the query when this caller is cancelled: others may wait for it, and its
            # result goes into the cache.
            done, _ = await asyncio.wait([query], timeout=_RECHECK_TIMEOUT_S if was_slow else None)
            if not done:
                raise _not_resolved(_TOO_SLOW)
            return query.result()

    def _was_slow(self, name: str) -> bool:
        """Return whether the last query of this name took too long, also after its failure has expired.

        Nobody waits for the next query of such a name. Otherwise each lookup after the failure's 5 s would
        occupy what its caller shares with others, such as a delivery's permit, for the whole timeout.
        """
        last = self._cache.get(name)
        return last is not None and last.failure is not None and last.failure[1] == _TOO_SLOW

    def _cached(self, name: str) -> _Cached | None:
        cached = self._cache.get(name)
        return cached if cached is not None and cached.expires_at > monotonic() else None

    def _start_query(self, name: str, workspace: str) -> "asyncio.Task[tuple[str, ...]]":
        """Start the query of a name in the background. Its end releases the workspace's permit."""

        def finish(task: "asyncio.Task[tuple[str, ...]]") -> None:
            del self._queries[name]
            self._limits.release(workspace)
            if not task.cancelled():
                task.exception()  # mark it as retrieved: asyncio complains about errors that nobody reads

        task = self._queries[name] = asyncio.create_task(self._query(name))
        task.add_done_callback(finish)
        return task

    async def _query(self, name: str) -> tuple[str, ...]:
        try:
            async with asyncio.timeout(self._timeout_s):
                addresses, ttl = await self._ask_both(name)
        except (TimeoutError, NotResolved) as error:
            failure = error if isinstance(error, NotResolved) else _not_resolved(_TOO_SLOW)
            code, detail = failure.args
            self._store(name, _Cached((), (code, detail), monotonic() + _FAILURE_TTL_S))
            raise failure from None
        self._store(name, _Cached(addresses, None, monotonic() + min(ttl, _MAX_TTL_S)))
        return addresses

    def _store(self, name: str, result: _Cached) -> None:
        self._cache[name] = result
        self._cache.move_to_end(name)
        while len(self._cache) > _MAX_CACHED:
            self._cache.popitem(last=False)

    async def _ask_both(self, name: str) -> tuple[tuple[str, ...], float]:
        """Return the addresses of both families and their lifetime in seconds. Raises `NotResolved`."""
        tasks = [asyncio.create_task(self._ask(name, kind)) for kind in (AddressType.A, AddressType.AAAA)]
        first, second = tasks
        try:
            await asyncio.wait([first])
            if isinstance(first.exception(), NoSuchName):  # NXDOMAIN holds for all record types of the name
                raise _not_resolved(_NO_SUCH_NAME, socket.EAI_NONAME)
            await asyncio.wait(
                [second], timeout=_SECOND_FAMILY_TIMEOUT_S if _answer_with_addresses(first) else None
            )
            answers = [answer for task in tasks if (answer := _answer_with_addresses(task))]
            if not answers:
                raise _combined_failure(tasks)
            addresses = tuple(address for answer in answers for address in answer.found)
            if len(addresses) > _MAX_ADDRESSES:
                raise _not_resolved("the name has too many addresses", socket.EAI_FAIL)
            return addresses, min(answer.ttl for answer in answers)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, name: str, kind: AddressType) -> Addresses:
        """Return the addresses of one family, from the first server that answers.

        Raises `NoSuchName`, or the last server's error: `ServerFailed`, `MalformedAnswer`, `TimeoutError`,
        `OSError` or `EOFError`.
        """
        servers = self._servers or self._system.servers()
        error: Exception = ServerFailed("no server")
        for attempt, timeout_s in enumerate(_TRY_TIMEOUTS_S):
            server = servers[attempt % len(servers)]
            try:
                async with asyncio.timeout(timeout_s):
                    return await query_server(server, name, kind)
            except (ServerFailed, MalformedAnswer, OSError, EOFError) as failure:  # OSError: TimeoutError too
                error = failure
        raise error


def _answer_with_addresses(task: "asyncio.Task[Addresses]") -> Addresses | None:
    """Return the answer of a finished query if it has addresses, otherwise None."""
    if not task.done() or task.cancelled() or task.exception() is not None:
        return None
    return task.result() if task.result().found else None


def _combined_failure(tasks: "Sequence[asyncio.Task[Addresses]]") -> NotResolved:
    """Return the error for a name of which neither family has addresses."""
    errors = [task.exception() for task in tasks]
    if all(error is None or isinstance(error, NoSuchName) for error in errors):
        return _not_resolved(_NO_SUCH_NAME, socket.EAI_NONAME)
    if any(isinstance(error, TimeoutError) for error in errors):
        return _not_resolved(_TOO_SLOW)
    return _not_resolved("the DNS servers could not resolve the name")

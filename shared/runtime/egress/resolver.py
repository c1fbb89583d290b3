"""Look up the addresses of names that others chose, so that no workspace can slow down another one's lookups.

`getaddrinfo` blocks a thread for as long as a name's servers like, and the threads are few and shared. Here a
lookup is two datagrams on the event loop. Bounds:
- concurrent lookups of one name share one query;
- a workspace has at most 16 queries under way, and what exceeds them waits only for its own;
- a query ends after 5 s;
- what was found is remembered for the record's lifetime, at most 10 s, and a failure for 5 s;
- a name that was too slow the last time fails at once, until a query beside has succeeded.

Names come from the system's hosts file, then from its DNS servers. They are absolute: the search domains of
resolv.conf are the operator's, not a stranger's. `localhost` is this machine (RFC 6761).

Addresses are not judged here: whoever connects has to check each of them, each time.
"""

import asyncio
import os
import secrets
import socket
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from time import monotonic
from typing import Final

from shared.runtime.limits import WorkspaceLimits
from shared.wire.dns import (
    DNS_PORT,
    MAX_MESSAGE_BYTES,
    Addresses,
    AddressType,
    MalformedAnswer,
    NoSuchName,
    ServerAddress,
    ServerFailed,
    Truncated,
    decode_answer,
    encode_query,
    is_name,
)

_QUERY_TIMEOUT_S: Final = 5.0
_TRY_TIMEOUTS_S: Final = (1.0, 1.5, 2.5)
"""Waits for an answer before the next server, or the same one, is asked; together the query's timeout."""
_SECOND_FAMILY_TIMEOUT_S: Final = 0.5
"""How long a name that has IPv4 addresses is kept waiting for its IPv6 ones."""
_MAX_QUERIES_PER_WORKSPACE: Final = 16
_MAX_TTL_S: Final = 10.0
_FAILURE_TTL_S: Final = 5.0
_MAX_CACHED: Final = 10_000
_MAX_ADDRESSES: Final = 64
_RELOAD_INTERVAL_S: Final = 1.0
_LOCALHOST_ADDRESSES: Final = ("127.0.0.1", "::1")
_RECHECK_TIMEOUT_S: Final = 0.02
_TOO_SLOW: Final = "the name was not resolved in time"
_TOO_MANY: Final = "too many lookups of this workspace are under way"
_NO_SUCH_NAME: Final = "the name does not resolve"


class NotResolved(socket.gaierror):
    """The name has no addresses, or nobody could tell them in time; the text says which."""

    @property
    def permanent(self) -> bool:
        """Whether the name has no addresses; otherwise another lookup may find some."""
        return self.errno == socket.EAI_NONAME

    def __str__(self) -> str:
        return str(self.args[-1])


def _not_resolved(why: str, code: int = socket.EAI_AGAIN) -> NotResolved:
    return NotResolved(code, why)


def literal_address(host: str) -> str | None:
    """Return the address that a host is, in any form that the system takes (`127.1`, `0x7f.1`), or None."""
    try:
        [answer, *_] = socket.getaddrinfo(host.rstrip("."), None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return None
    return str(answer[4][0])


@dataclass(frozen=True, slots=True)
class _Cached:
    """The result of a query, until `expires_at` of the monotonic clock."""

    addresses: tuple[str, ...]
    failure: tuple[int, str] | None
    expires_at: float

    def result(self) -> tuple[str, ...]:
        if self.failure is not None:
            raise NotResolved(*self.failure)
        return self.addresses


class DnsResolver:
    """Looks up names. One object serves a whole process.

    `servers`: the DNS servers to ask instead of the system's.
    """

    def __init__(self, servers: Sequence[ServerAddress] = (), *, timeout_s: float = _QUERY_TIMEOUT_S) -> None:
        self._system = _SystemConfig()
        self._servers = tuple(servers)
        self._timeout_s = timeout_s
        self._limits = WorkspaceLimits(_MAX_QUERIES_PER_WORKSPACE)
        self._cache: OrderedDict[str, _Cached] = OrderedDict()
        self._under_way: dict[str, asyncio.Task[tuple[str, ...]]] = {}

    async def lookup(self, host: str, workspace: str) -> tuple[str, ...]:
        """Return the addresses of a name, IPv4 first; at least one. Raises `NotResolved`.

        `workspace` is on whose behalf it is looked up; the empty text is the installation itself.
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
            query = self._under_way.get(name)
            if query is None:
                try:
                    async with asyncio.timeout(_RECHECK_TIMEOUT_S if was_slow else self._timeout_s):
                        await self._limits.acquire(workspace)
                except TimeoutError:
                    raise _not_resolved(_TOO_SLOW if was_slow else _TOO_MANY) from None
                if name in self._under_way or self._cached(name):  # another one was faster
                    self._limits.release(workspace)
                    continue
                query = self._begin(name, workspace)
            # Whoever goes away does not end it: others wait for it, and its result is remembered.
            done, _ = await asyncio.wait([query], timeout=_RECHECK_TIMEOUT_S if was_slow else None)
            if not done:
                raise _not_resolved(_TOO_SLOW)
            return query.result()

    def _was_slow(self, name: str) -> bool:
        """Return whether the last query took too long. The next one goes on beside, and nobody waits for it.

        Otherwise each lookup after the failure is forgotten would hold up what its caller shares.
        """
        last = self._cache.get(name)
        return last is not None and last.failure is not None and last.failure[1] == _TOO_SLOW

    def _cached(self, name: str) -> _Cached | None:
        cached = self._cache.get(name)
        return cached if cached is not None and cached.expires_at > monotonic() else None

    def _begin(self, name: str, workspace: str) -> "asyncio.Task[tuple[str, ...]]":
        def ended(task: "asyncio.Task[tuple[str, ...]]") -> None:
            del self._under_way[name]
            self._limits.release(workspace)
            if not task.cancelled():
                task.exception()  # it is remembered, also when nobody waits for it any more

        task = self._under_way[name] = asyncio.create_task(self._query(name))
        task.add_done_callback(ended)
        return task

    async def _query(self, name: str) -> tuple[str, ...]:
        try:
            async with asyncio.timeout(self._timeout_s):
                addresses, ttl = await self._ask_both(name)
        except (TimeoutError, NotResolved) as error:
            failure = error if isinstance(error, NotResolved) else _not_resolved(_TOO_SLOW)
            code, why = failure.args
            self._remember(name, _Cached((), (code, why), monotonic() + _FAILURE_TTL_S))
            raise failure from None
        self._remember(name, _Cached(addresses, None, monotonic() + min(ttl, _MAX_TTL_S)))
        return addresses

    def _remember(self, name: str, result: _Cached) -> None:
        self._cache[name] = result
        self._cache.move_to_end(name)
        while len(self._cache) > _MAX_CACHED:
            self._cache.popitem(last=False)

    async def _ask_both(self, name: str) -> tuple[tuple[str, ...], float]:
        """Return the addresses of both families, and for how many seconds they hold. Raises `NotResolved`."""
        tasks = [asyncio.create_task(self._ask(name, kind)) for kind in (AddressType.A, AddressType.AAAA)]
        first, second = tasks
        try:
            await asyncio.wait([first])
            if isinstance(first.exception(), NoSuchName):  # that is said of all its records
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
        """Ask one server after the other. Raises `NoSuchName`, `ServerFailed`, `TimeoutError`, `OSError`."""
        servers = self._servers or self._system.servers()
        error: Exception = ServerFailed("no server")
        for number, wait_s in enumerate(_TRY_TIMEOUTS_S):
            server = servers[number % len(servers)]
            try:
                async with asyncio.timeout(wait_s):
                    return await _query_udp(server, name, kind)
            except (ServerFailed, MalformedAnswer, OSError, EOFError) as failed:  # TimeoutError too
                error = failed
        raise error


def _answer_with_addresses(task: "asyncio.Task[Addresses]") -> Addresses | None:
    """Return the answer of a finished query if it has addresses."""
    if not task.done() or task.cancelled() or task.exception() is not None:
        return None
    return task.result() if task.result().found else None


def _combined_failure(tasks: "Sequence[asyncio.Task[Addresses]]") -> NotResolved:
    """Return why neither family has addresses."""
    errors = [task.exception() for task in tasks]
    if all(error is None or isinstance(error, NoSuchName) for error in errors):
        return _not_resolved(_NO_SUCH_NAME, socket.EAI_NONAME)
    if any(isinstance(error, TimeoutError) for error in errors):
        return _not_resolved(_TOO_SLOW)
    return _not_resolved("the DNS servers could not resolve the name")


# One question to one server


class _DnsDatagramProtocol(asyncio.DatagramProtocol):
    """Waits for the answer among the datagrams that one server sends to one port."""

    def __init__(self, name: str, kind: AddressType, query_id: int) -> None:
        self._asked = (name, kind, query_id)
        self.answer: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002 -- it is connected
        if self.answer.done():
            return
        try:
            self.answer.set_result(decode_answer(data, *self._asked))
        except MalformedAnswer:
            return  # anybody could have sent it
        except (Truncated, NoSuchName, ServerFailed) as error:
            self.answer.set_exception(error)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


async def _query_udp(server: ServerAddress, name: str, kind: AddressType) -> Addresses:
    """Ask over UDP, each time from another port and with another id, and over TCP what did not fit.

    Raises what `decode_answer` does but `Truncated`; `OSError`, `EOFError`.
    """
    query_id = secrets.randbits(16)
    # Connected here: the loop would look the server's address up, which uvloop does in a thread.
    connection = socket.socket(socket.AF_INET6 if ":" in server[0] else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        connection.setblocking(False)
        connection.connect(server)
        transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _DnsDatagramProtocol(name, kind, query_id), sock=connection
        )
    except BaseException:
        connection.close()
        raise
    try:
        transport.sendto(encode_query(name, kind, query_id))
        return await protocol.answer
    except Truncated:
        return await _query_tcp(server, name, kind, query_id)
    finally:
        transport.close()


async def _query_tcp(server: ServerAddress, name: str, kind: AddressType, query_id: int) -> Addresses:
    reader, writer = await asyncio.open_connection(*server, limit=MAX_MESSAGE_BYTES)
    try:
        query = encode_query(name, kind, query_id)
        writer.write(len(query).to_bytes(2) + query)
        length = int.from_bytes(await reader.readexactly(2))
        if length > MAX_MESSAGE_BYTES:
            raise ServerFailed("the answer is too long")
        answer = await reader.readexactly(length)
    finally:
        writer.transport.abort()
    try:
        return decode_answer(answer, name, kind, query_id)
    except Truncated:
        raise ServerFailed("the answer is cut off") from None


# What the system is configured with


class _SystemConfig:
    """The system's DNS servers and hosts file, read again when they change."""

    def __init__(self) -> None:
        self._hosts = _ReloadedFile(Path("/etc/hosts"))
        self._resolv_conf = _ReloadedFile(Path("/etc/resolv.conf"))
        self._names: dict[str, tuple[str, ...]] = {}
        self._servers: tuple[ServerAddress, ...] = ()

    def hosts(self) -> dict[str, tuple[str, ...]]:
        if (text := self._hosts.changed()) is not None:
            self._names = parse_hosts(text)
        return self._names

    def servers(self) -> tuple[ServerAddress, ...]:
        if (text := self._resolv_conf.changed()) is not None:
            self._servers = tuple(_parse_resolv_conf(text))
        return self._servers or (("127.0.0.1", DNS_PORT),)


class _ReloadedFile:
    """A small file that is looked at once a second at most."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next_check_at = 0.0
        self._seen: tuple[int, int] | None = None

    def changed(self) -> str | None:
        """Return its text if it is another one than at the last call; a file that is not there is empty."""
        now = monotonic()
        if now < self._next_check_at:
            return None
        self._next_check_at = now + _RELOAD_INTERVAL_S
        with suppress(OSError):
            status = os.stat(self._path)  # noqa: PTH116 -- on the event loop, and quick
            seen = (status.st_mtime_ns, status.st_ino)
            if seen == self._seen:
                return None
            text = self._path.read_text("utf-8", errors="replace")
            self._seen = seen
            return text
        return None


def parse_hosts(text: str) -> dict[str, tuple[str, ...]]:
    """Return the addresses of each name in a hosts file, IPv4 first."""
    found: dict[str, tuple[str, ...]] = {}
    for address, *names in _config_lines(text):
        with suppress(ValueError):
            known = ip_address(address)
            for name in names:
                others = found.get(name.lower().removesuffix("."), ())
                both = (str(known), *others) if known.version == 4 else (*others, str(known))
                found[name.lower().removesuffix(".")] = tuple(dict.fromkeys(both))
    return found


def _parse_resolv_conf(text: str) -> Iterator[ServerAddress]:
    for keyword, *values in _config_lines(text):
        if keyword == "nameserver" and values:
            with suppress(ValueError):
                yield str(ip_address(values[0])), DNS_PORT


def _config_lines(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if words := line.partition("#")[0].partition(";")[0].split():
            yield words

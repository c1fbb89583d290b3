"""A DNS server on loopback: answers as told, strictly, and misbehaves on request.

It reads and writes messages with dnspython, which shares no code with what it tests.
"""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Self, cast

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset


@dataclass
class Reply:
    """What is answered for one name.

    `addresses`: of both families; several lists are given out in turn (rebinding), the last one for good.
    `truncated`: over UDP only the flag is sent. `garbage`: datagrams that are sent before the answer.
    """

    addresses: Sequence[str | Sequence[str]] = ()
    ttl: int = 300
    delay_s: float = 0.0
    rcode: dns.rcode.Rcode = dns.rcode.NOERROR
    truncated: bool = False
    garbage: Sequence[bytes] = ()
    alias: str = ""
    """A name that the asked one is an alias of (CNAME)."""
    silent: frozenset[str] = frozenset()
    """Types that are never answered, but with garbage."""
    given: dict[str, int] = field(default_factory=dict)
    """How often each type was answered."""

    def next_addresses(self, kind: str) -> Sequence[str]:
        number = self.given.get(kind, 0)
        self.given[kind] = number + 1
        if all(isinstance(each, str) for each in self.addresses):
            found: Sequence[str | Sequence[str]] = self.addresses
        else:
            chosen = self.addresses[min(number, len(self.addresses) - 1)]
            found = [chosen] if isinstance(chosen, str) else chosen
        return [str(address) for address in found if (":" in str(address)) == (kind == "AAAA")]


class DnsServer:
    """Listens on UDP and TCP at one port of 127.0.0.1, in a thread of its own; usable as a context manager.

    `replies` by name; `*.example` is for every name right below `example`. What is not there does not exist
    (NXDOMAIN).
    """

    def __init__(self, replies: dict[str, Reply] | None = None, *, port: int = 0) -> None:
        self.replies = dict(replies or {})
        self.asked: list[tuple[str, str]] = []
        """Name and type of each query, in order."""
        self.faults: list[str] = []
        """Queries that no resolver should send."""
        self.in_progress: dict[str, int] = {}
        """Queries that wait for their answer, by name."""
        self.max_concurrent = 0
        self.port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._close: list[asyncio.BaseTransport | asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        """For `INTERLINK_DNS_SERVERS`."""
        return f"127.0.0.1:{self.port}"

    def count(self, name: str, kind: str = "A") -> int:
        """How often a name was asked for."""
        return self.asked.count((name, kind))

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(60)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        assert not self.faults

    async def _start(self) -> None:
        deadline = monotonic() + 10
        while True:  # the port has to be free for both
            server = await asyncio.start_server(self._talk, "127.0.0.1", self.port)
            port = server.sockets[0].getsockname()[1]
            try:
                transport, _ = await self._loop.create_datagram_endpoint(
                    lambda: _Datagrams(self), local_addr=("127.0.0.1", port)
                )
            except OSError:
                server.close()
                assert monotonic() < deadline
            else:
                self.port, self._close = port, [server, transport]
                return

    async def _stop(self) -> None:
        for each in self._close:
            each.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def take(self, transport: asyncio.DatagramTransport, data: bytes, caller: tuple[str, int]) -> None:
        async def reply() -> None:
            for answer in await self._answers(data, tcp=False):
                transport.sendto(answer, caller)

        task = self._loop.create_task(reply())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            data = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
            for answer in await self._answers(data, tcp=True):
                writer.write(len(answer).to_bytes(2) + answer)
            await writer.drain()
        except (EOFError, OSError):
            pass
        finally:
            writer.close()

    async def _answers(self, data: bytes, *, tcp: bool) -> list[bytes]:
        query = dns.message.from_wire(data)
        [question] = query.question
        name, kind = question.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(question.rdtype)
        if kind not in ("A", "AAAA") or not query.flags & dns.flags.RD:
            self.faults.append(query.to_text())
        self.asked.append((name, kind))
        reply = self.replies.get(name) or self.replies.get(f"*.{name.partition('.')[2]}")
        if reply is None:
            reply = Reply(rcode=dns.rcode.NXDOMAIN)
        self.in_progress[name] = self.in_progress.get(name, 0) + 1
        self.max_concurrent = max(self.max_concurrent, len(self.in_progress))
        try:
            await asyncio.sleep(reply.delay_s)
        finally:
            self.in_progress[name] -= 1
            if not self.in_progress[name]:
                del self.in_progress[name]
        if kind in reply.silent:
            return list(reply.garbage)
        return [*reply.garbage, self._answer(query, reply, kind, tcp=tcp)]

    @staticmethod
    def _answer(query: dns.message.Message, reply: Reply, kind: str, *, tcp: bool) -> bytes:
        answer = dns.message.make_response(query, recursion_available=True)
        answer.set_rcode(reply.rcode)
        if reply.truncated and not tcp:
            answer.flags |= dns.flags.TC
            return answer.to_wire()
        owner = query.question[0].name
        if reply.alias:
            answer.answer.append(dns.rrset.from_text(owner, reply.ttl, "IN", "CNAME", f"{reply.alias}."))
            owner = dns.name.from_text(reply.alias)
        if addresses := reply.next_addresses(kind):
            answer.answer.append(dns.rrset.from_text_list(owner, reply.ttl, "IN", kind, addresses))
        return answer.to_wire(max_size=65_535)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)  # asyncio's own is no subclass of it

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._server.take(self._transport, data, addr)

"""The address rules of outgoing calls, and the resolver for aiohttp that applies them to every name."""

import socket
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final, Literal

from aiohttp.abc import AbstractResolver, ResolveResult

from shared.runtime.egress.errors import AddressRefused
from shared.runtime.egress.resolver import DnsResolver, literal_address
from shared.wire.addresses import is_loopback, is_public

PrivateNetworks = Literal["none", "loopback", "all"]
"""Internal addresses that may be called."""

_NUMERIC: Final = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV

calling_workspace: ContextVar[str] = ContextVar("workspace", default="")
"""The workspace of the current call, for the resolver: aiohttp passes it nothing but the name."""


def address_filter(allow: PrivateNetworks) -> Callable[[str], bool]:
    """Return the test whether an address may be called."""
    if allow == "all":
        return lambda _address: True
    if allow == "loopback":
        return lambda address: is_public(address) or is_loopback(address)
    return is_public


def is_address(host: str) -> bool:
    """Return whether a host is an address in any form that the system accepts, such as `0x7f.1`."""
    if ":" in host or "%" in host:  # no name has them; getaddrinfo accepts only zones of this machine
        return True
    return literal_address(host) is not None


class CheckedResolver(AbstractResolver):
    """Resolves a name only if all of its addresses may be called."""

    def __init__(self, resolver: DnsResolver, allowed: Callable[[str], bool]) -> None:
        self._dns = resolver
        self._allowed = allowed

    async def addresses(self, host: str, workspace: str) -> tuple[str, ...]:
        """Return the addresses of a name.

        Raises `AddressRefused` if one of them may not be called, `NotResolved` if there are none.
        """
        if is_address(host):  # aiohttp takes 0x7f.1 for a name; the system would connect to 127.0.0.1
            raise AddressRefused(f"{host} is no plain address")
        addresses = await self._dns.lookup(host, workspace)
        # Without the address: a tenant who names the host reads the error, and could ask for internal names.
        if not all(map(self._allowed, addresses)):
            raise AddressRefused(f"{host} resolves to an internal address")
        return addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = await self.addresses(host, calling_workspace.get())
        families = {address: socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses}
        return [
            ResolveResult(
                hostname=host, host=address, port=port, family=address_family, proto=0, flags=_NUMERIC
            )
            for address, address_family in families.items()
            if family in (socket.AF_UNSPEC, address_family)
        ]

    async def close(self) -> None:
        pass

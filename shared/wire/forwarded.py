"""The client's address behind reverse proxies: `X-Forwarded-For`, as far as it can be trusted. Pure.

Each proxy appends the address that it was called from, so only the right end of the list is known to be true:
the part that trusted proxies wrote. Everything left of that is the client's own claim.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_MAX_HOPS: Final = 32
"""Entries that are read: no chain of proxies is longer, and a header of 64 KiB has thousands."""
_MIN_PREFIX_LENGTH: Final = {4: 8, 6: 8}
"""By IP version: a network with a shorter prefix is no list of proxies, it would trust strangers."""
_ENTRY: Final = re.compile(
    r"\[(?P<bracketed>[0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|(?P<v4>[0-9.]+)(?::[0-9]{1,5})?|(?P<v6>[0-9A-Fa-f:.]+)"
)
"""`192.0.2.7`, `192.0.2.7:443`, `2001:db8::1`, `[2001:db8::1]:443`."""
_IPV4_MAPPED: Final = IPv6Network("::ffff:0:0/96")


def parse_networks(text: str) -> tuple[Network, ...]:
    """Parse addresses and networks that are separated by commas or blanks.

    Raises `ValueError`, with the problem and the fix, for `*` and for networks that would trust strangers.
    """
    return tuple(_parse_network(part) for part in text.replace(",", " ").split())


def _parse_network(text: str) -> Network:
    if text == "*":
        raise ValueError("* would trust everybody's X-Forwarded-For: list the proxies' addresses or networks")
    try:
        network = ip_network(text if "%" not in text else "")
    except ValueError:
        raise ValueError(
            f"{text[:60]!r} is not an IP address or network: write them as 10.0.0.7,192.0.2.0/24"
        ) from None
    if network.prefixlen < _MIN_PREFIX_LENGTH[network.version]:
        raise ValueError(
            f"{network} would trust strangers' X-Forwarded-For: list the proxies' own addresses or networks"
        )
    # `parse_address` turns mapped addresses into IPv4, so such a network would never match.
    if isinstance(network, IPv6Network) and network.overlaps(_IPV4_MAPPED):
        raise ValueError(f"{network} is IPv4 inside IPv6: write it as IPv4")
    return network


def parse_address(text: str) -> Address | None:
    """Parse an IP address, also IPv4 mapped to IPv6. None for any other text, and for a zone (`%eth0`)."""
    if "%" in text:
        return None
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


class TrustedProxies:
    """The proxies whose `X-Forwarded-For` is trusted."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self._networks = tuple(networks)
        self.trusts = lru_cache(maxsize=4096)(self._is_trusted)
        """Returns whether an address, as text, is that of a trusted proxy."""

    def client(self, peer: str, forwarded: Sequence[bytes]) -> str:
        """Return the client's address: the rightmost one that is not a trusted proxy's.

        `peer` is the address that the connection comes from, `forwarded` the values of all
        `X-Forwarded-For` headers in order. If an entry cannot be parsed, the hop that sent it is the
        client. If every hop is trusted, the first one is the client.
        """
        client = peer
        if not self.trusts(client):
            return client
        entries = b",".join(forwarded).rsplit(b",", _MAX_HOPS)[-_MAX_HOPS:] if forwarded else ()
        # From right to left: each entry was written by the hop to its right, which is trusted by now.
        for entry in reversed(entries):
            address = _parse_entry(entry)
            if address is None:
                return client
            client = str(address)
            if not self.trusts(client):
                return client
        return client

    def _is_trusted(self, text: str) -> bool:
        address = parse_address(text)
        return address is not None and any(
            address.version == network.version and address in network for network in self._networks
        )


def _parse_entry(entry: bytes) -> Address | None:
    """Parse an entry of the header: an address, with or without a port. None if it is neither."""
    match = _ENTRY.fullmatch(entry.decode("latin-1").strip())
    return parse_address(match[match.lastgroup]) if match and match.lastgroup else None

"""Which IP addresses the hub may call for a stranger (server-side request forgery).

`ipaddress.is_global` alone is not enough: it lets through multicast, the forms that wrap an IPv4
address in an IPv6 one, and a cloud's metadata address. The list is the IANA special-purpose
registries plus those.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

_BLOCKED: Final[tuple[IPv4Network | IPv6Network, ...]] = tuple(
    ip_network(text)
    for text in (
        "192.88.99.0/24",  # 6to4 relays, deprecated
        "224.0.0.0/4",  # multicast
        "168.63.129.16/32",  # a cloud's metadata and DNS
        "::/96",  # IPv4-compatible
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",  # NAT64, local use
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
        "5f00::/16",  # segment routing
        "fec0::/10",  # site-local, deprecated
        "ff00::/8",  # multicast
    )
)


def is_public(text: str) -> bool:
    """Whether a literal address is on the public internet. What does not parse is not."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_global and not any(
        address.version == network.version and address in network for network in _BLOCKED
    )


def is_loopback(text: str) -> bool:
    """Whether a literal address is this machine's own (127.0.0.0/8, ::1)."""
    try:
        address: IPv4Address | IPv6Address = ip_address(text)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_loopback

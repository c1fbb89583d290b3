"""Decide which IP addresses the hub may call for a stranger, against server-side request forgery. Pure.

`ipaddress.is_global` alone is not enough: it allows multicast, IPv4 addresses wrapped in IPv6, and a cloud's
metadata address, and its table changes with the version of Python. The rule here adds the IANA
special-purpose registries, and allows only the IPv6 block that is assigned as global unicast.
"""

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
"""All public IPv6 addresses today. Outside are NAT64, mapped, translated and compatible IPv4, site-local,
segment routing, multicast, and whatever is assigned later."""

_BLOCKED: Final[tuple[IPv4Network | IPv6Network, ...]] = tuple(
    ip_network(text)
    for text in (
        "192.0.0.0/24",  # protocol assignments; parts are anycast to the next NAT
        "192.88.99.0/24",  # 6to4 relays, deprecated
        "224.0.0.0/4",  # multicast
        "168.63.129.16/32",  # a cloud's metadata and DNS
        "2001::/23",  # protocol assignments: Teredo, benchmarking, ORCHID
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
)

_LOCAL_NAMES: Final = (
    *(".localhost", ".local", ".localdomain", ".internal", ".intranet", ".private", ".corp", ".home", ".lan"),
    ".home.arpa",
)
"""Suffixes of names that are reserved for local networks, or that only those use."""


@lru_cache(maxsize=1024)
def is_public(text: str) -> bool:
    """Return whether a literal address is on the public internet; false for a text that is no address.

    An address with a zone (`%eth0`) is not public: a stranger must not choose the network interface.
    """
    try:
        address = ip_address(text)
    except ValueError:
        return False
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return False
        if address.ipv4_mapped:
            address = address.ipv4_mapped
        elif address not in _GLOBAL_UNICAST:
            return False
    return address.is_global and not any(
        address.version == network.version and address in network for network in _BLOCKED
    )


def is_loopback(text: str) -> bool:
    """Return whether a literal address is a loopback address (127.0.0.0/8, ::1)."""
    try:
        address: IPv4Address | IPv6Address = ip_address(text)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_loopback


def is_internal_host(host: str) -> bool:
    """Return whether a URL's host is known not to be on the internet, without a DNS lookup.

    That is a literal address that is not public, or a name that only a local network can resolve.
    """
    host = host.strip("[]").rstrip(".").lower()
    try:
        ip_address(host)
    except ValueError:
        return "." not in host or host.endswith(_LOCAL_NAMES)
    return not is_public(host)

"""Which addresses the hub may call for a stranger: the rule, notations of addresses, and the client."""

import asyncio
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.runtime.egress.checked_resolver import PrivateNetworks
from shared.runtime.egress.client import EgressClient
from shared.wire.addresses import is_loopback, is_public
from tests.support.subscriber import Subscriber

PUBLIC = (
    "1.1.1.1",
    "8.8.8.8",
    "93.184.215.14",
    "140.82.112.3",
    "168.63.129.15",
    "168.63.129.17",
    "192.88.98.255",
    "192.88.100.0",
    "223.255.255.255",
    "2001:4860:4860::8888",
    "2606:4700::6810:84e5",
    "2a00:1450:4001:80e::200e",
    "::ffff:8.8.8.8",
)
INTERNAL = {
    "loopback": ("127.0.0.1", "127.0.0.0", "127.255.255.254", "::1"),
    "this network": ("0.0.0.0", "0.1.2.3", "::"),  # noqa: S104 -- data, nothing is bound to it
    "private": ("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.0.1", "fc00::1", "fd12:3456::1"),
    "shared, carrier NAT": ("100.64.0.1", "100.127.255.255"),
    "link-local and metadata": ("169.254.0.1", "169.254.169.254", "fe80::1", "fe80::1%eth0"),
    "a cloud's metadata": ("168.63.129.16", "fd00:ec2::254"),
    "documentation": ("192.0.2.1", "198.51.100.1", "203.0.113.255", "2001:db8::1", "3fff::1", "3fff:fff::1"),
    "benchmarking": ("198.18.0.1", "198.19.255.255", "2001:2::1"),
    "protocol assignments": ("192.0.0.1", "192.0.0.9", "192.0.0.10", "192.0.0.170", "2001::1", "2001:1::1"),
    "6to4": ("192.88.99.1", "2002::1", "2002:7f00:1::", "2002:a00:1::1"),
    "multicast": ("224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1"),
    "reserved and broadcast": ("240.0.0.1", "255.255.255.255"),
    "IPv4-mapped": ("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:a00:1"),
    "IPv4-compatible": ("::127.0.0.1", "::10.0.0.1", "::169.254.169.254"),
    "NAT64": ("64:ff9b::127.0.0.1", "64:ff9b::a00:1", "64:ff9b:1::1", "64:ff9b:1:ffff::a9fe:a9fe"),
    "Teredo": ("2001:0:4136:e378:8000:63bf:3fff:fdd2",),
    "site-local": ("fec0::1", "feff::1"),
    "segment routing": ("5f00::1",),
    "discard": ("100::1",),
    "IPv4-translated": ("::ffff:0:127.0.0.1", "::ffff:0:8.8.8.8"),
    "ORCHID": ("2001:10::1", "2001:20::1"),
    "what nobody has been given": ("4000::1", "8000::1", "1fff:ffff::1", "a000::1", "e000::1"),
    "with a zone": (
        "8.8.8.8%eth0",
        "2606:4700::6810:84e5%eth0",
        "2606:4700::6810:84e5%1",
        "::ffff:8.8.8.8%lo",
    ),
    "no address": ("", "localhost", "1.2.3", "1.2.3.4.5", "256.1.1.1", "::1::", "8.8.8.8 ", "0x7f.0.0.1"),
}
SPELLINGS = (
    "2130706433",  # decimal
    "017700000001",  # octal
    "0x7f000001",  # hexadecimal
    "0177.0.0.1",
    "0x7f.0x0.0x0.0x1",
    "127.1",  # short
    "127.0.1",
    "0",
    "3232235521",  # 192.168.0.1
    "0xa9fea9fe",  # 169.254.169.254
    "2852039166",
    "169.254.43518",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::]",
    "127.0.0.1.",
    "10.0.0.1.",
    "\uff11\uff12\uff17.\uff10.\uff10.\uff11",  # full-width digits
    "\u2460\u2461\u2466.\u24ea.\u24ea.\u2460",  # circled digits
)
_BLOCKED = [(why, text) for why, texts in INTERNAL.items() for text in texts]


@pytest.mark.parametrize("text", PUBLIC)
def test_the_public_internet_may_be_called(text: str) -> None:
    assert is_public(text)
    assert not is_loopback(text)


@pytest.mark.parametrize(("why", "text"), _BLOCKED, ids=[f"{why}: {text}" for why, text in _BLOCKED])
def test_what_is_internal_is_not_public(why: str, text: str) -> None:
    assert not is_public(text)


@given(st.ip_addresses(v=4))
def test_wrapping_never_opens_an_ipv4_address(address: IPv4Address) -> None:
    """Mapped, an address is what it is; in every other wrapping it is refused, public or not."""
    number = int(address)
    assert is_public(str(IPv6Address((0xFFFF << 32) | number))) == is_public(str(address))
    for prefix in (0, 0x0064_FF9B << 96):
        assert not is_public(str(IPv6Address(prefix | number)))
    assert not is_public(str(IPv6Address((0x2002 << 112) | (number << 80) | 1)))
    assert not is_public(str(IPv6Address((0xFFFF << 48) | number)))


# kafka-facts.md, 12: for these `ipaddress.is_global` is True on one version of Python or another.
@pytest.mark.parametrize(
    "network",
    [
        "224.0.0.0/4",
        "192.88.99.0/24",
        "168.63.129.16/32",
        "ff00::/8",
        "::/96",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "2002::/16",
        "fec0::/10",
        "3fff::/20",
        "5f00::/16",
    ],
)
@given(data=st.data())
def test_networks_that_python_calls_global(network: str, data: st.DataObject) -> None:
    whole = ip_network(network)
    for address in (whole[0], whole[-1], whole[data.draw(st.integers(0, whole.num_addresses - 1))]):
        assert not is_public(str(address))


@given(st.ip_addresses(v=6))
def test_ipv6_outside_global_unicast_is_never_public(address: IPv6Address) -> None:
    mapped = address.ipv4_mapped
    if address not in ip_network("2000::/3") and not mapped:
        assert not is_public(str(address))


@pytest.mark.parametrize("text", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
def test_loopback(text: str) -> None:
    assert is_loopback(text)
    assert not is_public(text)


@pytest.mark.parametrize("text", ["10.0.0.1", "0.0.0.0", "::", "localhost", "", "127.1"])  # noqa: S104
def test_what_is_not_loopback(text: str) -> None:
    assert not is_loopback(text)


def _permits(allow: PrivateNetworks, host: str) -> bool:
    return EgressClient(allow, max_connections=1).host_allowed(host)


@pytest.mark.parametrize("host", SPELLINGS)
def test_no_spelling_of_an_internal_address_is_permitted(host: str) -> None:
    """However the C library would read it: what is not plainly public is refused when a URL is given."""
    assert not _permits("none", host)


@pytest.mark.parametrize("host", [text for why, text in _BLOCKED if why != "no address"])
def test_no_internal_literal_is_permitted(host: str) -> None:
    assert not _permits("none", host)


@pytest.mark.parametrize("host", ["example.com", "hooks.example.com", "8.8.8.8", "2001:4860:4860::8888"])
def test_public_hosts_and_names_are_permitted(host: str) -> None:
    assert _permits("none", host)


def test_loopback_is_opened_by_itself_only() -> None:
    """The embedded default lets deliveries to this machine through, and to no other internal one."""
    assert _permits("loopback", "127.0.0.1")
    assert _permits("loopback", "::1")
    for host in ("10.0.0.1", "169.254.169.254", "192.168.1.1", "0.0.0.0", "fe80::1", "::ffff:10.0.0.1"):  # noqa: S104
        assert not _permits("loopback", host)
    assert _permits("all", "10.0.0.1")


@pytest.fixture(scope="module")
def listener() -> Iterator[Subscriber]:
    with Subscriber() as subscriber:
        yield subscriber


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0"],
)
async def test_the_client_refuses_where_the_socket_is_made(listener: Subscriber, host: str) -> None:
    """A literal, a spelling and a name of this machine: nothing reaches the server that listens there."""
    client = EgressClient("none", max_connections=2)
    await client.start()
    try:
        port = listener.url.rpartition(":")[2]
        answer = await client.post(f"http://{host}:{port}", {}, b"x", timeout_s=5)
    finally:
        await client.stop()
    assert answer.status is None
    assert answer.failure in ("address_refused", "dns", "bad_url")
    if host in ("127.0.0.1", "localhost"):
        assert answer.failure == "address_refused"
    await asyncio.sleep(0.05)
    assert listener.got == []


async def test_the_client_reaches_loopback_when_it_may(listener: Subscriber) -> None:
    """The proof that the refusals above are refusals: the same server answers when loopback is allowed."""
    client = EgressClient("loopback", max_connections=2)
    await client.start()
    try:
        answer = await client.post(listener.url, {}, b"x", timeout_s=5)
    finally:
        await client.stop()
    assert (answer.status, answer.failure) == (204, None)
    listener.got.clear()

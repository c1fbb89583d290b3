"""Which address of `X-Forwarded-For` is the client's."""

from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.wire.forwarded import TrustedProxies, parse_networks

PROXIES = TrustedProxies(parse_networks("127.0.0.1, 10.9.0.0/24 2001:db8:9::/48"))
CLIENTS = st.ip_addresses().map(str)


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.1", ["198.51.100.7"], "203.0.113.1"),
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("127.0.0.1", ["198.51.100.7, 203.0.113.1"], "203.0.113.1"),
        ("127.0.0.1", ["198.51.100.7", "203.0.113.1, 10.9.0.8"], "203.0.113.1"),
        ("127.0.0.1", ["198.51.100.7,10.9.0.8,10.9.0.9,127.0.0.1"], "198.51.100.7"),
        ("127.0.0.1", ["10.9.0.8, 10.9.0.9"], "10.9.0.8"),
        ("127.0.0.1", ["198.51.100.7, x, 10.9.0.8"], "10.9.0.8"),
        ("127.0.0.1", ["198.51.100.7,"], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.7:80"], "198.51.100.7"),
        ("127.0.0.1", ["198.51.100.7:999999"], "127.0.0.1"),
        ("127.0.0.1", ["[2001:db8::1]:443, 2001:db8:9::1"], "2001:db8::1"),
        ("127.0.0.1", ["2001:DB8:0::1"], "2001:db8::1"),
        ("127.0.0.1", ["fe80::1%eth0"], "127.0.0.1"),
        ("127.0.0.1", ["::ffff:198.51.100.7"], "198.51.100.7"),
        ("::ffff:127.0.0.1", ["198.51.100.7, ::ffff:10.9.0.8"], "198.51.100.7"),
        ("", ["198.51.100.7"], ""),
        ("unix", ["198.51.100.7"], "unix"),
    ],
)
def test_the_rightmost_address_that_is_no_proxys(peer: str, forwarded: list[str], client: str) -> None:
    assert PROXIES.client(peer, [entry.encode() for entry in forwarded]) == client


@given(claims=st.lists(st.binary(max_size=40), max_size=5), real=CLIENTS, hops=st.integers(0, 5))
def test_what_a_client_writes_never_changes_who_he_is(claims: list[bytes], real: str, hops: int) -> None:
    """Whatever he sends himself stands left of what the proxies append."""
    honest = ", ".join([real, *(f"10.9.0.{hop}" for hop in range(hops))]).encode()
    alone = PROXIES.client("127.0.0.1", [honest])
    assert PROXIES.client("127.0.0.1", [*claims, honest]) == alone
    assert PROXIES.client("127.0.0.1", [b", ".join([*claims, honest])]) == alone


@pytest.mark.parametrize(
    "text",
    [
        *("*", "127.0.0.1,*", "0.0.0.0/0", "::/0", "0.0.0.0/1", "128.0.0.0/1", "2000::/3", "::ffff:0:0/96"),
        *("::ffff:10.0.0.0/104", "proxy", "10.0.0", "10.0.0.1/24", "10.0.0.1/33", "fe80::1%eth0", "-"),
    ],
)
def test_what_would_trust_strangers_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_networks(text)


def test_no_sender_is_trusted() -> None:
    assert TrustedProxies(parse_networks("")).client("127.0.0.1", [b"198.51.100.7"]) == "127.0.0.1"


def test_a_long_list_costs_no_more_than_its_last_entries() -> None:
    few, many = [b"10.9.0.1," * 40], [b"10.9.0.1," * 7000]
    best = {id(entry): min(_seconds(entry) for _ in range(20)) for entry in (few, many)}
    assert best[id(many)] < 40 * best[id(few)], "7000 entries, of which 32 are looked at"


def _seconds(forwarded: list[bytes]) -> float:
    started = perf_counter()
    PROXIES.client("127.0.0.1", [*forwarded, b"10.9.0.2"])
    return perf_counter() - started

"""Attacks on the IP allow list: callers who claim another address than their own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.attacks.attack import Attack, Setup
from tests.support.caddy import CADDY, running_caddy
from tests.support.github import signed
from tests.support.hub import Hub
from tests.support.raw_http import Header, exchange

_BODY = b'{"zen":"x"}'
_LISTED = "198.51.100.7"
_LISTED_V6 = "2001:db8:7::1"
_ATTACKER = "203.0.113.66"
_BALANCER = "10.9.0.5"
_GARBAGE = (b"", b" ", b"unknown", b"_x", b"10.9.0", b"10.9.0.05", b"[10.9.0.5", b"10.9.0.5:x", b"*", b"\xff")
_CHAIN = Setup(env={"INTERLINK_TRUSTED_PROXIES": "127.0.0.1,10.9.0.0/24"})
"""The hub behind a proxy on this machine (127.0.0.1), behind a load balancer (10.9.0.0/24)."""
_BEHIND_CADDY = Setup(env={"INTERLINK_TRUSTED_PROXIES": "127.0.0.1 127.0.0.2"})
"""As docker-compose.yml says it: Caddy's network, and the balancers in front of it."""
_UP = Setup(services=("gateway", "delivery"), entrance=True)


class _Listed:
    """A GitHub endpoint that takes webhooks from the listed addresses only."""

    def __init__(self, hub: Hub) -> None:
        created = hub.github_endpoint(allow_ips=[f"{_LISTED}/32", "2001:db8:7::/48"])
        self._hub = hub
        self._path = f"/api/webhooks/github/{created['id']}"
        self._secret = created["secret"]

    def status(self, *forwarded: str | bytes, port: int | None = None, source: str = "127.0.0.1") -> int:
        """Send a correctly signed webhook with these `X-Forwarded-For` headers; return the status."""
        headers: list[Header] = [*signed(self._secret, "ping", _BODY).items()]
        headers += [("X-Forwarded-For", value) for value in forwarded]
        status, _ = exchange(port or self._hub.ports["gateway"], self._path, headers, _BODY, source=source)
        return status


def _forge_behind_a_chain(hub: Hub) -> None:
    listed = _Listed(hub)
    for honest in (
        (f"{_LISTED}, {_BALANCER}",),
        (_LISTED, _BALANCER),
        (f"{_LISTED}:5123, {_BALANCER}:80",),
        (f"{_ATTACKER}, {_LISTED}, {_BALANCER}",),
        (f"[{_LISTED_V6}]:443, {_BALANCER}",),
        (f"{_LISTED_V6},{_BALANCER},127.0.0.1",),
        (f"::ffff:{_LISTED}, ::ffff:{_BALANCER}",),
    ):
        assert listed.status(*honest) == 202, honest
    for forged in (
        (f"{_LISTED}, {_ATTACKER}, {_BALANCER}",),
        (_LISTED, f"{_ATTACKER}, {_BALANCER}"),
        (_LISTED, _ATTACKER),
        (f"{_LISTED}, {_ATTACKER}:80, {_BALANCER}, 127.0.0.1",),
        (f"{_LISTED_V6}, 2001:db8:666::1, {_BALANCER}",),
        (_LISTED + ", 127.0.0.1, " + _ATTACKER,),
    ):
        assert listed.status(*forged) == 403, forged


def _forge_with_what_nobody_can_read(hub: Hub) -> None:
    listed = _Listed(hub)
    for garbage in _GARBAGE:
        balancer = f", {_BALANCER}".encode()
        assert listed.status(_LISTED.encode() + b", " + garbage + balancer) == 403, garbage
        assert listed.status(_LISTED, garbage) == 403, garbage
        assert listed.status(garbage + f", {_LISTED}".encode() + balancer) == 202, garbage
    assert listed.status(f"fe80::1%eth0, {_BALANCER}") == 403
    assert listed.status(", ".join([_LISTED] + [_BALANCER] * 200)) == 403, "no chain is that long"


def _forge_at_the_entrance(hub: Hub) -> None:
    """At the port of `interlink up`, from an address that is no proxy's."""
    listed = _Listed(hub)
    assert listed.status(_LISTED) == 202, "a proxy on this machine"
    for forwarded in ((_LISTED,), (f"{_LISTED}, 127.0.0.1",), (_LISTED, "127.0.0.1"), ()):
        assert listed.status(*forwarded, source="127.0.0.2") == 403


def _forge_through_caddy(hub: Hub) -> None:
    if CADDY is None:
        return
    listed = _Listed(hub)
    with _caddy(hub) as port:
        assert listed.status(_LISTED, port=port) == 403
        assert listed.status(f"{_LISTED}, 127.0.0.1", port=port) == 403
    with _caddy(hub, balancers="127.0.0.2/32") as port:
        assert listed.status(_LISTED, port=port, source="127.0.0.2") == 202
        assert listed.status(f"{_ATTACKER}, {_LISTED}", port=port, source="127.0.0.2") == 202
        for forged in (
            (f"{_LISTED}, {_ATTACKER}",),
            (_LISTED, _ATTACKER),
            (f"{_LISTED}, {_ATTACKER}:5123",),
            (f"{_LISTED}, [2001:db8:666::1]:5123",),
            (f"{_LISTED}, nobody",),
        ):
            assert listed.status(*forged, port=port, source="127.0.0.2") == 403, forged
        assert listed.status(_LISTED, port=port, source="127.0.0.3") == 403


@contextmanager
def _caddy(hub: Hub, balancers: str = "") -> Iterator[int]:
    upstreams = dict.fromkeys(("gateway", "delivery", "oauth"), f"127.0.0.1:{hub.ports['gateway']}")
    with (
        TemporaryDirectory() as folder,
        running_caddy(Path(folder), upstreams, balancers=balancers) as caddy,
    ):
        yield caddy.port


ATTACKS: Sequence[Attack] = (
    Attack("a forged address in front of a chain of proxies", _forge_behind_a_chain, _CHAIN),
    Attack("a forged address beside entries that cannot be read", _forge_with_what_nobody_can_read, _CHAIN),
    Attack("a forged address at the built-in entrance", _forge_at_the_entrance, _UP),
    Attack("a forged address through Caddy and a load balancer", _forge_through_caddy, _BEHIND_CADDY),
)

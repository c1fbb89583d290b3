"""Attempts to keep a provider out of its own endpoint, by somebody who knows the endpoint's address."""

from collections.abc import Sequence
from secrets import token_hex
from time import monotonic

from tests.attacks.attack import Attack, Setup
from tests.support.eventually import eventually
from tests.support.github import signed
from tests.support.hub import Hub
from tests.support.raw_http import exchange

_BODY = b'{"zen":"x"}'
_STRANGER = "127.0.0.2"
_PROVIDER = "127.0.0.3"
_SETUP = Setup()


class _Target:
    """A GitHub endpoint, the provider that knows its secret, and strangers who do not."""

    def __init__(self, hub: Hub, **fields: object) -> None:
        created = hub.github_endpoint(**fields)
        self.hub = hub
        self.id: str = created["id"]
        self.secret: str = created["secret"]
        self.path = f"/api/webhooks/github/{self.id}"

    def accepts(self, source: str = _PROVIDER, body: bytes = _BODY) -> int:
        """Send a correctly signed webhook; return the status."""
        return self._send(source, body, self.secret)

    def rejects(self, source: str = _STRANGER, body: bytes = _BODY) -> int:
        """Send a webhook with a wrong signature; return the status."""
        return self._send(source, body, token_hex(8))

    def rejects_until_429(self, source: str = _STRANGER, body: bytes = _BODY, limit: int = 2_000) -> int:
        """Send wrong signatures until they are no longer looked at; return how many were."""
        for number in range(limit):
            status = self.rejects(source, body)
            if status == 429:
                return number
            assert status == 401, status
        raise AssertionError(f"{limit} wrong signatures were looked at")

    def shown(self) -> dict[str, object]:
        return dict(self.hub.call("GET", f"/api/inbound-endpoints/{self.id}"))

    def _send(self, source: str, body: bytes, secret: str) -> int:
        headers = signed(secret, "ping", body).items()
        return exchange(self.hub.ports["gateway"], self.path, headers, body, source=source)[0]


def _flood_with_wrong_signatures(hub: Hub) -> None:
    target = _Target(hub)
    for _ in range(20):
        assert target.accepts() == 202
    started = monotonic()
    looked_at = target.rejects_until_429()
    assert 500 <= looked_at <= 610 + 10 * (monotonic() - started), "ten a second are looked at anyway"

    def stranger_waits() -> bool:
        """Two requests within a tenth of a second, in which one more would be looked at."""
        return target.rejects() == 429 and target.accepts(_STRANGER) == 429

    eventually(stranger_waits, every_s=0)
    for _ in range(20):
        assert target.accepts() == 202
    listed = f"/api/inbound-endpoints/{target.id}/events"
    query = {"limit": "200"}

    def both() -> list[str] | None:
        outcomes = [item["outcome"] for item in hub.call("GET", listed, params=query)["items"]]
        return outcomes if outcomes.count("accepted") == 40 else None

    outcomes = eventually(both)
    assert outcomes is not None
    assert outcomes.count("signature") <= 70, "a sample of what was rejected"


def _flood_from_many_addresses(hub: Hub) -> None:
    target = _Target(hub)
    for number in range(600):
        assert target.rejects(f"127.0.{100 + number // 200}.{1 + number % 200}") == 401
    for number in range(600):
        assert target.rejects(f"127.0.{100 + number % 3}.7") in (401, 429)
    assert target.accepts() == 202


def _use_up_the_rate(hub: Hub) -> None:
    """What is rejected takes nothing of the rate at which the endpoint accepts."""
    target = _Target(hub, rate_limit=20)
    for _ in range(100):
        assert target.rejects() == 401
    assert [target.accepts() for _ in range(21)] == [202] * 20 + [429]


def _make_it_hash(hub: Hub) -> None:
    """Large bodies, tried with several secrets, count for as much as they cost."""
    target = _Target(hub)
    for _ in range(4):
        path = f"/api/inbound-endpoints/{target.id}/rotate-secret"
        target.secret = hub.call("POST", path, {"overlap_hours": 1})["secret"]
    large = b'{"a":"' + b"x" * (1_000_000) + b'"}'
    assert target.rejects_until_429(body=large, limit=200) <= 130, "600 MiB at most, of five secrets"
    assert target.accepts(body=large) == 202


def _flood_with_handshakes(hub: Hub) -> None:
    """Handshakes that nobody signed are answered, and take the caller's room only."""
    body = {"provider": "dropbox", "name": "test", "secret": token_hex(16)}
    created = hub.call("POST", "/api/inbound-endpoints", body, expect=201)
    path = f"/api/webhooks/dropbox/{created['id']}?challenge=7"
    port = hub.ports["gateway"]
    statuses = [exchange(port, path, method="GET", source=_STRANGER)[0] for _ in range(700)]
    assert set(statuses) == {200, 429}
    assert exchange(port, path, method="GET", source=_PROVIDER) == (200, b"7")


def _change_the_status(hub: Hub) -> None:
    """Neither to `error` nor back from it."""
    target = _Target(hub)
    for _ in range(8):
        assert target.rejects() == 401
        assert exchange(hub.ports["gateway"], target.path, body=b"x", source=_STRANGER)[0] == 401
    eventually(lambda: target.shown()["error_count"] == 16)
    assert target.shown()["status"] == "active"
    for _ in range(5):
        assert target.accepts(body=b"{no json") == 400, "the provider's own, which the endpoint cannot read"
    eventually(lambda: target.shown()["status"] == "error")
    for _ in range(3):
        assert target.rejects() == 401
    eventually(lambda: target.shown()["error_count"] == 24)
    assert target.shown()["status"] == "error"
    assert target.accepts() == 202
    eventually(lambda: target.shown()["status"] == "active")


ATTACKS: Sequence[Attack] = (
    Attack("wrong signatures until the provider is locked out", _flood_with_wrong_signatures, _SETUP),
    Attack("wrong signatures from many addresses", _flood_from_many_addresses, _SETUP),
    Attack("wrong signatures that use up the endpoint's rate", _use_up_the_rate, _SETUP),
    Attack("wrong signatures of large bodies for several secrets", _make_it_hash, _SETUP),
    Attack("unsigned handshakes until the provider is locked out", _flood_with_handshakes, _SETUP),
    Attack("requests that change an endpoint's status", _change_the_status, _SETUP),
)

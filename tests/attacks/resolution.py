"""Names that answer slowly, change, or lead into the network of the hub."""

from functools import partial
from secrets import token_hex
from time import sleep
from typing import Any

from tests.attacks.attack import Attack, Setup
from tests.support.dns_server import DnsServer, Reply
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.ports import free_port
from tests.support.subscriber import Subscriber

_PORT = free_port()
_SETUP = Setup(
    services=("gateway", "delivery"),
    env={"INTERLINK_DNS_SERVERS": f"127.0.0.1:{_PORT}", "INTERLINK_ALLOW_PRIVATE_NETWORKS": "loopback"},
)
_ONCE = {"schedule": [0]}
_SLOW_NAMES = 40
_SLOW_S = 20.0
_MAX_QUERIES = 16
"""That a workspace may have under way in one process."""


def _webhook(hub: Hub, url: str, kind: str, key: str | None = None) -> str:
    body = {"name": "test", "url": url, "events": [kind], "retry": _ONCE}
    created = hub.call("POST", "/api/outgoing-webhooks?force=true", body, key=key, expect=201)
    return str(created["id"])


def _publish(hub: Hub, kind: str, key: str | None = None) -> None:
    event = {"specversion": "1.0", "id": token_hex(8), "type": kind, "source": "/tests", "data": {}}
    hub.call("POST", "/api/events", [event], key=key, expect=202)


def _attempt(hub: Hub, webhook: str) -> dict[str, Any]:
    """Return the last attempt of the webhook's only delivery once it is finished."""

    def finished() -> str | None:
        """The delivery is finished."""
        return next(
            (str(one["id"]) for one in hub.deliveries(webhook_id=webhook) if one["finished_at"]), None
        )

    results = eventually(finished)
    return dict(hub.call("GET", f"/api/deliveries/{results}")["attempts"][-1])


def _has(subscriber: Subscriber, count: int) -> bool:
    """The subscriber has so many requests."""
    return len(subscriber.got) == count


def _slow_names_of_another_workspace(hub: Hub) -> None:
    replies = {
        "*.slow.example": Reply(["127.0.0.1"], delay_s=_SLOW_S),
        "good.example": Reply(["127.0.0.1"], ttl=0),
    }
    with DnsServer(replies, port=_PORT) as server, Subscriber() as subscriber:
        hostile = hub.other_workspace()
        port = subscriber.url.rpartition(":")[2].partition("/")[0]
        slow, kind = f"t{token_hex(6)}", f"t{token_hex(6)}"
        for number in range(_SLOW_NAMES):
            _webhook(hub, f"http://{number}.slow.example:{port}/", slow, hostile)
        _webhook(hub, f"http://good.example:{port}/good", kind)
        for _ in range(3):
            _publish(hub, slow, hostile)
        eventually(lambda: len(server.in_progress) >= _MAX_QUERIES)
        for number in range(1, 6):
            _publish(hub, kind)
            # A slow name takes 20 s; on a shared pool of threads, this one would wait for several of them.
            eventually(partial(_has, subscriber, number), 15)
            _publish(hub, slow, hostile)
            sleep(0.2)
        assert server.max_concurrent <= _MAX_QUERIES + 1
        assert {got.headers["host"] for got in subscriber.got} == {f"good.example:{port}"}


def _a_name_that_changes_after_it_was_checked(hub: Hub) -> None:
    """Each lookup gives another address; the one that is checked is the one that is connected to."""
    rebinding = Reply([["10.0.0.1"], ["169.254.169.254"], ["127.0.0.1"]], ttl=0)
    with DnsServer({"rebind.example": rebinding}, port=_PORT) as server, Subscriber() as subscriber:
        port = subscriber.url.rpartition(":")[2].partition("/")[0]
        errors = []
        for _ in range(3):
            kind = f"t{token_hex(6)}"
            webhook = _webhook(hub, f"http://rebind.example:{port}/{kind}", kind)
            _publish(hub, kind)
            errors.append(_attempt(hub, webhook)["error"])
            sleep(0.05)
        assert errors == ["address_refused", "address_refused", None]
        assert len(subscriber.got) == 1
        assert server.count("rebind.example") == 3


def _refused(name: str, reply: Reply, error: str) -> Attack:
    """A name whose deliveries have to end with an error, before any connection."""

    def attempt(hub: Hub) -> None:
        host = f"{name.replace(' ', '-')}.example"
        with DnsServer({host: reply}, port=_PORT), Subscriber() as subscriber:
            port = subscriber.url.rpartition(":")[2].partition("/")[0]
            kind = f"t{token_hex(6)}"
            webhook = _webhook(hub, f"http://{host}:{port}/", kind)
            _publish(hub, kind)
            assert _attempt(hub, webhook)["error"] == error
            assert subscriber.got == []

    return Attack(f"resolution: {name}", attempt, _SETUP)


_MANY = [f"127.0.0.{number}" for number in range(1, 101)]
ATTACKS = (
    Attack("resolution: slow names of another workspace", _slow_names_of_another_workspace, _SETUP),
    Attack("resolution: a name that changes", _a_name_that_changes_after_it_was_checked, _SETUP),
    _refused("one bad address of two", Reply(["127.0.0.1", "10.0.0.1"]), "address_refused"),
    _refused("a bad address of the other family", Reply(["127.0.0.1", "fd00::1"]), "address_refused"),
    _refused("an alias to an internal address", Reply(["10.0.0.1"], alias="kafka"), "address_refused"),
    _refused("a mapped address", Reply(["::ffff:10.0.0.1"]), "address_refused"),
    _refused("a hundred addresses", Reply(_MANY, truncated=True), "dns"),
    _refused("garbage", Reply(garbage=[b"\0" * 400], silent=frozenset({"A", "AAAA"})), "dns"),
)

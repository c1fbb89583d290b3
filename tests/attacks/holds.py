"""Endpoints of subscribers that try to silence deliveries: their own for long, or those of others."""

from datetime import UTC, datetime
from secrets import token_hex
from typing import Final

from aiohttp import web

from tests.attacks.attack import Attack, Setup
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.outgoing import Moody, finished, new_type, numbered, path_of
from tests.support.subscriber import Subscriber, WebhookRequest

_DELIVERY: Final = Setup(("gateway", "delivery"))
_BOUND_S: Final = 900
_HOSTILE: Final = ("86400", "9" * 300, "Fri, 31 Dec 9999 23:59:59 GMT")
_NONSENSE: Final = ("-1", "1e9", "soon", "١٢٣", "0x7fffffff", "Fri, 99 Dec 9999 99:99:99 GMT")


def _a_day_of_retry_after_holds_an_endpoint_for_minutes(hub: Hub) -> None:
    for text in _HOSTILE:
        with Subscriber(Moody(429, Retry_After=text)) as subscriber:
            kind = new_type()
            webhook = hub.outgoing_webhook(subscriber.url, events=[kind])
            numbered(hub, kind)
            until = eventually(lambda w=webhook: hub.call("GET", path_of(w))["health"]["held_until"])  # type: ignore[misc]
            seconds = (datetime.fromisoformat(until) - datetime.now(UTC)).total_seconds()
            assert 0 < seconds <= _BOUND_S, text
            hub.call("DELETE", path_of(webhook), expect=204)


def _nonsense_in_retry_after_holds_nothing(hub: Hub) -> None:
    for text in _NONSENSE:
        left = [text]

        def answer(_got: WebhookRequest, left: list[str] = left) -> web.Response | None:
            return web.Response(status=503, headers={"Retry-After": left.pop()}) if left else None

        with Subscriber(answer) as subscriber:
            kind = new_type()
            webhook = hub.outgoing_webhook(
                subscriber.url, events=[kind], retry={"schedule": [0, 0.1], "jitter": 0}
            )
            numbered(hub, kind)
            assert finished(hub, webhook["id"])[0]["status"] == "delivered", text
            assert hub.call("GET", path_of(webhook))["health"]["held_until"] is None, text


def _a_hold_of_one_workspace_holds_nobody_else_at_the_same_url(hub: Hub) -> None:
    other = hub.other_workspace()

    def answer(got: WebhookRequest) -> web.Response | None:
        """Quiet for whoever sends what the attacker's path has."""
        if got.path.endswith("/attacker"):
            return web.Response(status=429, headers={"Retry-After": "86400"})
        return None

    with Subscriber(answer) as subscriber:
        kind = new_type()
        attacker = hub.outgoing_webhook(f"{subscriber.url}/attacker", events=[kind])
        body = {"name": token_hex(4), "url": f"{subscriber.url}/neighbour", "events": [kind]}
        hub.call("POST", "/api/outgoing-webhooks", body, key=other, expect=201)
        numbered(hub, kind)
        subscriber.wait_for(1)
        eventually(lambda: hub.call("GET", path_of(attacker))["health"]["held_until"])
        numbered(hub, kind, 5, key=other)
        eventually(lambda: len([got for got in subscriber.got if got.path.endswith("/neighbour")]) == 5)
        assert len([got for got in subscriber.got if got.path.endswith("/attacker")]) == 1
        hub.call("DELETE", path_of(attacker), expect=204)


ATTACKS: Final = (
    Attack("a day of Retry-After", _a_day_of_retry_after_holds_an_endpoint_for_minutes, _DELIVERY),
    Attack("nonsense in Retry-After", _nonsense_in_retry_after_holds_nothing, _DELIVERY),
    Attack(
        "Retry-After at a shared host", _a_hold_of_one_workspace_holds_nobody_else_at_the_same_url, _DELIVERY
    ),
)

"""What tests of outgoing webhooks share: events of their own, and the deliveries that come of them."""

import json
from collections.abc import Callable
from secrets import token_hex
from typing import Any

from aiohttp import web

from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.subscriber import WebhookRequest

ONCE = {"schedule": [0]}
QUICK = {"schedule": [0, 0.3, 0.3], "jitter": 0}

_ENDED = ("delivered", "dead_letter", "cancelled", "discarded")


def new_type() -> str:
    """An event type of its own, so that tests on one hub do not meet."""
    return f"t{token_hex(6)}.made"


def publish(hub: Hub, kind: str, *data: Any, subject: str | None = None, key: str | None = None) -> list[str]:
    """Put an event with each of these data on Kafka, all of one conversation; their ids."""
    events = [
        {
            "specversion": "1.0",
            "id": f"evt-{token_hex(8)}",
            "type": kind,
            "source": "/tests",
            "subject": kind if subject is None else subject,
            "data": each,
        }
        for each in data
    ]
    for start in range(0, len(events), 500):
        hub.call("POST", "/api/events", events[start : start + 500], key=key, expect=202)
    return [str(event["id"]) for event in events]


def numbered(hub: Hub, kind: str, count: int = 1, *, first: int = 0, key: str | None = None) -> list[str]:
    """As `publish`, with a number in the data of each."""
    return publish(hub, kind, *({"n": number} for number in range(first, first + count)), key=key)


def n_of(got: WebhookRequest) -> int:
    """The number of an event of `numbered`, from the envelope."""
    return int(json.loads(got.body)["data"]["n"])


def finished(hub: Hub, webhook_id: str, count: int = 1, within_s: float = 60) -> list[dict[str, Any]]:
    """The webhook's deliveries with every attempt, oldest first, once there are `count`, all ended."""

    def look() -> list[dict[str, Any]] | None:
        """All deliveries have ended."""
        found = hub.deliveries(webhook_id=webhook_id)
        done = [one for one in found if one["status"] in _ENDED]
        return found if len(done) == len(found) == count else None

    found = eventually(look, within_s) or []
    return [read(hub, one["id"]) for one in reversed(found)]


def read(hub: Hub, delivery_id: str) -> dict[str, Any]:
    """One delivery with every attempt."""
    return dict(hub.call("GET", f"/api/deliveries/{delivery_id}"))


def path_of(webhook: dict[str, Any]) -> str:
    """Where a webhook is in the API."""
    return f"/api/outgoing-webhooks/{webhook['id']}"


def stats(hub: Hub, webhook: dict[str, Any]) -> dict[str, Any]:
    """How many of a webhook's deliveries are in which state."""
    return dict(hub.call("GET", f"/api/queue/stats?webhook_id={webhook['id']}"))


class Moody:
    """Answers with `status` and `headers`, which a test changes in the middle."""

    def __init__(self, status: int, **headers: str) -> None:
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def __call__(self, _got: WebhookRequest) -> web.Response:
        return web.Response(status=self.status, headers=self.headers)


def in_turn(
    *answers: Callable[[WebhookRequest], web.Response] | int,
) -> Callable[[WebhookRequest], web.Response]:
    """Answers with each of these in turn, then with the last one."""
    left = list(answers)

    def answer(got: WebhookRequest) -> web.Response:
        now = left.pop(0) if len(left) > 1 else left[0]
        return web.Response(status=now) if isinstance(now, int) else now(got)

    return answer

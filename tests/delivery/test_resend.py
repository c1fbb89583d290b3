"""`POST /api/deliveries/{id}/resend`: one message again, under a new id."""

from datetime import UTC, datetime, timedelta
from secrets import token_hex
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from tests.support.eventually import eventually
from tests.support.hub import Hub, hub_with
from tests.support.outgoing import ONCE, Moody, finished, new_type, numbered, path_of, publish, read
from tests.support.subscriber import Subscriber

hub = hub_with(services=("gateway", "delivery"), workspace="resend")


def resend(hub: Hub, delivery_id: str, expect: int = 202, key: str | None = None) -> dict[str, Any]:
    return dict(hub.call("POST", f"/api/deliveries/{delivery_id}/resend", expect=expect, key=key))


def logged(hub: Hub, delivery_id: str) -> dict[str, Any]:
    """The new delivery, once it has been delivered."""

    def check() -> dict[str, Any] | None:
        """The new delivery is in the log, delivered."""
        listed = [
            delivery for delivery in hub.deliveries(status="delivered") if delivery["id"] == delivery_id
        ]
        return read(hub, delivery_id) if listed else None

    return eventually(check) or {}


def test_a_delivered_message_is_sent_again_under_a_new_id(hub: Hub) -> None:
    with Subscriber() as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], format="envelope")
        numbered(hub, kind)
        [first] = finished(hub, webhook["id"])
        # The body is the one that was recorded, whatever the webhook makes of events by now.
        hub.call("PATCH", path_of(webhook), {"format": "nchat"})
        again = resend(hub, first["id"])
        assert again["id"] != first["id"]
        assert (again["replay_of"], again["webhook_id"]) == (first["id"], webhook["id"])
        third = resend(hub, again["id"]) if logged(hub, again["id"]) else {}
        got = subscriber.wait_for(3)
        new = logged(hub, third["id"])
    assert {request.body for request in got} == {got[0].body}
    assert [request.headers["webhook-id"] for request in got] == [first["id"], again["id"], third["id"]]
    assert [request.headers.get("x-interlink-replay") for request in got] == [None, "1", "2"]
    for request in got:
        Webhook(webhook["secret"]).verify(request.body, request.headers)
    assert third["replay_of"] == first["id"], "the original, not the one between"
    assert (new["replay_of"], new["replay_no"], new["event_id"]) == (first["id"], 2, first["event_id"])
    assert read(hub, first["id"]) == first, "the original stays as it is"


@pytest.mark.parametrize("by", ["dead_letter", "cancelled", "discarded"])
def test_what_ended_otherwise_can_be_resent_too(hub: Hub, by: str) -> None:
    with Subscriber(Moody(404 if by != "cancelled" else 500)) as subscriber:
        kind = new_type()
        retry = {"schedule": [0, 600]} if by == "cancelled" else ONCE
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], retry=retry)
        numbered(hub, kind)
        subscriber.wait_for(1)
        [delivery] = eventually(lambda: hub.deliveries(webhook_id=webhook["id"]))
        if by == "cancelled":
            eventually(lambda: read(hub, delivery["id"])["status"] == "retrying")
            assert "retry" in resend(hub, delivery["id"], 409)["detail"]
            hub.call("POST", f"/api/deliveries/{delivery['id']}/cancel")
        eventually(lambda: read(hub, delivery["id"])["status"] != "delivering")
        if by == "discarded":
            eventually(lambda: read(hub, delivery["id"])["status"] == "dead_letter")
            hub.call("POST", "/api/dead-letters/discard", {"ids": [delivery["id"]]})
        subscriber.answer = None
        again = resend(hub, delivery["id"])
        assert logged(hub, again["id"])["replay_of"] == delivery["id"]
        assert read(hub, delivery["id"])["status"] == by


def test_repeated_with_an_idempotency_key_a_resend_is_one(hub: Hub) -> None:
    with Subscriber() as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind])
        numbered(hub, kind)
        [first] = finished(hub, webhook["id"])
        url = f"{hub.url('delivery')}/api/deliveries/{first['id']}/resend"
        headers = {"authorization": f"Bearer {hub.admin_key}", "idempotency-key": token_hex(8)}
        answers = [httpx.post(url, headers=headers, timeout=10) for _ in range(3)]
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.json()["id"] for answer in answers}) == 1
        other = resend(hub, first["id"])["id"]
        assert other != answers[0].json()["id"]
        logged(hub, other)
        assert len(subscriber.got) == 3


def test_why_it_is_not_resent(hub: Hub) -> None:
    with Subscriber() as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind])
        erased, stored = publish(hub, kind, {"n": 1}, {"n": 2})
        listed = {delivery["event_id"]: delivery["id"] for delivery in finished(hub, webhook["id"], 2)}
        hub.call("POST", "/api/deliveries/erase", {"event_id": erased})
        assert "erased" in resend(hub, listed[erased], 409)["detail"]
        resend(hub, listed[stored], 404, key=hub.other_workspace())
        resend(hub, "dlv_nothing", 404)
        hub.call("POST", f"{path_of(webhook)}/disable")
        assert "disabled" in resend(hub, listed[stored], 409)["detail"]
        hub.call("DELETE", path_of(webhook), expect=204)
        assert "deleted" in resend(hub, listed[stored], 409)["detail"]
        assert len(subscriber.got) == 2


def test_a_resend_is_a_delivery_that_a_job_can_recover(hub: Hub) -> None:
    """The window of a job is when the new delivery was made, not the original's."""
    with Subscriber() as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], retry=ONCE)
        numbered(hub, kind)
        [first] = finished(hub, webhook["id"])
        subscriber.answer = Moody(500)
        since = datetime.fromisoformat(first["created_at"]) + timedelta(milliseconds=1)
        again = resend(hub, first["id"])["id"]
        eventually(
            lambda: (
                [
                    delivery["id"]
                    for delivery in hub.deliveries(webhook_id=webhook["id"], status="dead_letter")
                ]
                == [again]
            )
        )
        subscriber.answer = None
        hub.call("POST", f"{path_of(webhook)}/recover", {"since": since.isoformat()}, expect=202)
        assert logged(hub, again)["attempt_count"] == 2
        assert datetime.now(UTC) > since

"""A rotation of a secret publishes an event, which never contains the secret."""

import json
from typing import Any

from tests.support.hub import Hub, hub_with
from tests.support.subscriber import Subscriber

hub = hub_with(services=("gateway", "delivery"), workspace="rotations")


def test_subscribers_hear_of_a_rotation(hub: Hub) -> None:
    with Subscriber() as subscriber:
        webhook = hub.outgoing_webhook(
            subscriber.url,
            events=["webhook.secret_rotated", "endpoint.secret_rotated"],
            metadata={"customer": "c_7"},
        )
        endpoint = hub.github_endpoint()
        path = f"/api/outgoing-webhooks/{webhook['id']}"
        first = hub.call("POST", f"{path}/rotate-secret", {"overlap_hours": 1})
        second = hub.call(
            "POST", f"/api/inbound-endpoints/{endpoint['id']}/rotate-secret", {"overlap_hours": 0}
        )
        subscriber.wait_for(2)
        heard: dict[str, Any] = {}
        for request in subscriber.got:
            body = json.loads(request.body)
            heard[body["type"]] = body["data"]
            assert first["secret"].encode() not in request.body
            assert second["secret"].encode() not in request.body
        data = heard["webhook.secret_rotated"]
        assert (data["webhook_id"], data["metadata"]) == (webhook["id"], {"customer": "c_7"})
        assert data["rotated_at"] < data["old_secret_expires_at"]
        data = heard["endpoint.secret_rotated"]
        assert (data["endpoint_id"], data["provider"]) == (endpoint["id"], "github")
        assert data["old_secret_expires_at"] is None
        refused = hub.call("POST", f"{path}/rotate-secret", {"secret": "not of this profile"}, expect=422)
        assert refused["errors"][0]["field"] == "secret"
        assert len(subscriber.got) == 2

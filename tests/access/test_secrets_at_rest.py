"""What the store, the logs and the answers must not have: keys, secrets and tokens in clear."""

import httpx
from bson import encode
from pymongo import MongoClient

from tests.support.hub import Hub
from tests.support.subscriber import Subscriber


def test_no_secret_is_in_clear_anywhere(hub: Hub) -> None:
    with Subscriber() as subscriber:
        endpoint = hub.github_endpoint()
        webhook = hub.outgoing_webhook(subscriber.url, events=["webhook.test"])
        incoming = hub.call("POST", "/api/incoming-webhooks", {"name": "x", "target_channel_id": "general"})
        key = hub.call("POST", "/api/api-keys", {"name": "x", "scopes": ["events:write"]})["key"]
        hub.call("POST", f"/api/outgoing-webhooks/{webhook['id']}/test")
        assert httpx.post(incoming["url"], json={"text": "hi"}).status_code == 200
        assert httpx.post(incoming["url"] + "x", json={"text": "hi"}).status_code == 404
        subscriber.wait_for(1)
    idempotent = {"Idempotency-Key": "k1", "authorization": f"Bearer {hub.admin_key}"}
    shown_once = httpx.post(
        hub.url("gateway") + "/api/inbound-endpoints",
        json={"provider": "github", "name": "y"},
        headers=idempotent,
    ).json()["secret"]
    secrets = [
        hub.admin_key,
        key,
        endpoint["secret"],
        webhook["secret"],
        incoming["token"],
        shown_once,
    ]
    store = _everything(hub.env["MONGODB_URI"])
    assert webhook["id"].encode() in store
    logs = "".join(hub.log_text(service) for service in hub.services)
    lists = "".join(
        httpx.get(hub.url(service) + path, headers={"authorization": f"Bearer {hub.admin_key}"}).text
        for service, path in (
            ("gateway", "/api/inbound-endpoints"),
            ("gateway", "/api/incoming-webhooks"),
            ("gateway", "/api/api-keys"),
            ("delivery", "/api/outgoing-webhooks"),
            ("delivery", "/api/deliveries"),
        )
    )
    for secret in secrets:
        assert secret.encode() not in store
        assert secret.removeprefix("whsec_").encode() not in store
        assert secret not in logs
        assert secret not in lists


def _everything(uri: str) -> bytes:
    """Every document of the hub's database, as bytes."""
    with MongoClient[dict[str, object]](uri) as client:
        database = client.get_default_database()
        names = database.list_collection_names()
        return b"".join(encode(document) for name in names for document in database[name].find())

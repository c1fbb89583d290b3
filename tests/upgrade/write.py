"""Write what a hub of this release stores: `python -m tests.upgrade.write FILE`.

Run it once for each release, before its shapes change: `test_records.py` starts the present hub on every file
of this folder. Addresses of the test's servers are replaced by `{subscriber}` and `{provider}`. Times are as
they were; `written_at` says when, so that a reader can move them.
"""

import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web
from bson import json_util
from pymongo import MongoClient

from tests.support.backends import Store, embedded, embedded_bus
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.outgoing import publish
from tests.support.person import Person
from tests.support.ports import free_port
from tests.support.rotating_server import RotatingServer
from tests.support.subscriber import Subscriber, WebhookRequest

ENCRYPTION_KEY = "c3RvcmVkIGJ5IGFuIGVhcmxpZXIgcmVsZWFzZSwgMzI="
"""Of the records in this folder only."""
ADMIN_KEY = "ilk_upgrade_admin_key_of_the_records"
CLIENT_SECRET = "client-secret-of-the-records"
SOURCE = {
    "verification": [{"scheme": "hmac", "signature": {"header": "x-sign"}, "signed": "{body}"}],
}
FLOOD = 400
"""Events of the workspace that publishes beyond its fair share."""


def main(path: Path) -> None:
    """Start a hub, make a record of each kind, kill it in the middle of its work, and write the database."""
    with tempfile.TemporaryDirectory() as folder, Subscriber(_answer) as subscriber:
        pair = embedded(Path(folder, "pair"))
        try:
            port = free_port()
            hub = Hub(
                Path(folder, "hub"),
                embedded_bus(pair),
                Store("embedded", pair.mongodb_uri),
                services=("gateway", "delivery", "oauth"),
                env={
                    "INTERLINK_ENCRYPTION_KEY": ENCRYPTION_KEY,
                    "INTERLINK_BOOTSTRAP_ADMIN_KEY": ADMIN_KEY,
                    "INTERLINK_PUBLIC_URL": f"http://127.0.0.1:{port}",
                },
            )
            hub.admin_key = ADMIN_KEY
            hub.ports["oauth"] = port
            hub.start()
            redirect_uri = f"{hub.url('oauth')}/api/auth/oauth/callback"
            with RotatingServer("app", CLIENT_SECRET, redirect_uri) as provider:
                known = _records(hub, subscriber, provider)
                for name in hub.services:
                    hub.kill(name)
                client: MongoClient[Any] = MongoClient(hub.env["MONGODB_URI"], tz_aware=True)
                with client:
                    database = client.get_default_database()
                    records = {
                        name: list(database[name].find())
                        for name in sorted(database.list_collection_names())
                        if not name.startswith("system.")
                    }
                document = {"written_at": datetime.now(UTC), "known": known, "records": records}
                text = json_util.dumps(document, sort_keys=True)
                text = text.replace(subscriber.url, "{subscriber}").replace(provider.url, "{provider}")
                path.write_text(text + "\n", encoding="utf-8")
            print(json.dumps({name: len(found) for name, found in records.items()}))  # noqa: T201
        finally:
            pair.stop()


def _answer(got: WebhookRequest) -> Any:
    if got.path == "/hook/gone":
        return web.Response(status=410)
    return web.Response(status=500) if got.path in ("/hook/later", "/hook/soon") else None


def _records(hub: Hub, subscriber: Subscriber, provider: RotatingServer) -> dict[str, Any]:
    """Make the records; return what only their owners know, by name."""
    known: dict[str, Any] = {"encryption_key": ENCRYPTION_KEY, "admin_key": ADMIN_KEY}
    known["api_key"] = hub.call("POST", "/api/api-keys", {"name": "records", "scopes": ["webhooks:read"]})[
        "key"
    ]
    known["github"] = hub.github_endpoint()
    known["stripe"] = hub.call(
        "POST",
        "/api/inbound-endpoints",
        {"provider": "stripe", "name": "two secrets", "secret": "whsec_Zmlyc3RzZWNyZXRvZnJlY29yZHM"},
    )
    hub.call(
        "POST",
        f"/api/inbound-endpoints/{known['stripe']['id']}/rotate-secret",
        {"secret": "whsec_c2Vjb25kc2VjcmV0b2ZyZWNvcmRz"},
    )
    own = {
        "provider": "generic",
        "name": "own source",
        "secret": "own-secret-of-the-records",
        "source": SOURCE,
    }
    known["generic"] = hub.call("POST", "/api/inbound-endpoints", own)
    known["incoming"] = hub.call(
        "POST", "/api/incoming-webhooks", {"name": "records", "target_channel_id": "general"}
    )
    kind = {
        "name": "order.placed",
        "about": "An order.",
        "schema": {"type": "object", "required": ["number"], "properties": {"number": {"type": "integer"}}},
    }
    hub.call("POST", "/api/event-types", kind)
    wanted: dict[str, dict[str, Any]] = {
        "standard": {"events": ["order.placed"]},
        "nchat": {"events": ["order.placed"], "profile": "nchat"},
        "headers": {
            "events": ["order.placed"],
            "headers": {"X-Team": "records"},
            "auth": {"type": "basic", "username": "records", "password": "open sesame"},
        },
        "filtered": {
            "events": ["order.placed"],
            "filter": {"condition": "data.number > `100`"},
            "transform": "{number: data.number}",
        },
        "strict": {"events": ["order.placed"], "ordering": "strict"},
        "limited": {
            "events": ["order.limited"],
            "rate_limit": {"requests": 100},
            "circuit_breaker": {"failures": 3},
            "integration_id": "int_of_the_records",
        },
        "paused": {"events": ["order.placed"]},
        "gone": {"events": ["old.gone"], "retry": {"schedule": [0]}},
        "later": {"events": ["old.later"], "retry": {"schedule": [0, 3600], "jitter": 0}},
        "soon": {"events": ["old.soon"], "retry": {"schedule": [0, 10], "jitter": 0}},
    }
    known["webhooks"] = {
        name: hub.outgoing_webhook(f"{subscriber.url}/{name}", **fields) for name, fields in wanted.items()
    }
    hub.call("POST", f"/api/outgoing-webhooks/{known['webhooks']['paused']['id']}/pause")
    for action in ("pause", "resume"):
        hub.call("POST", f"/api/queue/{action}")
    standard = known["webhooks"]["standard"]["id"]
    known["standard_new_secret"] = hub.call(
        "POST", f"/api/outgoing-webhooks/{standard}/rotate-secret", {"overlap_hours": 168}
    )["secret"]
    provider.login("ada")
    body = {
        "client_id": "app",
        "client_secret": CLIENT_SECRET,
        "settings": provider.settings,
        "verified": True,
    }
    hub.call("PUT", "/api/platform-credentials/oidc", body)
    with Person(hub, "ada") as person:
        known["integration"] = person.connected("oidc")
    known["client_secret"] = CLIENT_SECRET
    known["refresh_token"] = next(text for text, token in provider._tokens.items() if token.kind == "refresh")
    known["events"] = {
        name: publish(hub, f"old.{name}" if name != "delivered" else "order.placed", {"number": 200})[0]
        for name in ("delivered", "gone", "later", "soon")
    }
    eventually(
        lambda: (
            {f"/{name}" for name in ("standard", "strict", "gone", "later", "soon")} - _paths(subscriber)
            == set()
        )
    )
    eventually(lambda: len([one for one in hub.deliveries() if one["attempt_count"]]) == len(subscriber.got))
    # Each condition takes so long that the flood is stored: what is worked off within 1.5 s is not.
    condition = {"condition": "length(data.rows[?a == `1`]) == `0`"}
    known["flood"] = [
        hub.outgoing_webhook(f"{subscriber.url}/flood{name}", events=["old.flood"], filter=condition)["id"]
        for name in ("", *(f"/{number}" for number in range(9)))
    ]
    rows = [{"a": 2}] * 100
    publish(hub, "old.flood", *({"number": number, "rows": rows} for number in range(FLOOD)))
    client: MongoClient[Any] = MongoClient(hub.env["MONGODB_URI"], tz_aware=True)
    with client:
        deferred = client.get_default_database()["deferred_events"]
        eventually(lambda: sum(chunk["count"] for chunk in deferred.find()) > FLOOD // 2)
    return known


def _paths(subscriber: Subscriber) -> set[str]:
    return {got.path.removeprefix("/hook") for got in subscriber.got}


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Write what a hub of this release stores of an OAuth app and of provider subscriptions.

`python -m tests.upgrade.write_subscriptions FILE`; `test_subscription_records.py` starts the present hub on
it.
"""

import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bson import json_util
from pymongo import MongoClient

from tests.support.backends import Store, embedded, embedded_bus
from tests.support.eventually import eventually
from tests.support.fakes.x import X
from tests.support.hub import Hub
from tests.support.subscription_hub import CALLBACK, SubscriptionHub, among
from tests.upgrade.write import ADMIN_KEY, ENCRYPTION_KEY

CLIENT_ID = "x-id"
CLIENT_SECRET = "x-secret-of-the-stored-records"
COLLECTIONS = ("api_keys", "inbound_endpoints", "integrations", "platform_credentials", "watches")


def main(path: Path) -> None:
    """Connect two accounts that share a subscription, and one that cannot be made, and write the database."""
    with tempfile.TemporaryDirectory() as folder:
        pair = embedded(Path(folder, "pair"))
        try:
            hub = Hub(
                Path(folder, "hub"),
                embedded_bus(pair),
                Store("embedded", pair.mongodb_uri),
                services=("gateway", "oauth"),
                env={
                    "INTERLINK_ENCRYPTION_KEY": ENCRYPTION_KEY,
                    "INTERLINK_BOOTSTRAP_ADMIN_KEY": ADMIN_KEY,
                    "INTERLINK_UPKEEP_EVERY_S": "0.3",
                },
                entrance=True,
            )
            hub.admin_key = ADMIN_KEY
            x = X(CLIENT_ID, CLIENT_SECRET, hub.url("gateway") + CALLBACK)
            with among(hub, x.hosts) as platforms:
                known = _records(SubscriptionHub(hub, platforms), x)
                for name in hub.services:
                    hub.kill(name)
                client: MongoClient[Any] = MongoClient(hub.env["MONGODB_URI"], tz_aware=True)
                with client:
                    database = client.get_default_database()
                    records = {name: list(database[name].find()) for name in COLLECTIONS}
            document = {"written_at": datetime.now(UTC), "known": known, "records": records}
            text = json_util.dumps(document, sort_keys=True).replace(hub.url("gateway"), "{hub}")
            path.write_text(text + "\n", encoding="utf-8")
            print(json.dumps({name: len(found) for name, found in records.items()}))  # noqa: T201
        finally:
            pair.stop()


def _records(watched: SubscriptionHub, x: X) -> dict[str, Any]:
    """Make the records; return what only their owners know, by name."""
    watched.app("twitter", x, bearer_token=x.bearer_token)
    integrations = []
    for number in (1, 2):
        x.accounts = [x.account(number)]
        integrations.append(watched.connected("twitter"))
    active = watched.active(integrations[0])
    watched.app("twitter", x, bearer_token="no-such-token-of-the-app")
    eventually(lambda: watched.active(integrations[0])["last_error"])
    watched.app("twitter", x, bearer_token=x.bearer_token)
    eventually(lambda: not watched.active(integrations[0])["last_error"])
    return {
        "encryption_key": ENCRYPTION_KEY,
        "admin_key": ADMIN_KEY,
        "bearer_token": x.bearer_token,
        "integrations": integrations,
        "watch": active["id"],
        "webhook": next(iter(x.webhooks)),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""What a service does at another one for a member is in the audit log under the member's name."""

from collections.abc import Iterator

import pytest

from tests.support.backends import Bus, Store
from tests.support.fakes.channels import GoogleChannels
from tests.support.fakes.google import Google
from tests.support.subscription_hub import CALLBACK, SubscriptionHub, among, subscription_hub_process

SHORT_S = 600.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[SubscriptionHub]:
    hub = subscription_hub_process(tmp_path_factory.mktemp("hub"), bus, store)
    google = Google("g-id", "g-secret", hub.url("gateway") + CALLBACK)
    calendar = GoogleChannels(google, SHORT_S)
    hosts = {**google.hosts, "www.googleapis.com": google.on(calendar.routes())}
    with among(hub, hosts) as platforms:
        world = SubscriptionHub(hub, platforms)
        world.app("google", google)
        yield world


def test_calls_of_a_service_name_the_member_and_the_service(world: SubscriptionHub) -> None:
    hub = world.hub
    key = hub.call("POST", "/api/api-keys", {"name": "of Ada", "scopes": ["integrations:write"]})
    integration = world.connected("google-calendar")
    first = world.active(integration)["endpoint_url"].rpartition("/")[2]
    hub.call("POST", f"/api/integrations/{integration}/disconnect", key=key["key"])

    def entries(**query: str) -> list[tuple[str, str, str, str | None]]:
        return [
            (entry["method"], entry["service"], entry["actor"]["key_id"], entry["actor"]["service"])
            for entry in hub.call("GET", "/api/audit", params=query)["items"]
        ]

    created, removed = reversed(entries(resource=first))
    assert created == ("POST", "gateway", "service:oauth", "oauth"), (
        "by the browser of a person without a key"
    )
    assert removed == ("DELETE", "gateway", key["id"], "oauth")
    [entry] = [
        item
        for item in hub.call("GET", "/api/audit", params={"resource": first})["items"]
        if item["method"] == "DELETE"
    ]
    assert entry["actor"]["key_name"] == "of Ada"
    assert entries(actor=key["id"]) == [removed, ("POST", "oauth", key["id"], None)]
    assert ("DELETE", "gateway", key["id"], "oauth") in entries(actor="oauth")

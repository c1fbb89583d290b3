"""The installation's default endpoints, at the address of a provider without an id, and who may set them."""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from secrets import token_hex
from time import time
from typing import Any

import httpx
import pytest

from tests.support.backends import Bus, Store
from tests.support.github import signed
from tests.support.hub import Hub, hub_with
from tests.support.recorded_secrets import record_secret
from tests.support.second_process import second_process
from tests.support.tap import Tap

OPERATOR = "operator"
PATH = "/api/inbound-endpoints"
BODY = b'{"action":"opened","issue":{"number":1}}'

hub = hub_with(
    services=("gateway", "oauth"),
    env={"INTERLINK_OPERATOR_WORKSPACE": OPERATOR},
    workspace=OPERATOR,
)


@pytest.fixture(autouse=True)
def unbroken(hub: Hub) -> Iterator[None]:
    with hub.unbroken("gateway"):
        yield


@pytest.fixture(scope="module")
def tap(hub: Hub, bus: Bus) -> Tap:
    return Tap(bus, "webhooks.received")


@pytest.fixture
def made(hub: Hub) -> Iterator[Any]:
    """Make an endpoint that is the default; it is deleted afterwards, so that another one can be."""
    ids: list[str] = []

    def make(provider: str, **fields: Any) -> dict[str, Any]:
        body = {"provider": provider, "name": "x", "installation_default": True, **fields}
        created: dict[str, Any] = hub.call("POST", PATH, body, expect=201)
        ids.append(created["id"])
        return created

    yield make
    for endpoint_id in ids:
        hub.call("DELETE", f"{PATH}/{endpoint_id}", expect=204)


def post(hub: Hub, path: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
    return httpx.post(hub.url("gateway") + path, content=body, headers=headers, timeout=10)


def endpoint_of(tap: Tap, event_id: str) -> str:
    [record] = [item for item in tap.look() if item.attributes["ce_id"] == event_id]
    return record.attributes["endpoint_id"]


@pytest.mark.parametrize("path", ["/api/webhooks/github", "/integrations/github/webhook"])
def test_what_its_secret_signs_is_for_the_default_endpoint(
    hub: Hub, bus: Bus, store: Store, tap: Tap, made: Any, tmp_path: Any, path: str
) -> None:
    other = hub.github_endpoint()
    endpoint = made("github")
    assert endpoint["installation_default"] is True
    assert post(hub, path, BODY, signed(other["secret"], "issues", BODY)).status_code == 401
    assert post(hub, path, BODY, {"x-github-event": "issues"}).status_code == 401
    answer = post(hub, path, BODY, signed(endpoint["secret"], "issues", BODY))
    assert answer.status_code == 202
    assert endpoint_of(tap, answer.json()["event_id"]) == endpoint["id"]
    with second_process("gateway", hub, tmp_path, bus, store) as another:
        item = f"{PATH}/{endpoint['id']}"
        for marked, status in ((False, 404), (True, 202), (False, 404), (True, 202)):
            shown = hub.call("PATCH", item, {"installation_default": marked})
            assert shown["installation_default"] is marked
            headers = signed(endpoint["secret"], "issues", BODY)
            assert post(another, path, BODY, headers).status_code == status


def test_a_provider_has_one_default(hub: Hub, made: Any) -> None:
    first = made("github")
    body = {"provider": "github", "name": "x", "installation_default": True}
    assert "unmark" in hub.call("POST", PATH, body, expect=409)["detail"]
    second = hub.github_endpoint()
    hub.call("PATCH", f"{PATH}/{second['id']}", {"installation_default": True}, expect=409)
    made("gitlab")
    hub.call("PATCH", f"{PATH}/{first['id']}", {"installation_default": False})
    hub.call("PATCH", f"{PATH}/{second['id']}", {"installation_default": True})
    hub.call("DELETE", f"{PATH}/{second['id']}", expect=204)
    hub.call("PATCH", f"{PATH}/{first['id']}", {"installation_default": True})


def test_who_may_set_it(hub: Hub) -> None:
    tenant = hub.other_workspace()
    writer = hub.call("POST", "/api/api-keys", {"name": "x", "scopes": ["integrations:write"]})["key"]
    body = {"provider": "github", "name": "x"}
    for key in (tenant, writer):
        with hub.client("gateway", key) as client:
            assert client.post(PATH, json={**body, "installation_default": True}).status_code == 403
            own = client.post(PATH, json=body).json()
            item = f"{PATH}/{own['id']}"
            assert client.patch(item, json={"installation_default": True}).status_code == 403
            assert client.get(item).json()["installation_default"] is False
    headers = signed("x" * 32, "issues", BODY)
    assert post(hub, "/api/webhooks/github", BODY, headers).status_code == 404


def test_its_signature_is_required(hub: Hub, made: Any) -> None:
    unsigned = {"require_signature": False, "unsigned_reason": "behind a proxy"}
    body = {"provider": "github", "name": "x", "installation_default": True, **unsigned}
    answer = hub.call("POST", PATH, body, expect=422)
    assert [error["field"] for error in answer["errors"]] == ["installation_default"]
    endpoint = made("github")
    hub.call("PATCH", f"{PATH}/{endpoint['id']}", unsigned, expect=422)
    assert post(hub, "/api/webhooks/github", BODY, {"x-github-event": "issues"}).status_code == 401


def test_its_list_of_addresses_holds(hub: Hub, made: Any) -> None:
    endpoint = made("github", allow_ips=["192.0.2.1"])
    headers = signed(endpoint["secret"], "issues", BODY)
    assert post(hub, "/api/webhooks/github", BODY, headers).status_code == 403


def test_a_signed_address_is_the_one_without_an_id(hub: Hub, made: Any) -> None:
    secret = token_hex(16)
    made("twilio", secret=secret)
    url = f"{hub.url('gateway')}/api/webhooks/twilio"
    for address, status in ((url, 200), (f"{url}/ep_x", 401)):
        fields = {"MessageSid": token_hex(4), "SmsStatus": "received"}
        text = address + "".join(name + value for name, value in sorted(fields.items()))
        digest = hmac.digest(secret.encode(), text.encode(), "sha1")
        headers = {"x-twilio-signature": base64.b64encode(digest).decode()}
        assert httpx.post(url, data=fields, headers=headers, timeout=10).status_code == status


def test_nobody_hands_a_secret_over_at_an_address_that_all_know(hub: Hub, made: Any) -> None:
    endpoint = made("asana")
    headers = {"x-hook-secret": token_hex(16)}
    assert post(hub, "/api/webhooks/asana", b"", headers).status_code == 403
    assert hub.call("GET", f"{PATH}/{endpoint['id']}")["awaits"] == "handshake"
    path = f"/api/webhooks/asana/{endpoint['id']}"
    assert post(hub, path, b"", headers).status_code == 200


def slack_headers(secret: str, body: bytes) -> dict[str, str]:
    at = str(int(time()))
    digest = hmac.new(secret.encode(), f"v0:{at}:".encode() + body, hashlib.sha256).hexdigest()
    return {"x-slack-request-timestamp": at, "x-slack-signature": f"v0={digest}"}


def test_the_address_of_an_app_serves_both(hub: Hub, tap: Tap, made: Any) -> None:
    path = "/api/webhooks/slack"
    of_app, of_endpoint = token_hex(16), token_hex(16)
    record_secret("an app's secret", of_app)
    app = {"client_id": "x", "client_secret": of_app, "signing_secret": of_app, "verified": True}
    hub.call("PUT", "/api/platform-credentials/slack", {**app, "scope": "installation"})
    event = {"type": "message", "channel": "C1", "user": "U1", "text": "x", "ts": "1.1"}
    body = json.dumps(
        {"type": "event_callback", "team_id": "T1", "event_id": f"Ev{token_hex(4)}", "event": event}
    ).encode()
    assert post(hub, path, body, slack_headers(of_endpoint, body)).status_code == 401
    endpoint = made("slack", secret=of_endpoint)

    def newest() -> list[str]:
        return [item.attributes["endpoint_id"] for item in tap.look()][-1:]

    assert post(hub, path, body, slack_headers(of_app, body)).is_success
    assert newest() != [endpoint["id"]]
    assert post(hub, path, body, slack_headers(of_endpoint, body)).is_success
    assert newest() == [endpoint["id"]]
    assert post(hub, path, body, slack_headers(token_hex(16), body)).status_code == 401
    challenge = b'{"type":"url_verification","challenge":"abc"}'
    assert "abc" in post(hub, path, challenge, slack_headers(of_endpoint, challenge)).text
    assert httpx.get(hub.url("gateway") + path).json()["registered"] is True
    # Where it may not be called from, it is as if it were not there, and the app is still served.
    hub.call("PATCH", f"{PATH}/{endpoint['id']}", {"allow_ips": ["192.0.2.1"]})
    assert post(hub, path, body, slack_headers(of_endpoint, body)).status_code == 401
    assert post(hub, path, body, slack_headers(of_app, body)).is_success

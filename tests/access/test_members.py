"""Members: what their roles allow in every service, masked payloads, removal, and the last admin."""

import base64
from concurrent.futures import ThreadPoolExecutor
from secrets import token_hex
from typing import Any

import httpx
import pytest
from aiohttp import web

from shared.runtime.secrets import LocalKeyProvider, Vault
from shared.runtime.web.service_keys import Actor, open_service_key, service_key
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.github import signed
from tests.support.hub import Hub, hub_with
from tests.support.second_process import second_process
from tests.support.subscriber import Subscriber

hub = hub_with(workspace="members", entrance=True)
MEMBERS = "/api/members"
SECRET = "a secret of the payload"


def make(hub: Hub, role: str, key: str | None = None) -> dict[str, Any]:
    body = {"name": f"{role} {token_hex(3)}", "role": role}
    return dict(hub.call("POST", MEMBERS, body, key=key, expect=201))


def status(hub: Hub, key: str, method: str, path: str, body: Any = None) -> int:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.request(method, hub.url("gateway") + path, json=body, headers=headers).status_code


@pytest.fixture(scope="module")
def viewer(hub: Hub) -> str:
    return str(make(hub, "viewer")["key"])


@pytest.fixture(scope="module")
def operator(hub: Hub) -> str:
    return str(make(hub, "operator")["key"])


@pytest.fixture(scope="module")
def delivery(hub: Hub) -> str:
    """A dead letter whose request and response have secrets."""

    def answer(_: Any) -> web.Response:
        return web.Response(status=400, text=SECRET, headers={"Set-Cookie": SECRET})

    with Subscriber(answer) as receiver:
        headers = {"X-Token": token_hex(16)}
        webhook = hub.outgoing_webhook(receiver.url, headers=headers, retry={"schedule": [0]})["id"]
        made = hub.call("POST", f"/api/outgoing-webhooks/{webhook}/test")["delivery_id"]
        eventually(lambda: hub.call("GET", f"/api/dead-letters?webhook_id={webhook}")["items"])
    return str(made)


@pytest.fixture(scope="module")
def execution(hub: Hub) -> str:
    """The path of an execution."""
    endpoint, body = hub.github_endpoint(), f'{{"zen": "{SECRET}"}}'.encode()
    url = f"{hub.url('gateway')}/api/webhooks/github/{endpoint['id']}"
    assert httpx.post(url, content=body, headers=signed(endpoint["secret"], "ping", body)).is_success
    events = f"/api/inbound-endpoints/{endpoint['id']}/events"
    found = eventually(lambda: hub.call("GET", events)["items"])
    return f"{events}/{found[0]['id']}"


@pytest.mark.parametrize("kind", ["deliveries", "dead-letters"])
def test_a_viewer_sees_deliveries_without_payloads(
    hub: Hub, viewer: str, operator: str, delivery: str, kind: str
) -> None:
    path = f"/api/{kind}/{delivery}"
    masked = hub.call("GET", path, key=viewer)
    assert masked["masked"] is True
    assert masked["body"] is None
    [attempt] = masked["attempts"]
    assert (attempt["status_code"], attempt["response_body"]) == (400, None)
    assert attempt["response_headers"]["Set-Cookie"] == "***"
    assert {attempt["request_headers"][name] for name in ("webhook-signature", "X-Token")} == {"***"}
    assert attempt["request_headers"]["Content-Type"] == "application/json"
    assert SECRET not in str(masked)
    # An API key with no more than the scope to read sees what it always saw.
    reader = hub.call("POST", "/api/api-keys", {"name": "reader", "scopes": ["webhooks:read"]})["key"]
    for key in (operator, reader):
        shown = hub.call("GET", path, key=key)
        assert shown["masked"] is False
        assert SECRET in shown["attempts"][0]["response_body"]
        assert "This is a test" in shown["body"]


def test_a_viewer_gets_no_payload_of_an_execution(
    hub: Hub, viewer: str, operator: str, execution: str
) -> None:
    assert SECRET not in str(hub.call("GET", execution, key=viewer))
    hub.call("GET", f"{execution}/payload", key=viewer, expect=403)
    assert SECRET in str(hub.call("GET", f"{execution}/payload", key=operator))


CALLS: list[tuple[str, str, Any, str]] = [
    ("GET", "/api/outgoing-webhooks", None, "viewer"),
    ("GET", "/api/integrations", None, "viewer"),
    ("GET", "/api/mappings", None, "viewer"),
    ("GET", "/api/imports", None, "viewer"),
    ("POST", "/api/deliveries/dlv_none/retry", None, "operator"),
    ("POST", "/api/outgoing-webhooks/wh_none/replay", {"since": "2020-01-01T00:00:00Z"}, "operator"),
    ("POST", "/api/outgoing-webhooks/wh_none/pause", None, "operator"),
    ("POST", "/api/inbound-endpoints/ep_none/events/exe_none/replay", None, "operator"),
    ("POST", "/api/mappings/map_none/pause", None, "operator"),
    ("POST", "/api/imports/imp_none/cancel", None, "operator"),
    ("DELETE", "/api/outgoing-webhooks/wh_none", None, "admin"),
    ("POST", "/api/outgoing-webhooks/wh_none/rotate-secret", {}, "admin"),
    ("POST", "/api/inbound-endpoints/ep_none/rotate-secret", {}, "admin"),
    ("PUT", "/api/platform-credentials/github", {}, "admin"),
    ("DELETE", "/api/integrations/int_none", None, "admin"),
    ("GET", "/api/api-keys", None, "admin"),
    ("POST", "/api/api-keys", {}, "admin"),
    ("GET", "/api/members", None, "admin"),
    ("POST", "/api/members", {}, "admin"),
    ("GET", "/api/audit", None, "admin"),
]


@pytest.mark.parametrize(("method", "path", "body", "least"), CALLS, ids=lambda part: str(part)[:60])
def test_each_role_may_do_what_it_is_for(hub: Hub, method: str, path: str, body: Any, least: str) -> None:
    ranks = ("viewer", "operator", "admin")
    for role in ranks:
        answer = status(hub, make(hub, role)["key"], method, path, body)
        is_allowed = ranks.index(role) >= ranks.index(least)
        assert (answer != 403) is is_allowed, (role, answer)


def test_no_role_reads_tokens(hub: Hub) -> None:
    key = make(hub, "admin")["key"]
    assert status(hub, key, "POST", "/api/integrations/int_none/token") == 403


def test_a_role_counts_at_once_and_a_removed_member_is_refused_everywhere(
    hub: Hub, bus: Bus, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    member = make(hub, "viewer")
    path = f"{MEMBERS}/{member['id']}"
    with second_process("delivery", hub, tmp_path_factory.mktemp("second"), bus, store) as other:
        urls = [hub.url("delivery"), other.url("delivery")]
        headers = {"authorization": f"Bearer {member['key']}"}

        def statuses() -> set[int]:
            retry = "/api/deliveries/dlv_none/retry"
            return {httpx.post(url + retry, headers=headers).status_code for url in urls}

        assert statuses() == {403}
        hub.call("PATCH", path, {"role": "operator"})
        assert statuses() == {404}
        hub.call("DELETE", path, expect=204)
        assert statuses() == {401}
    hub.call("GET", path, expect=404)


def test_a_replaced_key_ends_at_once_everywhere(
    hub: Hub, bus: Bus, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """An admin replaces it, then the member, with the key and in the console."""
    own, other = make(hub, "viewer"), make(hub, "operator")
    path, reading = f"{MEMBERS}/{own['id']}/rotate-key", "/api/outgoing-webhooks"
    acting = Actor(own["id"], own["name"], role="viewer", session="s")
    vault = Vault(LocalKeyProvider([base64.b64decode(hub.env["INTERLINK_ENCRYPTION_KEY"])]))
    in_console = service_key(vault, "console", hub.workspace, ["webhooks:read"], acting)
    hub.call("POST", path, key=other["key"], expect=403)
    hub.call("POST", f"{MEMBERS}/{other['id']}/rotate-key", key=own["key"], expect=403)
    keys = [own["key"]]
    with second_process("delivery", hub, tmp_path_factory.mktemp("second"), bus, store) as second:
        for caller in (hub.admin_key, None, in_console):
            made = hub.call("POST", path, key=caller or keys[-1])
            assert (made["id"], made["role"]) == (own["id"], "viewer")
            assert made["prefix"] == made["key"][: len(made["prefix"])]
            keys.append(made["key"])
            for base in (hub.url("delivery"), second.url("delivery")):
                for key in keys:
                    answer = httpx.get(base + reading, headers={"authorization": f"Bearer {key}"})
                    assert answer.status_code == (200 if key == keys[-1] else 401)
    assert hub.call("GET", f"{MEMBERS}/{own['id']}")["key"] is None
    [entry] = hub.call("GET", "/api/audit", params={"resource": own["id"], "limit": "1"})["items"]
    assert (entry["route"], entry["status"]) == ("/api/members/{member_id}/rotate-key", 200)
    assert keys[-1] not in str(entry)


def test_of_keys_that_are_replaced_at_the_same_moment_one_counts(hub: Hub) -> None:
    own = make(hub, "viewer")
    with ThreadPoolExecutor(4) as pool:
        made = list(
            pool.map(
                lambda _: httpx.post(
                    f"{hub.url('gateway')}{MEMBERS}/{own['id']}/rotate-key",
                    headers={"authorization": f"Bearer {hub.admin_key}"},
                ),
                range(4),
            )
        )
    assert {answer.status_code for answer in made} <= {200, 409}
    keys = [answer.json()["key"] for answer in made if answer.is_success]
    assert [status(hub, key, "GET", "/api/outgoing-webhooks") for key in keys].count(200) == 1


def test_a_member_of_the_identity_provider_has_no_key_to_replace(hub: Hub) -> None:
    identity = sign_in(hub, subject=token_hex(4)).json()["id"]
    refused = hub.call("POST", f"{MEMBERS}/{identity}/rotate-key", expect=409)
    assert "identity provider" in refused["detail"]


def test_members_of_another_workspace_are_not_there(hub: Hub) -> None:
    own, stranger = make(hub, "viewer"), hub.other_workspace()
    for method, body in (("GET", None), ("PATCH", {"role": "admin"}), ("DELETE", None)):
        hub.call(method, f"{MEMBERS}/{own['id']}", body, key=stranger, expect=404)
    assert own["id"] not in str(hub.call("GET", MEMBERS, key=stranger))


def test_the_last_admin_stays_while_there_is_no_admin_key(hub: Hub) -> None:
    first_key = hub.other_workspace()
    first, second = (make(hub, "admin", first_key) for _ in range(2))
    [stored] = hub.call("GET", "/api/api-keys", key=first["key"])["items"]
    hub.call("DELETE", f"/api/api-keys/{stored['id']}", key=first["key"], expect=204)
    hub.call("DELETE", f"{MEMBERS}/{second['id']}", key=first["key"], expect=204)
    own = f"{MEMBERS}/{first['id']}"
    refused = hub.call("DELETE", own, key=first["key"], expect=409)
    assert "last admin" in refused["detail"]
    hub.call("PATCH", own, {"role": "viewer"}, key=first["key"], expect=409)
    assert hub.call("GET", own, key=first["key"])["role"] == "admin"
    hub.call("POST", "/api/api-keys", {"name": "x", "scopes": ["admin"]}, key=first["key"], expect=201)
    hub.call("DELETE", own, key=first["key"], expect=204)


def test_the_last_admin_key_stays_while_no_admin_can_sign_in(
    hub: Hub, bus: Bus, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    own, workspace = f"ilk_last_{token_hex(16)}", f"last-{token_hex(4)}"
    hub.init(workspace, own)
    [stored] = hub.call("GET", "/api/api-keys", key=own)["items"]
    path = f"/api/api-keys/{stored['id']}"
    make(hub, "operator", own)
    sign_in(hub, workspace=workspace, issuer="https://former.example", role="admin")
    refused = hub.call("DELETE", path, key=own, expect=409)
    assert "Create another admin key first, or make a member an admin" in refused["detail"]
    other = hub.call("POST", "/api/api-keys", {"name": "x", "scopes": ["webhooks:read"]}, key=own)
    hub.call("DELETE", f"/api/api-keys/{other['id']}", key=own, expect=204)
    folder, issuer = tmp_path_factory.mktemp("issuer"), "https://id.example"
    with second_process("gateway", hub, folder, bus, store, INTERLINK_OIDC_ISSUER=issuer) as second:
        url, headers = second.url("gateway"), {"authorization": f"Bearer {own}"}
        assert httpx.delete(url + path, headers=headers).status_code == 409
        assert hub.call("GET", "/api/api-keys", key=own)["items"] == [stored]
        identity = sign_in(hub, workspace=workspace, issuer=issuer, role="admin").json()
        assert httpx.delete(url + path, headers=headers).status_code == 204
    assert status(hub, own, "GET", MEMBERS) == 401
    assert identity["role"] == "admin"


def sign_in(
    hub: Hub, service: str = "console", workspace: str | None = None, **fields: str
) -> httpx.Response:
    vault = Vault(LocalKeyProvider([base64.b64decode(hub.env["INTERLINK_ENCRYPTION_KEY"])]))
    key = service_key(vault, service, workspace or hub.workspace, ["admin"], None)
    body = {"issuer": "https://id.example", "subject": "ada", "name": "Ada", "role": "viewer", **fields}
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(f"{hub.url('gateway')}{MEMBERS}/sign-in", json=body, headers=headers)


def test_only_the_console_signs_members_in(hub: Hub) -> None:
    assert status(hub, hub.admin_key, "POST", f"{MEMBERS}/sign-in", {}) == 422
    body = {"issuer": "https://id.example", "subject": "eve", "name": "Eve", "role": "admin"}
    assert status(hub, hub.admin_key, "POST", f"{MEMBERS}/sign-in", body) == 403
    assert sign_in(hub, service="sync").status_code == 403


def test_a_workspace_that_does_not_exist_gets_no_member(hub: Hub) -> None:
    refused = sign_in(hub, workspace="no-such-workspace")
    assert refused.status_code == 403
    assert "the workspace no-such-workspace, which does not exist" in refused.text


def test_an_identity_is_one_member_and_stays_out_once_removed(hub: Hub) -> None:
    first, again = sign_in(hub).json(), sign_in(hub, role="operator", name="Ada L.").json()
    assert (first["id"], first["role"], again["role"], again["name"]) == (
        again["id"],
        "viewer",
        "operator",
        "Ada L.",
    )
    assert sign_in(hub, issuer="https://other.example").json()["id"] != first["id"]
    path = f"{MEMBERS}/{first['id']}"
    hub.call("PATCH", path, {"role": "admin"}, expect=422)
    hub.call("DELETE", path, expect=204)
    assert hub.call("GET", path)["status"] == "removed"
    assert sign_in(hub).status_code == 403
    hub.call("POST", f"{path}/restore")
    assert sign_in(hub).status_code == 200


def test_the_audit_log_names_the_member_with_the_role(hub: Hub) -> None:
    member = make(hub, "admin")
    made = hub.call("POST", "/api/api-keys", {"name": "x", "scopes": ["events:write"]}, key=member["key"])
    [entry] = hub.call("GET", "/api/audit", params={"resource": made["id"]})["items"]
    actor = entry["actor"]
    assert (actor["key_id"], actor["key_name"], actor["role"]) == (member["id"], member["name"], "admin")


def test_a_service_key_carries_role_and_session() -> None:
    vault = Vault(LocalKeyProvider([b"k" * 32]))
    actor = Actor("mem_1", "Ada", role="viewer", session="s1")
    opened = open_service_key(vault, service_key(vault, "console", "default", ["sync:read"], actor))
    assert opened.acting == actor
    assert opened.scopes == {"sync:read"}
    own = open_service_key(vault, service_key(vault, "console", "default", ["sync:read"], None))
    assert own.acting is None


def test_a_workspace_has_a_maximum_of_members(
    hub: Hub, bus: Bus, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("quota")
    headers = {"authorization": f"Bearer {hub.other_workspace()}"}
    workspace, crowd = f"crowd-{token_hex(4)}", [f"p{number}" for number in range(8)]
    hub.init(workspace, f"ilk_crowd_{token_hex(16)}")
    with second_process("gateway", hub, folder, bus, store, INTERLINK_MEMBERS_PER_WORKSPACE="1") as other:
        url, body = f"{other.url('gateway')}{MEMBERS}", {"name": "x", "role": "viewer"}
        answers = [httpx.post(url, json=body, headers=headers) for _ in range(2)]

        def attempt(subject: str) -> int:
            return sign_in(other, workspace=workspace, subject=subject).status_code

        with ThreadPoolExecutor(len(crowd)) as pool:
            statuses = set(pool.map(attempt, crowd))
    assert [answer.status_code for answer in answers] == [201, 409]
    assert "INTERLINK_MEMBERS_PER_WORKSPACE" in answers[1].text
    assert 409 in statuses
    assert statuses <= {200, 409}
    # A sign-in that was one too many leaves nothing that keeps the person out when there is room.
    assert [sign_in(hub, workspace=workspace, subject=name).status_code for name in crowd] == [200] * 8

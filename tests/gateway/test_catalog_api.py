"""The catalogue over HTTP: every integration with what brings its triggers, and a workspace's webhooks."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any

import httpx
import pytest

import shared.providers
from interlink.provider.sign import SignOptions, curl, sign
from services.importer.reading.readers import archive_readers
from shared.manifests.fixtures import default_settings
from shared.manifests.registry import registry
from tests.support.eventually import eventually
from tests.support.hub import Hub, hub_with

FOLDERS = Path(next(iter(shared.providers.__path__)))
INTEGRATIONS = {name for name, entry in registry().providers.items() if entry.manifest.integration}
SHOWN = {
    *("id", "user_id", "provider_id", "webhook_url", "create_endpoint", "trigger_types"),
    "integration_config",
    *("external_config", "status", "last_triggered", "trigger_count", "error_count"),
    *("created_at", "updated_at"),
}


hub = hub_with(
    services=("gateway", "oauth"),
    env={
        "INTERLINK_OPERATOR_WORKSPACE": "catalog",
        "INTERLINK_APP_LINEAR_CLIENT_ID": "of-the-environment",
        "INTERLINK_APP_LINEAR_CLIENT_SECRET": token_hex(20),
    },
    workspace="catalog",
)


@pytest.fixture(scope="module")
def client(hub: Hub) -> Iterator[httpx.Client]:
    with hub.client("gateway") as client:
        yield client


@pytest.fixture(autouse=True)
def unbroken(hub: Hub) -> Iterator[None]:
    with hub.unbroken("gateway"):
        yield


@pytest.fixture
def items(client: httpx.Client) -> dict[str, dict[str, Any]]:
    """The whole catalogue, by id."""
    answer = client.get("/api/catalog")
    assert answer.status_code == 200, answer.text
    assert answer.json().keys() == {"items", "categories"}
    results: dict[str, dict[str, Any]] = {item["id"]: item for item in answer.json()["items"]}
    assert len(results) == len(answer.json()["items"])
    return results


@pytest.fixture
def workspace(hub: Hub, client: httpx.Client) -> Iterator[httpx.Client]:
    """A client of another workspace, in which there is nothing yet."""
    headers = {"authorization": f"Bearer {hub.other_workspace()}"}
    with httpx.Client(base_url=client.base_url, headers=headers, timeout=30) as other:
        eventually(lambda: other.get("/api/integration-webhooks").status_code == 200)
        yield other


def webhooks(client: httpx.Client) -> list[dict[str, Any]]:
    answer = client.get("/api/integration-webhooks")
    assert answer.status_code == 200, answer.text
    assert answer.json().keys() == {"webhooks"}
    results: list[dict[str, Any]] = answer.json()["webhooks"]
    assert all(entry.keys() == SHOWN for entry in results)
    return results


def made(client: httpx.Client, provider: str, **fields: Any) -> dict[str, Any]:
    answer = client.post("/api/inbound-endpoints", json={"provider": provider, "name": "test", **fields})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


# The catalogue


def test_everything_is_in_it_by_name(items: dict[str, dict[str, Any]]) -> None:
    assert items.keys() == registry().providers.keys()
    names = [item["name"] for item in items.values()]
    assert names == sorted(names, key=str.casefold)


def test_an_entry_has_what_a_page_needs(hub: Hub, items: dict[str, dict[str, Any]]) -> None:
    for name, item in items.items():
        manifest = registry().providers[name].manifest
        assert re.fullmatch(r"#[0-9A-Fa-f]{6}", item["color"])
        assert item["icon"].keys() in ({"svg"}, {"initials"})
        assert item["tier"] in ("verified", "documented", "from-memory")
        assert item["setup_steps"]
        assert (item["auth_type"] is None) is (manifest.integration is None)
        for trigger in item["triggers"]:
            assert trigger["by"] in ("webhook", "polling", "through")
            assert bool(trigger["events"]) is (trigger["by"] != "polling"), trigger
            assert bool(trigger["polled"]) is (trigger["by"] == "polling"), trigger
        if item["webhooks"]:
            receiving = name if manifest.webhook else item["webhooks"]["through"][0]
            url = f"{hub.url('gateway')}/api/webhooks/{receiving}/{{endpoint_id}}"
            assert item["webhooks"]["url_template"] == url
            assert item["webhooks"]["supported"] is (manifest.webhook is not None)


def test_github(hub: Hub, items: dict[str, dict[str, Any]]) -> None:
    github = items["github"]
    assert (github["name"], github["category"], github["auth_type"]) == ("GitHub", "developer", "oauth")
    assert github["triggers"][0] == {
        "id": "github_trigger_new_commit",
        "by": "webhook",
        "provider": "github",
        "events": ["push"],
        "polled": None,
        "every_s": None,
        "polling": None,
    }
    assert github["scopes"] == ["repo", "gist"]
    assert "github.push" in github["webhooks"]["event_types"]
    assert github["webhooks"]["secret"]["source"] == "ours"
    names = ["Secret", "client_id", "client_secret", "personal_token.access_token"]
    assert [entry["name"] for entry in github["credentials"]] == names
    assert [entry["required"] for entry in github["credentials"]] == [False, True, True, False]
    assert [entry["secret"] for entry in github["credentials"]] == [True, False, True, True]
    url = f"{hub.url('gateway')}/api/webhooks/github/{{endpoint_id}}"
    assert f"Payload URL: {url}" in github["setup_steps"]


def test_entries_say_what_is_mapped_and_imported(items: dict[str, dict[str, Any]]) -> None:
    assert {name for name, item in items.items() if item["sync"]} == {"slack", "telegram"}
    readers = {type(reader).__module__.split(".")[2] for reader in archive_readers()}
    assert {name for name, item in items.items() if "file" in item["imports"]} == readers & items.keys()
    assert {name for name, item in items.items() if "account" in item["imports"]} == {"discord", "slack"}


def test_the_categories_are_those_of_all_providers(
    client: httpx.Client, items: dict[str, dict[str, Any]]
) -> None:
    answer = client.get("/api/catalog", params={"category": "crm", "q": "hubspot"}).json()
    assert [item["id"] for item in answer["items"]] == ["hubspot"]
    assert answer["categories"] == sorted({item["category"] for item in items.values()})


def test_settings_of_endpoints_say_which_values_they_may_have(items: dict[str, dict[str, Any]]) -> None:
    [scheme] = items["standard-webhooks"]["webhooks"]["settings"]
    assert scheme["default"] in scheme["options"] or scheme["options"] == []
    [environment, *_] = items["plaid"]["webhooks"]["settings"]
    assert environment["options"] == ["production", "sandbox"]
    assert {name for name, item in items.items() if (item["webhooks"] or {}).get("configurable")} == {
        "generic"
    }


# How accounts are connected


def oauth_of(client: httpx.Client, provider: str) -> dict[str, Any]:
    """The way by OAuth of a provider."""
    [item] = [entry for entry in client.get("/api/catalog").json()["items"] if entry["id"] == provider]
    scheme: dict[str, Any] = item["connect"][0]
    assert scheme["kind"] in ("oauth2", "oauth1")
    return scheme


def test_each_entry_says_how_accounts_are_connected(hub: Hub, items: dict[str, dict[str, Any]]) -> None:
    kinds = {name: [scheme["kind"] for scheme in item["connect"]] for name, item in items.items()}
    assert kinds["github"] == ["oauth2", "personal_token"]
    assert kinds["oidc"] == ["oauth2"]
    assert kinds["email"] == ["smtp", "imap"]
    assert kinds["telegram"] == ["bot_token"]
    assert kinds["trello"] == ["oauth1", "key_and_token"]
    assert kinds["generic"] == []
    assert {name for name, results in kinds.items() if results} == registry().connectors.keys()
    [shop] = items["shopify"]["connect"][0]["params"]
    assert shop == {
        "id": "shop",
        "name": "Shop",
        "about": shop["about"],
        "required": True,
        "secret": False,
        "pattern": "[a-z0-9][a-z0-9-]{0,59}",
        "options": [],
        "default": "",
        "generated": False,
        "example": "example-shop",
    }
    gmail = items["email"]["connect"][0]["presets"][0]
    assert gmail.keys() == {"id", "name", "values"}
    app = items["gmail"]["connect"][0]["app"]
    assert (app["provider"], app["path"]) == ("google", "/api/platform-credentials/google")
    assert app["redirect_uri"] == f"{hub.url('gateway')}/api/auth/oauth/callback"


def test_manual_credentials_need_no_app(items: dict[str, dict[str, Any]]) -> None:
    for item in items.values():
        for scheme in item["connect"]:
            by_oauth = scheme["kind"] in ("oauth2", "oauth1")
            assert (scheme["app"] is not None, scheme["app_registered"] is not None) == (by_oauth, by_oauth)


def test_an_app_is_there_for_whom_it_is_registered(
    hub: Hub, client: httpx.Client, workspace: httpx.Client
) -> None:
    """The installation's for everybody, a workspace's own for that one; one for all that share it."""

    def put(provider: str, scope: str, *, verified: bool) -> None:
        body = {"client_id": "an-id", "client_secret": token_hex(20), "scope": scope, "verified": verified}
        hub.call("PUT", f"/api/platform-credentials/{provider}", body)

    def there(provider: str) -> tuple[bool, bool]:
        results = (oauth_of(entry, provider)["app_registered"] for entry in (client, workspace))
        return next(results), next(results)

    assert there("linear") == (True, True)  # of the environment
    assert there("google-drive") == there("github") == (False, False)
    put("google", "installation", verified=True)
    put("github", "workspace", verified=True)
    put("asana", "workspace", verified=False)
    eventually(lambda: there("github") == (True, False))
    eventually(lambda: there("google-drive") == (True, True))
    assert there("gmail") == there("google") == (True, True)
    assert there("asana") == (False, False)
    put("asana", "workspace", verified=True)
    eventually(lambda: there("asana") == (True, False))
    assert "an-id" not in client.get("/api/catalog").text
    hub.call("DELETE", "/api/platform-credentials/github", expect=204)
    eventually(lambda: there("github") == (False, False))


def test_what_comes_through_another_provider(items: dict[str, dict[str, Any]]) -> None:
    through = {
        trigger["id"]: trigger["provider"]
        for name, item in items.items()
        for trigger in item["triggers"]
        if trigger["by"] == "through" and trigger["provider"] != name
    }
    assert through["discord_trigger_slash_command"] == "discord_interactions"
    assert items["discord"]["webhooks"]["supported"] is False


@pytest.mark.parametrize(
    ("query", "there"),
    [
        ("q=github", {"github"}),
        ("q=GitHub", {"github"}),
        ("q=github_trigger_new_issue", {"github"}),
        ("q=gists", {"github"}),
        ("q=pull%20git", {"github"}),
        ("q=%20", {"github", "slack"}),
        ("category=developer", {"github", "gitlab"}),
        ("category=developer&q=hub", {"github"}),
        ("category=crm", {"hubspot"}),
    ],
)
def test_search(client: httpx.Client, query: str, there: set[str]) -> None:
    results = {item["id"] for item in client.get(f"/api/catalog?{query}").json()["items"]}
    assert there <= results
    if "category=" in query:
        assert "slack" not in results


@pytest.mark.parametrize("query", ["q=no-such-thing", "q=.*", "q=%25", "category=logic&q=github"])
def test_nothing_found_is_an_empty_list(client: httpx.Client, query: str) -> None:
    assert client.get(f"/api/catalog?{query}").json()["items"] == []


def test_a_category_that_is_none(client: httpx.Client) -> None:
    answer = client.get("/api/catalog?category=Developer")
    assert answer.status_code == 422
    error = answer.json()["errors"][0]
    assert error["field"] == "category"
    assert "developer" in error["message"]
    assert client.get("/api/catalog?q=" + "x" * 201).status_code == 422


@pytest.mark.parametrize("path", ["/api/catalog", "/api/integration-webhooks"])
def test_who_may_read(hub: Hub, client: httpx.Client, path: str) -> None:
    assert httpx.get(hub.url("gateway") + path).status_code == 401
    for scope, status in (("integrations:read", 200), ("webhooks:write", 403)):
        key = client.post("/api/api-keys", json={"name": scope, "scopes": [scope]}).json()["key"]
        answer = httpx.get(hub.url("gateway") + path, headers={"authorization": f"Bearer {key}"})
        assert answer.status_code == status


def test_it_is_in_the_document_of_the_api(client: httpx.Client) -> None:
    paths = client.get("/api/openapi.json").json()["paths"]
    assert {"/api/catalog", "/api/integration-webhooks"} <= paths.keys()


# A workspace's webhooks


def test_without_endpoints_each_integration_is_generated(hub: Hub, workspace: httpx.Client) -> None:
    results = webhooks(workspace)
    assert {entry["provider_id"] for entry in results} == INTEGRATIONS
    names = [entry["external_config"]["integration_name"] for entry in results]
    assert names == sorted(names, key=str.casefold)
    for entry in results:
        assert entry["status"] == "inactive"
        assert entry["webhook_url"] is None
        assert "{endpoint_id}" not in str(entry)
        assert (entry["trigger_count"], entry["error_count"], entry["last_triggered"]) == (0, 0, None)
        assert entry["external_config"]["instructions"].startswith("1. ")
        assert entry["user_id"].startswith("other-")
    github = next(entry for entry in results if entry["provider_id"] == "github")
    assert github["trigger_types"] == [
        "github_trigger_new_commit",
        "github_trigger_new_issue",
        "github_trigger_new_pull_request",
    ]
    assert github["external_config"]["type"] == "webhook"
    assert github["external_config"]["category"] == "developer"
    assert github["create_endpoint"] == {
        "method": "POST",
        "path": "/api/inbound-endpoints",
        "body": {"provider": "github", "name": "GitHub"},
    }
    kinds = {entry["provider_id"]: entry["external_config"]["type"] for entry in results}
    assert kinds["discord"] == "webhook"
    assert kinds["blackbaud"] == "polling"


def test_the_call_that_makes_an_endpoint_makes_one(workspace: httpx.Client) -> None:
    """For every integration that webhooks come from; what stands in angle brackets is filled in."""
    filled = {"service_account": "push@project.iam.gserviceaccount.com"}
    for entry in webhooks(workspace):
        call, kind = entry["create_endpoint"], entry["external_config"]["type"]
        assert (call is None) == (kind != "webhook"), entry["provider_id"]
        if call is None:
            continue
        body = {name: value for name, value in call["body"].items() if name != "secret"}
        if "settings" in body:
            body["settings"] = {name: filled[name] for name in body["settings"]}
        answer = workspace.request(call["method"], call["path"], json=body)
        assert answer.status_code == 201, (entry["provider_id"], answer.text)
        assert "{" not in answer.json()["url"]
    current = {entry["webhook_url"]: entry["create_endpoint"] for entry in webhooks(workspace)}
    assert len(current) > 25
    assert [url for url, call in current.items() if url and call] == []


def test_an_endpoint_stands_in_place_of_its_integration(workspace: httpx.Client) -> None:
    older = made(workspace, "github", channel_id="general")
    newer = made(workspace, "github")
    other = made(workspace, "generic")
    made_by_hand = workspace.post("/api/incoming-webhooks", json={"name": "x", "target_channel_id": "c"})
    assert made_by_hand.status_code == 201
    results = webhooks(workspace)
    assert [entry["id"] for entry in results[:3]] == [other["id"], newer["id"], older["id"]]
    assert {entry["provider_id"] for entry in results[3:]} == INTEGRATIONS - {"github"}
    current = results[2]
    assert current["webhook_url"] == older["url"]
    assert older["url"] in current["external_config"]["instructions"]
    assert current["status"] == "active"
    assert current["external_config"]["setup_required"] is True
    assert current["integration_config"]["channel_id"] == "general"
    assert (current["created_at"], current["updated_at"]) == (older["created_at"], older["updated_at"])
    assert all(older["secret"] not in str(entry) for entry in results)
    workspace.patch(f"/api/inbound-endpoints/{newer['id']}", json={"enabled": False})
    assert webhooks(workspace)[1]["status"] == "inactive"
    for entry in (older, newer):
        assert workspace.delete(f"/api/inbound-endpoints/{entry['id']}").status_code == 204
    assert {entry["provider_id"] for entry in webhooks(workspace)[1:]} == INTEGRATIONS


def test_it_counts_what_came(workspace: httpx.Client) -> None:
    """The request is the one that `interlink provider sign` prints."""
    endpoint = made(workspace, "github")
    case = FOLDERS / "github" / "fixtures" / "push"
    expected = SignOptions(case, endpoint["secret"], url=endpoint["url"])
    for secret, status in ((endpoint["secret"], "202"), ("another-secret", "401")):
        command = curl(sign(registry().providers["github"], SignOptions(case, secret, url=expected.url), 0.0))
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30, check=True)
        assert done.stdout.split()[1] == status, done.stdout

    def counted() -> bool:
        current = webhooks(workspace)[0]
        return (current["trigger_count"], current["error_count"]) == (1, 1)

    eventually(counted)
    current = webhooks(workspace)[0]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", current["last_triggered"])
    assert current["external_config"]["setup_required"] is False


def test_secret_settings_are_not_shown(workspace: httpx.Client) -> None:
    secret = {
        name: default_settings(provider).keys()
        & {key for key, entry in provider.manifest.webhook.settings.items() if entry.secret}
        for name, provider in registry().providers.items()
        if provider.manifest.webhook
    }
    name = next(name for name, keys in secret.items() if keys)
    made(workspace, name, settings=default_settings(registry().providers[name]))
    current = webhooks(workspace)[0]["integration_config"]["settings"]
    assert {current[key] for key in secret[name]} == {None}


def test_what_others_have_is_not_shown(client: httpx.Client, workspace: httpx.Client) -> None:
    endpoint = made(client, "gitlab")
    assert endpoint["id"] in {entry["id"] for entry in webhooks(client)}
    assert endpoint["id"] not in {entry["id"] for entry in webhooks(workspace)}
